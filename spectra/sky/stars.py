"""Stars: black bodies crossed by Balmer, metal and molecular lines as temperature asks; white dwarfs; carbon stars."""

from functools import cache
from typing import Final

import numpy as np

from spectra.sky import features as f
from spectra.sky.grid import GRID, Flux

Array = f.Array

_WAVE: Final = np.arange(3560.0, 9870.0, 0.4)
_LOG_COOLEST, _LOG_HOTTEST, _STEPS = float(np.log(2900.0)), float(np.log(26000.0)), 56
_WD_COOLEST, _WD_HOTTEST, _WD_STEPS = float(np.log(7000.0)), float(np.log(32000.0)), 12
ABSORPTION_FLOOR: Final = 0.02


def spectral_type(temperature: Array) -> list[str]:
    """Letters as redrock's star templates are named."""
    return [str(t) for t in np.array(["M", "K", "G", "F", "A", "B"])[np.searchsorted((3850, 5250, 6000, 7400, 10000), temperature)]]


def star_flux(temperature: Array, metals: Array, velocity: Array) -> Flux:
    """Main-sequence spectra, unit median, [n, 7781]; ``metals`` scales line strengths (1 solar), ``velocity`` in km/s."""
    return _interpolated(_main_sequence(), np.log(temperature), (_LOG_COOLEST, _LOG_HOTTEST), metals, velocity)


def white_dwarf_flux(temperature: Array, velocity: Array) -> Flux:
    """DA white dwarfs: hot continua with broad hydrogen lines only."""
    return _interpolated(_white_dwarfs(), np.log(temperature), (_WD_COOLEST, _WD_HOTTEST), np.ones_like(temperature), velocity)


def carbon_star_flux(temperature: Array, velocity: Array) -> Flux:
    """Cool carbon stars with Swan bands, for which redrock has no template."""
    flux = star_flux(np.maximum(temperature, 3900.0), np.full_like(temperature, 0.8), velocity)
    for head, depth in f.SWAN:
        flux *= f.band(GRID, head, 0.85 * depth, length=130.0, to_red=False).astype(np.float32)
    for cyanogen in (6925.0, 7876.0, 8067.0, 9141.0):
        flux *= f.band(GRID, cyanogen, 0.35, length=110.0, to_red=True).astype(np.float32)
    return flux


def _interpolated(library: tuple[Array, Array], x: Array, ends: tuple[float, float], metals: Array, velocity: Array) -> Flux:
    continuum, absorption = library
    at = np.clip((x - ends[0]) / (ends[1] - ends[0]), 0, 1) * (len(continuum) - 1)
    low = np.minimum(at.astype(int), len(continuum) - 2)
    out = np.empty((len(x), GRID.size), np.float32)
    for row, (i, part) in enumerate(zip(low.tolist(), (at - low).tolist(), strict=True)):
        log_lines = (1 - part) * absorption[i] + part * absorption[i + 1]
        spectrum = ((1 - part) * continuum[i] + part * continuum[i + 1]) * np.exp(metals[row] * log_lines)
        out[row] = np.interp(GRID, _WAVE * (1 + velocity[row] / f.LIGHT), spectrum)
    return out / np.median(out, axis=1, keepdims=True)


@cache
def _main_sequence() -> tuple[Array, Array]:
    """Continua and ln(transmission), each [temperatures, wave]."""
    temperatures = np.exp(np.linspace(_LOG_COOLEST, _LOG_HOTTEST, _STEPS))
    forest = np.log(f.metal_forest(_WAVE, sigma=1.0, strength=1.0))
    continua = np.array([_continuum(float(t)) for t in temperatures])
    lines = np.array([_lines(float(t)) + _metallicity(float(t)) * forest for t in temperatures])
    return continua, np.maximum(lines, np.log(ABSORPTION_FLOOR))


def _metallicity(temperature: float) -> float:
    """How strongly neutral metals show: none in hot atmospheres."""
    return float(1.1 * f.rise(-temperature, -6300.0, 500.0) + 0.08)


def _hydrogen(temperature: float) -> float:
    """Strength of the Balmer lines, 1 at its peak near 9500 K."""
    width = 0.30 if temperature < 9500 else 0.65
    return float(np.exp(-0.5 * (np.log(temperature / 9500.0) / width) ** 2))


