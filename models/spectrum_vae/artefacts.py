"""Faults put into training spectra on purpose, to learn which statistics tell a fault from the sky's own variety.

No label of a real anomaly is used, so the weights of the score are learned without ever seeing one (outlier exposure,
Hendrycks 2019). The three kinds are what the literature finds among the outliers of spectroscopic surveys: two objects in one
fibre, a step between the halves of a detector arm, and badly subtracted sky.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_HALVES = ((0, 1375), (1375, 2750), (2700, 3863), (3863, 5025), (4900, 6340), (6340, 7781))
"""Pixel ranges read out by one amplifier: the halves of the B, R and Z arm."""


def inject(flux: Floats, ivar: Floats, *, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Return copies of the spectra, each with one fault of random kind and strength. [n, P] -> [n, P]."""
    flux, ivar = flux.copy(), ivar.copy()
    partner = generator.permutation(len(flux))
    original, ivar_before = flux.copy(), ivar.copy()
    for row, kind in enumerate(generator.integers(0, 3, len(flux))):
        if kind == 0:
            share = _second_level(original[row], original[partner[row]], generator)
            flux[row] += share * original[partner[row]]
            ivar[row] = _summed_ivar(ivar[row], ivar_before[partner[row]], share)
        elif kind == 1:
            _step(flux[row], generator)
        else:
            _sky(flux[row], ivar[row], generator)
    return flux, ivar


def _second_level(first: Floats, second: Floats, generator: np.random.Generator) -> np.float32:
    """Return the factor that gives the second object 30 to 120 % of the first one's flux."""
    level = max(float(np.median(np.abs(first))), 1e-3) / max(float(np.median(np.abs(second))), 1e-3)
    return np.float32(level * generator.uniform(0.3, 1.2))


def _summed_ivar(first: Floats, second: Floats, share: np.float32) -> Floats:
    """Return the inverse of the summed variances; 0 where either is 0. Else the extra noise, not the object, would be learned."""
    both = second + share**2 * first
    return np.asarray(first * second / np.where(both > 0, both, 1), dtype=np.float32)


def _step(flux: Floats, generator: np.random.Generator) -> None:
    start, stop = _HALVES[int(generator.integers(len(_HALVES)))]
    height = generator.uniform(0.1, 0.6) * generator.choice([-1, 1])
    flux[start:stop] += np.float32(height * max(float(np.median(np.abs(flux))), 1e-3))


def _sky(flux: Floats, ivar: Floats, generator: np.random.Generator) -> None:
    """Add a share of the sky's own spectrum (variance above its floor) redward of 7500 Å."""
    good = ivar[4875:] > 0
    if not good.any():
        return
    variance = np.where(good, 1 / np.where(good, ivar[4875:], 1), 0)
    pattern = np.clip(variance / np.median(variance[good]) - 1, 0, 30)
    noise = float(np.sqrt(np.median(variance[good])))
    flux[4875:] += (generator.uniform(0.3, 3) * generator.choice([-1, 1]) * noise * pattern).astype(np.float32)
