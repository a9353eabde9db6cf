"""Flow control of the gateway: a coroutine that sleeps until something happened, and memory that is counted before it is used."""

import asyncio


class Signal:
    """Wakes the one coroutine that waits. Callers look at the world before they wait, so a signal that nobody waits for is nothing lost."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake whoever waits."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Return after the next :meth:`set`."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Budget:
    """Bytes that all requests together may hold, or a part of them. Not for several threads."""

    __slots__ = ("_whole", "limit", "used")

    def __init__(self, limit: int, *, whole: "Budget | None" = None) -> None:
        """``whole`` is the budget of which this is a part: what is taken here is taken there too."""
        self.limit, self.used, self._whole = limit, 0, whole

    def take(self, size: int) -> bool:
        """Return whether ``size`` bytes were still there; they are now taken."""
        if self.used + size > self.limit or (self._whole is not None and not self._whole.take(size)):
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.used -= size
        if self._whole is not None:
            self._whole.give(size)
