"""The canary's looks as a reviewer wants to see them: points kept in the store with the release, append-only, and not too many.

A rollout of days looks a hundred thousand times. What changes phase, weight or verdict is kept; between those, a point is kept
when a hundredth of the time so far has passed since the last one, so that a day leaves some hundreds of points, denser at the
beginning, where there is most to see.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from firstlight.digest import finite
from rollout.analysis import Assessment
from rollout.evidence import GROWTH, Evidence, Stream
from rollout.spec import Event, RolloutStatus
from rollout.store import Store

FIRST_SECONDS = 0.5
"""No two points between changes are closer than this."""
_PART = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One look at the canary. Counts are over the whole rollout."""

    t_s: float
    """Seconds since the rollout began."""
    phase: str
    weight: int
    """Percent of requests on the canary."""
    requests: int
    """Sent to the canary by callers."""
    errors: int
    latency_ms_p99: float | None
    """Upper edge of the bucket it falls into."""
    quality: float | None
    """Share of good answers, 0..1."""
    verdict: str
    summary: str
    """The sentence behind the verdict."""
    step_requests: int = 0
    """Sent to the canary in the present step."""
    pairs: int = 0
    """Requests that both versions were asked."""
    event: str = Event.NONE.value
    """What happened beside the measurements."""
    by: str = ""
    """Who ordered it."""
    outlook: str = ""
    """How much longer, as a sentence."""
    checks: list[dict[str, Any]] = field(default_factory=list)
    """Every measurement as ``analysis.Assessment.to_dict`` has it: its evidence, and what would be needed."""


def point(
    status: RolloutStatus,
    evidence: Evidence,
    assessment: Assessment,
    *,
    now: float,
    event: Event = Event.NONE,
    by: str = "",
    outlook: str = "",
) -> Point:
    """Return the point for one look."""
    canary = evidence.canary
    return Point(
        t_s=round(max(0.0, now - status.started), 3),
        phase=status.phase.value,
        weight=status.weight,
        requests=canary.requests,
        errors=canary.errors,
        latency_ms_p99=_p99(canary),
        quality=canary.quality_good / canary.quality_total if canary.quality_total else None,
        verdict=assessment.verdict.value,
        summary=assessment.summary,
        step_requests=evidence.step_requests,
        pairs=evidence.pairs.total,
        event=event.value,
        by=by,
        outlook=outlook,
        checks=assessment.to_dict()["checks"],
    )


def _p99(stream: Stream) -> float | None:
    total, seen = sum(stream.latency.values()), 0
    for at in sorted(stream.latency):
        seen += stream.latency[at]
        if seen >= math.ceil(0.99 * total):
            return 1000 * GROWTH**at
    return None


def is_worth_keeping(new: Point, last: Point | None) -> bool:
    """Return whether a point is kept: something changed, or enough time has passed since the one kept last."""
    if last is None or new.event != Event.NONE.value or (new.phase, new.weight) != (last.phase, last.weight):
        return True
    soon = FIRST_SECONDS if new.verdict != last.verdict else max(FIRST_SECONDS, _PART * new.t_s)
    return new.t_s - last.t_s >= soon


class Timeline:
    """The points of one release."""

    def __init__(self, store: Store, release_id: str) -> None:
        self._store = store
        self._release_id = release_id

    def append(self, new: Point) -> None:
        """Keep one more point. Raises the store's errors."""
        document = {name: getattr(new, name) for name in Point.__slots__}
        self._store.add_point(self._release_id, finite(document))

    def points(self) -> list[Point]:
        """Return every point in the order it was appended, of all runs that worked on the release."""
        return [_point(row) for row in self._store.points(self._release_id)]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the points as plain JSON values, for the dossier."""
        return self._store.points(self._release_id)


def _point(row: Mapping[str, Any]) -> Point:
    """Return a stored point; fields that it lacks were not known when it was written."""
    return Point(**{name: value for name, value in row.items() if name in Point.__slots__})
