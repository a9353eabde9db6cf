"""One caller's connection to the gateway: HTTP/1.1 by llhttp, and the patience of ``Limits``.

Once a head is parsed and says how long the body is, the body's bytes pass through as they were read, without the parser and without a copy.
Requests that a caller sends ahead wait; a caller who sends faster than the model server reads, or reads slower than it answers, is
made to wait by TCP, so that a connection holds a few hundred kilobytes whatever happens on it.
"""

import asyncio
import http
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import cast

import httptools

from serving import peer as peers
from serving import protocol
from serving.errors import ProtocolError
from serving.incoming import HIGH, Incoming, Vanished
from serving.lobby import Lobby
from serving.peer import Peer

_LOG = logging.getLogger(__name__)
_DRAIN_BYTES = 256 << 10
"""What is left of a body that nobody wants is read to the end, and the connection kept, when it is at most this long."""
_STATUS = {code.value: f"HTTP/1.1 {code.value} {code.phrase}\r\n" for code in http.HTTPStatus}

Handler = Callable[[Incoming], Awaitable[None]]
"""Answers a request, or raises."""


class Connection(asyncio.Protocol):
    """The server's end of one TCP or TLS connection."""

    __slots__ = (
        "_always",
        "_chunking",
        "_current",
        "_deaf",
        "_handle",
        "_head_bytes",
        "_head_since",
        "_left",
        "_linger_left",
        "_linger_until",
        "_lobby",
        "_parser",
        "_paused",
        "_queue",
        "_reading",
        "_slow_since",
        "_task",
        "idle_since",
        "is_slow",
        "peer",
        "transport",
    )

    transport: asyncio.Transport
    peer: Peer

    def __init__(self, lobby: Lobby, handle: Handler, *, headers: Iterable[tuple[str, str]] = ()) -> None:
        """``handle`` is called with every request, one at a time; ``headers`` stand in every answer."""
        self._lobby, self._handle = lobby, handle
        self._always = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self._parser = httptools.HttpRequestParser(self)
        self._reading: Incoming | None = None
        self._current: Incoming | None = None
        self._queue: deque[Incoming] = deque()
        self._task: asyncio.Task[None] | None = None
        self._left = self._head_bytes = 0
        self._chunking = self._deaf = self._paused = self.is_slow = False
        self._head_since: float | None = None
        self.idle_since = self._slow_since = 0.0
        self._linger_until: float | None = None
        self._linger_left = 0

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self.idle_since, self.peer = self._lobby.clock(), peers.of(transport)
        if not self._lobby.enter(self):
            self._refuse(503, "the gateway has all the connections it can hold: try again in a second")
            self.transport.close()  # nobody in the lobby would look after it
        elif self._lobby.is_closing:
            self.retire()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop whatever is done for a caller who is gone."""
        self._lobby.leave(self)
        self._deaf = True
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._deaf:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                self.transport.abort()
        elif self._left:
            self._pass(data)
        else:
            self._parse(data)

    def pause_writing(self) -> None:
        """The caller reads slowly."""
        self.is_slow, self._slow_since = True, self._lobby.clock()

    def resume_writing(self) -> None:
        """The caller has caught up."""
        self.is_slow = False
        if self._current is not None:
            self._current.signal.set()

    # the parser calls these

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._reading = Incoming(self)
        self._head_since, self._head_bytes = self._lobby.clock(), 0
        self._lobby.busy(self)

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's target."""
        assert self._reading is not None
        self._reading.target += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        assert self._reading is not None
        headers, key, text = self._reading.headers, name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
        self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        """Begin to answer, or line the request up behind the one that is being answered."""
        incoming = self._reading
        assert incoming is not None
        self._head_since = None
        headers, parser = incoming.headers, self._parser
        incoming.method = parser.get_method().decode("latin-1")
        incoming.is_http10 = parser.get_http_version() != "1.1"
        incoming.keep_alive = parser.should_keep_alive()
        incoming.chunked = "transfer-encoding" in headers
        incoming.announced = None if incoming.chunked else int(headers.get("content-length", 0))
        incoming.expects = headers.get("expect", "").lower() == "100-continue"
        incoming.body_since = self._lobby.clock()
        if self._is_too_much(incoming):
            incoming.problem = ProtocolError("a request must have fewer and shorter headers", status=431)
        elif headers.get("transfer-encoding", "chunked").lower() != "chunked":
            incoming.problem = ProtocolError("the transfer encoding must be chunked, or none", status=501)
        incoming.keep_alive = incoming.keep_alive and incoming.problem is None
        if self._current is None:
            self._begin(incoming)
        else:
            self._queue.append(incoming)

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body that came with the head, or in chunks."""
        assert self._reading is not None
        self._reading.feed(piece)

    def on_message_complete(self) -> None:
        """The request is whole."""
        assert self._reading is not None
        self._whole(self._reading)

    # the handler calls these, through its request

    def want_more(self) -> None:
        """Read on, when reading was paused and there is room again."""
        if self._paused and not self._queue:
            self._paused = False
            self.transport.resume_reading()

    def transport_write(self, data: bytes) -> None:
        """Send bytes that are no part of an answer."""
        self.transport.write(data)

    def start(
        self, incoming: Incoming, status: int, headers: Iterable[tuple[str, str]], *, length: int | None, pieces: Iterable[bytes] = ()
    ) -> None:
        """Send an answer's head, and with it the first pieces of its body."""
        left = None if incoming.announced is None else incoming.announced - incoming.received
        unread = not incoming.complete and (left is None or left > _DRAIN_BYTES or incoming.expects)
        if unread or self._lobby.is_closing or (length is None and incoming.is_http10):
            incoming.keep_alive = False
        incoming.started, incoming.status = True, status
        self._chunking = length is None and not incoming.is_http10
        text = _STATUS.get(status) or f"HTTP/1.1 {status} \r\n"
        for name, value in headers:
            text += f"{name}: {value}\r\n"
        if length is not None:
            text += f"content-length: {length}\r\n"
        elif self._chunking:
            text += "transfer-encoding: chunked\r\n"
        if not incoming.keep_alive:
            text += "connection: close\r\n"
        elif incoming.is_http10:
            text += "connection: keep-alive\r\n"
        head = f"{text}{self._always}date: {self._lobby.date}\r\n\r\n".encode("latin-1")
        self.transport.writelines((head, *pieces) if not self._chunking else (head, *chain.from_iterable(map(_chunk, pieces))))

    def write(self, piece: bytes) -> None:
        """Send a piece of an answer."""
        if self._chunking:
            self.transport.writelines(_chunk(piece))
        else:
            self.transport.write(piece)

    def finish(self, incoming: Incoming) -> None:
        """Go on with the next request, or go."""
        if self._chunking:
            self.transport.write(b"0\r\n\r\n")
        incoming.finished = True
        self._current = self._task = None
        if not incoming.keep_alive:
            self._part(incoming)
        elif incoming.complete:
            self._next()
        else:
            incoming.discard()

    # the lobby calls these

    def retire(self) -> None:
        """Answer what is in flight, then go; an idle caller gets a moment, for its next request may be on its way."""
        if self._current is None and self._reading is None:
            self._linger_until = self._lobby.clock() + self._lobby.limits.linger_seconds

    def close(self) -> None:
        """Go now; what has been written is still sent."""
        self.transport.close()

    def check(self, now: float) -> None:
        """Close the connection when something took too long."""
        limits, reading = self._lobby.limits, self._reading
        if self._linger_until is not None:
            if now > self._linger_until and self._current is None:
                self.transport.abort() if self._deaf else self.transport.close()
        elif self.is_slow and now - self._slow_since > limits.stall_seconds:
            self.transport.abort()
        elif self._head_since is not None:
            if now - self._head_since > limits.head_seconds:
                self._break("a request's head", limits.head_seconds)
        elif reading is not None and not reading.complete:
            taken = now - reading.body_since
            if not self._paused and taken > limits.body_seconds + reading.received / limits.body_rate:
                self._break("a request's body", limits.body_seconds)
        elif self._current is None and now - self.idle_since > limits.idle_seconds:
            self.transport.close()

    # within

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            for asked in (*self._queue, *filter(None, (self._current,))):
                asked.keep_alive = False
            self._stop_listening()
            return
        except httptools.HttpParserError as error:
            self._malformed(str(error))
            return
        incoming = self._reading
        if incoming is None:
            self._hold_back()
        elif self._head_since is not None:
            # The parser hands out a header when the next one begins: a long one is seen here by what was read.
            self._head_bytes += len(data)
            if self._head_bytes > 2 * self._lobby.limits.head_bytes:
                self._malformed("the head is too long", status=431)
        else:
            self._left = 0 if incoming.announced is None else incoming.announced - incoming.received
            self._hold_back()

    def _pass(self, data: bytes) -> None:
        incoming, left = self._reading, self._left
        assert incoming is not None
        if len(data) < left:
            self._left = left - len(data)
            incoming.feed(data)
            self._hold_back()
            return
        self._left = 0
        self._parser = httptools.HttpRequestParser(self)  # the old one still waits for the body that it was not shown
        incoming.feed(data if len(data) == left else data[:left])
        self._whole(incoming)
        if len(data) > left:
            self._parse(data[left:])

    def _hold_back(self) -> None:
        """Stop reading while enough waits: a body that is not taken, or requests sent ahead."""
        full = self._reading is not None and self._reading.buffered >= HIGH
        if (full or self._queue) and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        if len(self._queue) > self._lobby.limits.pipelined:
            while len(self._queue) > self._lobby.limits.pipelined:
                self._queue.pop()
            self._queue[-1].keep_alive = False
            self._stop_listening()

    def _whole(self, incoming: Incoming) -> None:
        incoming.complete, self._reading = True, None
        incoming.signal.set()
        if incoming.finished:
            self._next()

    def _begin(self, incoming: Incoming) -> None:
        self._current = incoming
        self._task = asyncio.get_running_loop().create_task(self._answer(incoming))

    async def _answer(self, incoming: Incoming) -> None:
        try:
            await self._handle(incoming)
        except Vanished:
            pass
        except Exception as error:
            _LOG.exception("a request was not answered", exc_info=error)
        if not incoming.finished:
            self.transport.abort()

    def _next(self) -> None:
        if self._queue:
            self._begin(self._queue.popleft())
            self.want_more()
            return
        self.idle_since = self._lobby.clock()
        self._lobby.idle(self)
        if self._lobby.is_closing:
            self.retire()

    def _part(self, incoming: Incoming) -> None:
        """Close after the last answer. A caller who still sends is heard out for a moment: a closed socket would reset the answer away."""
        self._queue.clear()
        if incoming.complete:
            self.transport.close()
            return
        incoming.discard()
        self._linger()

    def _stop_listening(self) -> None:
        self._deaf, self._linger_left = True, self._lobby.limits.linger_bytes

    def _linger(self) -> None:
        self._stop_listening()
        self._lobby.busy(self)
        self._linger_until = self._lobby.clock() + self._lobby.limits.linger_seconds
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _break(self, what: str, seconds: float) -> None:
        self._malformed(f"{what} must come within {seconds:g} seconds", status=408)

    def _malformed(self, why: str, *, status: int = 400) -> None:
        """End the reading. Whoever is being answered gets the answer, or is told through the request when it waits for the body."""
        incoming, self._reading, self._head_since = self._reading, None, None
        self._stop_listening()
        current = self._current
        if current is None:
            self._refuse(status, f"the request must be valid HTTP/1.1: {why}")
            return
        last = self._queue[-1] if self._queue else current
        last.keep_alive = False
        if incoming is not None and not incoming.complete and incoming in (current, *self._queue):
            incoming.problem = ProtocolError(f"the request must be valid HTTP/1.1: {why}", status=status)
            incoming.signal.set()

    def _refuse(self, status: int, message: str) -> None:
        body = protocol.error_body(message)
        head = f"{_STATUS[status]}content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{self._always}\r\n"
        self.transport.write(head.encode() + body)
        self._linger()

    def _is_too_much(self, incoming: Incoming) -> bool:
        limits = self._lobby.limits
        return self._head_bytes > limits.head_bytes or len(incoming.headers) > limits.headers


def _chunk(piece: bytes) -> tuple[bytes, bytes, bytes]:
    return b"%x\r\n" % len(piece), piece, b"\r\n"
