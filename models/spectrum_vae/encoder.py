"""Bins -> latent distribution, class logits, and whether this looks like two objects in one fibre."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.spectrum_vae.config import CLASSES, NetworkConfig

_KERNEL, _STRIDE = 9, 4
LOGVAR_RANGE = (-8.0, 4.0)
"""Cut of the latent log-variance: keeps exp() tame for inputs unlike any training spectrum."""


class Encoded(NamedTuple):
    """What the encoder makes of a batch."""

    mean: Tensor
    """Latent mean [B, latent]."""
    logvar: Tensor
    """Latent log-variance [B, latent]."""
    logits: Tensor
    """Class logits [B, 3]."""
    blend: Tensor
    """Logit of "two objects in one fibre" [B], learned from sums of training spectra."""


class Encoder(nn.Module):
    """Strided 1-D convolutions. A line may lie anywhere, so the dense layer sees where (all positions) and whether (the maximum)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        length, before = config.bins, 2
        for channels in config.channels:
            convolution = nn.Conv1d(before, channels, _KERNEL, stride=_STRIDE, padding=_KERNEL // 2)
            self.blocks.append(nn.Sequential(convolution, nn.GroupNorm(1, channels), nn.SiLU()))
            length, before = -(-length // _STRIDE), channels
        self.dense = nn.Linear(before * length + before, config.hidden)
        self.mean = nn.Linear(config.hidden, config.latent)
        self.logvar = nn.Linear(config.hidden, config.latent)
        self.classes = nn.Linear(config.hidden, len(CLASSES))
        self.blend = nn.Linear(config.hidden, 1)

    def forward(self, value_BL: Tensor, weight_BL: Tensor) -> Encoded:
        """[B, bins], [B, bins] -> Encoded."""
        trust = weight_BL / (weight_BL + 1)  # a Wiener weight: noise is shown small, not as a signal
        features = torch.stack([value_BL * trust, trust], dim=1)
        for block in self.blocks:
            features = block(features)
        seen = torch.cat([features.flatten(1), features.amax(dim=2)], dim=1)
        hidden = functional.silu(self.dense(seen))
        return Encoded(
            self.mean(hidden).clamp(-20, 20),
            self.logvar(hidden).clamp(*LOGVAR_RANGE),
            self.classes(hidden).clamp(-30, 30),
            self.blend(hidden).squeeze(1).clamp(-30, 30),
        )
