"""Tests that may be looked at after every request. An *e-process* of a hypothesis is a number, never negative, that starts at 1 and, while the
hypothesis is true, has expectation at most 1 whenever one stops to look. So it reaches ``1 / alpha`` at any time at all with probability
at most ``alpha`` (Ville 1939; Ramdas, Gruenwald, Vovk and Shafer 2023, Statistical Science 38, 576-601).

Here are shares of requests, from counts alone: the order of the requests and the split of the traffic do not matter, and may change
at any time for any reason that looks back. ``sequential_latency`` and ``sequential_pairs`` build on the same idea. Everything returns
natural logarithms, of one run or of an array of runs.

**One share.** The likelihood averaged over a beta distribution of the alternatives, over the likelihood at the limit (Robbins 1970, Annals of
Mathematical Statistics 41, 1397-1409; Howard, Ramdas, McAuliffe and Sekhon 2021, Annals of Statistics 49, 1055-1080).

**Two shares.** Averaged over pairs of shares, over the largest likelihood in the hypothesis. For each single pair in the hypothesis the ratio is a
martingale whatever the interleaving, and the least of them is an e-process of all of it (Wasserman, Ramdas and Balakrishnan 2020, PNAS
117, 16880-16890). That pair lies on the hypothesis's border, where the likelihood is concave: a search in one dimension.

The averages are weighted towards what services do, an error rate below 1 %; that makes the usual case fast and no case wrong.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaln, logsumexp, xlog1py, xlogy

Floats = NDArray[np.float64]
Beta = tuple[float, float]

_SAME: Sequence[tuple[float, Beta]] = ((0.6, (1.0, 150.0)), (0.2, (1.0, 10.0)))
"""Weight and beta distribution of a share that both versions have: the alternative to *the canary is worse*."""
_ANY: Sequence[tuple[float, Beta, Beta]] = ((0.2, (0.5, 30.0), (0.5, 30.0)),)
"""The same for shares of their own (canary's, control's): a canary that is better than the control."""
_WORSE: Sequence[tuple[float, Beta, Beta]] = (
    (0.5, (1.5, 75.0), (1.0, 150.0)),
    (0.25, (1.0, 20.0), (1.0, 100.0)),
    (0.25, (1.0, 2.0), (1.0, 5.0)),
)
"""The alternative to *the canary is no worse*: 2 % against 0.7 %, 5 % against 1 %, and anything."""
_ONE: Beta = (0.5, 0.5)
_LEAST = -700.0
"""Log evidence never falls below: a constant e**-700 mixed in, so that it stays a number."""
_HALVINGS = 32
_GRID = 17


def needed(alpha: float) -> float:
    """Return the log evidence that refutes a hypothesis at level ``alpha``, 0..1: log(1 / alpha)."""
    return float(-np.log(alpha))


def share_below(events: ArrayLike, trials: ArrayLike, limit: ArrayLike) -> Floats:
    """Return the log evidence against *the share of events is at least ``limit``*, 0 < limit < 1."""
    k, n, at = _floats(events, trials, limit)
    a, b = _ONE
    average = _log_average(k, n, _ONE) + _log(betainc(a + k, b + n - k, at)) - _log(betainc(a, b, at))
    return np.asarray(np.maximum(average - xlogy(k, at) - xlog1py(n - k, -at), _LEAST))


def share_above(events: ArrayLike, trials: ArrayLike, limit: ArrayLike) -> Floats:
    """Return the log evidence against *the share of events is at most ``limit``*, 0 < limit < 1."""
    k, n, at = _floats(events, trials, limit)
    return share_below(n - k, n, 1 - at)


def excess_below(canary: tuple[ArrayLike, ArrayLike], control: tuple[ArrayLike, ArrayLike], margin: ArrayLike) -> Floats:
    """Return the log evidence against *the canary's share is at least the control's plus ``margin``*, -1 < margin < 1.

    Both are given as (events, trials). Grows when the canary is shown to be no worse than the margin.
    """
    (k_c, n_c), (k_b, n_b) = _floats(*canary), _floats(*control)
    k, n = k_c + k_b, n_c + n_b
    alternatives = [np.log(weight) + _log_average(k, n, both) for weight, both in _SAME]
    alternatives += [np.log(weight) + _log_average(k_c, n_c, one) + _log_average(k_b, n_b, two) for weight, one, two in _ANY]
    return _over_largest(alternatives, (k_c, n_c), (k_b, n_b), np.asarray(margin, dtype=float), is_null_above=True)


def excess_above(canary: tuple[ArrayLike, ArrayLike], control: tuple[ArrayLike, ArrayLike], allowed: ArrayLike = 0.0) -> Floats:
    """Return the log evidence against *the canary's share is at most the control's plus ``allowed``*, -1 < allowed < 1.

    Both are given as (events, trials). Grows when the canary is shown to be worse.
    """
    (k_c, n_c), (k_b, n_b) = _floats(*canary), _floats(*control)
    alternatives = [np.log(weight) + _log_average(k_c, n_c, one) + _log_average(k_b, n_b, two) for weight, one, two in _WORSE]
    return _over_largest(alternatives, (k_c, n_c), (k_b, n_b), np.asarray(allowed, dtype=float), is_null_above=False)


def bound(evidence: Callable[[Floats], Floats], *, low: float, high: float, threshold: float, rising: bool, rounds: int = 4) -> float:
    """Return where, between ``low`` and ``high``, evidence that rises (or falls) with the limit tested crosses ``threshold``: one end of a
    confidence sequence, since what is not refuted is inside. The end of the range when it crosses nowhere.

    ``evidence`` takes an array of limits. ``rounds`` grids of 17, each within a step of the last; the answer errs to the wide side.
    """
    start, end = (low, high) if rising else (high, low)
    for _ in range(rounds):
        grid = np.linspace(start, end, _GRID)
        refuted = np.asarray(evidence(grid)) >= threshold
        if not refuted.any():
            return float(end)
        first = int(refuted.argmax())
        start, end = float(grid[max(first - 1, 0)]), float(grid[first])
    return end


def mixed(logs: Sequence[Floats], weights: Sequence[float] | None = None) -> Floats:
    """Return the log of the weighted mean of e-processes, which is an e-process."""
    stacked = np.stack(np.broadcast_arrays(*logs))
    share = np.asarray([1.0] * len(logs) if weights is None else weights)
    shape = (-1,) + (1,) * (stacked.ndim - 1)
    return np.asarray(logsumexp(stacked, axis=0, b=(share / share.sum()).reshape(shape)))


def _over_largest(
    alternatives: list[Floats], canary: tuple[Floats, Floats], control: tuple[Floats, Floats], margin: Floats, *, is_null_above: bool
) -> Floats:
    """Return the average over the largest likelihood in the null: at the best shares when the null holds them, else on its border."""
    (k_c, n_c), (k_b, n_b) = canary, control
    difference = _best(k_c, n_c) - _best(k_b, n_b)
    inside = difference >= margin if is_null_above else difference <= margin
    free = _log_likelihood(k_c, n_c, _best(k_c, n_c)) + _log_likelihood(k_b, n_b, _best(k_b, n_b))
    largest = np.where(inside, free, _largest_on_border(canary, control, margin))
    return np.asarray(logsumexp(np.stack(np.broadcast_arrays(*alternatives)), axis=0) - largest)


def _largest_on_border(canary: tuple[Floats, Floats], control: tuple[Floats, Floats], margin: Floats) -> Floats:
    """Return the largest log likelihood where the canary's share is the control's plus ``margin``: halving, on a slope that falls."""
    (k_c, n_c), (k_b, n_b) = canary, control
    shape = np.broadcast_shapes(k_c.shape, n_c.shape, k_b.shape, n_b.shape, margin.shape)
    low = np.broadcast_to(np.maximum(0.0, -margin), shape)
    high = np.broadcast_to(np.minimum(1.0, 1.0 - margin), shape)
    for _ in range(_HALVINGS):
        share = np.clip((low + high) / 2, 1e-300, 1 - 1e-16)  # halving ends at 0 where nothing was asked of the control yet
        shifted = np.clip(share + margin, 1e-300, 1 - 1e-16)
        slope = k_c / shifted - (n_c - k_c) / (1 - shifted) + k_b / share - (n_b - k_b) / (1 - share)
        low, high = np.where(slope > 0, share, low), np.where(slope > 0, high, share)
    share = (low + high) / 2
    shifted = np.clip(share + margin, 1e-300, 1 - 1e-16)
    return _log_likelihood(k_c, n_c, shifted) + _log_likelihood(k_b, n_b, share)


def _best(k: Floats, n: Floats) -> Floats:
    return np.asarray(k / np.maximum(n, 1))


def _log_likelihood(k: Floats, n: Floats, share: Floats) -> Floats:
    return np.asarray(xlogy(k, share) + xlog1py(n - k, -share))


def _log_average(k: Floats, n: Floats, prior: Beta) -> Floats:
    a, b = prior
    return np.asarray(betaln(a + k, b + n - k) - betaln(a, b))


def _log(values: Any) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(values))


def _floats(*values: ArrayLike) -> tuple[Floats, ...]:
    return tuple(np.asarray(value, dtype=float) for value in values)
