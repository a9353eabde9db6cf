"""Which of a version's replicas answers, and which is left out for a while because it fails. Pure but for its own memory: time comes in.

A replica is left out (ejected) after failing several times in a row, or too large a share of late; each time for longer. The last usable replica
of a version is never left out: the version then fails visibly, is charged for it, and the judge of a canary sees it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

IN_A_ROW = 5
"""Failures without an answer or with a broken one (500, 502) after which a replica is left out."""
SHARE, SHARE_OF = 0.5, 20
"""Share of failures among the latest this many attempts after which it is left out as well."""
FIRST_SECONDS, LONGEST_SECONDS = 5.0, 300.0
"""How long it is left out: the first time, doubled each time, at most. A time as long again without a failure forgives one doubling."""
UNHEALTHY_CHECKS = 2
"""Health checks in a row that fail before a replica is asked only when there is no other."""


@dataclass(slots=True)
class Replica:
    """One model server as the gateway sees it."""

    url: str
    in_flight: int = 0
    ejected_until: float = 0.0
    failed_checks: int = 0
    _in_a_row: int = 0
    _ejections: int = 0
    _attempts: float = 0.0
    _failures: float = 0.0

    def is_usable(self, now: float) -> bool:
        """Return whether it may be asked while there are others."""
        return now >= self.ejected_until and self.failed_checks < UNHEALTHY_CHECKS

    def answered(self, now: float) -> None:
        """Note a good attempt."""
        self._in_a_row = 0
        self._count(0)
        if self._ejections and now >= self.ejected_until + self._term:
            self._ejections -= 1

    def failed(self, now: float) -> bool:
        """Note a failed attempt; return whether it should be left out now."""
        self._in_a_row += 1
        self._count(1)
        often = self._attempts >= SHARE_OF / 2 and self._failures >= SHARE * self._attempts
        return now >= self.ejected_until and (self._in_a_row >= IN_A_ROW or often)

    def eject(self, now: float) -> float:
        """Leave it out; return for how many seconds."""
        self._ejections += 1
        self._in_a_row, self._attempts, self._failures = 0, 0.0, 0.0
        self.ejected_until = now + self._term
        return self._term

    @property
    def _term(self) -> float:
        return float(min(FIRST_SECONDS * 2 ** min(self._ejections - 1, 20), LONGEST_SECONDS)) if self._ejections else FIRST_SECONDS

    def _count(self, failure: int) -> None:
        """Decaying counts: an attempt weighs half after about SHARE_OF others."""
        self._attempts = self._attempts * (1 - 0.7 / SHARE_OF) + 1
        self._failures = self._failures * (1 - 0.7 / SHARE_OF) + failure


@dataclass(slots=True)
class Replicas:
    """Everything known of the replicas that routes name, kept while routes change around them."""

    known: dict[str, Replica] = field(default_factory=dict)
    _turn: int = 0

    def keep(self, urls: Collection[str]) -> None:
        """Know exactly ``urls``; what was known of them stays known. Those in flight elsewhere finish on their own objects."""
        self.known = {url: self.known.get(url) or Replica(url) for url in urls}

    def of(self, url: str) -> Replica:
        """Return what is known of a replica: nothing yet when the routes have changed since somebody read them."""
        return self.known.get(url) or Replica(url)

    def choose(self, urls: tuple[str, ...], *, now: float, avoid: Collection[str] = ()) -> Replica:
        """Return the usable replica with the fewest requests in flight, in turns; those in ``avoid`` and unusable ones only when none is left."""
        if len(urls) == 1:
            return self.of(urls[0])
        self._turn += 1
        first = self._turn % len(urls)
        able = [self.of(url) for url in urls[first:] + urls[:first]]
        fresh = [replica for replica in able if replica.url not in avoid] or able
        usable = [replica for replica in fresh if replica.is_usable(now)] or fresh
        return min(usable, key=lambda replica: replica.in_flight)

    def note(self, replica: Replica, siblings: Sequence[str], *, failed: bool, now: float) -> float:
        """Note how an attempt ended; return the seconds for which ``replica`` is left out from now on, 0 when it is not."""
        if not failed:
            replica.answered(now)
            return 0.0
        if replica.failed(now) and any(url != replica.url and self.known[url].is_usable(now) for url in siblings if url in self.known):
            return replica.eject(now)
        return 0.0
