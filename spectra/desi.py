"""DESI coadd and spectra files, read by HDU name (their order is arbitrary), RESOLUTION never touched.

A spectra file has one row per exposure and stays so: a target observed three times gives three rows with the same
TARGETID. A coadd has one row per target; a second row of a target is refused.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra import fibermap, fitsfile, refusals
from spectra import metadata as meta
from spectra.arms import ArmSpectra, combine, snr
from spectra.batch import SpectrumBatch, empty
from spectra.errors import SpectraError
from spectra.grid import ARMS, TOLERANCE, WAVELENGTH, Arm
from spectra.hdus import Hdus
from spectra.tables import MAX_ROWS, Table, spectra_table


def matches(hdus: Hdus) -> bool:
    """Say whether this is a file of DESI spectra: a fibre map and at least one arm."""
    return "FIBERMAP" in hdus and any(f"{arm.name}_FLUX" in hdus for arm in ARMS)


def read(hdus: Hdus, *, name: str) -> SpectrumBatch:
    """Return the usable spectra of an open DESI file and its refused rows. Raises SpectraError when the file is not as documented."""
    file = DesiFile(hdus, name=name, most=MAX_ROWS)
    return file.spectra(0, file.rows)


class DesiFile:
    """An open DESI file: its tables are read, the pixels of any of its rows when they are asked for."""

    def __init__(self, hdus: Hdus, *, name: str, most: int, wanted: Collection[str] = meta.COLUMNS) -> None:
        """Read and check all but the pixels; the metadata gets the columns ``wanted``.

        Raises SpectraError when the file is not as documented or lists more than ``most`` spectra.
        """
        fibers = spectra_table(hdus, "FIBERMAP", most=most, name=name)
        self.rows = fibers.rows
        self.targetid = fibers.targetids()
        """(rows,) of every row, usable or not."""
        for arm in ARMS:
            _check_wavelengths(hdus, arm, name=name)
        self._name = name
        self._reasons = _fiber_reasons(fibers, self.targetid)
        self._images = {arm.name: _images(hdus, arm, rows=fibers.rows, name=name) for arm in ARMS}
        known = {**fibermap.columns(hdus, fibers, self.targetid, name=name), "source_file": name}
        self.metadata = meta.table(fibers.rows, known, wanted=wanted)
        """One row for every row of the file; what catalogues know may be put in before spectra are read."""

    def spectra(self, start: int, stop: int, *, masks: bool = True) -> SpectrumBatch:
        """Return the usable spectra of the rows from ``start`` to before ``stop``, and those of them that are refused.

        Without ``masks`` the mask of the batch is 0 everywhere; ivar is 0 where a pixel is not to be used, as ever.
        """
        reasons, targetid = self._reasons[start:stop], self.targetid[start:stop]
        refused = refusals.rows(reasons, targetid=targetid, numbers=range(start, stop), name=self._name)
        keep = refusals.kept(reasons)
        if not len(keep):
            return empty(tuple(refused))
        combined = combine(
            {arm: _pixels(images, start, stop, name=self._name) for arm, images in self._images.items()}, keep=keep, masks=masks
        )
        batch = SpectrumBatch(
            wavelength=WAVELENGTH,
            flux=combined.flux,
            ivar=combined.ivar,
            mask=combined.mask,
            targetid=targetid[keep],
            metadata=self.metadata.iloc[start + keep].reset_index(drop=True),
        )
        return _without_broken(batch, combined.broken, numbers=start + keep, refused=refused, name=self._name)


def _fiber_reasons(fibers: Table, targetid: NDArray[np.int64]) -> refusals.Reasons:
    return refusals.by_fiber(
        targetid,
        objtypes=fibers.texts("OBJTYPE"),
        status=fibermap.status(fibers),
        bits=fibermap.target_bits(fibers),
        unique="COADD_FIBERSTATUS" in fibers,
    )


def _check_wavelengths(hdus: Hdus, arm: Arm, *, name: str) -> None:
    stored = fitsfile.image(hdus, f"{arm.name}_WAVELENGTH", shape=(arm.size,), name=name)
    with np.errstate(invalid="ignore"):
        miss = float(np.max(np.abs(stored - WAVELENGTH[arm.pixels])))
    if not miss <= TOLERANCE:  # NaN must fail too
        raise SpectraError(
            f"{name} must have {arm.name}_WAVELENGTH on the DESI grid within {TOLERANCE} Å, found {miss:.4g} Å off; "
            "it was made with another grid: resample it first"
        )


def _images(hdus: Hdus, arm: Arm, *, rows: int, name: str) -> dict[str, fitsfile.Rows]:
    """Return the images of one arm, nothing of them read."""
    kinds = ["FLUX", "IVAR", *(["MASK"] if f"{arm.name}_MASK" in hdus else [])]
    return {kind: fitsfile.Rows(hdus, f"{arm.name}_{kind}", shape=(rows, arm.size), name=name) for kind in kinds}


def _pixels(images: dict[str, fitsfile.Rows], start: int, stop: int, *, name: str) -> ArmSpectra:
    """Return the rows of one arm from ``start`` to before ``stop``."""
    stored = {kind: _Part(image, start, stop) if image.is_plain else image[start:stop] for kind, image in images.items()}
    mask = stored.get("MASK")
    if mask is not None and (found := mask[0:1].dtype).kind not in "iu":
        raise SpectraError(f"{name} must have integers in its masks, found {found}; write the file again")
    return ArmSpectra(flux=stored["FLUX"], ivar=stored["IVAR"], mask=mask)


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of an image from ``start`` to before ``stop``, read as few at a time as they are asked for."""

    image: fitsfile.Rows
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        first, last, _ = rows.indices(len(self))
        return self.image[self.start + first : self.start + last]


def _without_broken(
    batch: SpectrumBatch, broken: NDArray[np.int64], *, numbers: NDArray[np.intp], refused: list[Any], name: str
) -> SpectrumBatch:
    """Return the batch without the rows whose pixels make no spectrum, with S/N and masked fraction filled in."""
    usable = np.count_nonzero(batch.ivar > 0, axis=1)  # of booleans: ten times as fast
    batch.metadata["masked_fraction"] = 1 - usable / batch.flux.shape[1]
    batch.metadata["snr"] = snr(batch.flux, batch.ivar)
    reasons = refusals.by_pixels(broken, usable)
    refused = refused + refusals.rows(reasons, targetid=batch.targetid, numbers=numbers.tolist(), name=name)
    keep = refusals.kept(reasons)
    whole = batch if len(keep) == len(batch) else batch.take(keep)
    return SpectrumBatch(
        wavelength=whole.wavelength,
        flux=whole.flux,
        ivar=whole.ivar,
        mask=whole.mask,
        targetid=whole.targetid,
        metadata=whole.metadata,
        refused=tuple(sorted(refused, key=lambda row: row.row)),
    )
