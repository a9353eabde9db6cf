"""Copies of live requests for a version that answers nobody: its status codes and times are counted beside the live ones.

A copy is made after the caller was answered, from a queue bounded in number and in bytes; when that is full the copy is dropped and counted. So a
shadow that is slow, broken or gone costs nobody anything.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.errors import UnreachableError
from serving.flow import Budget, Signal
from serving.gateway_metrics import GatewayMetrics
from serving.http import VERSION
from serving.routes import Shadow
from serving.upstream import Link, Upstream

_LOG = logging.getLogger(__name__)
QUEUED = 64
"""Copies that may wait; further ones are dropped."""
SENDERS = 2
"""Copies on their way at a time."""
_SECONDS = 30.0
_SECONDS_KEPT = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """One request to send again."""

    model: str
    path: str
    target: tuple[str, tuple[str, ...]]
    """Version and addresses of the shadow."""
    headers: Mapping[str, str]
    pieces: Sequence[bytes]
    size: int
    live_status: int
    live_seconds: float


@dataclass(slots=True)
class Comparison:
    """What was seen of one shadow version so far."""

    sent: int = 0
    dropped: int = 0
    failed: int = 0
    """No answer, or one of 500 and above."""
    same_status: int = 0
    """Answers with the status code that the caller got."""
    statuses: Counter[int] = field(default_factory=Counter)
    live_statuses: Counter[int] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_SECONDS_KEPT))
    live_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_SECONDS_KEPT))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "sent": self.sent,
            "dropped": self.dropped,
            "failed": self.failed,
            "same_status": self.same_status,
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "live_statuses": {str(status): count for status, count in self.live_statuses.items()},
            "seconds": [round(value, 6) for value in self.seconds],
            "live_seconds": [round(value, 6) for value in self.live_seconds],
        }


class Shadows:
    """The copies of one gateway."""

    def __init__(self, *, upstream: Upstream, budget: Budget, metrics: GatewayMetrics, queued: int = QUEUED) -> None:
        """Nothing waits yet; :meth:`start` begins to send."""
        self._upstream, self._budget, self._metrics = upstream, budget, metrics
        self._queue: asyncio.Queue[Copy] = asyncio.Queue(queued)
        self._seen: dict[tuple[str, str], Comparison] = {}
        self._credit = 50
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send."""
        self._tasks = [asyncio.get_running_loop().create_task(self._send_all()) for _ in range(SENDERS)]

    async def close(self) -> None:
        """Stop; copies that wait are lost."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def wants(self, shadow: Shadow | None) -> bool:
        """Return whether this request is to be copied: the share is hit exactly, as the weights are."""
        if shadow is None:
            return False
        self._credit += shadow.percent
        if self._credit < 100:
            return False
        self._credit -= 100
        return True

    def offer(self, copy: Copy | None, *, model: str, shadow: Shadow) -> None:
        """Queue a copy; never waits. None is a request that could not be copied (too large, or no memory): it is dropped and counted."""
        seen, version = self._comparison(model, shadow.target.version), shadow.target.version
        if copy is None or self._queue.full() or not self._budget.take(copy.size):
            seen.dropped += 1
            self._metrics.shadow(model, version, "dropped")
            return
        self._queue.put_nowait(copy)

    def of(self, model: str) -> dict[str, Any]:
        """Return {version: counts} of the shadows of ``model``."""
        return {version: seen.to_dict() for (name, version), seen in self._seen.items() if name == model}

    def _comparison(self, model: str, version: str) -> Comparison:
        return self._seen.setdefault((model, version), Comparison())

    async def _send_all(self) -> None:
        while True:
            copy = await self._queue.get()
            try:
                await self._send(copy)
            except Exception:
                _LOG.exception("a copy could not be sent")
            finally:
                self._budget.give(copy.size)

    async def _send(self, copy: Copy) -> None:
        version, urls = copy.target
        began, status = time.perf_counter(), 0
        url = urls[hash(began) % len(urls)]
        with contextlib.suppress(UnreachableError, TimeoutError):
            async with asyncio.timeout(_SECONDS):
                status = await self._ask(copy, url)
        seen = self._comparison(copy.model, version)
        failed = status == 0 or status >= 500
        seen.sent += 1
        seen.failed += failed
        seen.same_status += status == copy.live_status
        seen.statuses[status] += 1
        seen.live_statuses[copy.live_status] += 1
        if status:
            seen.seconds.append(time.perf_counter() - began)
            seen.live_seconds.append(copy.live_seconds)
        self._metrics.shadow(copy.model, version, "failed" if failed else "sent")

    async def _ask(self, copy: Copy, url: str) -> int:
        """Return the status of the shadow's answer, 0 without one; the answer itself is read and thrown away."""
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
            return await _drained(link, signal, version=copy.target[0])
        finally:
            self._upstream.release(url, link)


async def _drained(link: Link, signal: Signal, *, version: str) -> int:
    while True:
        while link.take() is not None:
            pass
        if link.complete or link.lost is not None:
            break
        await signal.wait()
    return link.status if link.complete and link.headers.get(VERSION, version) == version else 0
