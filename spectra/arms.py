"""Three arms become one spectrum, as the survey's own pipeline does it.

``ivar = Σ ivar_arm``, ``flux = Σ ivar_arm·flux_arm / ivar`` where ivar > 0 and 0 elsewhere, mask = OR in the overlaps and
a copy elsewhere, then 0 wherever ivar > 0: `desispec.coaddition.coadd_cameras` (desispec 0.70.0), which this equals to
1e-6 relative on every file tried. Outside the 177 overlap pixels the sums have one term, so the stored float32 values
are copied and only the overlaps are accumulated, in float64.

Two differences, on purpose. Flux is 0 wherever ivar is 0; desispec does so in the overlaps only and elsewhere leaves the
stored value of the one arm. And a pixel with a non-zero mask is not used even if it claims ivar > 0; in every real file
such pixels have ivar 0 already, so results agree there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spectra.grid import ARMS, PIXELS, SOMEBADPIX, Arm

_LARGEST: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ArmSpectra:
    """n spectra of one arm as stored: any float type and byte order, mask None where the file has none."""

    flux: NDArray[Any]
    ivar: NDArray[Any]
    mask: NDArray[Any] | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Combined:
    """n spectra on the union grid, and how many of each one's values could not be used as numbers."""

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.uint32]
    broken: NDArray[np.int64]
    """(n,) arm pixels whose flux or ivar was not finite or whose ivar was negative; they have ivar 0 here."""


def combine(arms: Mapping[str, ArmSpectra]) -> Combined:
    """Combine the arms named as in :data:`spectra.grid.ARMS`, each (n, arm pixels), into (n, 7781)."""
    rows = len(next(iter(arms.values())).flux)
    flux, ivar = np.empty((rows, PIXELS), np.float32), np.empty((rows, PIXELS), np.float32)
    mask, broken = np.zeros((rows, PIXELS), np.uint32), np.zeros(rows, np.int64)
    done = 0
    for arm in ARMS:
        clean = _clean(arms[arm.name])
        shared = done - arm.start
        _accumulate(flux, ivar, mask, arm=arm, clean=clean, shared=max(shared, 0))
        broken += clean.broken
        done = arm.start + arm.size
    mask[ivar > 0] = 0
    return Combined(flux=flux, ivar=ivar, mask=mask, broken=broken)


def _clean(arm: ArmSpectra) -> Combined:
    """Return native copies in which ivar > 0 is the only test a pixel needs: elsewhere ivar and flux are 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        flux, ivar = np.array(arm.flux, np.float32, order="C"), np.array(arm.ivar, np.float32, order="C")
    mask = np.zeros(flux.shape, np.uint32) if arm.mask is None else arm.mask.astype(np.uint32, order="C")
    bad = ~(np.isfinite(flux) & np.isfinite(ivar) & (ivar >= 0))
    mask[bad] |= SOMEBADPIX
    ivar[mask != 0] = 0
    flux[ivar == 0] = 0
    return Combined(flux=flux, ivar=ivar, mask=mask, broken=bad.sum(axis=1))


def _accumulate(
    flux: NDArray[np.float32], ivar: NDArray[np.float32], mask: NDArray[np.uint32], *, arm: Arm, clean: Combined, shared: int
) -> None:
    """Put one arm in: its first ``shared`` pixels are weighted into what the bluer arm left there, the rest is copied."""
    fresh = slice(arm.start + shared, arm.start + arm.size)
    flux[:, fresh], ivar[:, fresh], mask[:, fresh] = clean.flux[:, shared:], clean.ivar[:, shared:], clean.mask[:, shared:]
    if not shared:
        return
    seam = slice(arm.start, arm.start + shared)
    blue, red = ivar[:, seam].astype(np.float64), clean.ivar[:, :shared].astype(np.float64)
    total = blue + red
    weighted = blue * flux[:, seam] + red * clean.flux[:, :shared]
    flux[:, seam] = np.divide(weighted, total, out=np.zeros_like(total), where=total > 0)
    ivar[:, seam] = np.minimum(total, _LARGEST)
    mask[:, seam] |= clean.mask[:, :shared]


def snr(flux: NDArray[np.float32], ivar: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the median of flux·√ivar over the pixels of each row with ivar > 0; NaN for a row without any."""
    result = np.full(len(flux), np.nan)
    for row, (values, weights) in enumerate(zip(flux, ivar, strict=True)):
        good = weights > 0
        if good.any():
            result[row] = np.median(values[good].astype(np.float64) * np.sqrt(weights[good]))
    return result
