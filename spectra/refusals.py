"""Which rows of a file are no spectra of a celestial object, and the sentence that says so. Pure decisions."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from spectra.batch import RefusedRow
from spectra.fibermap import GOOD_STATUS, SKY_BIT
from spectra.grid import ARMS
from spectra.matching import duplicates

Reasons = list[str]
"""One entry per row; empty means the row is fine so far."""

_ARM_PIXELS = sum(arm.size for arm in ARMS)


def by_fiber(
    targetid: NDArray[np.int64], *, objtypes: Sequence[str], status: NDArray[np.int64], bits: NDArray[np.int64], unique: bool
) -> Reasons:
    """Return why a fibre did not observe an object: unassigned, sky, bad status, or listed twice where ``unique`` must hold."""
    repeated = duplicates(targetid) if unique else np.zeros(len(targetid), np.bool_)
    rows = zip(targetid.tolist(), objtypes, status.tolist(), bits.tolist(), repeated.tolist(), strict=True)
    return [_fiber_reason(*row) for row in rows]


def _fiber_reason(targetid: int, objtype: str, status: int, bits: int, repeated: bool) -> str:
    if targetid < 0:
        return f"a spectrum must have a target, but TARGETID {targetid} is negative: the fibre was stuck or not assigned"
    if objtype in ("SKY", "NON", "BAD"):
        return f"a spectrum must be of a target, but OBJTYPE is {objtype!r}: the fibre was not on an object"
    if not objtype and bits & SKY_BIT:
        return "a spectrum must be of a target, but DESI_TARGET has the sky bit: the fibre was not on an object"
    if status not in (-1, *GOOD_STATUS):
        return f"the fibre status must be 0 or 8, but it is {status}: the fibre was out of order"
    if repeated:
        return f"a coadd must have one row per target, but TARGETID {targetid} is in an earlier row already"
    return ""


def by_pixels(broken: NDArray[np.int64], usable: NDArray[np.int64]) -> Reasons:
    """Return why pixels make no spectrum, from the counts of ``broken`` arm pixels and ``usable`` grid pixels of each row."""
    return [_pixel_reason(*row) for row in zip(broken.tolist(), usable.tolist(), strict=True)]


def _pixel_reason(broken: int, usable: int) -> str:
    if broken * 2 > _ARM_PIXELS:
        return f"at most half of the pixels may be broken, but {broken} of {_ARM_PIXELS} have no finite flux or inverse variance"
    if usable == 0:
        return "a spectrum must have a usable pixel, but its inverse variance is 0 everywhere: the fibre was dead"
    return ""


def rows(reasons: Reasons, *, targetid: NDArray[np.int64], numbers: Iterable[int], name: str) -> list[RefusedRow]:
    """Return the refused rows; ``numbers`` are the rows' places in the file."""
    return [
        RefusedRow(targetid=identity, row=number, source_file=name, reason=reason)
        for reason, identity, number in zip(reasons, targetid.tolist(), numbers, strict=True)
        if reason
    ]


def kept(reasons: Reasons) -> NDArray[np.intp]:
    """Return the places of the rows without a reason."""
    return np.flatnonzero([not reason for reason in reasons])
