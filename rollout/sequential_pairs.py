"""Do the answers differ? Always-valid tests of a mean difference, canary minus control for the same request.

Testing by betting (Waudby-Smith and Ramdas 2023, JRSS B 86, 1-27): stake the share ``bet`` of a capital of 1 on each difference being above the
hypothesis's mean. While the mean is not above, the capital is a supermartingale, whatever the distribution, if differences are bounded. It is
averaged over a fixed grid of bets, so that nothing has to be known of the spread, and the order of the requests does not matter: counts
in buckets are enough. Differences are in standard deviations of the stable version's answers (fixed before the rollout) and
cut off at three of them, in both directions alike: what is tested is the mean of the cut differences, so a few wild answers
neither hide nor make a shift.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rollout.evidence import Counts, step_edges
from rollout.sequential import Floats, mixed

CUT = 3.0
"""Differences count for at most this many standard deviations."""
_BETS = np.array([0.1, 0.3, 0.6, 0.9])
"""Bets as a share of the largest that cannot lose everything. A small shift in a wide spread needs the small ones."""
_WEIGHTS = (0.1, 0.3, 0.3, 0.3)


def stakes(values: ArrayLike, mean: ArrayLike, *, cut: float) -> Floats:
    """Return what one difference adds to the log capital of each bet that the mean lies above ``mean``: shape of ``values``, then bets.

    ``values`` are from ``-cut`` to ``cut``, ``-cut`` < mean < cut. Sums of this over requests, put into :func:`capital`, are the evidence.
    """
    gain = np.asarray(values, dtype=float)[..., None] - np.asarray(mean, dtype=float)[..., None]
    return np.asarray(np.log1p(_BETS / (cut + np.asarray(mean, dtype=float))[..., None] * gain))


def capital(summed: Floats) -> Floats:
    """Return the log evidence from sums of :func:`stakes`: the mean capital over the bets, the last axis."""
    return mixed([summed[..., bet] for bet in range(len(_BETS))], _WEIGHTS)


def sums(values: Floats, counts: ArrayLike, means: Floats, *, cut: float) -> Floats:
    """Return the summed :func:`stakes` of counted values: one row per mean, one column per bet. They grow with the counts in proportion."""
    each = stakes(values[None, :], np.asarray(means, dtype=float)[:, None], cut=cut)
    return np.asarray(np.einsum("mvb,v->mb", each, np.asarray(counts, dtype=float)))


def mean_above(values: Floats, counts: ArrayLike, mean: Floats | float, *, cut: float = CUT) -> Floats:
    """Return the log evidence against *the mean difference is at most ``mean``*; one value per mean. ``values`` (each counted ``counts``
    times) are bounded by ``cut``."""
    return capital(sums(values, counts, np.atleast_1d(mean), cut=cut))


def mean_below(values: Floats, counts: ArrayLike, mean: Floats | float, *, cut: float = CUT) -> Floats:
    """Return the log evidence against *the mean difference is at least ``mean``*; one value per mean."""
    return mean_above(-values, counts, -np.asarray(mean, dtype=float), cut=cut)


def scaled(counts: Counts, scale: float) -> tuple[Floats, Floats, NDArray[np.int_]]:
    """Return what buckets of differences say at least and at most, in units of ``scale`` and cut off, and how many each holds.

    The first is for showing that the mean is above something, the second that it is below.
    """
    edges = [step_edges(at) for at in counts]
    least, most = _cut(low / scale for low, _ in edges), _cut(high / scale for _, high in edges)
    return least, most, np.fromiter(counts.values(), dtype=int, count=len(counts))


def _cut(values: Iterable[float]) -> Floats:
    return np.asarray(np.clip(np.fromiter(values, dtype=float), -CUT, CUT))
