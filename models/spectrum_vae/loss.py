"""What training minimises: misfit in bins, distance of the latent from its prior, and wrong classes."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

NO_LABEL = -1
"""Class label of a spectrum whose redshift fit warned (ZWARN != 0): it teaches no class."""


class Loss(NamedTuple):
    """The sum and its parts, each a scalar."""

    total: Tensor
    misfit: Tensor
    divergence: Tensor
    classes: Tensor
    blends: Tensor


class LossWeights(NamedTuple):
    """How the parts are weighed."""

    kl: float
    classes: float
    blends: float
    model_error: float
    """Fractional error granted to the model: without it the few brightest spectra would be all that is learned."""


def misfit(value_BL: Tensor, weight_BL: Tensor, model_BL: Tensor, *, model_error: float) -> Tensor:
    """Return the mean Huber-like misfit per bin [B]: quadratic up to 3 sigma, linear beyond, so a cosmic ray or line does not rule."""
    effective = weight_BL / (1 + weight_BL * model_error**2)
    deviation = (value_BL - model_BL) * effective.sqrt()
    loss = functional.huber_loss(deviation, torch.zeros_like(deviation), delta=3.0, reduction="none")
    count = (weight_BL > 0).sum(dim=1).clamp(min=1)
    return loss.sum(dim=1) / count


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mean, exp(logvar)) || N(0, 1)) per spectrum [B], in nats."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=1)


def class_loss(logits: Tensor, label: Tensor, class_weight: Tensor) -> Tensor:
    """Return the weighted cross entropy over labelled rows; 0 when no row is labelled."""
    summed = functional.cross_entropy(logits, label, weight=class_weight, ignore_index=NO_LABEL, reduction="sum", label_smoothing=0.02)
    labelled = label != NO_LABEL
    return summed / class_weight[label.clamp(min=0)][labelled].sum().clamp(min=1e-6)


def blend_loss(single: Tensor, double: Tensor) -> Tensor:
    """Return the balanced cross entropy of the blend logits of single spectra [B] and of sums of two [B']."""
    return 0.5 * (functional.softplus(single).mean() + functional.softplus(-double).mean())


def total(misfit_B: Tensor, divergence_B: Tensor, classes: Tensor, blends: Tensor, weights: LossWeights) -> Loss:
    """Add the parts with their weights."""
    fit, kl = misfit_B.mean(), divergence_B.mean()
    return Loss(fit + weights.kl * kl + weights.classes * classes + weights.blends * blends, fit, kl, classes, blends)
