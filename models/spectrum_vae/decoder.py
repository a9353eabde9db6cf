"""Latent -> spectrum in units of its scale: a small network mixes a learned set of basis spectra."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.spectrum_vae.config import NetworkConfig


class Decoder(nn.Module):
    """Two dense layers give ``rank`` coefficients; the last layer is the basis, smooth between bins."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.pixels, self.bin_pixels = config.pixels, config.bin_pixels
        self.mix = nn.Sequential(nn.Linear(config.latent, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.hidden), nn.SiLU())
        self.coefficients = nn.Linear(config.hidden, config.rank)
        self.basis = nn.Linear(config.rank, config.bins)

    def forward(self, latent: Tensor) -> Tensor:
        """[B, latent] -> [B, bins]."""
        return cast(Tensor, self.basis(self.coefficients(self.mix(latent))))

    def to_pixels(self, bins_BL: Tensor) -> Tensor:
        """Interpolate linearly between bin centres: [B, bins] -> [B, pixels]."""
        length = bins_BL.shape[1] * self.bin_pixels
        return functional.interpolate(bins_BL.unsqueeze(1), size=length, mode="linear", align_corners=False)[:, 0, : self.pixels]

    @torch.no_grad()
    def start_from(self, mean_L: Tensor, components_RL: Tensor) -> None:
        """Set the basis to a mean spectrum and principal components (rows), each scaled to the spread it explains."""
        rank = min(components_RL.shape[0], self.basis.in_features)
        self.basis.bias.copy_(mean_L)
        self.basis.weight.zero_()
        self.basis.weight[:, :rank] = components_RL[:rank].T
