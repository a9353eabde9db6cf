"""Finds the weights: batches of binned spectra, augmented, against the loss. Pixels are binned once, so a step is cheap."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.spectrum_vae import loss as losses
from models.spectrum_vae.config import CLASSES
from models.spectrum_vae.model import SpectrumVAE
from models.spectrum_vae.recipe import Recipe

Step = Callable[[int, float], None]
"""Called after each epoch with its number from 1 and the mean training loss."""

_EXTRA_NOISE = 3.0
"""Half of the spectra get up to this many times their own variance added, so that faint spectra are not rare in training."""
_SHIFT_BINS = 40
"""Half of the galaxies and quasars are moved by up to this many bins (±128 Å): a line may lie anywhere, a star's may not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Binned:
    """Training spectra as the encoder sees them."""

    value: Tensor
    """[n, bins]"""
    weight: Tensor
    """[n, bins]"""
    label: Tensor
    """[n] index into CLASSES, or loss.NO_LABEL."""

    def rows(self, index: Tensor) -> "Binned":
        """Return the rows at ``index``."""
        return Binned(value=self.value[index], weight=self.weight[index], label=self.label[index])


def fit(model: SpectrumVAE, data: Binned, recipe: Recipe, *, epochs: int, after_epoch: Step) -> float:
    """Train ``model`` in place for ``epochs`` passes over ``data`` and return the last epoch's mean loss."""
    generator = torch.Generator().manual_seed(recipe.seed)
    weights = losses.LossWeights(kl=recipe.kl, classes=recipe.class_weight, blends=recipe.blend_weight, model_error=recipe.model_error)
    balance = class_balance(data.label)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=1e-3)
    steps = -(-len(data.label) // recipe.batch_size) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=max(2, steps), pct_start=0.15)
    model.train()
    mean = float("nan")
    for epoch in range(1, epochs + 1):
        total = 0.0
        for index in torch.split(torch.randperm(len(data.label), generator=generator), recipe.batch_size):  # type: ignore[no-untyped-call]
            batch = augment(data.rows(index.to(data.label.device)), generator)
            value = training_loss(model, batch, balance, weights, generator).total
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(value.detach()) * len(index)
        mean = total / len(data.label)
        after_epoch(epoch, mean)
    model.eval()
    return mean


def training_loss(
    model: SpectrumVAE, batch: Binned, balance: Tensor, weights: losses.LossWeights, generator: torch.Generator
) -> losses.Loss:
    """Return the loss of one batch, latent drawn from its posterior."""
    mean, logvar, logits, blend = model.encoder(batch.value, batch.weight)
    double = model.encoder(*blended(batch, generator)).blend
    drawn = mean + torch.randn(mean.shape, generator=generator).to(mean.device) * (0.5 * logvar).exp()
    misfit = losses.misfit(batch.value, batch.weight, model.decoder(drawn), model_error=weights.model_error)
    return losses.total(
        misfit, losses.divergence(mean, logvar), losses.class_loss(logits, batch.label, balance), losses.blend_loss(blend, double), weights
    )


def augment(batch: Binned, generator: torch.Generator) -> Binned:
    """Return the batch with extra noise on half of its spectra and half of its extragalactic ones shifted."""
    rows, device = len(batch.label), batch.value.device
    extra = _EXTRA_NOISE * torch.rand(rows, 1, generator=generator) * (torch.rand(rows, 1, generator=generator) < 0.5)
    noise = torch.randn(batch.value.shape, generator=generator).to(device)
    extra = extra.to(device)
    value = batch.value + torch.where(batch.weight > 0, noise * (extra / batch.weight.clamp(min=1e-12)).sqrt(), torch.zeros_like(noise))
    value, weight = value.clamp(-30, 100), batch.weight / (1 + extra)
    shift = torch.randint(-_SHIFT_BINS, _SHIFT_BINS + 1, (rows, 1), generator=generator) * (torch.rand(rows, 1, generator=generator) < 0.5)
    shift = shift.to(device) * ((batch.label >= 0) & (batch.label != CLASSES.index("STAR"))).unsqueeze(1)
    place = (torch.arange(value.shape[1], device=device).unsqueeze(0) - shift).clamp(0, value.shape[1] - 1)
    return Binned(value=value.gather(1, place), weight=weight.gather(1, place), label=batch.label)


def blended(batch: Binned, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return value and weight of sums of half of the batch's spectra with one of the other half: two objects in one fibre.

    The variances add, so the noise is what the weights say and gives nothing away.
    """
    half = len(batch.label) // 2
    level = (0.3 + 0.9 * torch.rand(half, 1, generator=generator)).to(batch.value.device)
    value = batch.value[:half] + level * batch.value[half : 2 * half]
    weight = batch.weight[:half] * batch.weight[half : 2 * half]
    weight = weight / (batch.weight[half : 2 * half] + level.square() * batch.weight[:half]).clamp(min=1e-12)
    return (value / (1 + level)).clamp(-30, 100), weight * (1 + level).square()


def class_balance(label: Tensor) -> Tensor:
    """Return a weight per class, the square root of its rarity (mean 1): rare classes count more, but are not blown up."""
    counts = torch.stack([(label == i).sum() for i in range(len(CLASSES))]).float().clamp(min=1)
    weight = counts.rsqrt()
    return weight / weight.mean()


def start_basis(model: SpectrumVAE, data: Binned) -> None:
    """Start the decoder from the principal components of ``data``; the network then only has to learn how to mix them."""
    trust = data.weight / (data.weight + 4)
    mean = (data.value * trust).sum(dim=0) / trust.sum(dim=0).clamp(min=1e-3)
    centred = ((data.value - mean) * trust).clamp(-5, 5)
    rank = min(model.config.rank, *centred.shape)
    torch.manual_seed(0)  # svd_lowrank draws from the global generator
    _, singular, components = torch.svd_lowrank(centred, q=rank, niter=3)
    model.decoder.start_from(mean, (components * singular / max(1, len(centred)) ** 0.5).T)
