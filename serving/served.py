"""What the gateway knows of one model: where its requests go, what was seen of its versions, and how its model servers are."""

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from serving.errors import UnreachableError
from serving.flow import Signal
from serving.measurements import Measurements
from serving.replicas import UNHEALTHY_CHECKS, Replica, Replicas
from serving.routes import Chooser, Routes
from serving.upstream import Upstream

_CHECK_SECONDS = 2.0
_LONGEST = 4 << 20


@dataclass(slots=True)
class Served:
    """One model behind the gateway."""

    model: str
    routes: Routes = field(default_factory=Routes)
    chooser: Chooser = field(default_factory=Chooser)
    measurements: Measurements = field(default_factory=Measurements)
    replicas: Replicas = field(default_factory=Replicas)
    was_told: bool = False
    """Whether somebody has said where its requests go, be it nowhere."""
    _lapses_at: float | None = None
    alive_at: float = -math.inf
    """When, by the steady clock, somebody was last known to answer: an answer, a health check, or new routes, which name only who is ready."""

    @property
    def path(self) -> str:
        """Where a model server takes inferences."""
        return f"/v2/models/{self.model}/infer"

    def route(self, routes: Routes) -> None:
        """Send the next request by ``routes``; those in flight finish where they are."""
        self.replicas.keep(routes.urls())
        self.routes, self.was_told = routes, True
        if routes.targets:
            self.alive_at = time.monotonic()
        self._lapses_at = None if routes.canary_seconds is None else time.monotonic() + routes.canary_seconds

    def lapse(self, now: float) -> bool:
        """Return whether the time has just passed for which the canary had been given a share: it has none any more. ``now`` never jumps."""
        if self._lapses_at is None or now < self._lapses_at:
            return False
        self.route(self.routes.lapsed())
        return True

    def everybody(self) -> Iterator[Replica]:
        """Every replica."""
        yield from tuple(self.replicas.known.values())


async def check(replica: Replica, upstream: Upstream) -> bool:
    """Ask a replica whether it is ready, and write down the answer; return whether that changed what is thought of it."""
    try:
        status, _, _ = await fetch(upstream, replica.url, "/v2/health/ready", seconds=_CHECK_SECONDS)
    except UnreachableError:
        status = 0
    before = replica.failed_checks >= UNHEALTHY_CHECKS
    replica.failed_checks = 0 if status == 200 else replica.failed_checks + 1
    return before is not (replica.failed_checks >= UNHEALTHY_CHECKS)


async def fetch(upstream: Upstream, url: str, path: str, *, seconds: float, limit: int = _LONGEST) -> tuple[int, Mapping[str, str], bytes]:
    """Return status, headers and body (at most ``limit`` bytes) of a GET. Raises UnreachableError when that is not there in ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            return await _fetch(upstream, url, path, limit=limit)
    except TimeoutError:
        raise UnreachableError(f"{url}{path} must answer within {seconds:g} s, it did not") from None


async def _fetch(upstream: Upstream, url: str, path: str, *, limit: int) -> tuple[int, Mapping[str, str], bytes]:
    why = None
    for kept in (upstream.kept(url), None):
        link = kept or await upstream.connect(url)
        signal = Signal()
        try:
            link.begin(f"GET {path} HTTP/1.1\r\nhost: {url.partition('://')[2]}\r\n\r\n".encode("latin-1"), signal=signal, room=limit)
            link.flush()
            while not link.complete and link.lost is None and link.buffered < limit:
                await signal.wait()
            if link.complete:
                status, headers, body = link.status, link.headers, b"".join(link.pieces)
                link.buffered = 0
                link.pieces.clear()
                upstream.release(url, link)
                return status, headers, body
            why = link.lost
        finally:
            if not link.idle_since:
                link.abort()
    raise UnreachableError(f"{url}{path} must answer, got {why or 'too long an answer'}")
