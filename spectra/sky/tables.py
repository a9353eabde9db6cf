"""The tables of the survey's files: who each fibre looked at, how well, and what the fitter and the truth say."""

from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from spectra.sky import identity
from spectra.sky.observing import ArmData
from spectra.sky.pointing import DEAD, EXTRA, SKY, STUCK, Pointing
from spectra.sky.population import KINDS
from spectra.sky.recipe import SkyRecipe

Array = NDArray[np.float64]

_STUCK_STATUS, _POSITION_STATUS = 2, 512
_SKY_TARGET = 1 << 32
_TSNR2 = {
    "BGS": (180.0, 260.0, 330.0),
    "LRG": (0.35, 2.4, 2.2),
    "ELG": (0.033, 1.7, 4.6),
    "QSO": (0.9, 0.5, 1.0),
    "LYA": (23.0, 0.005, 0.0),
}
"""Effective signal per unit of median ivar in B, R, Z, near the values of a real coadd."""


def ids(point: Pointing, recipe: SkyRecipe, *, first: int) -> NDArray[np.int64]:
    """TARGETID of all rows: science and dead targets positive, stuck fibres negative, sky fibres with the sky flag."""
    n = len(point.targets)
    real = identity.target_ids(seed=recipe.seed, night=recipe.night, survey=recipe.survey, first=first, n=n + DEAD)
    sky = identity.target_ids(seed=recipe.seed, night=recipe.night, survey=recipe.survey, first=first, n=SKY, sky=True)
    stuck = -(np.arange(STUCK, dtype=np.int64) + 1 + 10_000 * (first // 10 + 1))
    return np.concatenate([real[:n], stuck, sky, real[n:]])


def fibermap(point: Pointing, recipe: SkyRecipe, targetid: NDArray[np.int64], pixel: int, rng: np.random.Generator) -> Table:
    """FIBERMAP: one row per fibre with targeting, photometry and exposure summary."""
    n, rows = len(point.targets), len(targetid)
    ra, dec = identity.positions(np.full(rows, pixel, np.int64), rng.integers(0, 4**10, rows))
    bits = _bits(point, rng)
    seen = np.r_[np.ones(n, bool), np.zeros(STUCK, bool), np.ones(SKY, bool), np.zeros(DEAD, bool)]
    survey_bits, main_bits = (bits, np.where(bits == _SKY_TARGET, bits, 0)) if recipe.survey == "sv3" else (np.zeros_like(bits), bits)
    table = Table({
        "TARGETID": targetid,
        "COADD_FIBERSTATUS": _rows(n, 0, _STUCK_STATUS, 0, _POSITION_STATUS, np.int32),
        "TARGET_RA": ra, "TARGET_DEC": dec,
        "OBJTYPE": _rows(n, "TGT", "", "SKY", "TGT", "S3"),
        "EBV": point.conditions.dust.astype(np.float32),
        "PHOTSYS": np.where(dec > 32.375, "N", "S").astype("S1"),
        "MORPHTYPE": _morphology(point, rng),
        "DESI_TARGET": main_bits, "SV3_DESI_TARGET": survey_bits,
        "PRIORITY_INIT": _rows(n, 3100, 0, 0, 3100, np.int64),
        "COADD_NUMEXP": np.where(seen, point.conditions.exposures, 0).astype(np.int16),
        "COADD_EXPTIME": np.where(seen, point.conditions.exposure, 0).astype(np.float32),
        "COADD_NUMNIGHT": seen.astype(np.int16), "COADD_NUMTILE": seen.astype(np.int16),
        "MEAN_DELTA_X": (0.004 * rng.standard_normal(rows)).astype(np.float32),
        "MEAN_DELTA_Y": (0.004 * rng.standard_normal(rows)).astype(np.float32),
    })  # fmt: skip
    for name, values in _fluxes(point, rng).items():
        table[name] = values
    return table


def exposure_map(point: Pointing, recipe: SkyRecipe, targetid: NDArray[np.int64], *, expid: int) -> Table:
    """EXP_FIBERMAP: one row per fibre and exposure; the only place of healpix coadds that knows petal and fibre."""
    times = point.conditions.exposures
    status = _rows(len(point.targets), 0, _STUCK_STATUS, 0, _POSITION_STATUS, np.int32)
    fiber = np.repeat(point.conditions.fiber, times)
    exposure = np.tile(np.arange(times), len(targetid))
    return Table({
        "TARGETID": np.repeat(targetid, times),
        "NIGHT": np.full(fiber.size, recipe.night, np.int32), "EXPID": (expid + exposure).astype(np.int32),
        "TILEID": np.full(fiber.size, 1000 + expid // 10 % 20000, np.int32),
        "EXPTIME": np.full(fiber.size, point.conditions.exposure / times),
        "PETAL_LOC": (fiber // 500).astype(np.int16), "DEVICE_LOC": (fiber % 500).astype(np.int32),
        "LOCATION": (fiber // 500 * 1000 + fiber % 500).astype(np.int64), "FIBER": fiber.astype(np.int32),
        "FIBERSTATUS": np.repeat(status, times),
    })  # fmt: skip


def scores(targetid: NDArray[np.int64], arms: dict[str, ArmData]) -> Table:
    """SCORES: flux and S/N summaries per arm and the template S/N of TSNR2."""
    table = Table({"TARGETID": targetid})
    for name, arm in arms.items():
        table[f"INTEG_COADD_FLUX_{name}"] = (arm.flux.sum(axis=1, dtype=np.float64) * 0.8).astype(np.float32)
        table[f"MEDIAN_COADD_FLUX_{name}"] = np.median(arm.flux, axis=1)
        table[f"MEDIAN_COADD_SNR_{name}"] = np.median(arm.flux * np.sqrt(arm.ivar), axis=1)
    template = template_snr(targetid, arms)
    for column in template.colnames[1:]:
        table[column] = template[column]
    return table


def template_snr(targetid: NDArray[np.int64], arms: dict[str, ArmData]) -> Table:
    """TSNR2: squared template S/N per target class, per arm and in all."""
    table = Table({"TARGETID": targetid})
    typical = {name: np.median(arm.ivar, axis=1) for name, arm in arms.items()}
    for kind, weights in _TSNR2.items():
        total = np.zeros(len(targetid), np.float32)
        for (name, ivar), weight in zip(typical.items(), weights, strict=True):
            table[f"TSNR2_{kind}_{name}"] = (weight * ivar).astype(np.float32)
            total += table[f"TSNR2_{kind}_{name}"]
        table[f"TSNR2_{kind}"] = total
    return table


def redshifts(point: Pointing, targetid: NDArray[np.int64]) -> Table:
    """REDSHIFTS: the fitter's answers; fibres without a target carry its flags for that (SKY, or UNPLUGGED with NODATA)."""
    fit = point.fit
    zwarn = np.r_[fit.zwarn, _rows(0, 0, (1 << 7) | (1 << 9) | 4, 1 | 4, (1 << 9) | 4, np.int64)]
    return Table({
        "TARGETID": targetid, "CHI2": np.r_[fit.chi2, np.full(EXTRA, 9e99)], "COEFF": np.vstack([fit.coeff, np.zeros((EXTRA, 10))]),
        "Z": np.r_[fit.z, np.full(EXTRA, -0.002)], "ZERR": np.r_[fit.zerr, np.full(EXTRA, 3.9e-16)], "ZWARN": zwarn,
        "NPIXELS": np.asarray(sum(np.count_nonzero(a.ivar, axis=1) for a in point.arms.values()), np.int64),
        "SPECTYPE": np.r_[fit.spectype, _rows(0, "", "STAR", "STAR", "STAR", "U6")].astype("S6"),
        "SUBTYPE": np.r_[fit.subtype, np.full(EXTRA, "")].astype("S20"),
        "NCOEFF": np.r_[fit.ncoeff, np.full(EXTRA, 5)].astype(np.int64),
        "DELTACHI2": np.r_[fit.deltachi2, np.full(EXTRA, 1.0)],
    })  # fmt: skip


def truth(point: Pointing, targetid: NDArray[np.int64]) -> Table:
    """TRUTH: class, redshift and anomaly label of every row; empty and NaN for fibres without a target's light."""
    nothing = np.full(EXTRA, "")
    return Table({
        "TARGETID": targetid,
        "TRUESPECTYPE": np.r_[point.targets.spectype, nothing].astype("S6"),
        "TRUEZ": np.r_[point.targets.z, np.full(EXTRA, np.nan)],
        "ANOMALY": np.r_[point.labels, nothing].astype("S14"),
        "TRUEKIND": np.r_[point.targets.names, nothing].astype("S4"),
    })  # fmt: skip


def _rows(n: int, science: Any, stuck: Any, sky: Any, dead: Any, dtype: Any) -> NDArray[Any]:
    """One value per group of rows, in their order."""
    return np.array([science] * n + [stuck] * STUCK + [sky] * SKY + [dead] * DEAD, dtype=dtype)


def _bits(point: Pointing, rng: np.random.Generator) -> NDArray[np.int64]:
    """DESI_TARGET: the kind's bit; some bright LRG are BGS too, as in life, so bits are no partition."""
    bits = np.array([1 << k.bit for k in KINDS], np.int64)[point.targets.kind]
    both = (point.targets.names == "BGS") & (point.targets.z > 0.3) & (rng.random(len(bits)) < 0.4)
    science = bits | np.where(both, 1, 0)
    return np.asarray(np.r_[science, _rows(0, 0, 0, _SKY_TARGET, 1 << 1, np.int64)], np.int64)


def _morphology(point: Pointing, rng: np.random.Generator) -> NDArray[np.bytes_]:
    galaxy = rng.choice(["DEV", "EXP", "REX", "SER"], len(point.targets), p=(0.3, 0.3, 0.25, 0.15))
    science = np.where(point.targets.spectype == "GALAXY", galaxy, "PSF")
    return np.asarray(np.r_[science, _rows(0, "", "", "", "EXP", "U4")], "S4")


def _fluxes(point: Pointing, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Imaging: fibre flux from the spectrum before any fault of the instrument, total flux by how much of it a fibre catches."""
    n = len(point.targets)
    caught = np.where(point.targets.spectype == "GALAXY", rng.uniform(0.3, 0.75, n), 0.78)
    out = {}
    for band, flux in point.photometry.items():
        out[f"FIBERFLUX_{band}"], out[f"FLUX_{band}"] = _padded(flux), _padded(flux / caught)
    red = np.array([2.2, 2.8, 1.2, 1.6, 0.35, 0.1])[point.targets.kind] * rng.lognormal(0, 0.3, n)
    out["FLUX_W1"], out["FLUX_W2"] = _padded(point.photometry["Z"] / caught * red), _padded(point.photometry["Z"] / caught * red * 0.7)
    return out


def _padded(science: Array) -> NDArray[np.float32]:
    return np.asarray(np.r_[science, np.zeros(EXTRA)], np.float32)
