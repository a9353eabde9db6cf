"""Request bodies: bounded, timely, unpacked, and put where the model can read them; one copy at most on the way.

Who sends nothing for :data:`STALL_SECONDS`, or less than :data:`STALL_BYTES` in that time, is told 408: a body that trickles in must not hold memory.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from serving.arena import Held, is_large
from serving.errors import ProtocolError
from serving.http import too_large
from serving.wire import EXTENSION, Connection

STALL_SECONDS = 5.0
STALL_BYTES = 64 << 10
_ALIGNMENT = 64
_STEP_BYTES = 1 << 20
_CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 47}
"""Content codings and the window bits of zlib that read them; 47 also takes gzip, which some clients call deflate."""

Receive = Callable[[], Awaitable[Any]]


class CallerLeft(ConnectionError):
    """Nobody is there to answer."""


async def read(
    scope: Mapping[str, Any], receive: Receive, *, headers: Mapping[bytes, bytes], held: Held, limit: int, align: int = 0
) -> memoryview:
    """Return the body, unpacked, in memory of ``held``, where its byte ``align`` lies on a boundary of 64.

    Raises ProtocolError (400, 408, 413, 415), OverloadedError when too much is held already, CallerLeft.
    """
    coding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if coding != "identity" and coding not in _CODINGS:
        raise ProtocolError(f"the content coding must be gzip, deflate or identity, got {coding[:40]!r}", status=415)
    announced = _announced(headers, limit=limit)
    stream = _Stream(scope, receive, held=held, limit=limit, announced=announced)
    if coding == "identity":
        return await stream.read(lead=-align % _ALIGNMENT)
    return await _unpacked(await stream.read(lead=0), held=held, limit=limit, bits=_CODINGS[coding], coding=coding, align=align)


class _Stream:
    def __init__(self, scope: Mapping[str, Any], receive: Receive, *, held: Held, limit: int, announced: int | None) -> None:
        self._scope, self._receive, self._held, self._limit = scope, receive, held, limit
        self._announced = announced
        self._large = is_large(announced if announced is not None else 0)
        self._at = 0

    async def read(self, *, lead: int) -> memoryview:
        connection: Connection | None = self._scope.get("extensions", {}).get(EXTENSION)
        room = self._held.room((self._limit if self._announced is None else self._announced) + lead)[lead:]
        here = connection.take_body(self._scope) if connection is not None else None
        if here is not None:
            self._keep(room, here)
        else:
            await self._rest(room, connection)
        if self._announced is not None and self._at != self._announced:
            raise ProtocolError(f"the body must have the {self._announced} bytes of its content-length, got {self._at}")
        return room[: self._at]

    async def _rest(self, room: memoryview, connection: Connection | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(STALL_SECONDS) as patience:
                pace = _Pace(loop, patience, self._held, large=self._large)
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise CallerLeft
                    body = message.get("body", b"")
                    pace.count(len(body), counted=False)
                    self._keep(room, body)
                    if not message.get("more_body", False):
                        return
                    if self._announced is not None and connection is not None and connection.can_read_into(self._scope):
                        await connection.read_into(room[self._at : self._announced], counts=pace.count)
                        self._at = self._announced
                        return
        except TimeoutError:
            raise ProtocolError(f"a body must bring {STALL_BYTES} bytes every {STALL_SECONDS:g} s until it is whole", status=408) from None
        except ConnectionResetError:
            raise CallerLeft from None

    def _keep(self, room: memoryview, body: bytes | bytearray) -> None:
        end = self._at + len(body)
        if end > len(room):
            raise too_large(self._limit)
        self._held.count(len(body), large=self._large or is_large(end))
        room[self._at : end] = body
        self._at = end


class _Pace:
    """Gives more time when enough came in the time that was given."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: asyncio.Timeout, held: Held, *, large: bool) -> None:
        self._loop, self._patience, self._held, self._large = loop, patience, held, large
        self._came = 0

    def count(self, size: int, *, counted: bool = True) -> None:
        if counted:
            self._held.count(size, large=self._large)
        self._came += size
        if self._came >= STALL_BYTES:
            self._came = 0
            self._patience.reschedule(self._loop.time() + STALL_SECONDS)


async def _unpacked(packed: memoryview, *, held: Held, limit: int, bits: int, coding: str, align: int) -> memoryview:
    """A megabyte at a time, off the event loop: a bomb is found out when it has the size of the largest body."""
    loop = asyncio.get_running_loop()
    lead = -align % _ALIGNMENT
    room = held.room(limit + lead)[lead:]
    unpacker = zlib.decompressobj(bits)
    rest: bytes | memoryview = packed
    at = 0
    while not unpacker.eof:
        try:
            step = await loop.run_in_executor(None, unpacker.decompress, rest, _STEP_BYTES)
        except zlib.error as error:
            if at == 0 and coding == "deflate" and bits > 0:  # some send deflate without zlib's frame
                unpacker, bits, rest = zlib.decompressobj(-15), -15, packed
                continue
            raise ProtocolError(f"the body must be {coding}, as its content-encoding says: {error}") from None
        if at + len(step) > limit:
            raise too_large(limit)
        held.count(len(step), large=is_large(at + len(step)))
        room[at : at + len(step)] = step
        at += len(step)
        rest = unpacker.unconsumed_tail
        if not step and not rest and not unpacker.eof:
            raise ProtocolError(f"the body must be whole {coding}, it ends in the middle")
    if unpacker.unused_data:
        raise ProtocolError(f"the body must be one piece of {coding}, something follows it")
    return room[:at]


def _announced(headers: Mapping[bytes, bytes], *, limit: int) -> int | None:
    value = headers.get(b"content-length")
    if value is None:
        return None
    if not value.isdigit():
        raise ProtocolError("content-length must be a number of bytes")
    if len(value) > 15 or int(value) > limit:
        raise too_large(limit)
    return int(value)
