"""The size of the network and the few facts about the instrument it knows."""

from dataclasses import dataclass

CLASSES = ("GALAXY", "QSO", "STAR")
"""Names of the class-probability columns, the words of redrock's SPECTYPE."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """Shape of the network. Validated at construction; the defaults are the demo model."""

    pixels: int = 7781
    """Length of a spectrum, pixels of the input grid."""
    bin_pixels: int = 4
    """Pixels averaged before the encoder; 4 pixels = 3.2 Å, wider than DESI's line spread (sigma 0.85 pixel), so one bin is one resolution element."""
    latent: int = 10
    """Latent dimensions; 6 to 10 are the published choices (Portillo 2020, spender)."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Channels of the strided convolutions, stride 4 each."""
    hidden: int = 128
    """Width of the dense layers."""
    rank: int = 96
    """Number of basis spectra the decoder mixes; they start as the principal components of the training spectra."""
    arms: tuple[tuple[int, int], ...] = ((0, 2700), (2700, 4900), (4900, 7781))
    """Pixel ranges judged apart: the blue, red and near-infrared arm of DESI (desi.md section 1)."""
    seams: tuple[int, ...] = (1375, 2725, 3863, 4963, 6340)
    """Pixels where two amplifiers or two arms meet; a jump there is the instrument's, not the sky's."""
    sky_pixels: tuple[int, int] = (4875, 7781)
    """Where night-sky emission dominates: beyond 7500 Å."""

    def __post_init__(self) -> None:
        positive = (self.pixels, self.bin_pixels, self.latent, self.hidden, self.rank, *self.channels)
        if not self.channels or min(positive) < 1:
            raise ValueError(f"every size of the network must be at least 1, got {positive!r}: correct the configuration")
        places = (*self.sky_pixels, *self.seams, *(edge for arm in self.arms for edge in arm))
        if min(places) < 0 or max(places) > self.pixels:
            raise ValueError(f"arms, seams and sky range must lie within {self.pixels} pixels, got {places!r}: correct the configuration")

    @property
    def bins(self) -> int:
        """Number of encoder bins; the last one may be partly empty."""
        return -(-self.pixels // self.bin_pixels)
