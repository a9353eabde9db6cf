"""Lines and bands of stars and galaxies (vacuum wavelengths, Å) and the profiles they leave in a spectrum."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LIGHT: Final = 299_792.458
"""Speed of light, km/s."""
LSF: Final = 0.68
"""Sigma of the spectrograph's line spread, Å: 0.85 px of 0.8 Å (measured, all three arms within 10 %)."""

BALMER: Final = (6564.61, 4862.69, 4341.69, 4102.90, 3971.20, 3890.16, 3836.48, 3798.98, 3771.70, 3751.22, 3735.43)
CALCIUM_HK: Final = (3934.78, 3969.59)
CALCIUM_TRIPLET: Final = (8500.36, 8544.44, 8664.52)
MAGNESIUM_B: Final = (5168.76, 5174.13, 5185.05)
SODIUM_D: Final = (5891.58, 5897.56)
G_BAND: Final = 4306.0
IRON: Final = (4384.8, 4532.4, 4669.0, 5016.0, 5271.0, 5329.5, 5407.0, 5710.0)
TITANIUM_OXIDE: Final = (
    (4761, 0.5),
    (4954, 0.6),
    (5167, 0.7),
    (5449, 0.5),
    (5848, 0.5),
    (6159, 0.7),
    (6651, 0.6),
    (7054, 0.85),
    (7590, 0.8),
    (8433, 0.7),
    (8860, 0.6),
)
"""Band heads with relative depths; each degrades to the red."""
SWAN: Final = ((4737, 0.9), (5165, 1.0), (5636, 0.8), (6191, 0.4))
"""Band heads of C2 in carbon stars; each degrades to the blue."""
ULTRAVIOLET: Final = (
    (1260.4, 0.35),
    (1302.2, 0.35),
    (1334.5, 0.4),
    (1393.8, 0.35),
    (1402.8, 0.3),
    (1526.7, 0.3),
    (1548.2, 0.35),
    (1550.8, 0.3),
    (1670.8, 0.3),
)
"""Interstellar and wind lines of young galaxies with depths at the resolution of a galaxy's motions."""
NEAR_ULTRAVIOLET: Final = (
    (2344.2, 0.3),
    (2374.5, 0.25),
    (2382.8, 0.35),
    (2586.7, 0.3),
    (2600.2, 0.35),
    (2796.4, 0.45),
    (2803.5, 0.4),
    (2853.0, 0.15),
)


def planck(wave: Array, temperature: Array | float) -> Array:
    """Black body per wavelength in arbitrary units, 1 at 5500 Å."""
    x, x0 = 1.43877e8 / (wave * temperature), 1.43877e8 / (5500.0 * np.asarray(temperature))
    return (5500.0 / wave) ** 5 * np.expm1(x0) / np.expm1(np.minimum(x, 600.0))


def rise(x: Array | float, centre: float, width: float) -> Array:
    """0 far below ``centre``, 1 far above it."""
    return np.asarray(0.5 * (1 + np.tanh((np.asarray(x) - centre) / (2 * width))))


def dip(wave: Array, centre: float, depth: Array | float, sigma: Array | float) -> Array:
    """Transmission (1 is none lost) of one Gaussian absorption line."""
    return np.asarray(1 - np.asarray(depth) * np.exp(-0.5 * ((wave - centre) / sigma) ** 2))


def band(wave: Array, head: float, depth: Array | float, *, length: float, to_red: bool) -> Array:
    """Transmission of a molecular band: a sharp head, then fading over ``length`` Å."""
    away = (wave - head) if to_red else (head - wave)
    return np.asarray(1 - np.asarray(depth) * rise(away, 0.0, 2.0) * np.exp(-np.maximum(away, 0) / length))


def metal_forest(wave: Array, *, sigma: Array | float, strength: float) -> Array:
    """Transmission of the many weak metal lines of a cool atmosphere, ever denser to the blue.

    The line list is drawn once from a fixed seed: every star and galaxy shares it, as nature does.
    """
    rng = np.random.default_rng(4000)
    centres = 2000.0 * np.exp(rng.beta(1.3, 2.2, 1500) * np.log(9900 / 2000))
    equivalent = rng.gamma(0.8, 0.35, 1500) * np.minimum((4800 / centres) ** 1.5, 1.8) * rise(centres, 2300.0, 150.0)
    depth_sum = np.zeros_like(wave)
    widths = np.broadcast_to(np.asarray(sigma, dtype=float), wave.shape)
    for centre, width in zip(centres, equivalent, strict=True):
        near = int(np.searchsorted(wave, centre))
        s = float(widths[min(near, len(wave) - 1)])
        low, high = np.searchsorted(wave, (centre - 6 * s, centre + 6 * s))
        depth_sum[low:high] += width / (s * 2.5066) * np.exp(-0.5 * ((wave[low:high] - centre) / s) ** 2)
    return np.exp(-strength * depth_sum)
