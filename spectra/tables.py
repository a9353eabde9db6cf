"""Columns of FITS tables as plain NumPy arrays, whatever the file called, typed or left out."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spectra.errors import SpectraError
from spectra.hdus import Hdu, Hdus

MAX_ROWS: Final = 20_000
"""Spectra of one file that is read as a whole: 20,000 take 1.9 GB. A DESI coadd has about 500, the fullest spectra file some thousands."""

_MAX_TABLE_BYTES: Final = 2 << 30
"""Bytes of one table; EXP_FIBERMAP of the fullest files has some tens of MB."""


class Table:
    """A binary table of a file; names are matched without regard to case, as FITS demands."""

    __slots__ = ("_columns", "_hdu", "_name", "rows")

    rows: int

    def __init__(self, hdu: Hdu, *, name: str) -> None:
        """Take the table ``hdu`` of the file ``name``. Raises SpectraError when it is no table, or too large for memory."""
        if not hdu.is_table:
            found = type(hdu.whole).__name__
            raise SpectraError(f"{name} must have a binary table in {hdu.name}, found {found}; it is of another kind")
        if hdu.data_bytes > _MAX_TABLE_BYTES:
            raise SpectraError(
                f"{name} must have a table below {_MAX_TABLE_BYTES} bytes in {hdu.name}, found {hdu.data_bytes}; leave it out"
            )
        self._hdu, self._name = hdu, name
        self._columns = {column.upper(): at for at, column in enumerate(hdu.columns)}
        self.rows = hdu.rows

    def __contains__(self, column: str) -> bool:
        """Say whether the table has ``column``."""
        return column.upper() in self._columns

    def first(self, *columns: str) -> str | None:
        """Return the first of ``columns`` that the table has, or None."""
        return next((column for column in columns if column in self), None)

    def raw(self, column: str) -> NDArray[Any]:
        """Return a column as stored: any type, any shape per row. Raises KeyError when it is missing."""
        return self._hdu.column(self._columns[column.upper()])

    def targetids(self) -> NDArray[np.int64]:
        """Return TARGETID as int64. Raises SpectraError when it is missing or was stored as anything but integers."""
        if "TARGETID" not in self:
            raise SpectraError(f"{self._name} must have a column TARGETID in {self._hdu.name}, found none; it is of another kind")
        ids = self.raw("TARGETID")
        if ids.dtype.kind not in "iu" or ids.ndim != 1:
            raise SpectraError(f"{self._name} must have integer TARGETIDs, found {ids.dtype} (floats corrupt them); write the file again")
        return ids.astype(np.int64)

    def integers(self, column: str, *, missing: int = -1) -> NDArray[np.int64]:
        """Return an integer column, ``missing`` where it is absent or not finite."""
        values = self._numbers(column)
        if values is None:
            return np.full(self.rows, missing, np.int64)
        if values.dtype.kind == "f":
            values = np.where(np.isfinite(values) & (np.abs(values) < 2**53), values, missing)
        return values.astype(np.int64)

    def floats(self, column: str) -> NDArray[np.float64]:
        """Return a float column as native float64, NaN where it is absent."""
        values = self._numbers(column)
        return np.full(self.rows, np.nan) if values is None else values.astype(np.float64)

    def texts(self, column: str) -> list[str]:
        """Return a text column without padding, empty where it is absent or no text."""
        values = self.raw(column) if column in self else None
        if values is None or values.dtype.kind not in "SU" or values.ndim != 1:
            return [""] * self.rows
        return [value.strip().strip("\0") for value in values.astype(str).tolist()]

    def _numbers(self, column: str) -> NDArray[Any] | None:
        """Return a column of one number per row, or None when there is no such column."""
        values = self.raw(column) if column in self else None
        return values if values is not None and values.ndim == 1 and values.dtype.kind in "iufb" else None


def spectra_table(hdus: Hdus, extension: str, *, most: int, name: str) -> Table:
    """Return the table that lists one spectrum a row. Raises SpectraError when it lists more than ``most``."""
    table = Table(hdus[extension], name=name)
    if table.rows > most:
        raise SpectraError(f"{name} must have at most {most} spectra, found {table.rows}; split it")
    return table
