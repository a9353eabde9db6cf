"""The one wavelength grid every spectrum is on, and where the three DESI arms lie on it.

The grid is the union of the arms of the DESI spectrographs: 0.8 Å steps, vacuum. The arms overlap by 51 (B/R) and
126 (R/Z) pixels, so 7958 arm pixels become 7781.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

STEP: Final = 0.8
"""Å per pixel, exact in every DESI production."""

PIXELS: Final = 7781
"""Pixels of the union grid, 3600 to 9824 Å."""

TOLERANCE: Final = 1e-4
"""Å by which a stored wavelength may miss the grid; files carry float noise up to 5e-10, the survey's own code allows 1e-4."""

NODATA: Final = 1 << 8
"""SPECMASK bit 8, no data: set where a spectrum does not reach a pixel."""

SOMEBADPIX: Final = 1 << 0
"""SPECMASK bit 0: set where a value was not finite, or its inverse variance negative."""


def _frozen(array: NDArray[np.float64]) -> NDArray[np.float64]:
    array.flags.writeable = False
    return array


WAVELENGTH: Final[NDArray[np.float64]] = _frozen(3600.0 + STEP * np.arange(PIXELS, dtype=np.float64))
"""(7781,) float64, vacuum Å, read-only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One arm of the spectrograph: its letter in HDU names, its first pixel on the union grid, and its length."""

    name: str
    start: int
    size: int

    @property
    def pixels(self) -> slice:
        """The arm's pixels on the union grid."""
        return slice(self.start, self.start + self.size)


ARMS: Final = (Arm(name="B", start=0, size=2751), Arm(name="R", start=2700, size=2326), Arm(name="Z", start=4900, size=2881))
"""Blue to red; neighbours overlap."""
