"""What is measured: the points, for how long, and what is left out and why."""

from dataclasses import dataclass

BINARY, JSON = "binary", "json"

OTHERS_CORES = 0.3
"""More cores than these used by anybody else during a point make it noisy: it is measured again."""
SLOW_SECONDS = 12.0
"""A point that took longer than this in the first round is not repeated in later rounds."""


@dataclass(frozen=True, order=True, slots=True)
class Point:
    """So many rows in a request, so many callers that each wait for their answer before they ask again."""

    form: str
    batch: int
    concurrency: int

    @property
    def name(self) -> str:
        """The point's key in the report."""
        return f"{self.form} {self.batch}x{self.concurrency}"


def point(name: str) -> Point:
    """Return the point of ``name``."""
    form, _, size = name.partition(" ")
    batch, _, concurrency = size.partition("x")
    return Point(form, int(batch), int(concurrency))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One run."""

    points: tuple[Point, ...]
    rounds: int = 3
    json_rounds: int = 2
    warm_seconds: float = 0.25
    seconds: float = 0.8
    long_seconds: float = 1.6
    """For batches of 256, of which few fit into a second."""
    repeats: int = 2
    """How often a noisy point is measured again at most."""
    drain_requests: int = 6
    drain_rows: int = 64
    without: tuple[str, ...] = ()
    """Beginnings of the names of contenders that are left out."""
    in_process: bool = True
    """Measure every backend in memory, with threads and with processes, at the end."""

    def window(self, at: Point) -> float:
        """Return the seconds that ``at`` is measured for."""
        return self.long_seconds if at.batch >= 256 else self.seconds

    def rounds_of(self, at: Point) -> int:
        """Return how many rounds ``at`` takes part in."""
        if at.form == BINARY:
            return self.rounds
        return 1 if at.batch >= 256 else min(self.rounds, self.json_rounds)


_ALL = tuple(Point(BINARY, batch, concurrency) for batch in (1, 16, 256) for concurrency in (1, 8, 32))
_BINARY = tuple(at for at in _ALL if (at.batch, at.concurrency) != (256, 32))
_JSON = (Point(JSON, 1, 1), Point(JSON, 1, 32), Point(JSON, 16, 8), Point(JSON, 256, 1))

LEFT_OUT = {
    "binary 256x32": "8,192 spectra, 0.5 GB of inputs, are in flight at once: at the peers' speed one round takes 7 to 40 seconds and shows what 256x8 shows",
    "json 1x8, 16x1, 16x32, 256x8, 256x32": "JSON is slow everywhere and scales like its neighbours; a body of 256 spectra is 40 MB",
}


def full() -> Plan:
    """Return the plan of the page in docs/."""
    return Plan(points=(*_BINARY, *_JSON))


def quick() -> Plan:
    """Return a plan of three minutes: one round of the points that the targets hang on most, without the peer that is slowest to start."""
    points = tuple(Point(BINARY, *size) for size in ((1, 1), (1, 32), (16, 8), (256, 1)))
    return Plan(
        points=(*points, Point(JSON, 1, 1), Point(JSON, 16, 8)),
        rounds=1,
        json_rounds=1,
        seconds=0.5,
        long_seconds=1.0,
        repeats=1,
        without=("ray", "litserve-1", "deployed"),
        in_process=False,
    )
