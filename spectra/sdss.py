"""SDSS and BOSS spec-*.fits: one object a file, read by HDU index (1: spectrum, 2: catalogue row), vacuum wavelengths.

The log-wavelength pixels (69 km/s) are resampled to the common grid. A pixel is used when its ivar is positive: the
pipeline sets ivar 0 on the bad ones, while and_mask also carries information only (on half of the pixels of some plates).
"""

from datetime import date, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spectra import metadata as meta
from spectra import refusals
from spectra.arms import snr
from spectra.batch import SpectrumBatch, empty
from spectra.errors import SpectraError
from spectra.grid import NODATA, WAVELENGTH
from spectra.hdus import Hdu, Hdus
from spectra.metadata import magnitude
from spectra.resampling import edges, resample
from spectra.tables import Table

_SPECTRUM, _CATALOGUE = 1, 2
_MAX_PIXELS: Final = 100_000
"""Pixels of one spectrum; SDSS has about 3,850, BOSS 4,650."""

_GRID_EDGES: Final = edges(WAVELENGTH)
_MJD_ZERO: Final = date(1858, 11, 17)


def matches(hdus: Hdus) -> bool:
    """Say whether HDU 1 is a table with flux over log-wavelength."""
    if len(hdus) <= _SPECTRUM or not hdus[_SPECTRUM].is_table:
        return False
    return {"FLUX", "LOGLAM", "IVAR"} <= {column.upper() for column in hdus[_SPECTRUM].columns}


def read(hdus: Hdus, *, name: str) -> SpectrumBatch:
    """Return the one spectrum of an open SDSS file, or none and its refusal. Raises SpectraError when the file is not as documented."""
    loglam, flux, ivar = _spectrum(hdus, name=name)
    row = Table(hdus[_CATALOGUE], name=name) if len(hdus) > _CATALOGUE else None
    facts = _facts(row if row is not None and row.rows else None, hdus[0])
    broken = ~(np.isfinite(flux) & np.isfinite(ivar) & (ivar >= 0))
    flux, ivar = np.where(broken, 0, flux), np.where(broken, 0, ivar)
    new_flux, new_ivar = (values.astype(np.float32)[None] for values in resample(10 ** edges(loglam), flux, ivar, new_edges=_GRID_EDGES))
    if reason := _reason(broken, new_ivar):
        targetid = np.array([facts["targetid"]])
        return empty(tuple(refusals.rows([reason], targetid=targetid, numbers=[0], name=name)))
    return _batch(new_flux, new_ivar, {**facts, "source_file": name})


def _batch(flux: NDArray[np.float32], ivar: NDArray[np.float32], facts: dict[str, Any]) -> SpectrumBatch:
    masked = float(np.mean(ivar == 0))
    return SpectrumBatch(
        wavelength=WAVELENGTH,
        flux=flux,
        ivar=ivar,
        mask=np.where(ivar > 0, 0, NODATA).astype(np.uint32),
        targetid=np.array([facts["targetid"]], np.int64),
        metadata=meta.table(1, {**facts, "snr": snr(flux, ivar), "masked_fraction": masked}),
    )


def _reason(broken: NDArray[np.bool_], ivar: NDArray[np.float32]) -> str:
    if broken.sum() * 2 > broken.size:
        return f"at most half of the pixels may be broken, but {broken.sum()} of {broken.size} have no finite flux or inverse variance"
    return "" if ivar.any() else "a spectrum must have a usable pixel on 3600 to 9824 Å, but its inverse variance is 0 everywhere there"


def _spectrum(hdus: Hdus, *, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    table = Table(hdus[_SPECTRUM], name=name)
    if not 2 <= table.rows <= _MAX_PIXELS:
        raise SpectraError(f"{name} must have 2 to {_MAX_PIXELS} pixels, found {table.rows}; it is no SDSS spectrum: leave it out")
    loglam = table.floats("loglam")
    if not (np.all(np.diff(loglam) > 0) and loglam[0] > 3 and loglam[-1] < 5):  # NaN fails the first test
        raise SpectraError(f"{name} must have increasing log10 wavelengths (Å) between 3 and 5 in loglam, found others; leave it out")
    return loglam, table.floats("flux"), table.floats("ivar")


def _facts(row: Table | None, header: Hdu) -> dict[str, Any]:
    """Return the metadata of the object; a file without a catalogue row has what its header says."""
    plate, mjd, fiber = (_integer(row, header, *names) for names in (("PLATE", "PLATEID"), ("MJD", "MJD"), ("FIBERID", "FIBERID")))
    facts = {"targetid": _targetid(row, plate=plate, mjd=mjd, fiber=fiber), "survey": "sdss", "fiber": fiber, "night": _night(mjd)}
    if row is None:
        return facts
    return {
        **facts,
        "survey": row.texts("SURVEY")[0].lower() or "sdss",
        "program": row.texts("PROGRAMNAME")[0].lower(),
        "spectype": row.texts("CLASS")[0],
        "subtype": row.texts("SUBCLASS")[0],
        "z": row.floats("Z")[0],
        "zerr": row.floats("Z_ERR")[0],
        "zwarn": int(row.integers("ZWARNING")[0]),
        "deltachi2": row.floats("RCHI2DIFF")[0] * row.floats("DOF")[0],
        "mag_r": _mag_r(row),
    }


def _integer(row: Table | None, header: Hdu, column: str, keyword: str) -> int:
    if row is not None and column in row:
        return int(row.integers(column)[0])
    value = header.get(keyword)
    return value if isinstance(value, int) else -1


def _targetid(row: Table | None, *, plate: int, mjd: int, fiber: int) -> int:
    """Return SPECOBJID, stored as text or integer; made from plate, fibre and day as SDSS does (without the run) where it is missing."""
    column = row.first("SPECOBJID", "SPECOBJID_DR8") if row is not None else None
    stored = str(row.raw(column)[0]).strip() if row is not None and column else ""
    if stored.isdigit() and 0 < int(stored) < 2**63:
        return int(stored)
    if min(plate, mjd - 50000, fiber) < 0 or plate >= 2**13 or fiber >= 2**12 or mjd - 50000 >= 2**14:
        return -1
    return plate << 50 | fiber << 38 | (mjd - 50000) << 24


def _night(mjd: int) -> int:
    """Return the modified Julian day as yyyymmdd, -1 when unknown."""
    if not 0 < mjd < 200_000:
        return -1
    day = _MJD_ZERO + timedelta(days=mjd)
    return day.year * 10000 + day.month * 100 + day.day


def _mag_r(row: Table) -> float:
    """Return the magnitude of the r band in SPECTROFLUX (u, g, r, i, z; nanomaggies)."""
    flux = row.raw("SPECTROFLUX") if "SPECTROFLUX" in row else np.zeros((1, 0))
    return float(magnitude(flux[0, 2])[()]) if flux.ndim == 2 and flux.shape[1] == 5 else float("nan")
