"""What a DESI file says about each of its rows: from FIBERMAP, EXP_FIBERMAP, SCORES, the primary header and the name.

Healpix coadds have no petal, fibre, tile or night in FIBERMAP; those come from EXP_FIBERMAP, which has several rows per
target: petal, fibre and tile of its first good exposure, and the latest night of all.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spectra.hdus import Hdu, Hdus
from spectra.matching import first_match, taken
from spectra.metadata import magnitude
from spectra.tables import Table

GOOD_STATUS: Final = (0, 8)
"""FIBERSTATUS values of a usable fibre: nothing, or only RESTRICTED (bit 3), which informs."""

SKY_BIT: Final = 1 << 32
"""DESI_TARGET bit of sky positions, the same in the SV columns."""

_TARGET_COLUMNS: Final = ("DESI_TARGET", "SV3_DESI_TARGET", "SV2_DESI_TARGET", "SV1_DESI_TARGET")
_HEALPIX_NAME: Final = re.compile(r"^[a-z]+-(?P<survey>cmx|sv1|sv2|sv3|main|special)-(?P<program>[a-z]+[a-z0-9]*)-(?P<healpix>\d+)\.")

Columns = Mapping[str, Any]
"""Metadata columns by name: one value, or one per row."""


def columns(hdus: Hdus, fibers: Table, targetid: NDArray[np.int64], *, name: str) -> dict[str, Any]:
    """Return every metadata column that a DESI file itself can fill, one value per FIBERMAP row."""
    return {
        "targetid": targetid,
        **_origin(hdus[0], fibers, name=name),
        **_exposure(hdus, fibers, targetid, name=name),
        **_scores(hdus, targetid, name=name),
        "ebv": fibers.floats("EBV"),
        "mag_r": magnitude(fibers.floats("FLUX_R")),
        "fiberstatus": status(fibers),
        "desi_target": target_bits(fibers),
    }


def status(fibers: Table) -> NDArray[np.int64]:
    """Return COADD_FIBERSTATUS of a coadd, FIBERSTATUS of a spectra file, -1 where the file has neither."""
    return fibers.integers(fibers.first("COADD_FIBERSTATUS", "FIBERSTATUS") or "")


def target_bits(fibers: Table) -> NDArray[np.int64]:
    """Return DESI_TARGET, and where that has no science bit the survey-validation column that has one (SV files leave it 0)."""
    bits = fibers.integers("DESI_TARGET", missing=0)
    for column in _TARGET_COLUMNS[1:]:
        bits = np.where(bits & ~SKY_BIT == 0, bits | fibers.integers(column, missing=0), bits)
    return bits


def _origin(header: Hdu, fibers: Table, *, name: str) -> dict[str, Any]:
    """Return survey, program and healpix; the header wins over the file's name where they disagree."""
    match = _HEALPIX_NAME.match(name.rsplit("/", 1)[-1])
    named: Mapping[str, str] = match.groupdict() if match else {}
    survey = _text(header, "SURVEY") or named.get("survey") or _survey_of_columns(fibers)
    program = _text(header, "PROGRAM") or named.get("program", "")
    return {"survey": survey.lower(), "program": program.lower(), "healpix": _healpix(header, named)}


def _text(header: Hdu, keyword: str) -> str:
    return str(header.get(keyword) or "").strip()


def _survey_of_columns(fibers: Table) -> str:
    """Tell the survey of a tile file from its target column, as desitarget's `main_cmx_or_sv` does; unknown is empty."""
    column = fibers.first("SV3_DESI_TARGET", "SV2_DESI_TARGET", "SV1_DESI_TARGET", "CMX_TARGET")
    return column.split("_", maxsplit=1)[0].lower() if column else ""


def _healpix(header: Hdu, named: Mapping[str, str]) -> int:
    """Return the nested pixel number, -1 when unknown or numbered as rings. HPXNEST is the string 'True' in EDR files."""
    nested = str(header.get("HPXNEST", True)).strip().lower() in ("true", "t", "1")
    value = header.get("HPXPIXEL", named.get("healpix", -1))
    return int(value) if nested and str(value).isdigit() else -1


def _exposure(hdus: Hdus, fibers: Table, targetid: NDArray[np.int64], *, name: str) -> dict[str, NDArray[np.int64]]:
    """Return petal, fibre, tile and night: of FIBERMAP where it has them, else of EXP_FIBERMAP, else the header's."""
    wanted = {"petal": "PETAL_LOC", "fiber": "FIBER", "tileid": "TILEID", "night": "NIGHT"}
    exposures = Table(hdus["EXP_FIBERMAP"], name=name) if "EXP_FIBERMAP" in hdus else None
    result = {}
    for key, column in wanted.items():
        if column in fibers:
            result[key] = fibers.integers(column)
        elif exposures is not None and column in exposures and "TARGETID" in exposures:
            result[key] = _of_exposures(exposures, column, targetid)
        else:
            result[key] = np.full(fibers.rows, _header_integer(hdus[0], column.removesuffix("_LOC")))
    return result


def _of_exposures(exposures: Table, column: str, targetid: NDArray[np.int64]) -> NDArray[np.int64]:
    values = exposures.integers(column)
    preference = -values if column == "NIGHT" else ~np.isin(exposures.integers("FIBERSTATUS", missing=0), GOOD_STATUS)
    order = np.argsort(preference, kind="stable")
    index = first_match(exposures.targetids()[order], targetid)
    return np.asarray(taken(values[order], index, missing=-1), np.int64)


def _header_integer(header: Hdu, keyword: str) -> int:
    value = header.get(keyword)
    return value if isinstance(value, int) else -1


def _scores(hdus: Hdus, targetid: NDArray[np.int64], *, name: str) -> dict[str, NDArray[np.float64]]:
    """Return the pipeline's S/N per arm: of the coadd, or of the calibrated exposure in a spectra file."""
    scores = Table(hdus["SCORES"], name=name) if "SCORES" in hdus else None
    if scores is None or "TARGETID" not in scores:
        return {}
    ids = scores.targetids()
    index = np.arange(len(ids)) if np.array_equal(ids, targetid) else first_match(ids, targetid)
    result = {}
    for arm in ("B", "R", "Z"):
        column = scores.first(f"MEDIAN_COADD_SNR_{arm}", f"MEDIAN_CALIB_SNR_{arm}")
        if column:
            result[f"snr_{arm.lower()}"] = taken(scores.floats(column), index, missing=np.nan)
    return result
