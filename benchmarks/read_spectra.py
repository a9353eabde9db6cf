"""How long does it take to read and combine a DESI coadd, against a plain astropy read of the same arrays?

    python benchmarks/read_spectra.py [--spectra 500] [--repeats 9] [--resolution] [--compressed-mask]

Both are measured in turns in the same run on the same file with a warm cache, so that their ratio means something on a
busy machine. The result goes to benchmarks/results/read_spectra.json.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import astropy
import numpy as np
from astropy.io import fits

import spectra
from spectra.grid import ARMS, WAVELENGTH

_RESULTS = Path(__file__).parent / "results" / "read_spectra.json"


def main() -> None:
    """Write a file, measure both readers in turns, print and keep the figures."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coadd-main-dark-1.fits"
        _write(path, options)
        figures = _measure(path, repeats=options.repeats)
    report = {"options": vars(options), "machine": _machine(), **figures}
    _RESULTS.parent.mkdir(exist_ok=True)
    _RESULTS.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    print(json.dumps(report, indent=2, sort_keys=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spectra", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--resolution", action="store_true", help="add RESOLUTION HDUs, which the reader must not touch")
    parser.add_argument("--compressed-mask", action="store_true", help="masks as GZIP_1 tiles, as in EDR spectra files")
    return parser.parse_args()


def _write(path: Path, options: argparse.Namespace) -> None:
    rng, rows = np.random.default_rng(1), options.spectra
    ids = 39_627_866_878_511_337 + np.arange(rows, dtype=np.int64)
    fibers = np.rec.fromarrays([ids, np.zeros(rows, np.int32)], names="TARGETID,COADD_FIBERSTATUS")
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(fibers, name="FIBERMAP")]
    for arm in ARMS:
        mask = (rng.random((rows, arm.size)) < 0.004).astype(np.int32)
        hdus.append(fits.ImageHDU(WAVELENGTH[arm.pixels].copy(), name=f"{arm.name}_WAVELENGTH"))
        hdus.append(fits.ImageHDU(rng.normal(1, 1, mask.shape).astype(np.float32), name=f"{arm.name}_FLUX"))
        hdus.append(fits.ImageHDU(np.where(mask, 0, 1).astype(np.float32), name=f"{arm.name}_IVAR"))
        compressed = options.compressed_mask
        hdus.append(
            fits.CompImageHDU(mask, name=f"{arm.name}_MASK", compression_type="GZIP_1")
            if compressed
            else fits.ImageHDU(mask, name=f"{arm.name}_MASK")
        )
        if options.resolution:
            hdus.append(fits.ImageHDU(np.zeros((rows, 11, arm.size), np.float32), name=f"{arm.name}_RESOLUTION"))
    fits.HDUList(hdus).writeto(path)


def _plain(path: Path) -> Any:
    """Read the nine arrays as native numbers: the least that any reader must do."""
    with fits.open(path, memmap=False) as hdus:
        return [hdus[f"{arm.name}_{kind}"].data.astype(dtype) for arm in ARMS for kind, dtype in _KINDS]


_KINDS = (("FLUX", np.float32), ("IVAR", np.float32), ("MASK", np.uint32))


def _measure(path: Path, *, repeats: int) -> dict[str, Any]:
    readers: dict[str, Callable[[Path], Any]] = {"astropy": _plain, "spectra": spectra.read}
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    busy: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(repeats + 1):
        for name, reader in readers.items():
            started, worked = time.perf_counter(), time.process_time()
            reader(path)
            if turn:  # the first turn warms the cache
                seconds[name].append(time.perf_counter() - started)
                busy[name].append(time.process_time() - worked)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "median_seconds": {name: round(value, 4) for name, value in middle.items()},
        "median_cpu_seconds": {name: round(statistics.median(values), 4) for name, values in busy.items()},
        "fastest_seconds": {name: round(min(values), 4) for name, values in seconds.items()},
        "ratio_spectra_to_astropy": round(middle["spectra"] / middle["astropy"], 3),
    }


def _machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "astropy": astropy.__version__,
    }


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
