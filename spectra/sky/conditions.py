"""What stands between target and file: dust, exposure, fibres, petals and the noise they leave."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from spectra.sky.grid import GRID, Flux

Array = NDArray[np.float64]

FIBERS = 5000
PETAL_FIBERS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """One file's exposures and each row's place on the focal plane."""

    exposure: float
    """Seconds, all exposures together."""
    exposures: int
    sigma: float
    """Sky noise of a perfect fibre at the median of the noise shape, 1e-17 erg/s/cm²/Å."""
    dust: Array
    """E(B-V) per row, magnitudes."""
    fiber: NDArray[np.int64]
    moon: float
    """0 dark to 1 bright: how blue the sky background is."""

    @property
    def petal(self) -> NDArray[np.int64]:
        """Petal 0 to 9 of each row."""
        return self.fiber // PETAL_FIBERS


def draw_conditions(program: str, n: int, rng: np.random.Generator) -> Conditions:
    """One pointing: dark time is long and clean, bright time short under the Moon."""
    bright = program == "bright"
    exposures = int(rng.integers(1, 4 if bright else 6))
    exposure = exposures * float(rng.uniform(150, 300) if bright else rng.uniform(700, 1100))
    sigma = float((0.62 if bright else 0.27) * np.sqrt((180.0 if bright else 1000.0) / exposure) * rng.lognormal(0, 0.12))
    dust = np.clip(0.012 + rng.gamma(1.3, 0.035) * rng.lognormal(0, 0.08, n), 0, 0.6)
    fiber = np.sort(rng.choice(FIBERS, n, replace=False))
    return Conditions(
        exposure=exposure, exposures=exposures, sigma=sigma, dust=dust, fiber=fiber, moon=float(bright) * rng.uniform(0.3, 1.0)
    )


def dust_transmission(dust: Array) -> Flux:
    """Galactic extinction, float32 [n, 7781]: a power law through R(V) = 3.1 that is within 10 % of Fitzpatrick's from 3600 to 9800 Å."""
    return np.exp(-0.921 * 3.1 * dust[:, None] * (GRID / 5500.0) ** -1.25).astype(np.float32)


def sky_sigma(conditions: Conditions, rng: np.random.Generator) -> Flux:
    """Noise of each row without the target's own photons, float32 [n, 7781]: measured shape over fibre throughput."""
    blue = 1 + 0.25 * conditions.moon * np.clip((5500.0 - GRID) / 1500.0, -0.3, 1)
    lines = (noise_shape() / smooth_shape()) ** rng.normal(1.0, 0.08)
    shape = (smooth_shape() * lines * blue).astype(np.float32)
    level = conditions.sigma / fiber_throughput(conditions.fiber)
    return np.asarray(shape * (level * rng.lognormal(0, 0.06, len(level)))[:, None], np.float32)


def fiber_throughput(fiber: NDArray[np.int64]) -> Array:
    """Relative throughput of fibres, the same every night: petals differ by a few per cent, fibres at a petal's edge lose a little."""
    petals = np.array([1.00, 1.02, 0.98, 0.93, 1.01, 1.03, 0.99, 0.96, 1.02, 1.00])
    place = (fiber % PETAL_FIBERS) / PETAL_FIBERS
    return np.asarray(petals[fiber // PETAL_FIBERS] * (1 - 0.05 * np.abs(2 * place - 1) ** 3))


def calibration(conditions: Conditions, rng: np.random.Generator, *, throughput_loss: float) -> Flux:
    """What the flux calibration got wrong, float32 [n, 7781]: a per cent of slow colour per petal, and any loss it never noticed."""
    x = (GRID - 6700.0) / 3100.0
    tilt, bend = 0.010 * rng.standard_normal(10), 0.008 * rng.standard_normal(10)
    per_petal = 1 + tilt[:, None] * x + bend[:, None] * (x**2 - 0.33)
    lost = 1 - throughput_loss * np.clip((6000.0 - GRID) / 2400.0, 0, 1)
    return np.asarray((per_petal * lost)[conditions.petal], np.float32)


@cache
def noise_shape() -> Array:
    """sigma(wavelength) over its median, [7781], measured on public coadds; see noise_shape.json."""
    table = json.loads(resources.files("spectra.sky").joinpath("noise_shape.json").read_text("utf-8"))
    return np.asarray(np.exp(np.interp(GRID, table["wavelength"], np.log(table["sigma"]))))


@cache
def smooth_shape() -> Array:
    """The noise shape without its sky lines: a running 15 % quantile over 120 Å, smoothed."""
    shape, half = noise_shape(), 75
    padded = np.pad(shape, half, mode="edge")
    low = np.quantile(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), 0.15, axis=1)
    kernel = np.ones(61) / 61
    return np.minimum(np.convolve(np.pad(low, 30, mode="edge"), kernel, mode="valid"), shape)
