"""Copies of live requests for another version than the one that answered: its status codes and times are counted, its answers compared.

A copy is made after the caller was answered, from a queue bounded in number and in bytes; when that is full the copy is dropped and counted. So a
shadow that is slow, broken or gone costs nobody anything. Both answers to a request go to ``comparing`` undecoded, as long as memory is left for
them; an answer that was too long to be held back (``forwarding.HELD``) is not there any more, and the pair is counted as uncompared.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from serving.comparing import Comparer, Job
from serving.errors import UnreachableError
from serving.flow import Budget, Signal
from serving.forwarding import HELD
from serving.gateway_metrics import GatewayMetrics
from serving.http import VERSION
from serving.pairs import Answer
from serving.protocol import HEADER_LENGTH
from serving.routes import Shadow, Target
from serving.served import Served
from serving.upstream import Link, Upstream

_LOG = logging.getLogger(__name__)
QUEUED = 64
"""Copies that may wait; further ones are dropped."""
SENDERS = 2
"""Copies on their way at a time."""
_PART = 8
"""Copies and their answers hold at most one part in eight of the memory for bodies."""
_SECONDS = 30.0


class Purpose(StrEnum):
    """Why requests are copied; also the track as which a copy's receiver is counted."""

    SHADOW = "shadow"
    """Its answers are compared with the live ones."""
    DRILL = "drill"
    """A start is rehearsed: that it answers is all that counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """What the caller was answered."""

    request_id: str
    track: str
    version: str
    answer: Answer
    is_whole: bool
    """Whether all of the answer is here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """One request to send again."""

    purpose: Purpose
    model: str
    path: str
    target: Target
    """Who gets it."""
    headers: Mapping[str, str]
    pieces: Sequence[bytes]
    size: int
    live: Live

    @property
    def held(self) -> int:
        """Bytes of the request and of the live answer."""
        return self.size + self.live.answer.size


