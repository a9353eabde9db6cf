"""Confidence intervals that stay honest at twenty requests. Pure functions of counts and samples; two-sided ``confidence`` 0..1."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, bdtrc, betaincinv, ndtri


def clopper_pearson(successes: int, total: int, *, confidence: float) -> tuple[float, float]:
    """Return the exact interval of a proportion (Clopper and Pearson 1934, Biometrika 26, 404-413); no trial at all is (0, 1).

    >>> low, high = clopper_pearson(5, 5, confidence=0.95)
    >>> round(low, 3), high
    (0.478, 1.0)
    """
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, total - successes + 1, tail))
    high = 1.0 if successes == total else float(betaincinv(successes + 1, total - successes, 1 - tail))
    return low, high


def wilson(successes: int, total: int, *, confidence: float) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927, JASA 22, 209-212). ``total`` must be positive."""
    z = float(ndtri(1 - (1 - confidence) / 2))
    share = successes / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def newcombe(first: tuple[int, int], second: tuple[int, int], *, confidence: float) -> tuple[float, float]:
    """Return the interval of first's share minus second's, each given as (successes, total > 0).

    Hybrid score interval, method 10 of Newcombe 1998, Statistics in Medicine 17, 873-890.

    >>> [round(bound, 4) for bound in newcombe((56, 70), (48, 80), confidence=0.95)]
    [0.0524, 0.3339]
    """
    (low_1, high_1), (low_2, high_2) = wilson(*first, confidence=confidence), wilson(*second, confidence=confidence)
    share_1, share_2 = first[0] / first[1], second[0] / second[1]
    difference = share_1 - share_2
    return difference - math.hypot(share_1 - low_1, high_2 - share_2), difference + math.hypot(high_1 - share_1, share_2 - low_2)


def quantile(samples: Sequence[float], q: float, *, confidence: float) -> tuple[float, float]:
    """Return the distribution-free interval of the ``q`` quantile from order statistics (David and Nagaraja 2003, Order Statistics, 7.1).

    The number of samples below the true quantile is binomial whatever the distribution, so two of the samples bound it, exactly.
    Too few samples leave a side open: -inf or inf. The upper side needs n >= log((1 - confidence) / 2) / log(q): 72 for a p95 at 95 %.
    """
    ordered, tail = sorted(samples), (1 - confidence) / 2
    ranks = np.arange(len(ordered))
    below = int(np.count_nonzero(bdtr(ranks, len(ordered), q) <= tail))
    above = int(np.count_nonzero(bdtrc(ranks, len(ordered), q) > tail))
    low = ordered[below - 1] if below else -math.inf
    high = ordered[above] if above < len(ordered) else math.inf
    return low, high
