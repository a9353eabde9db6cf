"""The files of a scoring run, brought near before their turn: remote ones copied, local ones asked for, never more than a few ahead."""

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from firstlight.errors import RefusedError
from spectra.reading import Store, fetched, is_uri

_COPIES_AT_ONCE = 4
_ASKED_BYTES = 256 << 20
"""Of a local file: what is asked for and then thrown away for want of memory was asked for in vain."""


class Sources:
    """A context that owns the copies; they are gone after it."""

    def __init__(self, store: Store | None, *, ahead: int) -> None:
        """``ahead`` is how many files may be near and not yet finished."""
        self._store, self._ahead = store, ahead
        self._coming: dict[str, Future[Path]] = {}

    def __enter__(self) -> Self:
        """Make room for copies."""
        self._room = tempfile.TemporaryDirectory(prefix="firstlight-score-")
        self._hands = ThreadPoolExecutor(_COPIES_AT_ONCE, thread_name_prefix="fetch")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Wait for copies that are on their way, and remove all."""
        self._hands.shutdown(wait=True, cancel_futures=True)
        self._room.cleanup()

    def expect(self, files: Sequence[str]) -> None:
        """Begin to bring the first of ``files``, in their order, as far as there is room for more."""
        for file in files:
            if file in self._coming:
                continue
            if len(self._coming) >= self._ahead:
                return
            self._coming[file] = self._hands.submit(self._bring, file, len(self._coming))

    def ready(self, file: str) -> bool:
        """Say whether :meth:`path` would answer at once."""
        return not is_uri(file) or (file in self._coming and self._coming[file].done())

    @property
    def waiting(self) -> bool:
        """Whether anything is on its way."""
        return any(not coming.done() for coming in self._coming.values())

    def path(self, file: str) -> Path:
        """Return where a file can be read. Raises SpectraError when there is none, TransientError when the store does not answer."""
        return self._coming[file].result() if is_uri(file) else Path(file)

    def done(self, file: str) -> None:
        """Forget a file; its copy is removed."""
        coming = self._coming.pop(file, None)
        if coming is not None and is_uri(file) and coming.done() and coming.exception() is None:
            for path in coming.result().parent.iterdir():
                path.unlink()
            coming.result().parent.rmdir()

    def _bring(self, file: str, number: int) -> Path:
        if not is_uri(file):
            return _asked_for(Path(file))
        try:
            return fetched(file, Path(tempfile.mkdtemp(dir=self._room.name)), store=self._store)
        except OSError as error:
            raise RefusedError(
                f"{self._room.name} must have room for a copy of {file}, writing it failed ({error.strerror or error}): free space, or "
                "name another folder in TMPDIR"
            ) from None


def _asked_for(path: Path) -> Path:
    """Ask the system to read a local file while others are worked on; whether it does, and whether there is a file, is not our matter."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return path
    try:
        os.posix_fadvise(handle, 0, _ASKED_BYTES, os.POSIX_FADV_WILLNEED)
    except (OSError, AttributeError):
        return path  # another system, or another kind of file
    finally:
        os.close(handle)
    return path
