"""One file's worth of sky: draws targets, makes their light, spoils what has to be spoilt and observes it."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spectra.sky import anomalies, conditions, observing, population, redshifts
from spectra.sky.anomalies import Anomaly
from spectra.sky.grid import ARMS, GRID, Flux
from spectra.sky.recipe import SkyRecipe

Array = NDArray[np.float64]

STUCK, SKY, DEAD = 2, 3, 1
"""Rows per file that a reader must refuse: stuck positioners, sky fibres, targets with a bad fibre position."""
EXTRA: Final = STUCK + SKY + DEAD
_BANDS: Final = {"G": (3980.0, 5480.0, 4800.0), "R": (5680.0, 7150.0, 6400.0), "Z": (8300.0, 9824.0, 9000.0)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointing:
    """Everything the files of one pointing hold. Science rows come first here; ``order`` shuffles them into fibre order."""

    targets: population.Targets
    labels: NDArray[np.str_]
    conditions: conditions.Conditions
    arms: dict[str, observing.ArmData]
    """All rows: science, then stuck, sky and dead."""
    photometry: dict[str, Array]
    """Fibre fluxes in nanomaggies per band G, R, Z; science rows."""
    fit: redshifts.Fit


@dataclass(frozen=True, kw_only=True, slots=True)
class _Streams:
    """Independent random streams, so that one stage's draws never shift another's."""

    targets: np.random.Generator
    light: np.random.Generator
    weather: np.random.Generator
    spoil: np.random.Generator
    noise: np.random.Generator
    fit: np.random.Generator
    fault: np.random.Generator


def take(recipe: SkyRecipe, program: str, index: int, n: int) -> Pointing:
    """The ``index``-th pointing of a program with ``n`` science targets."""
    streams = _streams(recipe, program, index)
    mix = dict(recipe.programs)
    targets = population.draw_targets(program, n, streams.targets, mix=mix)
    labels = anomalies.draw_labels(targets.spectype, recipe.anomaly_share, streams.targets)
    place = conditions.draw_conditions(program, n + EXTRA, streams.weather)
    sky = conditions.sky_sigma(place, streams.weather)
    light = _light(targets, labels, streams, program, mix) * conditions.dust_transmission(place.dust[:n])
    flux = light * _scale(light, sky[:n], targets.snr, exposure=place.exposure)
    arms = _observed(recipe, place, flux, sky, labels, streams)
    snr = median_snr(arms)[:n]
    fit = redshifts.fit(targets, snr, labels, _usable(arms)[:n], streams.fit)
    fit = redshifts.mistaken_for_quasars(fit, snr, share=recipe.quasar_fault, rng=streams.fault)
    return Pointing(targets=targets, labels=labels, conditions=place, arms=arms, photometry=_photometry(flux), fit=fit)


def _streams(recipe: SkyRecipe, program: str, index: int) -> _Streams:
    survey = int.from_bytes(recipe.survey.encode(), "big")
    root = np.random.SeedSequence([recipe.seed, recipe.night, survey, index, ("dark", "bright").index(program)])
    return _Streams(**dict(zip(_Streams.__slots__, map(np.random.default_rng, root.spawn(len(_Streams.__slots__))), strict=True)))


def median_snr(arms: dict[str, observing.ArmData]) -> Array:
    """Median flux*sqrt(ivar) of the arms' good pixels per row; 0 where there is none. [n]"""
    significance = np.concatenate([a.flux * np.sqrt(a.ivar) for a in arms.values()], axis=1)
    significance[np.concatenate([a.ivar == 0 for a in arms.values()], axis=1)] = np.nan
    usable = ~np.all(np.isnan(significance), axis=1)
    snr = np.zeros(len(significance))
    snr[usable] = np.nanmedian(significance[usable], axis=1)
    return snr


def _usable(arms: dict[str, observing.ArmData]) -> NDArray[np.int64]:
    return np.asarray(sum(np.count_nonzero(a.ivar, axis=1) for a in arms.values()), np.int64)


