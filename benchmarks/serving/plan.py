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
    warm_seconds: float = 0.3
    seconds: float = 1.0
    long_seconds: float = 2.0
    """For batches of 256, of which few fit into a second."""
    repeats: int = 2
    """How often a noisy point is measured again at most."""
    drain_requests: int = 6
    drain_rows: int = 64

    def window(self, at: Point) -> float:
        """Return the seconds that ``at`` is measured for."""
        return self.long_seconds if at.batch >= 256 else self.seconds

    def rounds_of(self, at: Point) -> int:
        """Return how many rounds ``at`` takes part in."""
        return self.rounds if at.form == BINARY else min(self.rounds, self.json_rounds)


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
    """Return a plan of a few minutes: one round, the points that the targets hang on most."""
    sizes = ((1, 1), (1, 32), (16, 8), (256, 8))
    points = tuple(Point(BINARY, *size) for size in sizes)
    return Plan(points=(*points, Point(JSON, 1, 1), Point(JSON, 16, 8)), rounds=1, json_rounds=1, long_seconds=1.5, repeats=1)
