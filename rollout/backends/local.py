"""Local processes under a supervisor: we write the wish into the store, the supervisor makes it true and writes back what it read."""

import time
from collections.abc import Callable

from rollout.spec import Desired, Observed, Traffic
from rollout.store import Store

HEARTBEAT_SECONDS = 5.0
"""A supervisor that has not reported for this long is not believed any more; it reports at least every second."""


class Heartbeat:
    """Whether somebody who writes down the time still lives, whatever happens to the clocks.

    A time that was another one at our last look, no more than HEARTBEAT_SECONDS ago, was written since, by whichever clock. One that
    stands still counts by our own elapsed time. Only a first look has nothing but the two wall clocks, and believes neither future nor past.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._steady = clock, steady
        self._last: float | None = None
        self._looked = self._alive_at = 0.0

    def is_alive(self, written: float) -> bool:
        """Return whether ``written`` (unix seconds by the writer's clock) is the time of somebody alive. Call it at every look."""
        now, before, looked = self._steady(), self._last, self._looked
        self._last, self._looked = written, now
        if written == before:
            return now - self._alive_at < HEARTBEAT_SECONDS
        recent = before is not None and now - looked < HEARTBEAT_SECONDS
        self._alive_at = now if recent else now - abs(self._clock() - written)
        return now - self._alive_at < HEARTBEAT_SECONDS


class LocalBackend:
    """One model in one environment, through the store. A canary goes out on a lease: ``apply`` again, or ``renew``, keeps it out."""

    def __init__(
        self,
        store: Store,
        environment: str,
        model: str,
        *,
        lease_seconds: float,
        by: str,
        token: int | None = None,
        sticky: str | None = None,
        shadow_percent: int = 0,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """``token`` from ``Store.claim_rollout``; ``sticky`` and ``shadow_percent`` as in Desired, while there is a canary."""
        self._store = store
        self._environment = environment
        self._model = model
        self._lease_seconds = lease_seconds
        self._by = by
        self._token = token
        self._sticky = sticky
        self._shadow_percent = shadow_percent
        self._clock = clock
        self._heartbeat = Heartbeat(clock=clock, steady=steady)
        self._generation: int | None = None

    def apply(self, traffic: Traffic) -> None:
        """Propose ``traffic``, with a new lease when it has a canary.

        Raises StaleGeneration when somebody else changed the traffic since this backend last did, StaleChampion when the
        champion is not ``traffic.stable``, Fenced when a newer holder drives the rollout, and the store's errors.
        """
        now = self._store.desired(self._environment, self._model)
        expected, leased = self._expected(now, traffic), traffic.canary is not None
        wanted = self._store.propose(
            self._environment,
            self._model,
            traffic,
            lease_until=self._clock() + self._lease_seconds if leased else None,
            lease_seconds=self._lease_seconds if leased else None,
            sticky=self._sticky if leased else None,
            shadow_percent=self._shadow_percent if leased else 0,
            expected_generation=expected,
            by=self._by,
            token=self._token,
        )
        self._generation = wanted.generation

    def renew(self) -> None:
        """Keep the canary out for another lease. Raises StaleGeneration when it is not out by our doing any more, and Fenced."""
        until = self._clock() + self._lease_seconds
        self._store.renew_lease(
            self._environment, self._model, self._generation or 0, until, token=self._token, lease_seconds=self._lease_seconds
        )

    def current(self) -> Traffic | None:
        """Return the routes the supervisor read back, or None when it has not reported for HEARTBEAT_SECONDS."""
        seen = self._seen()
        return seen.traffic if seen else None

    def is_ready(self, version: str) -> bool:
        """Return whether the supervisor reports ``version`` ready."""
        seen = self._seen()
        return seen is not None and version in seen.ready

    def is_baseline_ready(self) -> bool:
        """Return whether the supervisor reports the baseline's server ready."""
        seen = self._seen()
        return seen is not None and seen.baseline_ready

    @property
    def gateway_url(self) -> str | None:
        """Where requests go, or None while no supervisor reports."""
        seen = self._seen()
        return seen.gateway_url if seen else None

    @property
    def problems(self) -> tuple[str, ...]:
        """Why something wished is not true yet, as sentences."""
        seen = self._seen()
        if seen is None:
            return (
                f"no supervisor of {self._model!r} in {self._environment!r} has reported for {HEARTBEAT_SECONDS:g} s; "
                "start one with firstlight serve",
            )
        return seen.problems

    def _expected(self, now: Desired | None, traffic: Traffic) -> int:
        found = now.generation if now else 0
        already_so = now is not None and now.traffic == traffic  # for instance after Store.promote
        return found if self._generation is None or already_so else self._generation

    def _seen(self) -> Observed | None:
        seen = self._store.observed(self._environment, self._model)
        return seen if seen and self._heartbeat.is_alive(seen.heartbeat) else None
