"""How unusual is this, for a spectrum of this S/N? One number, calibrated so that typical spectra of every S/N score near 0.

Any misfit statistic grows with S/N: the better the data, the more of the model's own error they show. A score made of it
would find bright objects, not strange ones (desi.md section 6, bias 1: Spearman 0.7 to 0.85). So every statistic is first
compared with what training spectra of the same S/N and (predicted) class show, median and spread learned, and so is their weighted
sum. The class is in it because quasars are rare and varied: measured against galaxies, one in six would be an "anomaly".
"""

import itertools

import torch
from torch import Tensor, nn

SNR_KNOTS = tuple(-1 + 0.25 * i for i in range(15))
"""log10 S/N of the calibration knots: 0.1 to about 316 in steps of a factor 1.8; linear between, constant outside."""
_STEP = SNR_KNOTS[1] - SNR_KNOTS[0]
Z_LIMIT = 50.0
EXCESS_LIMIT = 8.0
"""Beyond 8 spreads a statistic has said all it can; many statistics that agree weigh more than one that shouts."""


class Calibration(nn.Module):
    """Median and spread of some statistics as a function of S/N; buffers, set once after training."""

    center: Tensor
    spread: Tensor
    knots: Tensor

    def __init__(self, features: int, *, groups: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.tensor(SNR_KNOTS))
        self.register_buffer("center", torch.zeros(groups * len(SNR_KNOTS), features))
        self.register_buffer("spread", torch.ones(groups * len(SNR_KNOTS), features))

    def forward(self, features_BF: Tensor, snr_B: Tensor, member_BG: Tensor) -> Tensor:
        """Return (feature - median) / spread at the spectrum's S/N and class, cut to ±Z_LIMIT. [B, F] -> [B, F].

        ``member_BG`` is the probability of each group (class), rows summing to 1.
        """
        share = (member_BG.unsqueeze(2) * self.share(snr_B).unsqueeze(1)).flatten(1)
        return ((features_BF - share @ self.center) / (share @ self.spread)).clamp(-Z_LIMIT, Z_LIMIT)

    def share(self, snr_B: Tensor) -> Tensor:
        """Return the weight of each knot, linear interpolation. [B] -> [B, knots], rows sum to 1."""
        place = snr_B.clamp(min=1e-2).log10().clamp(SNR_KNOTS[0], SNR_KNOTS[-1])
        return (1 - (place.unsqueeze(1) - self.knots).abs() / _STEP).clamp(min=0)

    @torch.no_grad()
    def fit(self, features_BF: Tensor, snr_B: Tensor, member_BG: Tensor, *, upper: float, width: float = 0.25, floor: float = 0.02) -> None:
        """Set the knots from spectra: kernel-weighted median, and distance from it to the ``upper`` quantile in units of a normal sigma.

        The upper side, because only an excess counts. ``width`` is the kernel's sigma in log10 S/N; a trend within the kernel is taken
        out first (else the ends of the range, with spectra on one side only, would be off). Beyond the spectra the last value holds.
        """
        place = snr_B.clamp(min=1e-2).log10()
        sigmas = float(torch.special.ndtri(torch.tensor(upper)))
        for row, (group, knot) in enumerate(itertools.product(range(member_BG.shape[1]), SNR_KNOTS)):
            member = member_BG[:, group] + 1e-6
            at = place.new_tensor(knot).clamp(*place[member >= member.max() / 2].aminmax())
            kernel = member * torch.exp(-0.5 * ((place - at) / width).square())
            level = features_BF - (place - at).unsqueeze(1) * _slope(features_BF, place, kernel)
            middle, high = (_weighted_quantile(level, kernel, q) for q in (0.5, upper))
            self.center[row], self.spread[row] = middle, ((high - middle) / sigmas).clamp(min=floor)


class Score(nn.Module):
    """Non-negative weights over the calibrated excesses, and the calibration of their sum."""

    weights: Tensor

    def __init__(self, features: int, *, groups: int) -> None:
        super().__init__()
        self.statistics = Calibration(features, groups=groups)
        self.sum = Calibration(1, groups=groups)
        self.register_buffer("weights", torch.full((features,), 1.0 / features))

    def forward(self, features_BF: Tensor, snr_B: Tensor, member_BG: Tensor) -> Tensor:
        """[B, F] -> [B]: about 0 for a typical spectrum, about 1 per spread above it."""
        calibrated: Tensor = self.sum(self.raw(features_BF, snr_B, member_BG).unsqueeze(1), snr_B, member_BG)
        return calibrated.squeeze(1)

    def raw(self, features_BF: Tensor, snr_B: Tensor, member_BG: Tensor) -> Tensor:
        """Return the weighted sum of excesses before its own calibration. [B]."""
        excesses: Tensor = excess(self.statistics(features_BF, snr_B, member_BG))
        return excesses @ self.weights


def excess(z: Tensor) -> Tensor:
    """Return z cut to 0..EXCESS_LIMIT: what is lacking in one statistic buys nothing off in another, and none rules alone."""
    return z.clamp(0, EXCESS_LIMIT)


def _slope(values_BF: Tensor, place_B: Tensor, kernel_B: Tensor) -> Tensor:
    """Return the kernel-weighted slope of each column over ``place_B``, drawn to 0 where the places hardly differ. [F]."""
    share = kernel_B / kernel_B.sum()
    offset = place_B - share @ place_B
    return (share * offset) @ (values_BF - share @ values_BF) / (share @ offset.square() + 0.005)


def _weighted_quantile(values_BF: Tensor, kernel_B: Tensor, quantile: float) -> Tensor:
    ordered, order = values_BF.sort(dim=0)
    cumulative = kernel_B[order].cumsum(dim=0)
    rank = (cumulative < quantile * cumulative[-1:]).sum(dim=0, keepdim=True).clamp(max=len(values_BF) - 1)
    return ordered.gather(0, rank).squeeze(0)