def _light(targets: population.Targets, labels: NDArray[np.str_], streams: _Streams, program: str, mix: dict[str, float]) -> Flux:
    """Noise-free light of unit median; blends get a second, different object; some wrong classes are carbon stars."""
    wrong = labels == Anomaly.WRONG_CLASS
    carbon = wrong & (targets.names == "MWS") & (streams.spoil.random(len(targets)) < 0.4)
    light = population.render(targets, streams.light, carbon=carbon)
    rows = np.flatnonzero(labels == Anomaly.BLEND)
    if rows.size:
        others = population.draw_targets(program, rows.size, streams.spoil, mix=mix)
        light[rows] = anomalies.blended(light[rows], population.render(_unlike(targets, rows, others), streams.spoil), streams.spoil)
    return light


def _unlike(targets: population.Targets, rows: NDArray[np.int64], others: population.Targets) -> population.Targets:
    """Companions that differ in class from what they are blended with: where a draw does not, a sun-like star steps in."""
    same = (others.spectype == targets.spectype[rows]) & (np.abs(others.z - targets.z[rows]) < 0.1)
    star = [k.name for k in population.KINDS].index("MWS")
    temperature = np.where(same, 5800.0, others.temperature)
    return population.Targets(
        kind=np.where(same, star, others.kind), z=np.where(same, 0.0, others.z), snr=others.snr, temperature=temperature
    )


def _scale(light: Flux, sky: Flux, snr: Array, *, exposure: float) -> Flux:
    """Factor per row that gives the wanted median S/N, with the target's own photons in the noise; fixed point on thinned pixels."""
    thin, thin_sky = light[:, ::12], sky[:, ::12]
    factor = np.ones((len(light), 1), np.float32)
    for _ in range(12):
        sigma = observing.photon_sigma(thin * factor, thin_sky, exposure=exposure, pixels=slice(None, None, 12))
        reached = np.median(thin * factor / sigma, axis=1, keepdims=True)
        factor *= (snr[:, None] / np.maximum(reached, 1e-6)).astype(np.float32)
    return factor


def _observed(
    recipe: SkyRecipe, place: conditions.Conditions, flux: Flux, sky: Flux, labels: NDArray[np.str_], streams: _Streams
) -> dict[str, observing.ArmData]:
    """All rows through the spectrograph: science with its anomalies, then stuck, sky and dead fibres."""
    n = len(flux)
    truth = np.zeros_like(sky)
    truth[:n] = flux * conditions.calibration(place, streams.weather, throughput_loss=recipe.throughput_loss)[:n]
    sigma = observing.photon_sigma(truth, sky, exposure=place.exposure) * np.float32(recipe.noise_factor)
    truth += anomalies.ordinary_residual(sky, streams.weather)
    failed = np.flatnonzero(labels == Anomaly.SKY_RESIDUAL)
    truth[failed] += anomalies.failed_sky(sigma[failed], streams.spoil)
    stepped = np.flatnonzero(labels == Anomaly.AMPLIFIER_STEP)
    steps = {arm.name: np.zeros((len(sky), arm.size), np.float32) for arm in ARMS}
    for name, step in anomalies.amplifier_step(flux[stepped], sigma[stepped], streams.spoil).items():
        steps[name][stepped] = step
    arms = observing.observe(truth, sigma, steps, streams.noise)
    for data in arms.values():
        observing.kill(data, slice(n, n + STUCK))
        observing.kill(data, slice(n + STUCK + SKY, None))
    return arms


def _photometry(flux: Flux) -> dict[str, Array]:
    """Fibre fluxes through box bands, nanomaggies: 1e-17 erg/s/cm²/Å at 6400 Å is 3.76."""
    out = {}
    for band, (low, high, centre) in _BANDS.items():
        inside = (low <= GRID) & (high >= GRID)
        out[band] = flux[:, inside].mean(axis=1, dtype=np.float64) * 3.76 * (centre / 6400.0) ** 2
    return out
