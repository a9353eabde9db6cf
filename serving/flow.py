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
    """Bytes that all requests together may hold. Not for several threads."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def take(self, size: int) -> bool:
        """Return whether ``size`` bytes were still there; they are now taken."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.used -= size
