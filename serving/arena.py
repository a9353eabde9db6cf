"""Memory that the HTTP process and its workers share: bodies arrive in it, models read from it and write their answers to it.

Address space is plenty and costs nothing; pages cost, and are only there once somebody wrote to them. So a body gets room for what it
announces, while :class:`Budget` counts what really came. Pages beyond the first ``hot_bytes`` go back to the system as soon as their piece
is given back; the others are kept, because a fresh page costs more than the copy into it, until :meth:`Arena.trim` is called on an idle server.
Not thread-safe: it belongs to the event loop.
"""

import bisect
import contextlib
import mmap
import os
from types import TracebackType

import numpy as np

from serving.errors import OverloadedError
from serving.tensors import Array

PAGE = mmap.PAGESIZE
_SMALL_BODY = 1 << 20
_MADV_REMOVE = getattr(mmap, "MADV_REMOVE", None)


class Piece:
    """Room for ``size`` bytes at ``offset``; given back once, by :meth:`free`."""

    __slots__ = ("_arena", "offset", "size", "view")

    def __init__(self, arena: "Arena", offset: int, size: int) -> None:
        self._arena: Arena | None = arena
        self.offset, self.size = offset, size
        self.view = arena.memory[offset : offset + size]

    def free(self) -> None:
        """Give the room back. Whoever still holds a view sees other people's bytes from now on, so answers are copies."""
        arena, self._arena = self._arena, None
        if arena is not None:
            arena.give_back(self.offset, self.size)


class Arena:
    """An anonymous file in memory that every worker has mapped."""

    def __init__(self, *, span: int, hot_bytes: int) -> None:
        """Reserve addresses for ``span`` bytes, of which the first ``hot_bytes`` stay resident between requests."""
        self.span, self.hot_bytes = _pages(span), _pages(hot_bytes)
        self.fd = os.memfd_create("firstlight-arena", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.span)
        self._map = mmap.mmap(self.fd, self.span)
        self.memory = memoryview(self._map)
        self._base: int = np.frombuffer(self._map, dtype=np.uint8, count=1).ctypes.data
        self._holes = [(0, self.span)]
        self._touched = False

    def take(self, size: int) -> Piece:
        """Return room for ``size`` bytes at the lowest free address. Raises OverloadedError when there is no such room."""
        wanted = _pages(size)
        for index, (start, length) in enumerate(self._holes):
            if length >= wanted:
                if length == wanted:
                    del self._holes[index]
                else:
                    self._holes[index] = (start + wanted, length - wanted)
                self._touched = True
                return Piece(self, start, size)
        raise OverloadedError("at most as many bytes as fit into the shared memory may be held, try again in a second")

    def give_back(self, offset: int, size: int) -> None:
        """Take ``size`` bytes at ``offset`` back; called by :meth:`Piece.free`."""
        length = _pages(size)
        if offset + length > self.hot_bytes:
            self._release(max(offset, self.hot_bytes), offset + length)
        index = bisect.bisect_left(self._holes, (offset, 0))
        if index < len(self._holes) and self._holes[index][0] == offset + length:
            length += self._holes.pop(index)[1]
        if index > 0 and sum(self._holes[index - 1]) == offset:
            before = self._holes.pop(index - 1)
            offset, length = before[0], before[1] + length
            index -= 1
        self._holes.insert(index, (offset, length))

    def trim(self) -> None:
        """Give the pages of all free room back to the system."""
        if self._touched:
            self._touched = not self.is_free
            for start, length in self._holes:
                self._release(start, min(start + length, max(start, self.hot_bytes)))

    def offset_of(self, array: Array) -> int | None:
        """Return where in the arena ``array`` begins; None when it is not C-contiguous or lies elsewhere."""
        at: int = array.__array_interface__["data"][0] - self._base
        return at if 0 <= at < self.span and array.flags.c_contiguous else None

    @property
    def is_free(self) -> bool:
        """Whether every piece was given back."""
        return self._holes == [(0, self.span)]

    def resident(self) -> int:
        """Return the bytes that are really there."""
        return os.fstat(self.fd).st_blocks * 512

    def _release(self, start: int, end: int) -> None:
        if _MADV_REMOVE is not None and end > start:
            with contextlib.suppress(OSError):  # a kernel without it keeps the pages: more memory, no harm
                self._map.madvise(_MADV_REMOVE, start, end - start)


class Budget:
    """How many bytes of inputs may be held at once: arriving, waiting and being computed."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        # Bodies of many megabytes leave a quarter for those of a few spectra: whoever sends slowly cannot shut everybody out.
        self._limit_for_large = limit - limit // 4

    def hold(self, size: int, *, large: bool = False) -> None:
        """Count ``size`` more bytes. Raises OverloadedError when that is too much; a request alone always has its room."""
        limit = self._limit_for_large if large else self.limit
        if self.held and self.held + size > limit:
            raise OverloadedError(f"at most {self.limit} bytes of inputs may be held at once, try again in a second")
        self.held += size

    def let_go(self, size: int) -> None:
        """Count ``size`` bytes less."""
        self.held -= size


class Held:
    """What one request holds of both; leaving the block gives it back."""

    __slots__ = ("_arena", "_budget", "_bytes", "_pieces", "_released", "_users")

    def __init__(self, arena: Arena, budget: Budget) -> None:
        self._arena, self._budget = arena, budget
        self._bytes, self._pieces = 0, list[Piece]()
        self._users, self._released = 0, False

    def count(self, size: int, *, large: bool = False) -> None:
        """Count ``size`` bytes that arrived. Raises OverloadedError."""
        self._budget.hold(size, large=large)
        self._bytes += size

    def room(self, size: int) -> memoryview:
        """Return room in the arena, not counted yet. Raises OverloadedError."""
        piece = self._arena.take(size)
        self._pieces.append(piece)
        return piece.view

    @property
    def memory(self) -> memoryview:
        """All of the arena."""
        return self._arena.memory

    def offset_of(self, view: memoryview) -> int:
        """Return where in the arena ``view``, which lies in it, begins."""
        at = self._arena.offset_of(np.frombuffer(view, dtype=np.uint8))
        assert at is not None, "only what lies in the arena has a place there"
        return at

    def keep(self) -> None:
        """A worker reads from it now: it stays until :meth:`drop`, even when the request is over."""
        self._users += 1

    def drop(self) -> None:
        """A worker is done with it."""
        self._users -= 1
        if self._released:
            self.release()

    def release(self) -> None:
        """Give everything back once no worker reads from it any more."""
        self._released = True
        if self._users == 0:
            self._budget.let_go(self._bytes)
            for piece in self._pieces:
                piece.free()
            self._bytes, self._pieces = 0, []

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def is_large(size: int) -> bool:
    """Whether a body of ``size`` bytes is one of those that must leave room for others."""
    return size > _SMALL_BODY


def _pages(size: int) -> int:
    return max(1, -(-size // PAGE)) * PAGE
