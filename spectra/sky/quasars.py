"""Quasars: a power law, broad and narrow lines, iron bumps, and the Lyman alpha forest in front of them."""

from typing import Final

import numpy as np

from spectra.sky import features as f
from spectra.sky.grid import GRID, Flux

Array = f.Array

# rest wavelength, equivalent width (Å), sigma (km/s): means of composite quasar spectra, rounded.
_BROAD: Final = (
    (1033.0, 9.0, 3000.0), (1215.67, 70.0, 2600.0), (1240.8, 16.0, 2600.0), (1305.0, 2.5, 1800.0), (1399.0, 8.0, 2600.0),
    (1549.1, 26.0, 2300.0), (1640.4, 4.0, 3000.0), (1663.0, 1.5, 1800.0), (1860.0, 1.5, 2000.0), (1908.7, 20.0, 3000.0), (2326.0, 2.0, 2500.0),
    (2799.1, 32.0, 2000.0), (4102.9, 6.0, 1900.0), (4341.7, 14.0, 1900.0), (4862.7, 48.0, 1900.0), (6564.6, 190.0, 1800.0),
)  # fmt: skip
_NARROW: Final = ((3426.8, 1.2), (3728.5, 2.0), (3869.9, 1.6), (4960.3, 4.0), (5008.2, 12.0), (6585.3, 3.0), (6725.0, 2.5))
# centre, equivalent width, sigma in Å: blended iron and the Balmer continuum, as smooth bumps.
_BUMPS: Final = (
    (2080.0, 6.0, 70.0),
    (2380.0, 24.0, 110.0),
    (2550.0, 20.0, 90.0),
    (3000.0, 55.0, 300.0),
    (3400.0, 40.0, 200.0),
    (4570.0, 22.0, 75.0),
    (5270.0, 20.0, 95.0),
)


def quasar_flux(z: Array, rng: np.random.Generator, *, broad_absorption: float = 0.08) -> Flux:
    """Quasar spectra, unit median, float32 [n, 7781]; ``broad_absorption`` is the share with C IV and Si IV troughs."""
    rest = GRID[None, :] / (1 + z[:, None])
    flux = _continuum(rest, rng) * (1 + _lines(rest, rng))
    flux *= _troughs(rest, rng, share=broad_absorption)
    flux *= _forest(z, rng)
    return np.asarray(flux / np.maximum(np.median(flux, axis=1, keepdims=True), 1e-3), np.float32)


def _continuum(rest: Array, rng: np.random.Generator) -> Array:
    """Power law per wavelength, bluer than a host galaxy's light, which flattens it beyond 5000 Å."""
    slope = rng.normal(-1.45, 0.28, (len(rest), 1))
    host = rng.uniform(0.05, 0.35, (len(rest), 1)) * f.rise(rest, 4200.0, 300.0)
    reddening = 0.08 * rng.exponential(1.0, (len(rest), 1))
    return np.asarray(((rest / 3000.0) ** slope + host) * np.exp(-reddening * (rest / 3000.0) ** -1.4))


def _lines(rest: Array, rng: np.random.Generator) -> Array:
    """Line flux over continuum. One strength and one width per object scale all broad lines, with some freedom each."""
    n = len(rest)
    strength, breadth = rng.lognormal(0, 0.35, (n, 1)), rng.lognormal(0, 0.25, (n, 1))
    total = np.zeros_like(rest)
    for centre, width, speed in _BROAD:
        own = width * strength * rng.lognormal(0, 0.2, (n, 1))
        shift = centre * (1 - rng.normal(250 if centre < 1950 else 0, 150, (n, 1)) / f.LIGHT)
        sigma = centre * speed * breadth / f.LIGHT
        # real broad lines are peakier than Gaussians: a third of the flux in a core half as wide
        total += own * (0.65 * _gauss(rest, shift, sigma) + 0.35 * _gauss(rest, shift, 0.45 * sigma))
    narrow = rng.lognormal(0, 0.6, (n, 1))
    for centre, width in _NARROW:
        total += width * narrow * _gauss(rest, centre, np.full((n, 1), centre * 220.0 / f.LIGHT))
    iron = rng.lognormal(0, 0.3, (n, 1))
    for centre, width, spread in _BUMPS:
        total += width * iron * _gauss(rest, centre, np.full((n, 1), spread))
    return total


def _gauss(x: Array, centre: Array | float, sigma: Array) -> Array:
    return np.asarray(np.exp(-0.5 * np.square((x - centre) / sigma)) / (2.5066 * sigma))


def _troughs(rest: Array, rng: np.random.Generator, *, share: float) -> Array:
    """Broad absorption lines: outflowing gas at 3000 to 15000 km/s in front of some quasars."""
    n = len(rest)
    depth = rng.uniform(0.4, 0.95, (n, 1)) * (rng.random((n, 1)) < share)
    speed, spread = rng.uniform(4000, 14000, (n, 1)), rng.uniform(800, 2500, (n, 1))
    through = np.ones_like(rest)
    for centre, part in ((1549.1, 1.0), (1397.0, 0.6), (1240.8, 0.6)):
        at = centre * (1 - speed / f.LIGHT)
        through *= 1 - part * depth * np.exp(-0.5 * np.square((rest - at) / (centre * spread / f.LIGHT)) ** 2)
    return through


def _forest(z: Array, rng: np.random.Generator) -> Array:
    """Transmission of intergalactic hydrogen blueward of Lyman alpha: log-normal clouds whose mean follows Faucher-Giguère 2008."""
    through = np.ones((len(z), GRID.size))
    for row in np.flatnonzero(z > GRID[0] / 1215.67 - 1):
        end = int(np.searchsorted(GRID, 1215.67 * (1 + z[row]) * (1 - 5e-4)))
        if end == 0:  # the line itself is on the grid, but the forest ends just before it
            continue
        through[row, :end] = _clouds(GRID[:end], rng)
        limit = int(np.searchsorted(GRID, 912.0 * (1 + z[row])))
        through[row, :limit] *= np.exp(-1.5 - 0.004 * (GRID[limit - 1] - GRID[:limit])) if limit else 1.0
        if rng.random() < 0.06:
            _damp(through[row, :end], GRID[:end], rng)
    return through


def _clouds(wave: Array, rng: np.random.Generator) -> Array:
    """Correlated log-normal optical depth; its median is lower than its mean, so exp(-tau) keeps voids clear."""
    mean_depth = 0.0018 * (wave / 1215.67) ** 3.92
    kernel = np.exp(-0.5 * (np.arange(-9, 10) / 2.2) ** 2)
    field = np.convolve(rng.standard_normal(wave.size + 18), kernel / np.sqrt(np.sum(kernel**2)), mode="valid")
    raw = np.exp(-1.15 * mean_depth * np.exp(1.5 * field - 0.55))
    blur = np.exp(-0.5 * (np.arange(-3, 4) / 0.85) ** 2)
    return np.convolve(np.pad(raw, 3, mode="edge"), blur / blur.sum(), mode="valid")


def _damp(through: Array, wave: Array, rng: np.random.Generator) -> None:
    """One damped system somewhere in the forest: a black trough with wide wings."""
    if wave.size < 200:
        return
    centre = rng.uniform(wave[60], wave[-60])
    through *= np.exp(-np.minimum(60.0 * rng.lognormal(0, 0.6) / np.square(np.maximum(np.abs(wave - centre), 0.5) / 3.0), 50.0))