def _continuum(temperature: float) -> Array:
    """Black body, less what line blanketing (cool) and the Balmer edge (warm) take in the blue."""
    blanket = float(f.rise(-temperature, -5900.0, 450.0))
    veil = np.exp(-1.1 * blanket * np.maximum(4400 - _WAVE, 0) / 700.0)
    edge = 1 - 0.62 * _hydrogen(temperature) * f.rise(-_WAVE, -3705.0, 22.0)
    return np.asarray(f.planck(_WAVE, temperature) * veil * edge)


def _lines(temperature: float) -> Array:
    hydrogen = _hydrogen(temperature)
    t = np.ones_like(_WAVE)
    for order, centre in enumerate(f.BALMER):
        narrow, wide = np.hypot(1.8 + 2.0 * hydrogen, f.LSF), 3.0 + (13.0 - 0.8 * order) * hydrogen
        t *= f.dip(_WAVE, centre, (0.42 - 0.015 * order) * hydrogen**0.6, narrow) * f.dip(_WAVE, centre, 0.40 * hydrogen, wide)
    return np.asarray(np.log(np.maximum(t * _metal_lines(temperature) * _molecules(temperature), ABSORPTION_FLOOR)))


def _metal_lines(temperature: float) -> Array:
    def cooler(centre: float, width: float) -> float:
        return float(f.rise(-temperature, -centre, width))

    t = np.ones_like(_WAVE)
    for centre in f.CALCIUM_HK:
        t *= f.dip(_WAVE, centre, 0.88 * cooler(8000, 600), 1.5 + 7.0 * cooler(5900, 400))
    for centre in f.CALCIUM_TRIPLET:
        t *= f.dip(_WAVE, centre, 0.5 * cooler(8500, 900), 2.2)
    for centre in f.MAGNESIUM_B:
        t *= f.dip(_WAVE, centre, 0.5 * cooler(5600, 500), 1.4 + 2.0 * cooler(4600, 300))
    for centre in f.SODIUM_D:
        t *= f.dip(_WAVE, centre, 0.25 * cooler(6200, 500) + 0.6 * cooler(4500, 250), 1.2 + 3.5 * cooler(3900, 250))
    for centre in f.IRON:
        t *= f.dip(_WAVE, centre, 0.3 * cooler(5700, 500), 1.3)
    t *= f.dip(_WAVE, f.G_BAND, 0.40 * cooler(6300, 300) * (1 - 0.5 * cooler(4300, 300)), 9.0)
    t *= f.dip(_WAVE, 4227.9, 0.85 * cooler(4700, 300), 1.5 + 9.0 * cooler(4100, 250))
    t *= f.dip(_WAVE, 5110.0, 0.30 * cooler(4700, 250), 55.0)
    for centre in (8185.5, 8197.1):
        t *= f.dip(_WAVE, centre, 0.45 * cooler(3600, 150), 2.5)
    return t


def _molecules(temperature: float) -> Array:
    t = np.ones_like(_WAVE)
    strength = float(f.rise(-temperature, -3650.0, 130.0))
    for head, depth in f.TITANIUM_OXIDE:
        t *= f.band(_WAVE, head, 0.8 * depth * strength, length=140.0, to_red=True)
    for centre in (6385.0, 6830.0):
        t *= f.dip(_WAVE, centre, 0.4 * strength, 28.0)
    return t


@cache
def _white_dwarfs() -> tuple[Array, Array]:
    temperatures = np.exp(np.linspace(_WD_COOLEST, _WD_HOTTEST, _WD_STEPS))
    continua = np.array([f.planck(_WAVE, float(t)) for t in temperatures])
    return continua, np.array([_white_dwarf_lines(float(t)) for t in temperatures])


def _white_dwarf_lines(temperature: float) -> Array:
    strength = float(np.exp(-0.5 * (np.log(temperature / 12500.0) / 0.45) ** 2))
    t = np.ones_like(_WAVE)
    for order, centre in enumerate(f.BALMER[:7]):
        fade = strength * 0.86**order
        t *= f.dip(_WAVE, centre, 0.38 * fade, 9.0) * f.dip(_WAVE, centre, 0.42 * fade, 42.0 - 3 * order)
    return np.asarray(np.log(t))
