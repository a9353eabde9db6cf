"""A thread that does one small thing again and again: looks whether a file has changed, and takes it over."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

_LOG = logging.getLogger(__name__)


class Follower:
    """Calls ``work`` every ``seconds`` from a thread of its own until it is closed. A bug in one call never ends the next."""

    def __init__(self, work: Callable[[], object], *, name: str, seconds: float) -> None:
        """Start at once."""
        self._work, self._seconds = work, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; return when the thread has ended, or after five seconds."""
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._work()
            except Exception:
                _LOG.exception("%s failed", self._thread.name)


def signature(path: Path) -> tuple[int, ...] | None:
    """Return what changes when the file at ``path`` does, a link's target included (Kubernetes swaps those); None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)
