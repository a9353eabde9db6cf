"""Is the canary slower? Always-valid tests of a quantile of answer times, whatever their distribution, from counts in buckets.

Of the answers of a version, the share within ``x`` seconds is exactly ``q`` when ``x`` is its ``q`` quantile: a Bernoulli share again, so each
``x`` has its e-process (Howard and Ramdas 2022, Bernoulli 28, 1704-1728). The control's quantile is not known: the evidence is the
least over every bucket it may lie in, of evidence that it does not lie there times evidence about the canary if it does. Bucket edges are taken so
that they speak against what is to be shown; that costs up to two buckets, a tenth of the ratio.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rollout.evidence import GROWTH
from rollout.sequential import Floats, mixed, share_above, share_below

Counts = Mapping[int, float]
"""Bucket -> how many; not whole where a forecast is made."""
_NOTHING = (0.5, 0.25, 0.25)
"""Weights of: nothing learnt of the control's quantile, it lies above the bucket, below it. The first keeps the product from vanishing."""

_CONSTANT = (0.01, 0.99)


def faster_than(canary: Counts, control: Counts, *, quantile: float, ratio: Floats | float, share: float | None = None) -> Floats:
    """Return the log evidence against *the canary's quantile is at least ``ratio`` times the control's*; one value per ratio.

    With ``share``, against *no more than this share of the canary's answers come within that time*, be it another one than ``quantile``.
    """
    shift = np.log(np.atleast_1d(ratio)) / math.log(GROWTH)
    edges = _candidates(canary, control, shift)
    known = _not_in_bucket(control, edges, quantile)
    reach = np.floor(edges[None, :] - 1 + shift[:, None] + 1e-9).astype(int)
    within, total = _within(canary, reach)
    return _least(known, share_above(within, total, quantile if share is None else share))


def slower_than(canary: Counts, control: Counts, *, quantile: float, ratio: Floats | float) -> Floats:
    """Return the log evidence against *the canary's quantile is at most ``ratio`` times the control's*; one value per ratio."""
    shift = np.log(np.atleast_1d(ratio)) / math.log(GROWTH)
    edges = _candidates(canary, control, shift)
    known = _not_in_bucket(control, edges, quantile)
    reach = np.ceil(edges[None, :] + shift[:, None] - 1e-9).astype(int)
    within, total = _within(canary, reach)
    return _least(known, share_below(within, total, quantile))


def within_seconds(canary: Counts, *, quantile: float, seconds: Floats | float) -> Floats:
    """Return the log evidence against *the canary's quantile is at least this many seconds*; one value per limit."""
    within, total = _within(canary, np.floor(np.log(np.atleast_1d(seconds)) / math.log(GROWTH) + 1e-9).astype(int))
    return share_above(within, total, quantile)


def beyond_seconds(canary: Counts, *, quantile: float, seconds: Floats | float) -> Floats:
    """Return the log evidence against *the canary's quantile is at most this many seconds*; one value per limit."""
    within, total = _within(canary, np.ceil(np.log(np.atleast_1d(seconds)) / math.log(GROWTH) - 1e-9).astype(int))
    return share_below(within, total, quantile)


def _not_in_bucket(control: Counts, edges: NDArray[np.int_], quantile: float) -> Floats:
    """Return the log evidence, per upper edge, that the control's quantile does not lie in that bucket."""
    up_to_upper, total = _within(control, edges)
    up_to_lower, _ = _within(control, edges - 1)
    lies_above, lies_below = share_below(up_to_upper, total, quantile), share_above(up_to_lower, total, quantile)
    return mixed([np.zeros(len(edges)), lies_above, lies_below], _NOTHING)


def _least(known: Floats, answered: Floats) -> Floats:
    """Return the least over the buckets of both evidences together. A constant in the second keeps the product where the first is large."""
    return np.asarray((known[None, :] + mixed([np.zeros(answered.shape), answered], _CONSTANT)).min(axis=1))


def _candidates(canary: Counts, control: Counts, shift: Floats) -> NDArray[np.int_]:
    """Return the buckets the control's quantile may lie in: all from below to above anything that was seen, of either version, the canary's moved by
    the ratio. Further out every count is what it is at the ends."""
    low, high = math.ceil(float(shift.max())), math.floor(float(shift.min()))
    seen = [*control, *(at - low for at in canary), *(at - high for at in canary)] or [0]
    return np.arange(min(seen) - 2, max(seen) + 4)


def _within(counts: Counts, edges: NDArray[np.int_]) -> tuple[Floats, float]:
    """Return how many answers came within each upper edge, and how many there are."""
    if not counts:
        return np.zeros(edges.shape), 0.0
    buckets = np.fromiter(sorted(counts), dtype=int)
    sums = np.concatenate([[0.0], np.cumsum([float(counts[int(one)]) for one in buckets])])
    return sums[np.searchsorted(buckets, edges, side="right")], float(sums[-1])
