"""Galaxies: mixtures of an old, an intermediate and a young population, dust, and nebular lines by type."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spectra.sky import features as f
from spectra.sky.grid import GRID, STEP, Flux

Array = f.Array

_LOG_START, _LOG_STEP = np.log(1250.0), 1e-4
_REST: Final = np.exp(_LOG_START + _LOG_STEP * np.arange(20800))
_MOTIONS: Final = 150.0
"""Sigma of the stars' motions, km/s, the same for all galaxies."""

QUIESCENT, STAR_FORMING, EMISSION_LINE, ACTIVE, POST_STARBURST = range(5)

# name, vacuum wavelength, strength: per type the rest-frame equivalent width in Å is scale x strength.
_LINES: Final = (
    ("[OII]", 3727.09, 0.42), ("[OII]", 3729.88, 0.58), ("[NeIII]", 3869.86, 0.07), ("Hd", 4102.90, 0.08), ("Hg", 4341.69, 0.16),
    ("Hb", 4862.69, 0.35), ("[OIII]", 4960.30, 0.335), ("[OIII]", 5008.24, 1.0), ("HeI", 5877.25, 0.05), ("[OI]", 6302.05, 0.06),
    ("[NII]", 6549.85, 0.328), ("Ha", 6564.61, 1.0), ("[NII]", 6585.27, 1.0), ("[SII]", 6718.29, 0.57), ("[SII]", 6732.67, 0.43),
    ("[ArIII]", 7137.8, 0.04), ("[SIII]", 9071.1, 0.10), ("[SIII]", 9533.2, 0.24),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stars:
    """Light fractions at 5500 Å, metal strength and dust of each galaxy, [n]."""

    old: Array
    middle: Array
    young: Array
    metals: Array
    dust: Array


def galaxy_flux(kind: NDArray[np.int64], z: Array, rng: np.random.Generator) -> Flux:
    """Galaxy spectra of the given types and redshifts (0 to 1.65), unit median, float32 [n, 7781]."""
    stars = _draw_stars(kind, rng)
    flux = _starlight(stars, z)
    flux *= _attenuation(stars.dust, z)
    _add_lines(flux, kind, z, rng)
    return flux / np.median(flux, axis=1, keepdims=True)


def _draw_stars(kind: NDArray[np.int64], rng: np.random.Generator) -> _Stars:
    n = len(kind)
    young_low, young_high = np.array([0.0, 0.10, 0.35, 0.02, 0.03])[kind], np.array([0.015, 0.45, 0.90, 0.25, 0.08])[kind]
    middle_low, middle_high = np.array([0.0, 0.20, 0.30, 0.05, 0.60])[kind], np.array([0.10, 0.60, 0.80, 0.40, 0.90])[kind]
    young = rng.uniform(young_low, young_high)
    middle = (1 - young) * rng.uniform(middle_low, middle_high)
    dust_high = np.array([0.1, 1.3, 0.7, 0.8, 0.3])[kind]
    metals = np.clip(rng.normal(np.array([1.05, 0.8, 0.6, 1.0, 0.9])[kind], 0.15, n), 0.2, 1.5)
    return _Stars(old=1 - young - middle, middle=middle, young=young, metals=metals, dust=rng.uniform(0, dust_high))


def _starlight(stars: _Stars, z: Array) -> Flux:
    old, old_lines, middle, middle_lines, young = _populations()
    out = np.empty((len(z), GRID.size), np.float32)
    log_grid = np.log(GRID)
    for row in range(len(z)):
        at = (log_grid - np.log1p(z[row]) - _LOG_START) / _LOG_STEP
        low = int(max(at[0], 0)), int(min(at[-1] + 2, _REST.size))
        used = slice(*low)
        metals = stars.metals[row]
        light = stars.old[row] * old[used] * np.exp(metals * old_lines[used])
        light += stars.middle[row] * middle[used] * np.exp(metals * middle_lines[used]) + stars.young[row] * young[used]
        out[row] = np.interp(at, np.arange(used.start, used.stop), light)
    return out


@cache
def _populations() -> tuple[Array, Array, Array, Array, Array]:
    """Continuum and ln(lines) of the old, the same of the intermediate, and the young population; 1 at 5500 Å; rest frame."""
    w, sigma = _REST, np.hypot(_REST * _MOTIONS / f.LIGHT, f.LSF)
    forest = np.log(f.metal_forest(w, sigma=sigma, strength=1.0))
    old = _normal((0.55 * f.planck(w, 4300.0) + 0.45 * f.planck(w, 5600.0)) * _break_4000(w) * _ultraviolet_floor(w))
    middle = _normal(f.planck(w, 8000.0) * (1 - 0.45 * f.rise(-w, -3680.0, 18.0)) * (1 - 0.6 * f.rise(-w, -2700.0, 250.0)))
    young = _normal((0.5 * (w / 5500.0) ** -2.1 + 0.5 * f.planck(w, 14000.0)) * (1 - 0.16 * f.rise(-w, -3660.0, 14.0)) * _lyman(w))
    return (
        old,
        0.85 * forest + np.log(_old_lines(w, sigma)),
        middle,
        0.35 * forest + np.log(_middle_lines(w, sigma)),
        young * _young_lines(w, sigma),
    )


def _normal(continuum: Array) -> Array:
    return continuum / np.interp(5500.0, _REST, continuum)


def _break_4000(w: Array) -> Array:
    """The drop that metals of an old population cut below 4000 Å, and two smaller ones in the ultraviolet."""
    drop = 1 - 0.29 * f.rise(-w, -3985.0, 18.0)
    return np.asarray(
        drop * (1 - 0.30 * f.rise(-w, -3600.0, 120.0)) * (1 - 0.35 * f.rise(-w, -2900.0, 25.0)) * (1 - 0.4 * f.rise(-w, -2640.0, 12.0))
    )


def _ultraviolet_floor(w: Array) -> Array:
    return np.asarray(1 + 0.02 * np.exp(np.clip((2500.0 - w) / 300.0, -50, 4)))


def _lyman(w: Array) -> Array:
    """Damped Lyman alpha of a young galaxy's own gas."""
    return f.dip(w, 1215.67, 0.9, 9.0)


def _old_lines(w: Array, sigma: Array) -> Array:
    t = np.ones_like(w)
    for centre, depth, extra in ((3934.8, 0.62, 6.5), (3969.6, 0.60, 6.0), (3835.0, 0.30, 14.0), (3730.0, 0.18, 20.0)):
        t *= f.dip(w, centre, depth, np.hypot(sigma, extra))
    t *= f.dip(w, f.G_BAND, 0.26, np.hypot(sigma, 9.0)) * f.dip(w, 4227.9, 0.22, np.hypot(sigma, 3.0))
    t *= f.dip(w, 5110.0, 0.07, 60.0) * f.dip(w, 4180.0, 0.07, 25.0)
    for centre in f.MAGNESIUM_B:
        t *= f.dip(w, centre, 0.20, np.hypot(sigma, 2.0))
    for centre in (*f.SODIUM_D, *f.CALCIUM_TRIPLET):
        t *= f.dip(w, centre, 0.24, np.hypot(sigma, 1.5))
    for centre in f.IRON:
        t *= f.dip(w, centre, 0.10, np.hypot(sigma, 3.0))
    for centre in f.BALMER[:4]:
        t *= f.dip(w, centre, 0.10, np.hypot(sigma, 2.0))
    for head, depth in f.TITANIUM_OXIDE[5:9]:
        t *= f.band(w, head, 0.10 * depth, length=150.0, to_red=True)
    return t


def _middle_lines(w: Array, sigma: Array) -> Array:
    t = np.ones_like(w)
    for order, centre in enumerate(f.BALMER):
        t *= f.dip(w, centre, 0.30 - 0.012 * order, np.hypot(sigma, 3.0)) * f.dip(w, centre, 0.20 if order else 0.1, 13.0 - 0.7 * order)
    for centre in (*f.CALCIUM_HK, *f.CALCIUM_TRIPLET):
        t *= f.dip(w, centre, 0.22, np.hypot(sigma, 1.5))
    return t


def _young_lines(w: Array, sigma: Array) -> Array:
    t = np.ones_like(w)
    for centre, depth in (*f.ULTRAVIOLET, *f.NEAR_ULTRAVIOLET):
        t *= f.dip(w, centre, depth, np.hypot(sigma, 0.6))
    for centre in f.BALMER:
        t *= f.dip(w, centre, 0.10, np.hypot(sigma, 3.0))
    return t


def _attenuation(dust: Array, z: Array) -> Flux:
    """A galaxy's own dust: a power law near Calzetti's, ``dust`` magnitudes at rest 5500 Å."""
    rest = GRID[None, :] / (1 + z[:, None])
    return np.asarray(np.exp(-0.921 * dust[:, None] * (rest / 5500.0) ** -0.9), np.float32)


def _widths(kind: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Array]:
    """Rest equivalent widths (Å) per ion and galaxy: what makes a type look like itself."""
    n = len(kind)
    alpha = np.array([0.15, 28.0, 90.0, 30.0, 0.8])[kind] * rng.lognormal(0, 0.55, n)
    excitation = np.array([0.5, 0.45, 1.6, 5.0, 0.5])[kind] * rng.lognormal(0, 0.35, n)
    nitrogen = np.array([1.2, 0.36, 0.13, 1.1, 0.7])[kind] * rng.lognormal(0, 0.2, n)
    oxygen = np.array([1.0, 0.75, 0.75, 0.6, 0.6])[kind] * rng.lognormal(0, 0.25, n)
    return {
        "Ha": alpha, "Hb": alpha, "Hg": alpha * 0.9, "Hd": alpha * 0.9, "HeI": alpha * 0.8, "[NII]": alpha * nitrogen, "[SII]": alpha * 0.4,
        "[OI]": alpha * (0.4 + nitrogen), "[OIII]": 0.35 * alpha * excitation, "[OII]": alpha * oxygen, "[NeIII]": alpha * excitation * 0.6,
        "[ArIII]": alpha, "[SIII]": alpha,
    }  # fmt: skip


def _add_lines(flux: Flux, kind: NDArray[np.int64], z: Array, rng: np.random.Generator) -> None:
    """Adds each line in place: equivalent width times the continuum beneath it, as wide as the gas moves and the spectrograph blurs."""
    widths = _widths(kind, rng)
    speed = np.array([150.0, 75.0, 60.0, 190.0, 110.0])[kind] * rng.lognormal(0, 0.25, len(kind))
    offsets = np.arange(-60, 61)
    for ion, rest, strength in _LINES:
        centre = rest * (1 + z)
        seen = np.flatnonzero((centre > GRID[0] + 60) & (centre < GRID[-1] - 60))
        pixel = np.rint((centre[seen] - GRID[0]) / STEP).astype(int)
        at = pixel[:, None] + offsets
        sigma = np.hypot(centre[seen] * speed[seen] / f.LIGHT, f.LSF)[:, None]
        profile = np.exp(-0.5 * ((GRID[at] - centre[seen, None]) / sigma) ** 2) / (2.5066 * sigma)
        continuum = 0.5 * (flux[seen, pixel - 60] + flux[seen, pixel + 60])
        flux[seen[:, None], at] += ((widths[ion][seen] * strength * (1 + z[seen]) * continuum)[:, None] * profile).astype(np.float32)
