"""The pixels of the three arms and of their union, as measured on the survey's own files."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Flux = NDArray[np.float32]

STEP: Final = 0.8
"""Å per pixel."""
GRID: Final[NDArray[np.float64]] = np.asarray(3600.0 + STEP * np.arange(7781), np.float64)
"""Union of the arms, Å; equal to ``spectra.WAVELENGTH`` (a test holds them together), kept here so that the writer needs no reader."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One spectrograph arm: its letter and the pixels of the union it covers."""

    name: str
    start: int
    size: int

    @property
    def pixels(self) -> slice:
        """Where the arm lies on the union grid."""
        return slice(self.start, self.start + self.size)

    @property
    def wavelength(self) -> NDArray[np.float64]:
        """Å, float64 [size]."""
        return GRID[self.pixels]


ARMS: Final = (Arm(name="B", start=0, size=2751), Arm(name="R", start=2700, size=2326), Arm(name="Z", start=4900, size=2881))
