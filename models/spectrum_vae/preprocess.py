"""What the telescope wrote -> what the network sees. Inside the graph, so that training and serving cannot differ.

Shapes: B spectra, P pixels, L bins. Any bit pattern may come in; everything that leaves is finite.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FLUX_LIMIT = 1e6
"""|flux| beyond this (1e-17 erg/s/cm²/Å) is no spectrum: the pixel is ignored. A 10th-magnitude star reaches about 1e5."""
IVAR_LIMIT = 1e8
"""ivar is cut here, so that squares and sums stay finite in float32."""
COARSE_PIXELS = 128
"""Width of the bins whose median gives the scale; wide enough for S/N > 3 in a bin when it is 0.3 in a pixel."""
MIN_USABLE = 64
"""Fewer usable pixels than this give the outputs of an empty spectrum."""


class Prepared(NamedTuple):
    """One batch, cleaned."""

    flux_BP: Tensor
    """Flux, 0 where unusable."""
    ivar_BP: Tensor
    """Inverse variance, 0 where unusable."""
    scale_B1: Tensor
    """Flux of the unit below; > 0."""
    value_BL: Tensor
    """Binned flux / scale, inverse-variance weighted, cut to [-30, 100]."""
    weight_BL: Tensor
    """Binned inverse variance * scale²: the squared S/N of a bin at flux = scale."""
    snr_B: Tensor
    """Median of flux * sqrt(ivar) over usable pixels, at least 0.01."""
    usable_B: Tensor
    """1.0 for a spectrum with at least MIN_USABLE usable pixels, else 0.0."""


class Preprocess(nn.Module):
    """Clean, scale and bin. No learned parameters."""

    def __init__(self, *, pixels: int, bin_pixels: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.bin_pixels = bin_pixels

    def forward(self, flux: Tensor, ivar: Tensor) -> Prepared:
        """[B, P], [B, P] -> Prepared."""
        flux, ivar = clean(flux, ivar)
        scale = self._scale(flux, ivar)
        value, weight = binned(flux, ivar, width=self.bin_pixels)
        snr = masked_median(flux * ivar.sqrt(), ivar > 0).clamp(min=0.01)
        usable = ((ivar > 0).sum(dim=1) >= MIN_USABLE).to(flux.dtype)
        return Prepared(flux, ivar, scale, (value / scale).clamp(-30, 100), (weight * scale * scale).clamp(max=1e12), snr, usable)

    @staticmethod
    def _scale(flux: Tensor, ivar: Tensor) -> Tensor:
        """Median flux of coarse bins, but not below twice their median noise: a spectrum without signal is scaled by its noise."""
        value, weight = binned(flux, ivar, width=COARSE_PIXELS)
        filled = weight > 0
        noise = masked_median(weight.clamp(min=1e-20).rsqrt(), filled)
        return torch.maximum(masked_median(value, filled), 2 * noise).clamp(1e-6, FLUX_LIMIT).unsqueeze(1)


def clean(flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
    """Return flux and ivar with every unusable pixel (not finite, ivar <= 0, absurd flux) set to zero in both."""
    good = torch.isfinite(flux) & torch.isfinite(ivar) & (ivar > 1e-12) & (flux.abs() < FLUX_LIMIT)
    zero = torch.zeros_like(flux)
    return torch.where(good, flux, zero), torch.where(good, ivar, zero).clamp(max=IVAR_LIMIT)


def binned(flux: Tensor, ivar: Tensor, *, width: int) -> tuple[Tensor, Tensor]:
    """Return the inverse-variance mean and the total inverse variance of bins of ``width`` pixels; an empty bin is 0 with weight 0."""
    weight = sum_bins(ivar, width=width)
    return sum_bins(flux * ivar, width=width) / weight.clamp(min=1e-20), weight


def sum_bins(values: Tensor, *, width: int) -> Tensor:
    """[B, P] -> [B, ceil(P / width)], sums; the last bin may hold fewer pixels."""
    pad = -values.shape[1] % width
    return functional.pad(values, (0, pad)).reshape(values.shape[0], -1, width).sum(dim=2)


def masked_median(values: Tensor, mask: Tensor) -> Tensor:
    """Return the lower median of each row where ``mask`` holds; 0 where it never does. [B, N] -> [B]."""
    ordered = torch.where(mask, values, torch.full_like(values, 3e38)).sort(dim=1).values
    count = mask.sum(dim=1, keepdim=True)
    median = ordered.gather(1, (count - 1).clamp(min=0) // 2).squeeze(1)
    return torch.where(count.squeeze(1) > 0, median, torch.zeros_like(median))
