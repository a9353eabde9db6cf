"""The canary's steps as a reviewer wants to see them: one point per look, kept in the store with the release, append-only."""

from dataclasses import asdict, dataclass
from typing import Any

from firstlight.digest import finite
from rollout.analysis import Assessment
from rollout.measurements import Measurement
from rollout.spec import RolloutStatus
from rollout.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One look at the canary."""

    t_s: float
    """Seconds since the rollout began."""
    phase: str
    weight: int
    """Percent of requests on the canary."""
    requests: int
    """Answered by the canary in this step."""
    errors: int
    latency_ms_p99: float | None
    quality: float | None
    """Share of good answers, 0..1."""
    verdict: str
    summary: str
    """The sentence behind the verdict."""


def point(status: RolloutStatus, measured: Measurement | None, assessment: Assessment, *, now: float) -> Point:
    """Return the point for one look. ``measured`` is None while nothing can be measured (a canary that is not ready yet)."""
    canary = measured.canary if measured else None
    return Point(
        t_s=round(max(0.0, now - status.started), 3),
        phase=status.phase.value,
        weight=status.weight,
        requests=canary.requests if canary else 0,
        errors=canary.errors if canary else 0,
        latency_ms_p99=canary.latency_ms_p99 if canary else None,
        quality=canary.quality if canary else None,
        verdict=assessment.verdict.value,
        summary=assessment.summary,
    )


class Timeline:
    """The points of one release."""

    def __init__(self, store: Store, release_id: str) -> None:
        self._store = store
        self._release_id = release_id

    def append(self, new: Point) -> None:
        """Keep one more point. Raises the store's errors."""
        self._store.add_point(self._release_id, finite(asdict(new)))

    def points(self) -> list[Point]:
        """Return every point in the order it was appended, of all runs that worked on the release."""
        return [Point(**point) for point in self._store.points(self._release_id)]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the points as plain JSON values, for the dossier."""
        return self._store.points(self._release_id)