class Shadows:
    """The copies of one gateway."""

    def __init__(
        self, served: Mapping[str, Served], *, upstream: Upstream, budget: Budget, metrics: GatewayMetrics, queued: int = QUEUED
    ) -> None:
        """Nothing waits yet; :meth:`start` begins to send. ``served`` by model."""
        self._served, self._upstream, self._metrics = served, upstream, metrics
        # Copies that wait shall not be why a caller is refused.
        self._budget = Budget(budget.limit // _PART, whole=budget)
        self.comparer = Comparer(budget=self._budget, metrics=metrics)
        self._queue: asyncio.Queue[Copy] = asyncio.Queue(queued)
        self._credit = dict.fromkeys(Purpose, 50)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send."""
        self.comparer.start()
        self._tasks = [asyncio.get_running_loop().create_task(self._send_all()) for _ in range(SENDERS)]

    async def close(self) -> None:
        """Stop; copies that wait are lost."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.comparer.close()

    def wants(self, purpose: Purpose, shadow: Shadow, *, answered_by: str) -> Target | None:
        """Return who gets a copy of a request that version ``answered_by`` answered, if anybody: the share is hit exactly, as the weights are."""
        target = shadow.target if purpose is Purpose.DRILL else shadow.copied_to(answered_by)
        if target is None:
            return None
        self._credit[purpose] += shadow.percent
        if self._credit[purpose] < 100:
            return None
        self._credit[purpose] -= 100
        return target

    def offer(self, copy: Copy | None, purpose: Purpose, *, model: str, target: Target) -> None:
        """Queue a copy; never waits. None is a request that could not be copied (too large, or no memory): it is dropped and counted."""
        if copy is not None and not self._queue.full() and self._budget.take(copy.held):
            self._queue.put_nowait(copy)
        elif purpose is Purpose.SHADOW:
            self._metrics.shadow(model, target.version, "dropped")
            self.comparer.lose(model, target.version)

    async def _send_all(self) -> None:
        while True:
            copy = await self._queue.get()
            held = copy.held
            try:
                answer, is_whole = await self._send(copy)
                held += answer.size
                if copy.purpose is Purpose.SHADOW:
                    held -= self._hand_over(copy, answer, is_whole=is_whole)
            except Exception:
                _LOG.exception("a copy could not be sent")
            finally:
                self._budget.give(held)

    def _hand_over(self, copy: Copy, answer: Answer, *, is_whole: bool) -> int:
        """Give both answers to the comparer; return how many bytes are its to give back now."""
        live = copy.live
        job = Job(
            model=copy.model,
            request_id=live.request_id,
            live=live.answer,
            live_track=live.track,
            live_version=live.version,
            shadow=answer,
            shadow_version=copy.target.version,
        )
        if live.is_whole and is_whole and self.comparer.offer(job):
            return job.size
        self.comparer.lose(copy.model, copy.target.version)
        return 0

    async def _send(self, copy: Copy) -> tuple[Answer, bool]:
        """Send a copy; return the shadow's answer, whose bytes are taken from the budget, and whether all of it is here."""
        began, answer, is_whole = time.perf_counter(), Answer(status=0), True
        url = copy.target.urls[hash(began) % len(copy.target.urls)]
        kept = _Kept(self._budget)
        try:
            with contextlib.suppress(UnreachableError, TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    answer, is_whole = await self._ask(copy, url, kept)
        finally:
            if not answer.pieces:
                kept.drop()
        self._note(copy, answer.status, seconds=time.perf_counter() - began)
        return answer, is_whole

    def _note(self, copy: Copy, status: int, *, seconds: float) -> None:
        version = copy.target.version
        self._served[copy.model].measurements.tally(copy.purpose, version).add(status, seconds)
        if copy.purpose is Purpose.SHADOW:
            self._metrics.shadow(copy.model, version, "failed" if status == 0 or status >= 500 else "sent")

    async def _ask(self, copy: Copy, url: str, kept: "_Kept") -> tuple[Answer, bool]:
        """Return the shadow's answer, and whether all of it could be kept; status 0 without one."""
        link = await self._upstream.connect(url)
        signal = Signal()
        text = f"POST {copy.path} HTTP/1.1\r\nhost: {url.partition('://')[2]}\r\n"
        text += "".join(f"{name}: {value}\r\n" for name, value in copy.headers.items())
        try:
            link.begin(f"{text}content-length: {copy.size}\r\n\r\n".encode("latin-1"), signal=signal)
            for piece in copy.pieces:
                while link.is_slow and link.lost is None and not link.has_head:
                    await signal.wait()
                if link.lost is None and not link.has_head:
                    link.write(piece)
            link.flush()
            await _drain(link, signal, kept)
            if not link.complete or link.headers.get(VERSION, copy.target.version) != copy.target.version:
                kept.drop()
                return Answer(status=0), True
            return answer_of(link.status, link.headers, kept.pieces), kept.is_whole
        finally:
            self._upstream.release(url, link)


def answer_of(status: int, headers: Mapping[str, str], pieces: Sequence[bytes]) -> Answer:
    """Return an answer as :mod:`serving.pairs` reads it."""
    return Answer(status=status, pieces=tuple(pieces), header_length=headers.get(HEADER_LENGTH), coding=headers.get("content-encoding"))


@dataclass(slots=True)
class _Kept:
    """What is kept of a shadow's answer, counted against the memory of all."""

    budget: Budget
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0
    is_whole: bool = True

    def add(self, piece: bytes) -> None:
        """Keep ``piece``; what does not fit ends the keeping."""
        if not self.is_whole:
            return
        if self.size + len(piece) <= HELD and self.budget.take(len(piece)):
            self.pieces.append(piece)
            self.size += len(piece)
            return
        self.is_whole = False
        self.drop()

    def drop(self) -> None:
        """Give the memory back."""
        self.budget.give(self.size)
        self.pieces, self.size = [], 0


async def _drain(link: Link, signal: Signal, kept: _Kept) -> None:
    """Take the answer until it ends or breaks off."""
    while True:
        while (piece := link.take()) is not None:
            kept.add(piece)
        if link.complete or link.lost is not None:
            break
        await signal.wait()
