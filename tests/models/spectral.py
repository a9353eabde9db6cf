"""A model of spectra that is written in a second, and small DESI files for it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.io import fits

from models.program import export
from spectra import WAVELENGTH
from spectra.grid import ARMS
from tests.models.tiny import write_tiny_handoff

PIXELS = len(WAVELENGTH)
CLASSES = ("GALAXY", "QSO", "STAR")


class SpectralModel(torch.nn.Module):
    """The mean of a spectrum, and what follows from it."""

    def forward(self, flux: torch.Tensor, ivar: torch.Tensor) -> dict[str, torch.Tensor]:
        good = (ivar > 0).float()
        mean = (flux * good).sum(dim=1) / good.sum(dim=1).clamp(min=1)
        return {
            "anomaly_score": mean,
            "z": mean * 2,
            "class_probabilities": torch.softmax(torch.stack([mean, mean * 0, 1 - mean], dim=1), dim=1),
            "reconstruction": mean[:, None] * torch.ones_like(flux),
        }


def write_spectral_handoff(folder: Path, **changes: Any) -> Path:
    """Write a hand-off that takes flux and ivar; its scores are the mean flux, one of its outputs is named like a metadata column."""
    rng = np.random.default_rng(3)
    rows = {
        count: {"flux": rng.normal(1, 1, (count, PIXELS)).astype(np.float32), "ivar": np.ones((count, PIXELS), np.float32)}
        for count in (4, 8, 40)
    }
    facts = {
        "name": "spectral",
        "exported": export(SpectralModel(), rows[4]),
        "input_units": {"flux": "1e-17 erg/s/cm2/Å", "ivar": "inverse square of that"},
        "output_meanings": {
            "anomaly_score": "mean flux",
            "z": "an output with the name of a metadata column",
            "class_probabilities": "belief in each class",
            "reconstruction": "a flat spectrum",
        },
        "golden": rows[8],
        "holdout": rows[40],
        "classes": CLASSES,
        "roles": {"score": "anomaly_score", "class_probabilities": "class_probabilities", "reconstruction": "reconstruction"},
        "score_threshold": 1.0,
    }
    return write_tiny_handoff(folder, **{**facts, **changes})


def write_coadd(path: Path, *, rows: int = 5, seed: int = 0, level: float = 1.0, bad: int = 0) -> Path:
    """Write a DESI coadd of flat noisy spectra of mean ``level``; the last ``bad`` rows come from fibres that were out of order."""
    rng = np.random.default_rng(seed)
    status = np.zeros(rows, np.int32)
    status[rows - bad :] = 4
    ids = 39_627_866_878_511_337 + 1000 * seed + np.arange(rows, dtype=np.int64)
    fibers = np.rec.fromarrays([ids, status], names="TARGETID,COADD_FIBERSTATUS")
    hdus: list[Any] = [fits.PrimaryHDU(), fits.BinTableHDU(fibers, name="FIBERMAP")]
    for arm in ARMS:
        hdus.append(fits.ImageHDU(WAVELENGTH[arm.pixels].copy(), name=f"{arm.name}_WAVELENGTH"))
        hdus.append(fits.ImageHDU(rng.normal(level, 0.1, (rows, arm.size)).astype(np.float32), name=f"{arm.name}_FLUX"))
        hdus.append(fits.ImageHDU(np.ones((rows, arm.size), np.float32), name=f"{arm.name}_IVAR"))
        hdus.append(fits.ImageHDU(np.zeros((rows, arm.size), np.int32), name=f"{arm.name}_MASK"))
    fits.HDUList(hdus).writeto(path)
    return path
