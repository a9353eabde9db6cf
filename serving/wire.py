"""uvicorn's HTTP protocol (httptools), with what it leaves open: bounded and timely heads, large bodies read where they are wanted, gentle ends.

* A head must be whole within :data:`HEAD_SECONDS` and :data:`HEAD_BYTES`, trailers included: uvicorn would wait and collect for ever.
* :meth:`Connection.read_into` lets the kernel write a large body straight into memory of the application's choice: through ASGI it is copied five times.
* Who sends on after an answer that came early (413, 404) is listened to for a while, so that the answer is read, and then cut off.
* On shutdown an idle connection stays open for a moment: a request that is already on its way is answered, not reset.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving import protocol

EXTENSION = "firstlight.connection"
"""Key in the ASGI scope's extensions under which an application finds its :class:`Connection`."""
HEAD_SECONDS = 10.0
HEAD_BYTES = 64 << 10
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 16 << 20
_FAREWELL_SECONDS = 0.1
_JOINED_BYTES = 64 << 10
_PIPELINED = 64
"""Requests that may wait behind the one being answered."""


class Connection(HttpToolsProtocol):
    """One connection; give the class to ``uvicorn.Config(http=...)``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes, self._in_head = 0, False
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._linger_timer: asyncio.TimerHandle | None = None
        self._sink: _Sink | None = None
        self._leaving = self._deaf = False
        self._active: Any = None

    def take_body(self, scope: Any) -> bytearray | None:
        """Return the body of the request of ``scope`` when all of it is here; None when more is to come. It is handed out once."""
        cycle = self.cycle
        if cycle is None or cycle.scope is not scope or cycle.more_body:
            return None
        cycle.waiting_for_100_continue = False
        body: bytearray = cycle.body
        cycle.body = bytearray()
        return body

    def can_read_into(self, scope: Any) -> bool:
        """Whether :meth:`read_into` may be called for the request of ``scope`` now: it is the one whose body is arriving, and of known length."""
        cycle = self.cycle
        return cycle is not None and cycle.scope is scope and cycle.more_body and not cycle.body and self._sink is None

    async def read_into(self, target: memoryview, *, counts: Any) -> None:
        """Fill ``target`` with the rest of this request's body, which has just that length; ``counts(size)`` hears of every piece.

        Raises ConnectionError when the caller leaves first, and whatever ``counts`` raises.
        """
        self._sink = sink = _Sink(self, target, counts)
        try:
            self.transport.set_protocol(sink)
            self.flow.resume_reading()
            await sink.full
        finally:
            self._sink = None
            if not self.transport.is_closing():
                self.transport.set_protocol(self)
                if sink.at < len(target):  # whatever comes now is the rest of a body that nobody wants any more
                    self._deaf, self.cycle.keep_alive = True, False
                    self.flow.resume_reading()
                else:
                    self._new_message()
                    self.flow.resume_reading()

    async def respond(self, scope: Any, status: int, headers: Iterable[tuple[bytes, bytes]], buffers: Sequence[bytes | memoryview]) -> bool:
        """Write a whole response at once, which through ASGI takes two system calls; False when that must be done through ASGI.

        ``headers`` are trusted to be well formed and have the content-length; the buffers must not change afterwards.
        """
        cycle = self.cycle
        if cycle is None or cycle.scope is not scope or cycle.response_started:
            return False
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected:
            return True
        head = [STATUS_LINE[status], *(part for name, value in headers for part in (name, b": ", value, b"\r\n"))]
        head.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        if sum(map(len, buffers)) <= _JOINED_BYTES:
            self.transport.write(b"".join([*head, *buffers]))
        else:
            self.transport.writelines([b"".join(head), *buffers])
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        if not cycle.keep_alive and cycle.more_body:
            self.transport.write_eof()  # and is closed in a while: at once, the rest of the body would push out our answer
        elif not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def gone(self) -> bool:
        """Whether the caller has left."""
        return self.transport is None or bool(self.transport.is_closing())

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        if self._sink is not None:
            self._sink.lost()
        self.pipeline.clear()
        if self._active is not None and self._active is not self.cycle:  # uvicorn tells only the last that was sent
            self._active.disconnected = True
            self._active.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discard(len(data))
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        if self._head_bytes > HEAD_BYTES:
            self._refuse(431, f"the head of a request must have at most {HEAD_BYTES} bytes")
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_late)

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes, self._unread = True, 0, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer: nobody here wants one, and there is no end to them
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self.scope["extensions"] = cast(Any, {EXTENSION: self})
        if len(self.pipeline) >= _PIPELINED:
            raise ValueError("too many requests were sent ahead")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._discard(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        super().on_message_complete()
        if self._leaving and self.cycle.response_complete:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:  # uvicorn reads on with every answer: who sends ahead without end would fill the memory
            self.flow.pause_reading()
        if self.cycle.more_body and not self.transport.is_closing():
            self._linger_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, f"the request must be valid HTTP: {msg}")

    def shutdown(self) -> None:
        self._leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_FAREWELL_SECONDS, self._farewell)
        else:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self._leaving:
            cycle.keep_alive = False
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def _discard(self, size: int) -> None:
        self._unread += size
        if self._unread > _LINGER_BYTES:
            self.transport.close()

    def _farewell(self) -> None:
        if self.transport is not None and (self.cycle is None or self.cycle.response_complete) and not self._in_head:
            self.transport.close()

    def _head_late(self) -> None:
        if self._owes_an_answer():  # and does not read meanwhile
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_late)
            return
        self._head_timer = None
        self._refuse(408, f"the head of a request must arrive within {HEAD_SECONDS:g} s")

    def _owes_an_answer(self) -> bool:
        active = self._active
        return bool(self.pipeline) or (active is not None and not active.more_body and not active.response_complete)

    def _refuse(self, status: int, sentence: str) -> None:
        if self._owes_an_answer():  # this one would be taken for it: the connection ends after that
            self.pipeline.clear()
            self._active.keep_alive, self._deaf = False, True
            return
        content = protocol.error_body(sentence)
        if not self.transport.is_closing():
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[status] + head + content)
            self.transport.write_eof()
            self._deaf = True
            self._linger_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _new_message(self) -> None:
        """The parser did not see the body that went past it: tell the request that it is whole, and begin anew."""
        cycle = self.cycle
        cycle.more_body = False
        cycle.message_event.set()
        self.parser = httptools.HttpRequestParser(self)


class _Sink(asyncio.BufferedProtocol):
    """Stands in for the connection while a body is read."""

    def __init__(self, connection: Connection, target: memoryview, counts: Any) -> None:
        self.at = 0
        self.full: asyncio.Future[None] = connection.loop.create_future()
        self._connection, self._target, self._counts = connection, target, counts

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._target[self.at :]

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._counts(nbytes)
        except Exception as error:
            self._end(error)
            return
        self.at += nbytes
        if self.at == len(self._target):
            # until the reader is awake the next request must not be read into the end of this one
            self._connection.flow.pause_reading()
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self.full.done():
            return
        if error is None:
            self.full.set_result(None)
        else:
            self.full.set_exception(error)

    def lost(self) -> None:
        self._end(ConnectionResetError("the caller left"))

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
