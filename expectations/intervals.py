"""Exact small-sample statistics of rates: intervals, a stratified comparison, and adjustment for many questions. Pure functions.

Sources

* Clopper & Pearson 1934, Biometrika 26, 404: exact binomial interval from beta quantiles.
* Korn & Graubard 1998, Survey Methodology 24, 193: the same with an effective sample size, for a weighted rate.
* Zou & Donner 2008, Statistics in Medicine 27, 1693 (MOVER; Newcombe 1998 for two rates): limits of a difference from the two rates' limits.
* Mantel & Haenszel 1959, JNCI 22, 719, in its exact conditional form (Gart 1970, Biometrika 57, 471): the slice's events summed over strata
  are, under no difference, a sum of independent hypergeometric counts, whose distribution is the convolution of theirs.
* Holm 1979, Scand. J. Statist. 6, 65; Benjamini & Yekutieli 2001, Ann. Statist. 29, 1165: both valid under any dependence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A rate with its limits, all in [0, 1]; without observations the rate is NaN and the limits are 0 and 1."""

    rate: float
    low: float
    high: float


def clopper_pearson(events: float, rows: float, *, confidence: float = 0.95) -> Interval:
    """Return the exact two-sided interval for ``events`` of ``rows``; fractional values are allowed (effective sample sizes).

    >>> round(clopper_pearson(5, 5).low, 3), clopper_pearson(5, 5).high
    (0.478, 1.0)
    """
    if not 0 <= events <= rows:
        raise ValueError(f"events must lie between 0 and the number of rows, found {events!r} of {rows!r}; check how they were counted")
    if rows == 0:
        return Interval(rate=float("nan"), low=0.0, high=1.0)
    tail = (1.0 - confidence) / 2.0
    low = float(special.betaincinv(events, rows - events + 1, tail)) if events > 0 else 0.0
    high = float(special.betaincinv(events + 1, rows - events, 1.0 - tail)) if events < rows else 1.0
    return Interval(rate=events / rows, low=low, high=high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Strata:
    """Events and rows per stratum, in the slice and in the rest; four integer arrays of one length."""

    slice_events: Counts
    slice_rows: Counts
    rest_events: Counts
    rest_rows: Counts

    def comparable(self) -> "Strata":
        """Return only the strata in which both sides have rows."""
        both = (self.slice_rows > 0) & (self.rest_rows > 0)
        return Strata(
            slice_events=self.slice_events[both],
            slice_rows=self.slice_rows[both],
            rest_events=self.rest_events[both],
            rest_rows=self.rest_rows[both],
        )


def standardised_rest(strata: Strata, *, confidence: float) -> Interval:
    """Return the rest's rate at the slice's mix of strata (direct standardisation), with Korn-Graubard limits.

    The effective sample size is ``1 / sum(w**2 / n)``: the size of a simple sample with the same variance when strata are alike.
    Every stratum must have rows on both sides (:meth:`Strata.comparable`).
    """
    if strata.slice_rows.sum() == 0:
        return clopper_pearson(0, 0, confidence=confidence)
    weights = strata.slice_rows / strata.slice_rows.sum()
    rate = float(np.sum(weights * strata.rest_events / strata.rest_rows))
    effective = float(1.0 / np.sum(weights**2 / strata.rest_rows))
    return clopper_pearson(min(rate, 1.0) * effective, effective, confidence=confidence)


def difference_limits(one: Interval, other: Interval) -> tuple[float, float]:
    """Return the MOVER limits of ``one.rate - other.rate`` from the two intervals."""
    difference = one.rate - other.rate
    low = difference - np.hypot(one.rate - one.low, other.high - other.rate)
    high = difference + np.hypot(one.high - one.rate, other.rate - other.low)
    return float(max(low, -1.0)), float(min(high, 1.0))


def exact_stratified_p(strata: Strata) -> float:
    """Return the one-sided exact p value that the slice has more events than the rest, given the strata (1.0 when nothing is comparable)."""
    distribution = np.ones(1)
    observed = 0
    for events, rows, rest_events, rest_rows in zip(
        strata.slice_events, strata.slice_rows, strata.rest_events, strata.rest_rows, strict=True
    ):
        lowest, pmf = _hypergeometric(int(events + rest_events), int(rows), int(rest_rows))
        distribution = np.convolve(distribution, pmf)
        observed += int(events) - lowest
    return float(min(1.0, distribution[observed:].sum()))


def _hypergeometric(events: int, rows: int, rest_rows: int) -> tuple[int, NDArray[np.float64]]:
    """Return the smallest possible count in the slice and the probabilities of it and the following counts."""
    lowest, highest = max(0, events - rest_rows), min(events, rows)
    count = np.arange(lowest, highest + 1)
    log_pmf = _log_choose(rows, count) + _log_choose(rest_rows, events - count) - _log_choose(rows + rest_rows, np.asarray(events))
    return lowest, np.exp(log_pmf)


def _log_choose(total: int, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = special.gammaln(total + 1) - special.gammaln(chosen + 1) - special.gammaln(total - chosen + 1)
    return result


def adjust(p_values: Sequence[float], *, correction: str) -> list[float]:
    """Return adjusted p values in the order given; ``correction`` is "holm" or "benjamini-yekutieli".

    >>> [round(p, 3) for p in adjust([0.01, 0.5, 0.02], correction="holm")]
    [0.03, 0.5, 0.04]
    """
    if not p_values:
        return []
    if correction not in ("holm", "benjamini-yekutieli"):
        raise ValueError(f"the correction must be 'holm' or 'benjamini-yekutieli', found {correction!r}; name one of them")
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    ranks = np.arange(1, len(values) + 1)
    if correction == "holm":
        stepped = np.maximum.accumulate(values[order] * ranks[::-1])
    else:
        stepped = np.minimum.accumulate((values[order] * len(values) * np.sum(1.0 / ranks) / ranks)[::-1])[::-1]
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in adjusted]
