"""Labelled anomalies: the families that surveys report, made on purpose so that finding them can be measured."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from spectra.sky.conditions import noise_shape, smooth_shape
from spectra.sky.grid import ARMS, GRID, Flux

SKY_FROM = 7500.0
"""Å: where failed sky subtraction shows."""


class Anomaly(StrEnum):
    """Labels in the truth file; the empty label is a normal spectrum."""

    NONE = ""
    BLEND = "blend"
    AMPLIFIER_STEP = "amplifier-step"
    SKY_RESIDUAL = "sky-residual"
    WRONG_CLASS = "wrong-class"


def draw_labels(spectype: NDArray[np.str_], share: float, rng: np.random.Generator) -> NDArray[np.str_]:
    """One label per target. Only stars and quasars get a wrong class, galaxies get most of the blends."""
    kinds = np.array([a.value for a in Anomaly][1:])
    label = np.where(rng.random(len(spectype)) < share, kinds[_kind(spectype, rng)], "")
    return np.asarray(label)


def _kind(spectype: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Index of the kind, weighted so that all four come out even although seven in ten targets are galaxies."""
    galaxy = rng.choice(4, len(spectype), p=(0.357, 0.3215, 0.3215, 0.0))
    other = rng.choice(4, len(spectype), p=(0.0, 0.0835, 0.0835, 0.833))
    return np.where(spectype == "GALAXY", galaxy, other)


def blended(flux: Flux, other: Flux, rng: np.random.Generator) -> Flux:
    """Two objects in one fibre: the second adds 40 to 120 % of the first one's median flux."""
    return np.asarray(flux + other * rng.uniform(0.4, 1.2, (len(flux), 1)), np.float32)


def amplifier_step(flux: Flux, sigma: Flux, rng: np.random.Generator) -> dict[str, Flux]:
    """Offsets to add per arm, [n, arm pixels]: one amplifier (half an arm) of each row stands too high or too low.

    The step is 0.6 to 2 times the median flux, at least 1.5 times the local noise: visible to a careful eye in any row.
    """
    n = len(flux)
    arm_of, half_of = rng.integers(0, 3, n), rng.integers(0, 2, n)
    sign, size, least = rng.choice((-1.0, 1.0), n), rng.uniform(0.6, 2.0, n), rng.uniform(1.5, 3.0, n)
    steps = {arm.name: np.zeros((n, arm.size), np.float32) for arm in ARMS}
    for row in range(n):
        arm = ARMS[arm_of[row]]
        noise = float(np.median(sigma[row, arm.pixels]))
        height = sign[row] * max(size[row] * float(np.median(np.abs(flux[row]))), least[row] * noise)
        pixels = slice(0, arm.size // 2) if half_of[row] else slice(arm.size // 2, arm.size)
        steps[arm.name][row, pixels] = height
    return steps


def sky_line_pattern() -> Flux:
    """Where sky lines stand above the smooth background, 0 elsewhere, in units of the smooth noise, [7781]."""
    excess = noise_shape() / smooth_shape() - 1
    dichroic = (GRID > 5780.0) & (GRID < 5880.0)  # noisy because two arms share the light, not because the sky shines
    return np.where((excess > 0.25) & ~dichroic, excess, 0).astype(np.float32)


def ordinary_residual(sigma: Flux, rng: np.random.Generator) -> Flux:
    """The small coherent residual every spectrum has: a few per cent of each line's brightness."""
    amplitude = 0.12 * rng.standard_normal((len(sigma), 1)).astype(np.float32)
    return np.asarray(amplitude * sigma * np.minimum(sky_line_pattern(), 3.0), np.float32)


def failed_sky(sigma: Flux, rng: np.random.Generator) -> Flux:
    """Sky subtraction that failed beyond 7500 Å: lines left in (or overdone) at many sigmas, and a pedestal under them."""
    n = len(sigma)
    sign, amplitude = rng.choice((-1.0, 1.0), (n, 1)), rng.uniform(2.0, 7.0, (n, 1))
    pedestal = 0.25 * amplitude * rng.uniform(0.2, 1.0, (n, 1))
    wiggle = 1 + 0.4 * np.sin(GRID[None, :] / rng.uniform(60, 200, (n, 1)) + rng.uniform(0, 6.28, (n, 1)))
    lines = np.minimum(sky_line_pattern(), 4.0) * wiggle
    return np.asarray(np.where(GRID >= SKY_FROM, sign * sigma * (amplitude * lines + pedestal), 0.0), np.float32)
