"""What the reconstruction left over, as a few numbers: how large, how coherent, and at the instrument's own weak places.

A pixel-by-pixel chi² hardly notices a faint step or a second spectrum underneath: the deviation per pixel is below the noise.
Averaged over 16 or 128 pixels the noise sinks and the deviation stays. So chi² is taken at three widths in each arm, and
next to it the jumps at amplifier and arm seams and the likeness of the residual to the night sky.
"""

import torch
from torch import Tensor
from torch.nn import functional

from models.spectrum_vae.config import NetworkConfig
from models.spectrum_vae.preprocess import Prepared, sum_bins

WIDTHS = (1, 16, 128)
"""Widths in pixels at which residuals are averaged: 0.8 Å, a broad line, a continuum shape."""
SEAM_PIXELS = 96
"""Pixels on each side of a seam whose mean residuals are compared."""
SIGMA_LIMIT = 1e4
"""A residual is cut here (in sigma): one absurd pixel must not overflow a sum."""
_SMOOTH = 65
_SKY_LIMIT = 100.0


def feature_names(config: NetworkConfig) -> tuple[str, ...]:
    """Return the names of the columns of :func:`residual_features`, in order."""
    chi2 = [f"chi2_arm{arm}_width{width}" for width in WIDTHS for arm in range(len(config.arms))]
    return (*chi2, *(f"seam_{pixel}" for pixel in config.seams), "sky_pattern", "sky_chi2")


def reduced_chi2(flux: Tensor, ivar: Tensor, model: Tensor, *, latent: int) -> Tensor:
    """Return chi² per degree of freedom over usable pixels [B]; 0 where there are no more pixels than latent dimensions."""
    deviation = sigmas(flux, ivar, model)
    freedom = (ivar > 0).sum(dim=1) - latent
    return torch.where(freedom > 0, deviation.square().sum(dim=1) / freedom.clamp(min=1), torch.zeros_like(deviation[:, 0]))


def sigmas(flux: Tensor, ivar: Tensor, model: Tensor) -> Tensor:
    """Return (flux - model) / sigma, cut at SIGMA_LIMIT; 0 in unusable pixels."""
    return ((flux - model) * ivar.sqrt()).clamp(-SIGMA_LIMIT, SIGMA_LIMIT)


def residual_features(prepared: Prepared, model_BP: Tensor, config: NetworkConfig) -> Tensor:
    """[B, P] -> [B, features], each log(1 + statistic) >= 0 and finite."""
    deviation = sigmas(prepared.flux_BP, prepared.ivar_BP, model_BP)
    root = prepared.ivar_BP.sqrt()
    columns = [_coherent_chi2(deviation[:, a:b], root[:, a:b], width) for width in WIDTHS for a, b in config.arms]
    columns += [_jump(deviation, root, seam, pixels=config.pixels) for seam in config.seams]
    columns += _sky(deviation, prepared.ivar_BP, config.sky_pixels)
    return torch.stack(columns, dim=1).log1p()


def _coherent_chi2(deviation: Tensor, root: Tensor, width: int) -> Tensor:
    """Mean over bins of the squared significance of the bin's mean residual; 1 for pure noise at any width."""
    weight = sum_bins(root.square(), width=width)
    pull = sum_bins(deviation * root, width=width) / weight.clamp(min=1e-20).sqrt()
    return pull.square().sum(dim=1) / (weight > 0).sum(dim=1).clamp(min=1)


def _jump(deviation: Tensor, root: Tensor, seam: int, *, pixels: int) -> Tensor:
    """Absolute difference of the mean residuals on both sides of ``seam``, in sigma."""
    left, left_weight = _mean(deviation, root, slice(max(0, seam - SEAM_PIXELS), seam))
    right, right_weight = _mean(deviation, root, slice(seam, min(pixels, seam + SEAM_PIXELS)))
    both = left_weight * right_weight / (left_weight + right_weight).clamp(min=1e-20)
    return (right - left).abs() * both.sqrt()


def _mean(deviation: Tensor, root: Tensor, side: slice) -> tuple[Tensor, Tensor]:
    weight = root[:, side].square().sum(dim=1)
    return (deviation[:, side] * root[:, side]).sum(dim=1) / weight.clamp(min=1e-20), weight


def _sky(deviation: Tensor, ivar: Tensor, where: tuple[int, int]) -> list[Tensor]:
    """Likeness of the residual to the night-sky spectrum, and chi² under its lines.

    Bright sky makes noise, so the sky's spectrum is in the variance itself: variance above its local floor. No template is needed.
    """
    deviation, ivar = deviation[:, where[0] : where[1]], ivar[:, where[0] : where[1]]
    sky = _sky_lines(ivar)
    pulls = deviation - functional.avg_pool1d(deviation.unsqueeze(1), _SMOOTH, 1, _SMOOTH // 2).squeeze(1)
    root = (ivar / ivar.amax(dim=1, keepdim=True).clamp(min=1e-12)).sqrt()
    match = (pulls * sky * root).sum(dim=1) / (sky * root).square().sum(dim=1).clamp(min=1e-6).sqrt()
    share = sky / (1 + sky)
    return [match.abs(), (pulls.square() * share).sum(dim=1) / share.sum(dim=1).clamp(min=1)]


def _sky_lines(ivar: Tensor) -> Tensor:
    """Relative variance above its local minimum, 0..100; 0 in unusable pixels. [B, P'] -> [B, P']."""
    good = ivar > 0
    mean = ivar.sum(dim=1, keepdim=True) / good.sum(dim=1, keepdim=True).clamp(min=1)
    variance = torch.where(good, mean / ivar.clamp(min=1e-12), torch.full_like(ivar, _SKY_LIMIT)).clamp(max=_SKY_LIMIT)
    floor = -functional.max_pool1d(-variance.unsqueeze(1), _SMOOTH, 1, _SMOOTH // 2).squeeze(1)
    return torch.where(good, variance - floor, torch.zeros_like(variance))
