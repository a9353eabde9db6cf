"""What the gateway saw of each version: attempts, failures, seconds. Kept in memory, bounded, asked for by the judge of a canary."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT = 100_000
"""Attempts remembered per version; older ones are forgotten, and then only their number is known."""
SECONDS_KEPT = 5_000
"""Latencies returned per version at most: the latest ones."""


@dataclass(frozen=True, slots=True)
class Attempt:
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
class Measurements:
    """The record of one gateway process."""

    started: float
    """Unix seconds since when everything was seen."""
    _attempts: dict[str, deque[Attempt]] = field(default_factory=dict)
    _in_flight: Counter[str] = field(default_factory=Counter)

    def begin(self, version: str) -> None:
        """Count an attempt as in flight."""
        self._in_flight[version] += 1

    def end(self, version: str, attempt: Attempt) -> None:
        """Remember an attempt and take it out of flight."""
        self.abandon(version)
        self._attempts.setdefault(version, deque(maxlen=KEPT)).append(attempt)

    def abandon(self, version: str) -> None:
        """Take an attempt out of flight that nobody learnt anything from."""
        self._in_flight[version] -= 1

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
