"""Two versions side by side, for people: what is known of each, and of the difference, at whatever moment somebody looks. Pure.

Every interval is a confidence sequence (``sequential``): it holds at every look together with its confidence, so a report may be read daily
and the experiment ended when it says enough. The comparisons share what may go wrong (union bound): with ``confidence`` all of them hold. What is
said of one version alone holds with ``confidence`` by itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rollout import sequential, sequential_latency
from rollout.evidence import GROWTH, Counts, Stream
from rollout.sequential import Floats

_SMALLEST = 1e-6
_SECONDS = (1e-4, 1e3)
_RATIOS = (1 / 50, 50.0)
Share = tuple[int, int]
"""(events, trials)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """What was seen of one version."""

    version: str
    stream: Stream = field(default_factory=Stream)
    flagged: Share | None = None
    """Answers called an anomaly, of those that are known; None where the model says nothing of the kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A number, and between what it lies."""

    value: float | None
    """None: nothing is known yet."""
    low: float | None = None
    """None: nothing bounds it."""
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One measurement of both versions."""

    name: str
    """``errors``, ``latency`` or ``anomalies``."""
    a: Known
    """A share of requests 0..1, or seconds."""
    b: Known
    difference: Known
    """Of shares: b minus a. Of seconds: b over a, so that 1 is no difference."""
    shown: str
    """What is shown, in words."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def compare(a: Arm, b: Arm, *, confidence: float = 0.95, quantile: float = 0.95) -> list[Comparison]:
    """Return what is known of errors, of the ``quantile`` of the answer times, and of the share of anomalies where both versions have one."""
    has_flags = a.flagged is not None and b.flagged is not None
    threshold, alone = (sequential.needed((1 - confidence) / sides) for sides in (2 * (3 if has_flags else 2), 2))
    found = [
        _of_shares(
            "errors",
            (a.stream.errors, a.stream.requests),
            (b.stream.errors, b.stream.requests),
            threshold=threshold,
            alone=alone,
            words=(f"version {b.version} fails less often", f"version {b.version} fails more often"),
        ),
        _of_times(a, b, quantile=quantile, threshold=threshold, alone=alone),
    ]
    if a.flagged is not None and b.flagged is not None:
        words = (f"version {b.version} calls fewer an anomaly", f"version {b.version} calls more an anomaly")
        found.append(_of_shares("anomalies", a.flagged, b.flagged, threshold=threshold, alone=alone, words=words))
    return found


def _of_shares(name: str, a: Share, b: Share, *, threshold: float, alone: float, words: tuple[str, str]) -> Comparison:
    if not a[1] or not b[1]:
        return Comparison(name=name, a=_share(*a, alone), b=_share(*b, alone), difference=Known(value=None), shown=NOT_YET)
    difference = _between(
        above=lambda limit: sequential.excess_above(b, a, limit),
        below=lambda limit: sequential.excess_below(b, a, limit),
        limits=(-1 + _SMALLEST, 1 - _SMALLEST),
        threshold=threshold,
        value=b[0] / b[1] - a[0] / a[1],
    )
    return Comparison(
        name=name, a=_share(*a, alone), b=_share(*b, alone), difference=difference, shown=_shown(difference, none=0.0, words=words)
    )


def _share(events: int, trials: int, threshold: float) -> Known:
    if not trials:
        return Known(value=None)
    return _between(
        above=lambda limit: sequential.share_above(events, trials, limit),
        below=lambda limit: sequential.share_below(events, trials, limit),
        limits=(_SMALLEST, 1 - _SMALLEST),
        threshold=threshold,
        value=events / trials,
    )


def _of_times(a: Arm, b: Arm, *, quantile: float, threshold: float, alone: float) -> Comparison:
    times = a.stream.latency, b.stream.latency
    known = [_time(one, quantile, alone) for one in times]
    if known[0].value is None or known[1].value is None:
        return Comparison(name="latency", a=known[0], b=known[1], difference=Known(value=None), shown=NOT_YET)
    ratio = _between_logs(
        above=lambda limit: sequential_latency.slower_than(times[1], times[0], quantile=quantile, ratio=limit),
        below=lambda limit: sequential_latency.faster_than(times[1], times[0], quantile=quantile, ratio=limit),
        limits=_RATIOS,
        threshold=threshold,
        value=known[1].value / known[0].value,
    )
    words = (f"version {b.version} is faster", f"version {b.version} is slower")
    return Comparison(name="latency", a=known[0], b=known[1], difference=ratio, shown=_shown(ratio, none=1.0, words=words))


def _time(counts: Counts, quantile: float, threshold: float) -> Known:
    value = _quantile(counts, quantile)
    if value is None:
        return Known(value=None)
    return _between_logs(
        above=lambda limit: sequential_latency.beyond_seconds(counts, quantile=quantile, seconds=limit),
        below=lambda limit: sequential_latency.within_seconds(counts, quantile=quantile, seconds=limit),
        limits=_SECONDS,
        threshold=threshold,
        value=value,
    )


def _quantile(counts: Counts, quantile: float) -> float | None:
    """Return the upper edge of the bucket with the quantile (nearest rank)."""
    left = math.ceil(quantile * sum(counts.values()))
    for number in sorted(counts):
        left -= counts[number]
        if left <= 0 and counts[number]:
            return float(GROWTH**number)
    return None


_Evidence = Callable[[Floats], Floats]
NOT_YET = "nothing is known yet"


def _between(*, above: _Evidence, below: _Evidence, limits: Sequence[float], threshold: float, value: float) -> Known:
    """Return what is refuted neither by ``above`` (evidence that the number is greater than a limit) nor by ``below``."""
    low, high = limits
    at_least = sequential.bound(above, low=low, high=high, threshold=threshold, rising=False)
    at_most = sequential.bound(below, low=low, high=high, threshold=threshold, rising=True)
    return Known(value=value, low=None if at_least <= low else at_least, high=None if at_most >= high else at_most)


def _between_logs(*, above: _Evidence, below: _Evidence, limits: Sequence[float], threshold: float, value: float) -> Known:
    found = _between(
        above=lambda at: above(np.exp(at)),
        below=lambda at: below(np.exp(at)),
        limits=[math.log(limit) for limit in limits],
        threshold=threshold,
        value=0.0,
    )
    return Known(
        value=value, low=None if found.low is None else math.exp(found.low), high=None if found.high is None else math.exp(found.high)
    )


def _shown(difference: Known, *, none: float, words: tuple[str, str]) -> str:
    if difference.high is not None and difference.high < none:
        return words[0]
    if difference.low is not None and difference.low > none:
        return words[1]
    return "no difference is shown"
