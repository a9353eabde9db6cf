"""Connections to the model servers, kept and used again. The only place of the gateway that opens any.

A link carries one request at a time, piece by piece both ways. Like the callers' side it shows the parser an answer's head only: a body whose
length the head says passes through as it was read.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

import httptools

from serving.errors import UnreachableError
from serving.flow import Signal

ROOM = 256 << 10
"""Bytes of an answer that may wait to be taken before the model server is made to wait."""
KEPT = 64
"""Idle links kept for each model server."""
IDLE_SECONDS = 30.0
"""Well below the 75 seconds after which a model server closes a connection that nobody uses."""
_HEAD_BYTES = 64 << 10


class Link(asyncio.Protocol):
    """One connection to one model server."""

    __slots__ = (
        "_body_left",
        "_head_bytes",
        "_keep",
        "_parser",
        "_paused",
        "_raw",
        "_unsent",
        "_until_close",
        "buffered",
        "complete",
        "has_head",
        "headers",
        "idle_since",
        "is_slow",
        "length",
        "lost",
        "pieces",
        "received",
        "room",
        "signal",
        "status",
        "transport",
        "used",
    )

    transport: asyncio.Transport

    def __init__(self) -> None:
        """Not connected yet."""
        self._parser = httptools.HttpResponseParser(self)
        self.used, self.idle_since, self.is_slow, self.room = 0, 0.0, False, ROOM
        self.lost: str | None = None
        """Why the connection is gone; None while it is there."""
        self._reset(Signal())

    def _reset(self, signal: Signal) -> None:
        self.signal, self.status, self.headers = signal, 0, dict[str, str]()
        self.length: int | None = None
        """What the answer's head says of its body; None when it says nothing."""
        self.has_head = self.complete = self._until_close = self._raw = self._keep = self._paused = False
        self.pieces: deque[bytes] = deque()
        self._unsent = b""
        self.buffered = self.received = self._body_left = self._head_bytes = 0

    def begin(self, head: bytes, *, signal: Signal, room: int = ROOM) -> None:
        """Begin a request; ``signal`` is set whenever something happens from now on, ``room`` bytes of the answer may wait.

        The head leaves with the first piece of the body, or with :meth:`flush`.
        """
        if self._raw:
            self._parser = httptools.HttpResponseParser(self)  # the old one still waits for a body that it was not shown
        self._reset(signal)
        self.room, self.used = room, self.used + 1
        self._unsent = head

    def write(self, *pieces: bytes) -> None:
        """Send a part of the request's body; look at :attr:`is_slow` first."""
        if self._unsent:
            self.transport.writelines((self._unsent, *pieces))
            self._unsent = b""
        elif len(pieces) == 1:
            self.transport.write(pieces[0])
        else:
            self.transport.writelines(pieces)

    def flush(self) -> None:
        """Send the head when it was not sent yet."""
        if self._unsent:
            self.write()

    def take(self) -> bytes | None:
        """Return the next piece of the answer's body, or None when there is none now."""
        if not self.pieces:
            return None
        piece = self.pieces.popleft()
        self.buffered -= len(piece)
        if self._paused and self.buffered < self.room:
            self._paused = False
            if self.lost is None:
                self.transport.resume_reading()
        return piece

    @property
    def is_reusable(self) -> bool:
        """Whether the next request may go over this link."""
        return self.complete and self._keep and self.lost is None and not self._paused and not self.transport.is_closing()

    def abort(self) -> None:
        """Close at once: the model server learns that nobody waits for its answer any more."""
        if self.lost is None:
            self.lost = "it was given up"
            self.transport.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by name

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side is gone: that ends an answer without a length, and breaks any other."""
        if self._until_close and not self.complete:
            self.complete = True
        self.lost = self.lost or (f"the connection broke: {exc}" if exc else "the connection was closed")
        self.signal.set()

    def data_received(self, data: bytes) -> None:
        """Take a part of the answer."""
        if self._raw and not self.complete:
            self._pass(data)
            return
        if self.idle_since or self.complete:
            self._spoil("it sent what nobody asked for")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._spoil(f"its answer is no HTTP: {error}")
            return
        if not self.has_head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._spoil("its answer's head does not end")
        elif not self.complete and self.length is not None:
            self._raw, self._body_left = True, self.length - self.received

    def pause_writing(self) -> None:
        """The model server reads slowly."""
        self.is_slow = True

    def resume_writing(self) -> None:
        """The model server has caught up."""
        self.is_slow = False
        self.signal.set()

    # the parser calls these

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole; an interim one (1xx) is forgotten."""
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()
            return
        self.status, self.has_head = status, True
        length = self.headers.get("content-length", "")
        self.length = int(length) if length.isdigit() else None
        self._until_close = self.length is None and "transfer-encoding" not in self.headers
        self._keep = self._parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        """Take a piece that came with the head, or in chunks."""
        self._take_in(piece)
        self.signal.set()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self.has_head:
            self.complete = True
            self.signal.set()

    def _pass(self, data: bytes) -> None:
        left = self._body_left - len(data)
        if left < 0:
            self._spoil("its answer is longer than its head says")
            return
        self._body_left = left
        self._take_in(data)
        self.complete = left == 0
        self.signal.set()

    def _take_in(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.buffered += len(piece)
        self.received += len(piece)
        if self.buffered >= self.room and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _spoil(self, why: str) -> None:
        if self.lost is None:
            self.lost = why
            self.transport.abort()
        self.signal.set()


class Upstream:
    """The links of one gateway, by address."""

    def __init__(self, *, connect_seconds: float = 1.0) -> None:
        """``connect_seconds`` bounds the wait for a connection."""
        self._connect_seconds = connect_seconds
        self._idle: dict[str, deque[Link]] = {}

    def kept(self, url: str) -> Link | None:
        """Return the idle link to ``url`` that was used last, or None."""
        idle = self._idle.get(url)
        while idle:
            link = idle.pop()
            if link.lost is None and not link.transport.is_closing():
                link.idle_since = 0.0
                return link
        return None

    async def connect(self, url: str) -> Link:
        """Return a new link. Raises UnreachableError."""
        secure, host, port = _address(url)
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, link = await asyncio.get_running_loop().create_connection(
                    Link, host, port, ssl=ssl.create_default_context() if secure else None
                )
        except (OSError, TimeoutError) as error:
            why = f"{type(error).__name__} {str(error)!r}"
            raise UnreachableError(f"{url} must answer, got {why}: its version is being replaced") from error
        return link

    def release(self, url: str, link: Link) -> None:
        """Keep ``link`` for the next request when it can carry one, else close it."""
        idle = self._idle.setdefault(url, deque())
        if not link.is_reusable or len(idle) >= KEPT:
            link.abort()
            return
        link.idle_since = time.monotonic()
        idle.append(link)

    def sweep(self) -> None:
        """Close links that nobody used for a while."""
        late = time.monotonic() - IDLE_SECONDS
        for url in tuple(self._idle):
            idle = self._idle[url]
            while idle and (idle[0].idle_since < late or idle[0].lost is not None):
                idle.popleft().abort()
            if not idle:
                del self._idle[url]

    def close(self) -> None:
        """Close every idle link."""
        for link in self._links():
            link.abort()
        self._idle.clear()

    def _links(self) -> Iterator[Link]:
        for idle in self._idle.values():
            yield from idle


def _address(url: str) -> tuple[bool, str, int]:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    return secure, parts.hostname or "", parts.port or (443 if secure else 80)
