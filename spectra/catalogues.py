"""Redshifts (redrock, or ZBEST of old mocks) and truth (synthetic skies), joined to spectra on TARGETID.

A target listed twice takes its first row; a target that is not listed keeps the missing values.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spectra.errors import SpectraError
from spectra.hdus import Hdus
from spectra.matching import first_match, taken, taken_texts
from spectra.tables import Table

REDSHIFT_EXTENSIONS: Final = ("REDSHIFTS", "ZBEST")
TRUTH_EXTENSION: Final = "TRUTH"


def redshifts(hdus: Hdus, targetid: NDArray[np.int64], *, name: str) -> dict[str, Any]:
    """Return z, zerr, zwarn, deltachi2, spectype and subtype of each target. Raises SpectraError when there is no such table."""
    extension = next((extension for extension in REDSHIFT_EXTENSIONS if extension in hdus), None)
    if extension is None:
        raise SpectraError(f"{name} must have an HDU of {REDSHIFT_EXTENSIONS}, found none; fetch it again or move it away")
    table = Table(hdus[extension], name=name)
    index = first_match(table.targetids(), targetid)
    numbers = {"z": "Z", "zerr": "ZERR", "deltachi2": "DELTACHI2"}
    return {
        **{key: taken(table.floats(column), index, missing=np.nan) for key, column in numbers.items()},
        "zwarn": taken(table.integers("ZWARN"), index, missing=-1),
        "spectype": taken_texts(table.texts("SPECTYPE"), index),
        "subtype": taken_texts(table.texts("SUBTYPE"), index),
    }


def truth(hdus: Hdus, targetid: NDArray[np.int64], *, name: str) -> dict[str, Any]:
    """Return true_spectype, true_z, anomaly and has_truth of each target. Raises SpectraError when there is no such table."""
    if TRUTH_EXTENSION not in hdus:
        raise SpectraError(f"{name} must have an HDU {TRUTH_EXTENSION}, found none; write it again or move it away")
    table = Table(hdus[TRUTH_EXTENSION], name=name)
    index = first_match(table.targetids(), targetid)
    return {
        "true_spectype": taken_texts(table.texts("TRUESPECTYPE"), index),
        "true_z": taken(table.floats("TRUEZ"), index, missing=np.nan),
        "anomaly": taken_texts(table.texts("ANOMALY"), index),
        "has_truth": index >= 0,
    }
