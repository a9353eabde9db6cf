"""Parts of the inference log on their way to an object store: first whole on this machine's disk, then shipped, retried, forgotten.

While the store is away the parts wait in the spool, up to a bound; nothing in the spool is lost by ``kill -9``: every process holds a lock on its
own sub-folder, the kernel frees it when the process ends, and whoever runs next in the same spool ships what was left.
Shipping a part twice (a process died between upload and removal) writes the same bytes to the same key.
"""

import fcntl
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from firstlight.digest import write_atomic
from firstlight.errors import FirstlightError
from monitoring.log_writing import SpoolFullError

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_ADOPT_SECONDS = 60.0
_LOCK = ".lock"

Upload = Callable[[Path, str], None]
"""Writes a file's bytes as an object: (path, s3:// URI). Raises FirstlightError when it could not."""


class Spool:
    """The parts of one process that wait for the object store."""

    def __init__(self, folder: Path, *, model: str, prefix: str, upload: Callable[[], Upload], max_bytes: int) -> None:
        """Keep parts of ``model`` under ``folder`` until they are objects below ``prefix``; at most ``max_bytes`` of this model wait there.

        ``upload`` is asked for the way to the store once, in the shipping thread: the import behind it takes a while.
        """
        self._root, self._model, self._prefix, self._max_bytes = Path(folder), model, prefix.rstrip("/"), max_bytes
        self._open_store = upload
        self._upload: Upload | None = None
        self._own = self._root / model / uuid.uuid4().hex
        self._held: dict[Path, int] = {}
        self._wake, self._ended = threading.Event(), threading.Event()
        self._closing = self._is_away = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take a place in the spool and begin to ship. Raises OSError when the folder cannot be written."""
        if self._thread is not None:
            return
        self._own.mkdir(parents=True, exist_ok=True)
        self._held[self._own] = _locked(self._own, is_new=True)
        self._thread = threading.Thread(target=self._run, name="inference-log-shipping", daemon=True)
        self._thread.start()

    def write(self, name: str, data: bytes) -> None:
        """Keep the part. Raises SpoolFullError when ``max_bytes`` would be exceeded, OSError when the disk fails."""
        self.start()
        waiting = self.waiting_bytes()
        if waiting + len(data) > self._max_bytes:
            raise SpoolFullError(f"at most {self._max_bytes} bytes may wait for {self._prefix}, {waiting} do: is the object store away?")
        write_atomic(self._own / name, data)
        self._wake.set()

    def waiting_bytes(self) -> int:
        """Return the bytes of this model that wait in the spool, of every process."""
        return sum(_size(path) for path in (self._root / self._model).glob("*/date=*/part-*.parquet"))

    def close(self, timeout: float) -> None:
        """Ship what waits for at most ``timeout`` seconds; what is left then is shipped by the next process."""
        self._closing = True
        self._wake.set()
        self._ended.wait(timeout if self._thread is not None else 0)

    def _run(self) -> None:
        pause, adopted_at = _FIRST_PAUSE_SECONDS, float("-inf")
        while True:
            if time.monotonic() - adopted_at > _ADOPT_SECONDS:
                self._adopt()
                adopted_at = time.monotonic()
            is_last = self._closing  # asked before: a part written while we ship belongs to the next round
            is_clear = self._ship()
            if is_last:
                break
            pause = _FIRST_PAUSE_SECONDS if is_clear else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            self._wait(_ADOPT_SECONDS if is_clear else pause, until_woken=is_clear)
        self._let_go()
        self._ended.set()

    def _wait(self, seconds: float, *, until_woken: bool) -> None:
        """Wait for a new part; with the store away for ``seconds`` whatever comes, so that new parts do not hammer it."""
        until = time.monotonic() + seconds
        while not self._closing and time.monotonic() < until:
            if self._wake.wait(min(max(until - time.monotonic(), 0), 1.0)):
                self._wake.clear()
                if until_woken:
                    return
                time.sleep(0.05)

    def _ship(self) -> bool:
        """Ship every part of the folders held, oldest first; return False at the first one that the store does not take."""
        parts = sorted((path for folder in self._held for path in folder.glob("date=*/part-*.parquet")), key=lambda path: path.name)
        for path in parts:
            try:
                self._way()(path, self._uri(path))
            except FirstlightError as error:
                self._note(away=True, why=str(error), parts=len(parts))
                return False
            except Exception as error:  # whatever a library raises, the parts stay where they are and are tried again
                self._note(away=True, why=f"{type(error).__name__}: {error}", parts=len(parts))
                return False
            path.unlink(missing_ok=True)
            self._note(away=False)
        return True

    def _way(self) -> Upload:
        if self._upload is None:
            self._upload = self._open_store()
        return self._upload

    def _uri(self, path: Path) -> str:
        model, _, date, name = path.relative_to(self._root).parts
        return f"{self._prefix}/{model}/{date}/{name}"

    def _note(self, *, away: bool, why: str = "", parts: int = 0) -> None:
        if away and not self._is_away:
            _LOG.warning(
                "the inference log cannot be shipped, parts wait in the spool and are tried again", extra={"why": why, "parts": parts}
            )
        if self._is_away and not away:
            _LOG.info("the inference log is shipped again")
        self._is_away = away

    def _adopt(self) -> None:
        """Take over the folders of processes that are gone, of any model: their locks are free."""
        for lock in self._root.glob(f"*/*/{_LOCK}"):
            if lock.parent not in self._held:
                handle = _locked(lock.parent, is_new=False)
                if handle >= 0:
                    self._held[lock.parent] = handle

    def _let_go(self) -> None:
        for folder, handle in self._held.items():
            if not any(folder.glob("date=*/part-*.parquet")):
                shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)
        self._held.clear()


def _locked(folder: Path, *, is_new: bool) -> int:
    """Return a handle that holds the lock of ``folder``, or -1 when somebody else does. A new lock is held before anybody can see it."""
    path = folder / (f".new{_LOCK}" if is_new else _LOCK)
    try:
        handle = os.open(path, os.O_RDWR | (os.O_CREAT if is_new else 0) | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # its owner has just finished
        return -1
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return -1
    if is_new:
        os.replace(path, folder / _LOCK)
    return handle


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
