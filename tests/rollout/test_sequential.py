"""Always-valid tests: what they promise is checked by summing over everything that can happen, and by looking after every request."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, binom

from rollout import sequential
from rollout.evidence import Stream
from rollout.sequential import excess_above, excess_below, share_above, share_below
from rollout.sequential_latency import beyond_seconds, faster_than, slower_than, within_seconds
from rollout.sequential_pairs import CUT, capital, mean_above, mean_below, stakes

ALPHA = 0.05
MOST = 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
"""Three standard errors of 300 runs above the level."""


def crossed(evidence: np.ndarray) -> float:
    """The share of runs (rows) whose evidence reached the threshold at any look."""
    return float((evidence >= sequential.needed(ALPHA)).any(axis=1).mean())


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("trials", [1, 20, 200])
def test_one_share_is_worth_at_most_one_on_average_when_the_limit_is_the_truth(limit: float, trials: int) -> None:
    events = np.arange(trials + 1)
    for side in (share_below, share_above):
        mean = float(np.sum(np.exp(binom.logpmf(events, trials, limit) + side(events, trials, limit))))
        assert mean == pytest.approx(1.0, rel=1e-9)
    for truth, side in ((min(0.99, 1.3 * limit), share_below), (0.7 * limit, share_above)):
        assert np.sum(np.exp(binom.logpmf(events, trials, truth) + side(events, trials, limit))) <= 1


def test_the_average_over_alternatives_is_the_integral_it_stands_for() -> None:
    inside = quad(lambda p: p**2 * (1 - p) ** 58 * beta.pdf(p, 0.5, 0.5), 0, 0.05)[0] / beta.cdf(0.05, 0.5, 0.5)
    assert share_below(2, 60, 0.05) == pytest.approx(np.log(inside / (0.05**2 * 0.95**58)), rel=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.2])
def test_two_shares_are_worth_at_most_one_on_average_wherever_the_hypothesis_is_true(margin: float) -> None:
    k_c, k_b = np.arange(41)[:, None], np.arange(26)[None, :]
    above = np.exp(excess_above((k_c, 40), (k_b, 25), margin))
    below = np.exp(excess_below((k_c, 40), (k_b, 25), margin))
    for control in (0.0, 0.005, 0.05, 0.3, 0.7):
        for more in (0.0, 0.01, 0.1):
            canary = max(0.0, control + margin - more)
            chance = binom.pmf(k_c, 40, canary) * binom.pmf(k_b, 25, control)
            assert np.sum(chance * above) <= 1
            canary = min(1.0, control + margin + more)
            chance = binom.pmf(k_c, 40, canary) * binom.pmf(k_b, 25, control)
            assert np.sum(chance * below) <= 1


def test_the_largest_likelihood_of_the_hypothesis_is_found() -> None:
    shares = np.linspace(0, 0.98, 200_001)[1:]
    likelihood = 9 * np.log(shares + 0.01) + 291 * np.log(1 - shares - 0.01) + 4 * np.log(shares) + 296 * np.log(1 - shares)
    pair = (np.asarray(9.0), np.asarray(300.0)), (np.asarray(4.0), np.asarray(300.0))
    assert float(sequential._largest_on_border(*pair, np.asarray(0.01))) == pytest.approx(likelihood.max(), abs=1e-6)


@pytest.mark.parametrize("per_request", [1.0, 0.1])
@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_a_canary_no_worse_is_seldom_called_worse_by_somebody_who_looks_after_every_request(rate: float, per_request: float) -> None:
    random = np.random.default_rng(1)
    control = np.cumsum(random.random((300, 500)) < rate, axis=1)
    requests = np.arange(1, 501)
    n_c = np.ceil(requests * per_request)
    canary = np.cumsum((random.random((300, 500)) < rate) & (np.diff(n_c, prepend=0) > 0), axis=1)
    assert crossed(excess_above((canary, n_c), (control, requests))) <= MOST


def test_a_canary_worse_by_the_margin_is_seldom_called_within_it_by_somebody_who_looks_after_every_request() -> None:
    random, requests = np.random.default_rng(2), np.arange(1, 501)
    canary, control = (np.cumsum(random.random((300, 500)) < rate, axis=1) for rate in (0.15, 0.05))
    assert crossed(excess_below((canary, requests), (control, requests), 0.1)) <= MOST


def test_more_of_the_same_shows_more_and_a_wider_margin_is_shown_sooner() -> None:
    n = np.array([100, 400, 1600, 6400])
    assert (np.diff(excess_above((0.04 * n, n), (0.01 * n, n))) > 0).all()
    assert (np.diff(excess_below((0.01 * n, n), (0.01 * n, n), 0.02)) > 0).all()
    margins = np.linspace(-0.5, 0.9, 57)
    assert (np.diff(excess_below((8, 500), (5, 500), margins)) >= -1e-9).all()
    assert (np.diff(excess_above((8, 500), (5, 500), margins)) <= 1e-9).all()


def test_nothing_seen_is_worth_nothing() -> None:
    assert excess_above((0, 0), (0, 0)) == pytest.approx(0)
    assert excess_below((0, 0), (0, 0), 0.01) == pytest.approx(np.log(0.6 + 0.2 + 0.2))
    assert share_below(0, 0, 0.05) == pytest.approx(0)
    assert faster_than({}, {}, quantile=0.95, ratio=2.0) == pytest.approx(0)
    assert mean_above(np.array([]), [], 0.0) == pytest.approx(0)


@pytest.mark.parametrize("rising", [True, False])
def test_a_bound_lies_where_the_evidence_crosses_the_threshold(rising: bool) -> None:
    def evidence(limit: np.ndarray) -> np.ndarray:
        return excess_below((8, 900), (5, 900), limit) if rising else excess_above((40, 900), (5, 900), limit)

    found = sequential.bound(evidence, low=-1 + 1e-9, high=1 - 1e-9, threshold=4.6, rising=rising)
    assert evidence(np.asarray(found)) >= 4.6
    assert evidence(np.asarray(found - 1e-3 if rising else found + 1e-3)) < 4.6
    assert sequential.bound(lambda at: 0 * at, low=-1, high=1, threshold=4.6, rising=rising) == (1 if rising else -1)


def test_a_canary_at_the_limit_of_the_ratio_is_seldom_called_faster_or_slower_however_often_one_looks() -> None:
    random, crossings = np.random.default_rng(3), np.zeros(2)
    for _ in range(40):
        canary, control = np.exp(random.normal(np.log(0.04), 0.4, 400)), np.exp(random.normal(np.log(0.02), 0.4, 400))
        seen = np.full(2, -np.inf)
        for n in (30, 60, 100, 200, 300, 400):
            both = Stream.of(canary[:n]).latency, Stream.of(control[:n]).latency
            now = [side(*both, quantile=0.9, ratio=2.0)[0] for side in (faster_than, slower_than)]
            seen = np.maximum(seen, now)
        crossings += seen >= sequential.needed(ALPHA)
    assert (crossings / 40 <= 0.05 + 3 * (0.05 * 0.95 / 40) ** 0.5).all()


@pytest.mark.parametrize(("slow", "faster", "slower"), [(1.0, True, False), (2.0, False, False), (4.0, False, True)])
def test_a_quantile_is_compared_as_a_ratio(slow: float, faster: bool, slower: bool) -> None:
    times = np.geomspace(0.01, 0.05, 400)
    canary, control = Stream.of(slow * times).latency, Stream.of(times).latency
    shown = [side(canary, control, quantile=0.95, ratio=2.0)[0] >= 4.6 for side in (faster_than, slower_than)]
    assert shown == [faster, slower]
    limit = 2 * float(np.quantile(times, 0.95))
    shown = [side(canary, quantile=0.95, seconds=limit)[0] >= 4.6 for side in (within_seconds, beyond_seconds)]
    assert shown == [faster, slower]


def test_no_evidence_about_the_control_shows_no_ratio() -> None:
    canary = Stream.of([0.01] * 2000).latency
    assert faster_than(canary, {}, quantile=0.95, ratio=2.0)[0] < 1
    assert slower_than(canary, {}, quantile=0.95, ratio=2.0)[0] < 1


@pytest.mark.parametrize("shape", ["normal", "skewed", "two-valued"])
def test_a_mean_difference_of_nothing_is_seldom_called_a_shift_whatever_its_shape(shape: str) -> None:
    random = np.random.default_rng(4)
    values = {
        "normal": random.normal(0, 1, (300, 400)),
        "skewed": np.minimum(random.exponential(1, (300, 400)), CUT) - (1 - np.exp(-CUT)),  # the mean of what is cut is nothing
        "two-valued": np.sign(random.random((300, 400)) - 0.5),
    }[shape]
    for side in (values, -values):
        assert crossed(capital(np.cumsum(stakes(np.clip(side, -CUT, CUT), 0.0, cut=CUT), axis=1))) <= MOST


def test_a_shift_is_found_in_its_direction_and_order_does_not_matter() -> None:
    random = np.random.default_rng(5)
    values = np.clip(random.normal(0.3, 1, 400), -CUT, CUT)
    once = np.ones(400)
    assert mean_above(values, once, 0.0)[0] > 6
    assert mean_below(values, once, 0.0)[0] < 0
    assert mean_above(values[::-1], once, 0.0) == pytest.approx(mean_above(values, once, 0.0))
    assert mean_below(values, once, 0.6)[0] == pytest.approx(mean_above(-values, once, -0.6)[0])
    running = capital(np.cumsum(stakes(values, 0.0, cut=CUT), axis=0))
    assert running[-1] == pytest.approx(mean_above(values, once, 0.0)[0])
