"""Time for a loop that runs for days: how much has passed is asked of a clock that never jumps."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """The two clocks of a process, and waiting. Tests give clocks that pass when they are told to."""

    wall: Callable[[], float] = time.time
    """Unix seconds; other processes read it too, and people and NTP may set it."""
    steady: Callable[[], float] = time.monotonic
    """Seconds since some moment; only differences mean something, and only in this process."""
    sleep: Callable[[float], object] = time.sleep


class SteadyTime:
    """Unix seconds that began as the wall clock's, or where an earlier process stopped, and pass as the steady clock's do.

    An hour that the wall clock jumps, forwards or back, neither ends a deadline nor prolongs one.
    """

    def __init__(self, clock: Clock, *, at: float | None = None) -> None:
        """Begin at ``at`` (unix seconds), or at what the wall clock says."""
        self._clock = clock
        self._at = clock.wall() if at is None else at
        self._began = clock.steady()

    def now(self) -> float:
        """Return the present moment, in unix seconds."""
        return self._at + (self._clock.steady() - self._began)


def resumed(clock: Clock, *, at: float, wall: float, longest: float) -> SteadyTime:
    """Return the time that goes on from ``at``, saved when the wall clock said ``wall``.

    What passed in between is the wall clock's word, believed between 0 and ``longest`` seconds: who saved last held a lease that long.
    """
    return SteadyTime(clock, at=at + min(max(clock.wall() - wall, 0.0), longest))
