"""Writers of DESI and SDSS files for the tests: plain astropy, sharing no code with the reader but the grid's numbers."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

FIRST_ID = 39_627_866_878_511_337  # beyond 2**53: a float cannot hold it
ARM_SIZES = {"B": (0, 2751), "R": (2700, 2326), "Z": (4900, 2881)}


@dataclass
class DesiFile:
    """One coadd in memory; change what a test needs, then write it."""

    rows: int = 4
    seed: int = 0
    header: dict[str, Any] = field(
        default_factory=lambda: {"SURVEY": "sv3", "PROGRAM": "dark", "HPXPIXEL": 26065, "HPXNSIDE": 64, "HPXNEST": True}
    )
    fibermap: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.fibermap = {
            "TARGETID": FIRST_ID + np.arange(self.rows, dtype=np.int64),
            "COADD_FIBERSTATUS": np.zeros(self.rows, np.int32),
            "OBJTYPE": np.full(self.rows, "TGT"),
        }
        for arm, (start, size) in ARM_SIZES.items():
            self.images[f"{arm}_WAVELENGTH"] = 3600 + 0.8 * (start + np.arange(size)) + rng.normal(0, 1e-10, size)
            self.images[f"{arm}_FLUX"] = rng.normal(2, 1, (self.rows, size)).astype(np.float32)
            self.images[f"{arm}_IVAR"] = rng.uniform(0.5, 4, (self.rows, size)).astype(np.float32)
            self.images[f"{arm}_MASK"] = np.zeros((self.rows, size), np.int32)

    @property
    def ids(self) -> np.ndarray:
        return self.fibermap["TARGETID"]

    def hdus(self) -> list[Any]:
        tables = {"FIBERMAP": self.fibermap, **self.tables}
        return [
            *(fits.BinTableHDU(records(columns), name=name) for name, columns in tables.items()),
            *(image if hasattr(image, "header") else fits.ImageHDU(image, name=name) for name, image in self.images.items()),
        ]

    def write(self, path: Path, *, order: Callable[[list[Any]], list[Any]] = list) -> Path:
        primary = fits.PrimaryHDU()
        primary.header.update(self.header)
        fits.HDUList([primary, *order(self.hdus())]).writeto(path)
        return path


def records(columns: dict[str, Any]) -> np.ndarray:
    """Return a structured array of the columns."""
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    return np.rec.fromarrays(list(arrays.values()), dtype=[(name, array.dtype, array.shape[1:]) for name, array in arrays.items()])


def write_table(path: Path, name: str, columns: dict[str, Any]) -> Path:
    """Write a file with one table, such as a redrock or truth file."""
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(records(columns), name=name)]).writeto(path)
    return path


def write_sdss(path: Path, *, loglam: np.ndarray, flux: np.ndarray, ivar: np.ndarray, **catalogue: Any) -> Path:
    """Write an SDSS spec file whose HDUs have no names, as readers must go by index."""
    spectrum = records({"flux": flux.astype("f4"), "loglam": loglam, "ivar": ivar.astype("f4"), "and_mask": np.full(len(flux), 16, "i4")})
    row = {"PLATE": 266, "MJD": 51602, "FIBERID": 13, "CLASS": "GALAXY", "Z": np.float32(0.1), **catalogue}
    hdus = [
        fits.PrimaryHDU(),
        fits.BinTableHDU(spectrum),
        fits.BinTableHDU(records({name: np.asarray([value]) for name, value in row.items()})),
    ]
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.fixture
def coadd() -> DesiFile:
    return DesiFile()


@pytest.fixture
def desi_file() -> type[DesiFile]:
    return DesiFile


@pytest.fixture
def table_file() -> Callable[..., Path]:
    return write_table


@pytest.fixture
def sdss_file() -> Callable[..., Path]:
    return write_sdss


@pytest.fixture
def real_spectra(request: pytest.FixtureRequest) -> Path:
    """The folder of real survey files beside the checkout; they are not the project's to ship."""
    folder = (request.config.rootpath / "../shared/data/spectra").resolve()
    if not folder.is_dir():
        pytest.skip(f"no real spectra at {folder}: they cannot be shipped with the project")
    return folder


@pytest.fixture
def oracle_python() -> str:
    """An interpreter that has desispec, which is too large for our own environment."""
    python = os.environ.get("FIRSTLIGHT_ORACLE_PYTHON", "")
    if python:
        return python
    reason = "FIRSTLIGHT_ORACLE_PYTHON must name a Python with desispec==0.70.0 (python3 -m venv X; X/bin/pip install desispec==0.70.0)"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)
