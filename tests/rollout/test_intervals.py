import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from rollout.intervals import clopper_pearson, newcombe, quantile, wilson


def upper_tail(successes: int, total: int, share: float) -> float:
    """P(at least ``successes`` of ``total``), summed in exact arithmetic."""
    p = Fraction(share)
    return float(sum(comb(total, k) * p**k * (1 - p) ** (total - k) for k in range(successes, total + 1)))


@pytest.mark.parametrize(("successes", "total"), [(1, 5), (3, 20), (5, 5), (1, 72), (40, 72)])
def test_the_exact_interval_puts_half_the_error_on_either_side(successes: int, total: int) -> None:
    low, high = clopper_pearson(successes, total, confidence=0.95)
    assert upper_tail(successes, total, low) == pytest.approx(0.025, rel=1e-9)
    if successes < total:
        assert 1 - upper_tail(successes + 1, total, high) == pytest.approx(0.025, rel=1e-9)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        pytest.param(0, 0, 0.0, 1.0, id="no trial says nothing"),
        pytest.param(5, 5, 0.478176, 1.0, id="five of five is not certainty"),
        pytest.param(0, 10, 0.0, 0.308497, id="none of ten"),
    ],
)
def test_the_exact_interval_has_its_published_values(successes: int, total: int, low: float, high: float) -> None:
    assert clopper_pearson(successes, total, confidence=0.95) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "interval"),
    # Newcombe 1998, table II, method 10
    [
        pytest.param((56, 70), (48, 80), (0.0524, 0.3339), id="a"),
        pytest.param((9, 10), (3, 10), (0.1705, 0.8090), id="b"),
        pytest.param((6, 7), (2, 7), (0.0582, 0.8062), id="c"),
        pytest.param((5, 56), (0, 29), (-0.0381, 0.1926), id="d"),
        pytest.param((0, 10), (0, 20), (-0.1611, 0.2775), id="e"),
        pytest.param((0, 10), (0, 10), (-0.2775, 0.2775), id="f"),
        pytest.param((10, 10), (0, 20), (0.6791, 1.0000), id="g"),
        pytest.param((10, 10), (0, 10), (0.6075, 1.0000), id="h"),
    ],
)
def test_the_difference_interval_has_its_published_values(
    first: tuple[int, int], second: tuple[int, int], interval: tuple[float, float]
) -> None:
    assert newcombe(first, second, confidence=0.95) == pytest.approx(interval, abs=6e-5)


def test_the_score_interval_has_its_published_values() -> None:
    assert wilson(81, 263, confidence=0.95) == pytest.approx((0.2553, 0.3662), abs=6e-5)  # Newcombe 1998, Statistics in Medicine 17, 857


@pytest.mark.parametrize(("q", "needed"), [(0.95, 72), (0.99, 368), (0.9, 36)])
def test_a_high_quantile_has_an_upper_bound_only_from_enough_samples_on(q: float, needed: int) -> None:
    assert quantile(range(needed - 1), q, confidence=0.95)[1] == math.inf
    assert quantile(range(needed), q, confidence=0.95)[1] == needed - 1


def test_no_sample_bounds_no_quantile() -> None:
    assert quantile([], 0.95, confidence=0.95) == (-math.inf, math.inf)


@pytest.mark.parametrize("count", [80, 200, 1000])
def test_the_quantile_interval_covers_as_often_as_it_says(count: int) -> None:
    random = np.random.default_rng(20261123)
    truth = float(np.exp(1.6448536269514722))  # the p95 of a lognormal(0, 1): as skewed as latencies are
    bounds = [quantile(random.lognormal(size=count).tolist(), 0.95, confidence=0.95) for _ in range(1000)]
    missed_below = sum(low > truth for low, _ in bounds) / len(bounds)
    missed_above = sum(high < truth for _, high in bounds) / len(bounds)
    # three standard errors of a rate of 0.025 over 1000 draws are 0.015
    assert missed_below <= 0.04
    assert missed_above <= 0.04
    assert missed_below + missed_above > 0.005, "an interval that never misses is too wide to decide anything"
