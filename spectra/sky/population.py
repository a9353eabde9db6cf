"""Who is on the sky: class, kind, redshift and signal-to-noise of every target, before any spectrum is made."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from spectra.sky import galaxies, quasars, stars
from spectra.sky.grid import GRID, Flux

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of target: class, targeting bit, and where it stands in brightness (in sigmas, before ranking)."""

    name: str
    spectype: str
    bit: int
    brightness: float


KINDS: Final = (
    Kind(name="BGS", spectype="GALAXY", bit=60, brightness=0.35),
    Kind(name="LRG", spectype="GALAXY", bit=0, brightness=-0.25),
    Kind(name="ELG", spectype="GALAXY", bit=1, brightness=-0.95),
    Kind(name="QSO", spectype="QSO", bit=2, brightness=-0.1),
    Kind(name="MWS", spectype="STAR", bit=61, brightness=1.1),
    Kind(name="WD", spectype="STAR", bit=61, brightness=0.5),
)
SHARES: Final = {
    "dark": (0.0, 0.34, 0.40, 0.16, 0.09, 0.01),
    "bright": (0.66, 0.0, 0.0, 0.02, 0.31, 0.01),
}
"""Per program, in the order of KINDS; even programs give 70/9/21 % galaxies, quasars, stars."""

SNR_QUANTILES: Final = ((0.0, 0.01, 0.05, 0.25, 0.50, 0.75, 0.95, 0.99, 1.0), (0.18, 0.31, 0.56, 1.23, 2.33, 4.66, 12.4, 23.1, 45.0))
"""S/N per pixel: quantiles measured by others on 1,030,934 DR1 quasars, taken here for the whole sky; the ends are ours."""
_REDSHIFTS: Final = {
    "BGS": ((0, 0.05, 0.25, 0.5, 0.75, 0.95, 1), (0.01, 0.06, 0.14, 0.21, 0.30, 0.45, 0.60)),
    "LRG": ((0, 0.05, 0.25, 0.5, 0.75, 0.95, 1), (0.30, 0.43, 0.60, 0.75, 0.88, 1.03, 1.15)),
    "ELG": ((0, 0.05, 0.25, 0.5, 0.75, 0.95, 1), (0.60, 0.75, 0.92, 1.10, 1.28, 1.50, 1.63)),
    "QSO": ((0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.995, 1), (0.25, 0.69, 1.22, 1.71, 2.25, 2.99, 3.8, 5.0)),
}
"""Inverse cumulative distributions (probability, redshift); QSO: the quantiles 5/50/95 % of DR1."""
_TYPE_SHARES: Final = {
    "BGS": (0.36, 0.50, 0.04, 0.07, 0.03),
    "LRG": (0.93, 0.02, 0.0, 0.03, 0.02),
    "ELG": (0.0, 0.12, 0.87, 0.01, 0.0),
}
"""Quiescent, star-forming, emission-line, active, post-starburst."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """Facts about n targets, one element each."""

    kind: NDArray[np.int64]
    """Index into KINDS."""
    z: Array
    snr: Array
    """Median signal-to-noise per pixel to be reached by the noise-free spectrum."""
    temperature: Array
    """Kelvin; NaN for what is no star."""

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def names(self) -> NDArray[np.str_]:
        """Name of each target's kind."""
        return np.array([k.name for k in KINDS])[self.kind]

    @property
    def spectype(self) -> NDArray[np.str_]:
        """GALAXY, QSO or STAR."""
        return np.array([k.spectype for k in KINDS])[self.kind]


def draw_targets(program: str, n: int, rng: np.random.Generator, *, mix: dict[str, float]) -> Targets:
    """Draws n targets of one program; ``mix`` (all programs' shares) ranks brightness over the whole sky."""
    kind = rng.choice(len(KINDS), n, p=SHARES[program])
    temperature = _temperatures(kind, rng)
    return Targets(kind=kind, z=_redshifts(kind, temperature, rng), snr=_signal_to_noise(kind, rng, mix), temperature=temperature)


