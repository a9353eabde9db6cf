"""Answers that are remembered by the digest of their inputs, bounded in bytes; and identical requests in flight, which are computed once.

One memory belongs to one model server, and that to one model digest: a key is the digest of the inputs. What is remembered is what was computed: the same bits, for the same bits.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from serving.errors import DeadlineError
from serving.tensors import Array

Outputs = Mapping[str, Array]
Compute = Callable[[Callable[[], bool]], Awaitable[Outputs]]
_ENTRY_BYTES = 1024
"""What an entry costs beside its arrays, roughly."""


class Outcome(StrEnum):
    """How a request was answered."""

    HIT = "hit"
    MISS = "miss"
    JOINED = "joined"
    """Somebody else had asked the same and was not answered yet."""


@dataclass(slots=True)
class _Flight:
    answer: "asyncio.Future[Outputs]"
    joined: int = 0


class Remembered:
    """At most ``limit`` bytes of answers, the least recently used leave first. Belongs to the event loop."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._entries: OrderedDict[str, Outputs] = OrderedDict()
        self._flying: dict[tuple[str, frozenset[str]], _Flight] = {}

    async def answer(self, key: str, names: Sequence[str], compute: Compute, *, deadline: float) -> tuple[Outputs, Outcome]:
        """Return at least the outputs ``names`` for ``key``; ``compute`` is called when nobody has them or is about to.

        ``compute`` gets a function that says whether nobody else has joined by now. Raises what ``compute`` raises.
        Who joined somebody whose own deadline passed, or who left, asks again.
        """
        while True:
            if (known := self._known(key, names)) is not None:
                return known, Outcome.HIT
            flying = self._flying.get((key, frozenset(names)))
            if flying is None:
                return await self._lead(key, names, compute), Outcome.MISS
            flying.joined += 1
            try:
                outputs = await _joined(flying.answer, deadline=deadline)
            finally:
                flying.joined -= 1
            if outputs is not None:
                return outputs, Outcome.JOINED

    def _known(self, key: str, names: Sequence[str]) -> Outputs | None:
        known = self._entries.get(key)
        if known is None or not all(name in known for name in names):
            return None
        self._entries.move_to_end(key)
        return known

    async def _lead(self, key: str, names: Sequence[str], compute: Compute) -> Outputs:
        flight = (key, frozenset(names))
        future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        self._flying[flight] = flying = _Flight(future)
        try:
            outputs = await compute(lambda: flying.joined == 0)
        except BaseException as error:
            if isinstance(error, DeadlineError) or not isinstance(error, Exception):
                future.cancel()  # it was this caller's misfortune: the others try themselves
            else:
                future.set_exception(error)
                future.exception()  # nobody may have joined
            raise
        else:
            future.set_result(outputs)
            self._keep(key, outputs)
            return outputs
        finally:
            del self._flying[flight]

    def _keep(self, key: str, outputs: Outputs) -> None:
        known = self._entries.pop(key, {})
        self.size -= _size(known)
        merged = {**known, **outputs}
        size = _size(merged)
        if size > self.limit // 4:  # one answer must not push out all others
            return
        self._entries[key] = merged
        self.size += size
        while self.size > self.limit:
            _, oldest = self._entries.popitem(last=False)
            self.size -= _size(oldest)


async def _joined(flying: "asyncio.Future[Outputs]", *, deadline: float) -> Outputs | None:
    """Return the answer of somebody else's flight, or None when that one gave up."""
    try:
        async with asyncio.timeout_at(deadline):
            await asyncio.wait([flying])
    except TimeoutError:
        raise DeadlineError(
            "the answer must be there by the request's deadline, somebody else's same request is not answered yet"
        ) from None
    return None if flying.cancelled() else flying.result()


def _size(outputs: Outputs) -> int:
    return _ENTRY_BYTES + sum(array.nbytes for array in outputs.values()) if outputs else 0
