"""The secrets that seal the ledger, in one file: a line each (64 hex digits), the newest last; the old ones stay, to check what they sealed.

Which of them is in force stands in the ledger itself, so that a rotation is one entry and nothing has to be swapped at the same moment.
Whoever can read the file can forge the ledger's end; what was anchored before (``governance.anchor``) he cannot.
"""

import logging
import os
import secrets
from pathlib import Path

from firstlight.chain import ChainKey
from governance.errors import LedgerError

_SECRET_BYTES = 32
_SIZE_LIMIT = 1 << 16
_LOG = logging.getLogger(__name__)


class KeyRing:
    """The keys in ``path``. Calling it gives the key with an id, as ``rollout.ledger_rows.KeySource`` wants it."""

    def __init__(self, path: Path, *, may_make: bool) -> None:
        """``may_make``: a first key is made where there is no file; else the file is somebody's to bring. Nothing is read yet."""
        self.path, self._may_make = path, may_make

    def __call__(self, wanted: str | None) -> ChainKey | None:
        """Return the key with the id ``wanted``, or None; for None the newest, made now where there is none and it may be.

        A file that cannot be used is as one that is not there: what is done to the store must not wait for it.
        """
        try:
            return self._find(wanted)
        except LedgerError as problem:
            _LOG.warning("%s", problem)
            return None

    def read(self) -> tuple[ChainKey, ...]:
        """Return every key, oldest first; none without a file. Raises LedgerError for a file that cannot be used."""
        try:
            with self.path.open("rb") as stream:
                text = stream.read(_SIZE_LIMIT + 1).decode("ascii")
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as problem:
            raise LedgerError(f"the ledger's keys must be readable, {self.path} is not ({problem}); see docs/ledger.md") from problem
        if len(text) > _SIZE_LIMIT:
            raise LedgerError(f"the ledger's keys must be a few lines, {self.path} is longer; name the right file")
        lines = [line.strip() for line in text.splitlines()]
        return tuple(self._key(line) for line in lines if line and not line.startswith("#"))

    def add(self) -> ChainKey:
        """Make a key, append it to the file (mode 0600) and return it; it is in force once the ledger says so. Raises LedgerError."""
        secret = secrets.token_bytes(_SECRET_BYTES)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                begin = "\n" if os.fstat(handle).st_size else ""  # somebody's editor may have left the last line open
                os.write(handle, f"{begin}{secret.hex()}\n".encode())  # one write: two that append at once lose nothing
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as problem:
            raise LedgerError(
                f"the ledger's keys must be kept in {self.path}, that failed ({problem.strerror}): make it writable"
            ) from problem
        return ChainKey(secret)

    def _find(self, wanted: str | None) -> ChainKey | None:
        keys = self.read()
        if wanted is not None:
            return next((key for key in keys if key.id == wanted), None)
        if keys or not self._may_make:
            return keys[-1] if keys else None
        return self.add()

    def _key(self, line: str) -> ChainKey:
        try:
            return ChainKey(bytes.fromhex(line))
        except ValueError:
            raise LedgerError(
                f"each line of the ledger's keys must be 32 hex digits or more, one of {self.path} is not; "
                "make one with `openssl rand -hex 32`"
            ) from None