def render(targets: Targets, rng: np.random.Generator, *, carbon: NDArray[np.bool_] | None = None) -> Flux:
    """Noise-free spectra of unit median, float32 [n, 7781]; rows of stars in ``carbon`` become carbon stars."""
    flux = np.empty((len(targets), GRID.size), np.float32)
    for name in np.unique(targets.names):
        rows = np.flatnonzero(targets.names == name)
        flux[rows] = _render_kind(str(name), targets.z[rows], targets.temperature[rows], rng)
    if carbon is not None and carbon.any():
        flux[carbon] = stars.carbon_star_flux(targets.temperature[carbon], targets.z[carbon] * 299_792.458)
    return flux


def subtypes(targets: Targets) -> list[str]:
    """SUBTYPE as redrock names it: star letters, WD, HIZ or LOZ for quasars, nothing for galaxies."""
    letters = stars.spectral_type(np.nan_to_num(targets.temperature, nan=5000.0))
    quasar = np.where(targets.z > 1.6, "HIZ", "LOZ")
    by_class = np.select(
        [targets.names == "WD", targets.spectype == "STAR", targets.spectype == "QSO"], ["WD", letters, quasar], default=""
    )
    return [str(subtype) for subtype in by_class]


def _signal_to_noise(kind: NDArray[np.int64], rng: np.random.Generator, mix: dict[str, float]) -> Array:
    """Ranks each target among the whole sky and reads the S/N at that rank, so kinds differ and the whole has the quantiles."""
    level = np.array([k.brightness for k in KINDS])
    shares = sum(share * np.array(SHARES[program]) for program, share in mix.items())
    brightness = level[kind] + 0.8 * rng.standard_normal(len(kind))
    rank = np.sum(shares * ndtr((brightness[:, None] - level) / 0.8), axis=1)
    return np.asarray(np.exp(np.interp(rank, SNR_QUANTILES[0], np.log(SNR_QUANTILES[1]))))


def _temperatures(kind: NDArray[np.int64], rng: np.random.Generator) -> Array:
    """Halo and disc stars of a magnitude-limited survey: mostly K to F, a tail of M dwarfs and a few hot ones."""
    n = len(kind)
    quantile = rng.random(n)
    main = np.interp(quantile, (0, 0.08, 0.2, 0.5, 0.8, 0.95, 0.99, 1), (2950, 3400, 3900, 5100, 6100, 7200, 9800, 18000))
    white = np.interp(quantile, (0, 0.5, 0.9, 1), (7500, 11500, 19000, 30000))
    names = np.array([k.name for k in KINDS])[kind]
    return np.asarray(np.select([names == "MWS", names == "WD"], [main, white], default=np.nan))


def _redshifts(kind: NDArray[np.int64], temperature: Array, rng: np.random.Generator) -> Array:
    quantile = rng.random(len(kind))
    velocity = np.clip(rng.standard_normal(len(kind)) * np.where(temperature < 6500, 110.0, 45.0), -550, 550)
    z = velocity / 299_792.458
    for index, k in enumerate(KINDS):
        if k.name in _REDSHIFTS:
            z = np.where(kind == index, np.interp(quantile, *_REDSHIFTS[k.name]), z)
    return z


def _render_kind(name: str, z: Array, temperature: Array, rng: np.random.Generator) -> Flux:
    if name == "QSO":
        return quasars.quasar_flux(z, rng)
    if name == "WD":
        return stars.white_dwarf_flux(temperature, z * 299_792.458)
    if name == "MWS":
        return stars.star_flux(temperature, np.clip(rng.normal(0.8, 0.3, len(z)), 0.1, 1.6), z * 299_792.458)
    return galaxies.galaxy_flux(rng.choice(5, len(z), p=_TYPE_SHARES[name]).astype(np.int64), z, rng)
