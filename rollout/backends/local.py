"""Local processes under a supervisor: we write the wish into the store, the supervisor makes it true and writes back what it read."""

import time
from collections.abc import Callable

from rollout.spec import Desired, Observed, Traffic
from rollout.store import Store

HEARTBEAT_SECONDS = 5.0
"""A supervisor that has not reported for this long is not believed any more; it reports at least every second."""


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
        shadow_percent: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``token`` is the fencing token of whoever drives a rollout; ``shadow_percent`` of the requests are copied while a canary is out."""
        self._store = store
        self._environment = environment
        self._model = model
        self._lease_seconds = lease_seconds
        self._by = by
        self._token = token
        self._shadow_percent = shadow_percent
        self._clock = clock
        self._generation: int | None = None

    def apply(self, traffic: Traffic) -> None:
        """Propose ``traffic``, with a new lease when it has a canary.

        Raises StaleGeneration when somebody else changed the traffic since this backend last did, StaleChampion when the
        champion is not ``traffic.stable``, Fenced when somebody else drives by now, and the store's errors.
        """
        now = self._store.desired(self._environment, self._model)
        expected = self._expected(now, traffic)
        lease_until = None if traffic.canary is None else self._clock() + self._lease_seconds
        wanted = self._store.propose(
            self._environment,
            self._model,
            traffic,
            lease_until=lease_until,
            expected_generation=expected,
            by=self._by,
            token=self._token,
            lease_seconds=None if traffic.canary is None else self._lease_seconds,
            shadow_percent=0 if traffic.canary is None else self._shadow_percent,
        )
        self._generation = wanted.generation

    def renew(self) -> None:
        """Keep the canary out for another lease. Raises StaleGeneration when it is not out by our doing any more."""
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
        return seen if seen and self._clock() - seen.heartbeat < HEARTBEAT_SECONDS else None
