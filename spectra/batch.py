"""Spectra on the common grid with what is known about each, and what had to be refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from spectra import metadata as meta
from spectra.grid import PIXELS, WAVELENGTH


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedRow:
    """One spectrum of a readable file that is not in the batch, and why."""

    targetid: int
    row: int
    """Row in its file, from 0."""
    source_file: str
    reason: str
    """One sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedFile:
    """One file of which nothing could be used, and why."""

    source_file: str
    reason: str
    """One sentence."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpectrumBatch:
    """n spectra on the common grid. Arrays are native-endian and C-contiguous; row i of each belongs to row i of the others."""

    wavelength: NDArray[np.float64]
    """(7781,) vacuum Å."""
    flux: NDArray[np.float32]
    """(n, 7781) 1e-17 erg/s/cm²/Å; 0 where ivar is 0."""
    ivar: NDArray[np.float32]
    """(n, 7781) inverse variance of flux; 0 means the pixel is not to be used (the only safe test)."""
    mask: NDArray[np.uint32]
    """(n, 7781) SPECMASK bits; 0 wherever ivar > 0, and possibly 0 where ivar is 0 too (dead fibres)."""
    targetid: NDArray[np.int64]
    """(n,) exceeds 2**53: never through a float or a JSON number."""
    metadata: pd.DataFrame
    """One row per spectrum, RangeIndex, the columns of :data:`spectra.metadata.COLUMNS`."""
    refused: tuple[RefusedRow, ...] = ()
    """Rows of the same files that are not in the batch."""

    def __post_init__(self) -> None:
        """Raise ValueError when the parts do not belong together: a programmer's error, never a file's."""
        rows = len(self.targetid)
        shapes = {self.flux.shape, self.ivar.shape, self.mask.shape}
        if shapes != {(rows, PIXELS)} or len(self.metadata) != rows:
            raise ValueError(f"a batch of {rows} spectra needs arrays ({rows}, {PIXELS}) and as many metadata rows, found {shapes}")

    def __len__(self) -> int:
        """Return the number of usable spectra."""
        return len(self.targetid)

    def take(self, index: ArrayLike | slice) -> "SpectrumBatch":
        """Return the spectra at ``index`` (integers, booleans or a slice), copied; ``refused`` stays as it is."""
        chosen: Any = index if isinstance(index, slice) else np.asarray(index)
        if isinstance(chosen, np.ndarray) and chosen.size == 0 and chosen.dtype != np.bool_:
            chosen = chosen.astype(np.intp)  # an empty list is a float array to NumPy
        return SpectrumBatch(
            wavelength=self.wavelength,
            flux=np.array(self.flux[chosen]),
            ivar=np.array(self.ivar[chosen]),
            mask=np.array(self.mask[chosen]),
            targetid=np.array(self.targetid[chosen]),
            metadata=self.metadata.iloc[chosen].reset_index(drop=True),
            refused=self.refused,
        )


def empty(refused: tuple[RefusedRow, ...] = ()) -> SpectrumBatch:
    """Return a batch without spectra."""
    return SpectrumBatch(
        wavelength=WAVELENGTH,
        flux=np.zeros((0, PIXELS), np.float32),
        ivar=np.zeros((0, PIXELS), np.float32),
        mask=np.zeros((0, PIXELS), np.uint32),
        targetid=np.zeros(0, np.int64),
        metadata=meta.table(0, {}),
        refused=refused,
    )


def concatenate(batches: Sequence[SpectrumBatch]) -> SpectrumBatch:
    """Return one batch of all spectra and all refusals, in order; no batches give an empty one."""
    refused = tuple(row for batch in batches for row in batch.refused)
    filled = [batch for batch in batches if len(batch)]
    if not filled:
        return empty(refused)
    return SpectrumBatch(
        wavelength=WAVELENGTH,
        flux=np.concatenate([batch.flux for batch in filled]),
        ivar=np.concatenate([batch.ivar for batch in filled]),
        mask=np.concatenate([batch.mask for batch in filled]),
        targetid=np.concatenate([batch.targetid for batch in filled]),
        metadata=pd.concat([batch.metadata for batch in filled], ignore_index=True),
        refused=refused,
    )
