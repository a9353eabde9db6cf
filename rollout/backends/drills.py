"""Who carries out a rehearsal: it is ordered, and its report is read; in between the world does what it does."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rollout.backends.local import HEARTBEAT_SECONDS
from rollout.store import Store


class DrillStage(Protocol):
    """A place where a version's cold start can be rehearsed. May raise TransientError."""

    def order(self, version: str) -> str:
        """Ask for a rehearsal of ``version`` and return the name under which its report will stand. Returns before it begins."""
        ...

    def report(self) -> Mapping[str, Any] | None:
        """Return the latest report (see ``rollout.rehearsal``), or None while nobody reports."""
        ...


class LocalDrills:
    """One model in one environment, through the store: the supervisor reads the order there and leaves its report."""

    def __init__(self, store: Store, environment: str, model: str, *, by: str, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._environment = environment
        self._model = model
        self._by = by
        self._clock = clock

    def order(self, version: str) -> str:
        """Write the order into the desired state. Raises UnknownVersion and the store's errors."""
        return self._store.request_drill(self._environment, self._model, version, by=self._by)

    def report(self) -> Mapping[str, Any] | None:
        """Return what the supervisor reported last, or None when it has not reported for HEARTBEAT_SECONDS."""
        seen = self._store.observed(self._environment, self._model)
        return seen.drill if seen is not None and abs(self._clock() - seen.heartbeat) < HEARTBEAT_SECONDS else None
