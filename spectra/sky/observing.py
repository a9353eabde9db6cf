"""The spectrograph: splits light into three arms, adds independent noise to each and spoils some pixels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra.sky.grid import ARMS, GRID, Arm, Flux

MASK_BITS = {"SOMEBADPIX": 1, "COSMIC": 4, "BADFIBERFLAT": 16, "BAD2DFIT": 128, "BADCOLUMN": 1024}
_BIT_SHARES = (0.80, 0.06, 0.04, 0.05, 0.05)
"""SOMEBADPIX dominates in DR1; the others are rare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmData:
    """What one arm's HDUs hold, each [n, arm pixels]."""

    flux: Flux
    ivar: Flux
    mask: NDArray[np.uint32]


def observe(truth: Flux, sigma: Flux, steps: dict[str, Flux], rng: np.random.Generator) -> dict[str, ArmData]:
    """Three arms of noisy spectra from noise-free ``truth`` and total ``sigma`` on the union grid; ``steps`` are per-arm offsets."""
    return {arm.name: _observe_arm(arm, truth[:, arm.pixels] + steps[arm.name], sigma[:, arm.pixels], rng) for arm in ARMS}


def photon_sigma(flux: Flux, sky: Flux, *, exposure: float, pixels: slice = slice(None)) -> Flux:
    """Sky noise with the target's own photons added: variance grows with flux, more steeply in the less sensitive blue."""
    per_photon = (8.0 / exposure) * (1 + 2.5 * np.clip((4600.0 - GRID[pixels]) / 1000.0, 0, 1))
    return np.asarray(np.sqrt(np.square(sky) + np.maximum(flux, 0) * per_photon.astype(np.float32)), np.float32)


def kill(data: ArmData, rows: slice) -> None:
    """Makes rows look like fibres without light: no flux, no ivar, and (as in real files) no mask bit to warn of it."""
    data.flux[rows] = 0
    data.ivar[rows] = 0
    data.mask[rows] = 0


def arm_share(arm: Arm) -> NDArray[np.float64]:
    """Part of the light that the dichroics send to this arm, [arm pixels]: 1 away from the overlaps; arms add up to 1."""
    share = np.ones(arm.size)
    for low, high in ((5760.0, 5800.0), (7520.0, 7620.0)):
        ramp = np.clip((arm.wavelength - low) / (high - low), 0.06, 0.94)
        inside = (arm.wavelength > low - 0.1) & (arm.wavelength < high + 0.1)
        rising = arm.wavelength[0] > low - 0.1
        share = np.where(inside, ramp if rising else 1 - ramp, share)
    return share


def _observe_arm(arm: Arm, truth: Flux, sigma: Flux, rng: np.random.Generator) -> ArmData:
    own = (sigma / np.sqrt(arm_share(arm))).astype(np.float32)
    # pipelines know their noise to a few per cent only, and arms disagree by a fraction of a sigma
    honest = rng.normal(1.0, 0.04)
    offset = np.float32(0.05 * rng.standard_normal())
    noise = rng.standard_normal(truth.shape, dtype=np.float32) * np.float32(honest)
    mask = bad_pixels(truth.shape, rng)
    good = mask == 0
    flux = np.where(good, truth + own * (noise + offset), 0).astype(np.float32)
    return ArmData(flux=flux, ivar=np.where(good, 1 / np.square(own), 0).astype(np.float32), mask=mask)


def bad_pixels(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint32]:
    """SPECMASK bits of spoilt pixels: rows have 0 to 0.7 % of them, in runs of 1 to 6."""
    n, size = shape
    mask = np.zeros(shape, np.uint32)
    share = np.clip(0.0042 * rng.lognormal(-0.15, 0.5, n), 0, 0.0065) * (rng.random(n) > 0.05)
    runs = rng.poisson(share * size / 3.5)
    row = np.repeat(np.arange(n), runs)
    start, length = rng.integers(0, size, len(row)), rng.integers(1, 7, len(row))
    bit = rng.choice(list(MASK_BITS.values()), len(row), p=_BIT_SHARES).astype(np.uint32)
    for step in range(6):
        use = length > step
        mask[row[use], np.minimum(start[use] + step, size - 1)] |= bit[use]
    return mask
