"""Flux-conserving resampling with variance: pixels are bins, a new bin is the overlap-weighted mean of the old ones.

The scheme is SpectRes (Carnall 2017, arXiv:1705.05165, equations 3 and 4): with overlap lengths P_ij,

    flux_j = Σ_i P_ij f_i / Σ_i P_ij        var_j = Σ_i P_ij² σ_i² / (Σ_i P_ij)²

so ∫ flux dλ is kept and each variance is that of its own pixel. Where new bins are narrower than the old ones,
neighbours share input and are correlated: the covariance is not kept, so S/N of sums over many pixels comes out too high.
Two additions: old pixels with ivar 0 take no part, and a new bin less than half covered by good old ones gets ivar 0.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_LEAST_COVER: Final = 0.5
"""Share of a new bin that good old pixels must cover; a hole of a cosmic ray then does not grow."""

Floats = NDArray[np.float64]


def edges(centres: Floats) -> Floats:
    """Return the n+1 bin edges halfway between n >= 2 increasing centres, the outer ones mirrored."""
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def resample(old_edges: Floats, flux: Floats, ivar: Floats, *, new_edges: Floats) -> tuple[Floats, Floats]:
    """Return flux and ivar on the bins of ``new_edges``; both are 0 where the old spectrum does not reach or is bad."""
    good = (ivar > 0).astype(np.float64)
    variance = np.divide(1, ivar, out=np.zeros_like(ivar), where=ivar > 0)
    old, new, overlap = _overlaps(old_edges, new_edges)
    bins = len(new_edges) - 1
    weight = overlap * good[old]
    cover = np.bincount(new, weights=weight, minlength=bins)
    total = np.bincount(new, weights=weight * flux[old], minlength=bins)
    noise = np.bincount(new, weights=weight**2 * variance[old], minlength=bins)
    usable = (cover >= _LEAST_COVER * np.diff(new_edges)) & (noise > 0)
    result_flux = np.divide(total, cover, out=np.zeros(bins), where=usable)
    return result_flux, np.divide(cover**2, noise, out=np.zeros(bins), where=usable)


def _overlaps(old_edges: Floats, new_edges: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Return (old bin, new bin, length) of every overlap: cut the line at all edges and ask in which bins each piece lies."""
    low, high = max(old_edges[0], new_edges[0]), min(old_edges[-1], new_edges[-1])
    cuts = np.unique(np.concatenate([old_edges, new_edges]))
    cuts = cuts[(cuts >= low) & (cuts <= high)]
    middle = (cuts[1:] + cuts[:-1]) / 2
    old = np.searchsorted(old_edges, middle, side="right") - 1
    new = np.searchsorted(new_edges, middle, side="right") - 1
    return old, new, np.diff(cuts)
