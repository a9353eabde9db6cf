"""What the gateway saw of each version: attempts, failures, seconds. Kept in memory, bounded, asked for by the judge of a canary.

Twice: as sums since this gateway began (:class:`Tally`, for judgements that may be looked at after every request), and as the latest attempts.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rollout.evidence import GROWTH, SMALLEST_SECONDS, bucket

KEPT = 100_000
"""Attempts remembered per version; older ones are forgotten, and then only their number is known."""
SECONDS_KEPT = 5_000
"""Latencies returned per version at most: the latest ones."""


_FIRST = bucket(SMALLEST_SECONDS)
_EDGES = tuple(GROWTH**number for number in range(_FIRST, bucket(10_000.0)))
"""Upper edges of the buckets: looking a time up takes a fifth of computing its logarithm, and every request does it."""


class Attempt(NamedTuple):
    """One try of one version."""

    at: float
    """Unix seconds at its end."""
    seconds: float
    failed: bool
    """No answer, or an answer of 500 or above: the version's fault."""
    answered: bool
    """There was an HTTP answer, so ``seconds`` is a latency."""
    refused: bool = False
    """Answered 4xx: the caller's fault, as far as one attempt can tell."""


@dataclass(slots=True)
class Tally:
    """Sums over every attempt at one version on one track since the gateway began. They only grow: whoever asks takes differences."""

    requests: int = 0
    errors: int = 0
    """No answer, or one of 500 and above."""
    refused: int = 0
    """4xx."""
    latency: dict[int, int] = field(default_factory=dict)
    """Answers by bucket of their time."""

    def add(self, seconds: float, failed: bool, answered: bool, refused: bool) -> None:
        """Count one attempt."""
        self.requests += 1
        self.errors += failed
        self.refused += refused
        if answered:
            number = _FIRST + bisect_left(_EDGES, seconds)
            self.latency[number] = self.latency.get(number, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        latency = {str(number): count for number, count in sorted(self.latency.items())}
        return {"requests": self.requests, "errors": self.errors, "refused": self.refused, "latency": latency}


@dataclass(slots=True)
class Measurements:
    """The record of one gateway process."""

    started: float
    """Unix seconds since when everything was seen."""
    _attempts: dict[str, deque[Attempt]] = field(default_factory=dict)
    _in_flight: Counter[str] = field(default_factory=Counter)
    _tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)

    def begin(self, version: str) -> None:
        """Count an attempt as in flight."""
        self._in_flight[version] += 1

    def end(self, version: str, attempt: Attempt, *, track: str) -> None:
        """Remember an attempt and take it out of flight."""
        self._in_flight[version] -= 1
        (self._tallies.get((track, version)) or self.tally(track, version)).add(*attempt[1:])
        kept = self._attempts.get(version)
        if kept is None:
            kept = self._attempts[version] = deque(maxlen=KEPT)
        kept.append(attempt)

    def abandon(self, version: str) -> None:
        """Take an attempt out of flight that nobody learnt anything from."""
        self._in_flight[version] -= 1

    def tally(self, track: str, version: str) -> Tally:
        """Return the sums of ``version`` as ``track``: stable, canary, baseline, shadow or other."""
        found = self._tallies.get((track, version))
        if found is None:
            found = self._tallies[track, version] = Tally()
        return found

    def totals(self) -> list[dict[str, Any]]:
        """Return {"track", "version", "requests", "errors", "refused", "latency": {bucket: count}} of everything seen since the start."""
        return [{"track": track, "version": version, **tally.to_dict()} for (track, version), tally in self._tallies.items()]

    def in_flight(self) -> dict[str, int]:
        """Return attempts in flight by version, without the versions that have none."""
        return {version: count for version, count in self._in_flight.items() if count > 0}

    def since(self, moment: float) -> Mapping[str, Any]:
        """Return {"started", "versions": {version: {requests, errors, refused, seconds}}} of attempts that ended at ``moment`` or later."""
        return {"started": self.started, "versions": {version: _summary(kept, moment) for version, kept in self._attempts.items()}}


def _summary(attempts: deque[Attempt], moment: float) -> dict[str, Any]:
    late = [attempt for attempt in attempts if attempt.at >= moment]
    return {
        "requests": len(late),
        "errors": sum(attempt.failed for attempt in late),
        "refused": sum(attempt.refused for attempt in late),
        "seconds": [round(attempt.seconds, 6) for attempt in late if attempt.answered][-SECONDS_KEPT:],
    }
