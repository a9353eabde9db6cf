"""For how long a canary's lease has been what it is, by a clock that never jumps, and across supervisors."""

from collections.abc import Mapping
from typing import Any

from rollout.clock import Clock
from rollout.spec import Desired


class Lease:
    """Remembers one lease: which it is, and since when. Times are the steady clock's, which all processes since the last boot share."""

    def __init__(self, clock: Clock) -> None:
        """Nothing is held yet."""
        self._clock = clock
        self._known: tuple[int, float] | None = None
        """Generation, and when the lease ends."""
        self._since = 0.0

    def held(self, desired: Desired) -> float:
        """Return the seconds since the lease of ``desired`` was first seen as it is; each renewal begins anew."""
        known = None if desired.lease_until is None else (desired.generation, desired.lease_until)
        if known != self._known:
            self._known, self._since = known, self._clock.steady()
        return self._clock.steady() - self._since

    def remember(self, document: Mapping[str, Any]) -> None:
        """Go on from what another supervisor of this boot knew (:meth:`to_dict`)."""
        try:
            known, since = (int(document["generation"]), float(document["until"])), float(document["since"])
        except (KeyError, TypeError, ValueError):
            return
        if since <= self._clock.steady():
            self._known, self._since = known, since

    def to_dict(self) -> dict[str, Any]:
        """Return the lease as plain JSON values; empty without one."""
        return {} if self._known is None else {"generation": self._known[0], "until": self._known[1], "since": self._since}


__all__ = ["Clock", "Lease"]
