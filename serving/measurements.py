"""What the gateway saw of each version on each track: sums since this process began. Small, and never emptied: whoever asks takes differences,
so looking after every request, or once a week, gives the same answer."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rollout.evidence import GROWTH, SMALLEST_SECONDS, bucket

_FIRST = bucket(SMALLEST_SECONDS)
_EDGES = tuple(GROWTH**number for number in range(_FIRST, bucket(10_000.0)))
"""Upper edges of the buckets: looking a time up takes a fifth of computing its logarithm, and every request does it."""


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

    def add(self, status: int, seconds: float) -> None:
        """Count one attempt that was answered with ``status`` after ``seconds``; 0: it was not, and how long that took is no answer's time."""
        self.requests += 1
        self.errors += status == 0 or status >= 500
        self.refused += 400 <= status < 500
        if status:
            number = _FIRST + bisect_left(_EDGES, seconds)
            self.latency[number] = self.latency.get(number, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        latency = {str(number): count for number, count in sorted(self.latency.items())}
        return {"requests": self.requests, "errors": self.errors, "refused": self.refused, "latency": latency}


@dataclass(slots=True)
class Measurements:
    """The record of one gateway process."""

    _in_flight: Counter[str] = field(default_factory=Counter)
    _tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)

    def begin(self, version: str) -> None:
        """Count an attempt as in flight."""
        self._in_flight[version] += 1

    def end(self, version: str, *, track: str, status: int, seconds: float) -> None:
        """Count an attempt and take it out of flight."""
        self._in_flight[version] -= 1
        (self._tallies.get((track, version)) or self.tally(track, version)).add(status, seconds)

    def abandon(self, version: str) -> None:
        """Take an attempt out of flight that nobody learnt anything from."""
        self._in_flight[version] -= 1

    def tally(self, track: str, version: str) -> Tally:
        """Return the sums of ``version`` as ``track``: stable, canary, baseline, shadow, drill or other."""
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
