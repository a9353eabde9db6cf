"""Who asked what, when, and what came of it: one JSON line a request, for people who answer for the service.

A line names the caller, never the credential; the path, never the query; sizes, never a body. Lines are written by a thread, so a slow disk
delays no request: at most :data:`FLUSH_SECONDS` of them are lost on kill -9, and beyond :data:`MOST_WAITING` they are dropped and counted.
"""

import logging
import os
import re
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import orjson

from serving.grants import Action, Caller

_LOG = logging.getLogger(__name__)
FLUSH_SECONDS = 0.5
MOST_WAITING = 20_000
FILE_BYTES = 64 << 20
"""A file that has grown so far becomes ``access.log.1``, that one ``.2``, and so on."""
FILES = 8
"""Old files that are kept."""
_LONGEST = 200
_SECRET = re.compile(r"(?<=fl_)[a-z2-7]{10}_[A-Za-z0-9_-]{16,}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")
"""A key or a token that somebody put where none belongs, such as into the path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One answered request. Texts are cut at 200 characters; none of them may come from a header with a credential."""

    time: float
    """Unix seconds at which it came."""
    request_id: str
    client: str
    """Caller's name; empty for somebody who was not recognised."""
    address: str
    method: str
    path: str
    """Without query."""
    status: int
    seconds: float
    bytes_in: int = 0
    bytes_out: int = 0
    action: str = ""
    model: str = ""
    version: str = ""
    """Version that answered."""
    rows: int | None = None
    proof: str = ""
    """By what the caller was recognised (``Caller.proof``): an id, never a secret."""
    reason: str = ""
    """Why it was refused, in one word."""
    trace_id: str = ""
    """The trace that the request belongs to, where there is one."""

    @classmethod
    def of(cls, caller: Caller | None, *, action: Action | None = None, **more: object) -> Self:
        """Return the line of a request of ``caller`` (None: not recognised)."""
        who = {"client": caller.name, "proof": caller.proof} if caller is not None else {"client": ""}
        return cls(**{**who, "action": action.value if action else "", **more})  # type: ignore[arg-type]


class AccessLog:
    """One file that grows by whole lines and turns over. Use as a context, or close it."""

    def __init__(self, path: Path, *, file_bytes: int = FILE_BYTES, files: int = FILES) -> None:
        """Write to the end of ``path``, made readable by its own user only: it says who works on what."""
        self.path = path
        self.dropped = 0
        """Lines that were not written, because too many waited or the disk refused them."""
        self._file_bytes, self._files = file_bytes, files
        self._waiting: deque[Request] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, request: Request) -> None:
        """Take a line; never waits."""
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
        else:
            self._waiting.append(request)

    def close(self) -> None:
        """Write what waits, and stop."""
        self._stop.set()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = [_line(self._waiting.popleft()) for _ in range(len(self._waiting))]
        if not lines:
            return
        try:
            self._append(b"".join(lines))
        except OSError as error:
            self.dropped += len(lines)
            _LOG.error("the access log cannot be written", extra={"path": str(self.path), "why": str(error), "dropped": self.dropped})

    def _append(self, data: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(handle).st_size
            if size and size + len(data) > self._file_bytes:
                self._turn_over()
                os.close(handle)
                handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            written = 0
            while written < len(data):
                written += os.write(handle, data[written:])
        finally:
            os.close(handle)

    def _turn_over(self) -> None:
        for number in range(self._files - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.replace(self._numbered(number + 1))
        self.path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _line(request: Request) -> bytes:
    said = {name: value for name in Request.__slots__ if (value := getattr(request, name)) not in ("", None)}
    said["time"], said["seconds"] = round(request.time, 3), round(request.seconds, 6)
    clean = {name: _clean(value) if isinstance(value, str) else value for name, value in said.items()}
    try:
        return orjson.dumps(clean, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # a lone surrogate in a path
        plain = {
            name: value.encode("ascii", "backslashreplace").decode() if isinstance(value, str) else value for name, value in clean.items()
        }
        return orjson.dumps(plain, option=orjson.OPT_APPEND_NEWLINE)


def _clean(text: str) -> str:
    return _SECRET.sub("(secret)", text[: 8 * _LONGEST])[:_LONGEST]
