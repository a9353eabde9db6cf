"""One request as it arrives at the gateway: its head at once, its body in pieces, its answer in pieces."""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httptools

from serving.errors import ProtocolError
from serving.flow import Signal

if TYPE_CHECKING:
    from serving.connection import Connection

HIGH = 256 << 10
"""Bytes of a body that may wait to be taken before its sender is made to wait."""


class Vanished(Exception):
    """The caller is gone: there is nobody to answer. Not an error of ours, so not one of the project's."""


class Incoming:
    """A request. The handler takes the body with :meth:`take` and answers with :meth:`start`, :meth:`write` and :meth:`finish`."""

    __slots__ = (
        "announced",
        "body_since",
        "buffered",
        "chunked",
        "complete",
        "connection",
        "discarded",
        "expects",
        "finished",
        "headers",
        "is_http10",
        "keep_alive",
        "method",
        "path",
        "pieces",
        "problem",
        "query",
        "received",
        "signal",
        "started",
        "status",
        "target",
    )

    def __init__(self, connection: "Connection") -> None:
        """Begin a request on ``connection``; the connection fills it in."""
        self.connection = connection
        self.target = b""
        self.method = self.path = self.query = ""
        self.headers: dict[str, str] = {}
        self.announced: int | None = None
        """Content-Length; None without one."""
        self.chunked = self.expects = self.is_http10 = self.complete = self.started = self.finished = self.discarded = False
        self.keep_alive = True
        self.pieces: deque[bytes] = deque()
        self.buffered = self.received = self.status = 0
        self.body_since = 0.0
        self.problem: ProtocolError | None = None
        """Set when no more of the body will come."""
        self.signal = Signal()

    def place(self) -> None:
        """Split the target into path and query. Raises ProtocolError when it is none."""
        target = self.target
        if not target.startswith(b"/"):
            try:
                parsed = httptools.parse_url(target)
            except httptools.HttpParserInvalidURLError as error:
                raise ProtocolError(f"the request's target must be a path, got {target[:80]!r}") from error
            target = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
        path, _, query = target.decode("latin-1").partition("?")
        self.path, self.query = unquote(path) if "%" in path else path, query

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body from the network."""
        self.received += len(piece)
        if self.discarded:
            return
        self.pieces.append(piece)
        self.buffered += len(piece)
        self.signal.set()

    def take(self) -> bytes | None:
        """Return the next piece of the body, or None when there is none now. Raises ProtocolError when the body broke off."""
        if self.problem is not None:
            raise self.problem
        if not self.pieces:
            return None
        piece = self.pieces.popleft()
        self.buffered -= len(piece)
        if self.buffered < HIGH:
            self.connection.want_more()
        return piece

    def discard(self) -> None:
        """Want nothing of the body any more."""
        self.discarded = True
        self.pieces.clear()
        self.buffered = 0
        self.connection.want_more()

    async def read(self, *, limit: int) -> bytes:
        """Return the whole body. Raises ProtocolError 413 as soon as it is longer than ``limit`` bytes, announced or not."""
        pieces: list[bytes] = []
        while True:
            if (self.announced or 0) > limit or self.received > limit:
                raise too_long(limit)
            while (piece := self.take()) is not None:
                pieces.append(piece)
            if self.complete:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            await self.signal.wait()

    def go_on(self) -> None:
        """Tell a caller who asked first (Expect: 100-continue) to send the body."""
        if self.expects and not self.complete and not self.is_http10:
            self.connection.transport_write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def start(self, status: int, headers: Iterable[tuple[str, str]], *, length: int | None, pieces: Iterable[bytes] = ()) -> None:
        """Send the head of the answer and the first ``pieces``; without ``length`` the body is chunked, or ends with the connection."""
        self.connection.start(self, status, headers, length=length, pieces=pieces)

    def write(self, piece: bytes) -> None:
        """Send a piece of the answer; look at :attr:`is_slow` before the next."""
        self.connection.write(piece)

    def finish(self) -> None:
        """The answer is whole."""
        self.connection.finish(self)

    def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes = b"") -> None:
        """Send a whole answer."""
        self.start(status, headers, length=len(body), pieces=(body,) if self.method != "HEAD" else ())
        self.finish()

    @property
    def is_slow(self) -> bool:
        """Whether the caller reads slower than we write."""
        return self.connection.is_slow


def too_long(limit: int) -> ProtocolError:
    """Return the error for a body above ``limit`` bytes."""
    return ProtocolError(f"a request body must have at most {limit} bytes, got more: send fewer rows at once", status=413)
