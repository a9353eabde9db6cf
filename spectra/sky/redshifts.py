"""What the survey's redshift fitter would have said: usually right, and wrong where it is wrong in life."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spectra.sky.anomalies import Anomaly
from spectra.sky.population import KINDS, Targets, subtypes

Array = NDArray[np.float64]

FAINT_SNR: Final = 2.0
"""Median S/N per pixel below which a spectrum counts as faint."""
SMALL_DELTA_CHI2: Final = 4
NEGATIVE_MODEL: Final = 8
_EASE: Final = {"BGS": 22.0, "LRG": 30.0, "ELG": 48.0, "QSO": 45.0, "MWS": 26.0, "WD": 26.0}
"""DELTACHI2 per squared S/N: what lines and breaks of a kind are worth."""
_ERRORS: Final = {"BGS": 4e-5, "LRG": 9e-5, "ELG": 3e-5, "QSO": 6e-4, "MWS": 2e-5, "WD": 8e-5}
"""ZERR/(1+z) at S/N 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Columns of REDSHIFTS, one element per target."""

    z: Array
    zerr: Array
    zwarn: NDArray[np.int64]
    chi2: Array
    deltachi2: Array
    spectype: NDArray[np.str_]
    subtype: NDArray[np.str_]
    coeff: Array
    """[n, 10], zero beyond ncoeff."""
    ncoeff: NDArray[np.int64]


def fit(targets: Targets, snr: Array, labels: NDArray[np.str_], pixels: NDArray[np.int64], rng: np.random.Generator) -> Fit:
    """Imitates redrock on ``targets`` as observed at ``snr`` with ``pixels`` usable pixels each."""
    n = len(targets)
    delta = _table(_EASE, targets) * np.maximum(snr, 0.02) ** 1.7 * rng.lognormal(0, 0.7, n) + rng.exponential(3.0, n)
    delta = np.where(labels == Anomaly.WRONG_CLASS, rng.uniform(4, 32, n) * np.maximum(snr / 8, 1), delta)
    delta = np.where(labels != Anomaly.NONE, np.minimum(delta, 900 * rng.lognormal(0, 1, n)), delta)
    spectype, subtype = targets.spectype.astype("U6"), np.array(subtypes(targets), dtype="U20")
    z, zerr = _measured(targets, snr, rng)
    failed = (rng.random(n) < 0.9 * np.exp(-delta / 6.0)) | (labels == Anomaly.WRONG_CLASS)
    _spoil(failed, labels, z, spectype, subtype, rng)
    zwarn = np.where(delta < 9, SMALL_DELTA_CHI2, 0) | np.where(rng.random(n) < 0.004, NEGATIVE_MODEL, 0)
    ncoeff = np.array([{"GALAXY": 10, "QSO": 4, "STAR": 5}[c] for c in spectype])
    return Fit(
        z=z, zerr=zerr, zwarn=zwarn.astype(np.int64), chi2=_chi2(snr, labels, pixels, rng), deltachi2=delta,
        spectype=spectype, subtype=subtype, coeff=_coefficients(snr, ncoeff, rng), ncoeff=ncoeff,
    )  # fmt: skip


def mistaken_for_quasars(found: Fit, snr: Array, *, share: float, rng: np.random.Generator) -> Fit:
    """Return ``found`` with this share of its galaxies below FAINT_SNR called quasars, as sure of it as before: templates that were swapped warn of nothing."""
    wrong = (found.spectype == "GALAXY") & (snr < FAINT_SNR) & (rng.random(len(snr)) < share)
    spectype, subtype = np.where(wrong, "QSO", found.spectype), np.where(wrong, "", found.subtype)
    return replace(found, spectype=spectype, subtype=subtype, ncoeff=np.where(wrong, 4, found.ncoeff))


def _table(values: dict[str, float], targets: Targets) -> Array:
    return np.array([values[k.name] for k in KINDS])[targets.kind]


def _measured(targets: Targets, snr: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Redshifts with their errors; quasars are also truly uncertain by their own winds, beyond the quoted error."""
    zerr = _table(_ERRORS, targets) * (1 + targets.z) * rng.lognormal(0, 0.25, len(targets)) / np.sqrt(np.maximum(snr, 0.1))
    wind = np.where(targets.spectype == "QSO", 1e-3 * (1 + targets.z), 0.0)
    return targets.z + np.hypot(1.1 * zerr, wind) * rng.standard_normal(len(targets)), zerr


def _spoil(
    failed: NDArray[np.bool_],
    labels: NDArray[np.str_],
    z: Array,
    spectype: NDArray[np.str_],
    subtype: NDArray[np.str_],
    rng: np.random.Generator,
) -> None:
    """Replaces, in place, the answers of failed fits: a false redshift, and for a wrong class a false class too."""
    wrong = labels == Anomaly.WRONG_CLASS
    low_signal = failed & ~wrong
    spectype[low_signal & (rng.random(len(z)) < 0.3)] = "GALAXY"
    spectype[wrong] = "GALAXY"
    subtype[spectype == "GALAXY"] = ""
    extragalactic = failed & (spectype != "STAR")
    z[extragalactic] = rng.uniform(0.02, 1.65, int(extragalactic.sum()))


def _chi2(snr: Array, labels: NDArray[np.str_], pixels: NDArray[np.int64], rng: np.random.Generator) -> Array:
    """Templates miss a few per cent of a spectrum, so reduced chi-squared climbs with S/N; anomalies fit worse."""
    anomaly = np.where(labels != Anomaly.NONE, rng.uniform(0.1, 1.5, len(snr)), 0.0)
    reduced = 1.02 + 0.0016 * np.square(snr) + 0.02 * rng.standard_normal(len(snr)) + anomaly
    return np.asarray(np.maximum(reduced, 0.9) * pixels)


def _coefficients(snr: Array, ncoeff: NDArray[np.int64], rng: np.random.Generator) -> Array:
    """Template weights without meaning, of a plausible size: nobody should read more into them."""
    coeff = rng.standard_normal((len(snr), 10)) * (30 * np.maximum(snr, 0.1))[:, None] / np.arange(1, 11) ** 1.2
    return np.asarray(np.where(np.arange(10) < ncoeff[:, None], coeff, 0.0))
