"""The exact statistics against independent references and by brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from expectations.intervals import Strata, adjust, clopper_pearson, difference_limits, exact_stratified_p, standardised_rest


def strata(*rows: tuple[int, int, int, int]) -> Strata:
    """Each row is (slice events, slice rows, rest events, rest rows)."""
    columns = np.asarray(rows, dtype=np.int64).reshape(-1, 4).T
    return Strata(slice_events=columns[0], slice_rows=columns[1], rest_events=columns[2], rest_rows=columns[3])


def test_five_of_five_right_leaves_room_for_doubt() -> None:
    interval = clopper_pearson(5, 5)
    assert interval.rate == 1.0
    assert interval.low == pytest.approx(0.478, abs=5e-4)
    assert interval.high == 1.0


@given(rows=st.integers(1, 300), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.9, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_the_interval_is_scipys_exact_one(rows: int, share: float, confidence: float) -> None:
    events = round(share * rows)
    expected = stats.binomtest(events, rows).proportion_ci(confidence_level=confidence, method="exact")
    found = clopper_pearson(events, rows, confidence=confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_rows_is_no_knowledge() -> None:
    interval = clopper_pearson(0, 0)
    assert np.isnan(interval.rate)
    assert (interval.low, interval.high) == (0.0, 1.0)


@pytest.mark.parametrize(("events", "rows"), [(3, 2), (-1, 2)])
def test_impossible_counts_are_refused(events: int, rows: int) -> None:
    with pytest.raises(ValueError, match="between 0 and the number of rows"):
        clopper_pearson(events, rows)


@given(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 20), st.integers(1, 20)))
@settings(max_examples=60, deadline=None)
def test_one_stratum_is_fishers_exact_test(counts: tuple[int, int, int, int]) -> None:
    a, c, more, rest_more = counts
    expected = stats.fisher_exact([[a, more], [c, rest_more]], alternative="greater").pvalue
    assert exact_stratified_p(strata((a, a + more, c, c + rest_more))) == pytest.approx(expected, abs=1e-9)


def test_two_strata_agree_with_enumeration_of_every_assignment() -> None:
    # Given two small strata, every way of choosing which rows are the slice's, at the same sizes
    first, second = (2, 3, 1, 3), (1, 2, 1, 3)
    counts = []
    for events, rows, rest_events, rest_rows in (first, second):
        harmed = [1] * (events + rest_events) + [0] * (rows + rest_rows - events - rest_events)
        counts.append([sum(harmed[i] for i in chosen) for chosen in combinations(range(rows + rest_rows), rows)])
    sums = np.add.outer(counts[0], counts[1])
    # Then the exact p is the share of assignments at least as bad as the one seen
    assert exact_stratified_p(strata(first, second)) == pytest.approx((sums >= 3).mean())


@pytest.mark.parametrize("rows", [(), ((0, 5, 0, 9),), ((3, 3, 0, 0),)], ids=["no strata", "no events", "no rest"])
def test_nothing_comparable_is_no_evidence(rows: tuple[tuple[int, int, int, int], ...]) -> None:
    assert exact_stratified_p(strata(*rows)) == pytest.approx(1.0)


def test_the_rest_is_weighted_to_the_slices_mix() -> None:
    # Given a rest that does well in the second stratum, where the slice has few rows
    both = strata((0, 90, 50, 100), (0, 10, 0, 900))
    interval = standardised_rest(both, confidence=0.95)
    assert interval.rate == pytest.approx(0.45)
    # And its interval is about as wide as for the 123 rows that carry the weight, not for 1000
    expected = stats.binomtest(55, 123).proportion_ci(method="exact")
    assert interval.high - interval.low == pytest.approx(expected.high - expected.low, abs=0.01)


def test_strata_without_a_counterpart_are_left_out() -> None:
    kept = strata((1, 4, 0, 0), (2, 5, 1, 7), (0, 0, 3, 9)).comparable()
    assert kept.slice_rows.tolist() == [5]
    assert kept.rest_rows.tolist() == [7]


def test_difference_limits_contain_the_difference_and_stay_possible() -> None:
    low, high = difference_limits(clopper_pearson(9, 10), clopper_pearson(1, 10))
    assert -1 <= low < 0.8 < high <= 1
    assert low > 0


def test_the_upper_limit_errs_in_at_most_five_percent_of_samples() -> None:
    # Given a slice that is worse by exactly 0.1 in every stratum
    random = np.random.default_rng(5)
    rest_rate = np.array([0.10, 0.06, 0.035, 0.015])
    misses = 0
    for _ in range(1000):
        rows, rest = random.multinomial(60, [0.2, 0.3, 0.3, 0.2]), random.multinomial(500, [0.4, 0.3, 0.2, 0.1])
        sample = Strata(
            slice_rows=rows,
            slice_events=random.binomial(rows, rest_rate + 0.1),
            rest_rows=rest,
            rest_events=random.binomial(rest, rest_rate),
        ).comparable()
        own = clopper_pearson(int(sample.slice_events.sum()), int(sample.slice_rows.sum()), confidence=0.9)
        misses += difference_limits(own, standardised_rest(sample, confidence=0.9))[1] <= 0.1
    # Then at most the stated share of them would be passed
    assert misses / 1000 <= 0.05


def test_holm_and_benjamini_yekutieli_match_their_definitions() -> None:
    assert adjust([0.01, 0.04, 0.03, 0.005], correction="holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust([0.6, 0.7], correction="holm") == [1.0, 1.0]
    harmonic = 1 + 1 / 2 + 1 / 3
    assert adjust([0.01, 0.02, 0.9], correction="benjamini-yekutieli") == pytest.approx([0.03 * harmonic, 0.03 * harmonic, 1.0])
    assert adjust([], correction="holm") == []
    with pytest.raises(ValueError, match="bonferroni"):
        adjust([0.1], correction="bonferroni")
