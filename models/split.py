"""Who learns, who chooses the threshold, who judges: decided by a hash of the target, the same in every run.

The same object may have several spectra, and spectra of one tile share sky, calibration and weather. So a row is never drawn by
itself: whole tiles (or healpix, or files) are held out when there are enough of them, else whole targets.
"""

import hashlib
from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MIN_GROUPS = 8
"""Fewer tiles, healpix or files than this, and holding out whole ones would leave too little on one side."""


class Part(StrEnum):
    """What a spectrum is used for."""

    TRAIN = "train"
    VALIDATION = "validation"
    HELDOUT = "heldout"


def split(metadata: pd.DataFrame, *, heldout: float, validation: float) -> tuple[NDArray[np.str_], str]:
    """Return the part of each row, and by what it was decided: "group" (tile, else healpix, else file) or "target".

    ``heldout`` is a share of all targets, ``validation`` a share of the others. A target that appears in a held-out group is held
    out everywhere.
    """
    target = metadata["targetid"].astype(str)
    held, kind = _heldout(metadata, target, share=heldout)
    spared = ~held & (_fraction(target, "validation") < validation)
    return np.where(held, Part.HELDOUT.value, np.where(spared, Part.VALIDATION.value, Part.TRAIN.value)), kind


def _heldout(metadata: pd.DataFrame, target: "pd.Series[str]", *, share: float) -> tuple[NDArray[np.bool_], str]:
    group = _group(metadata)
    if group.nunique() >= MIN_GROUPS:
        chosen = _fraction(group, "heldout") < share
        held = target.isin(set(target[chosen])).to_numpy(dtype=bool)
        if share / 2 <= held.mean() <= min(0.9, share * 1.6):
            return held, "group"
    return _fraction(target, "heldout") < share, "target"


def _group(metadata: pd.DataFrame) -> "pd.Series[str]":
    """Return tile, else healpix, else file of each row: what shares its night, sky and calibration."""
    name = "file " + metadata["source_file"].astype(str)
    for column in ("healpix", "tileid"):
        value = metadata[column].fillna(-1).astype("int64")
        name = name.where(value < 0, column + " " + value.astype(str))
    return name


def _fraction(names: "pd.Series[str]", purpose: str) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each name, from a hash: independent of order, run and machine."""
    table = {name: int.from_bytes(hashlib.sha256(f"{purpose}/{name}".encode()).digest()[:6], "big") / 2**48 for name in names.unique()}
    return np.array([table[name] for name in names], dtype=np.float64)
