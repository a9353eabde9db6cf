"""After training: what is usual at each S/N, and which statistics tell a fault. Sets the buffers of the score."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.spectrum_vae.artefacts import Floats, inject
from models.spectrum_vae.encoder import Encoded
from models.spectrum_vae.model import SpectrumVAE
from models.spectrum_vae.preprocess import Prepared
from models.spectrum_vae.score import excess

_CHUNK = 128
_EVEN = 2.0
"""Weight of an even share over all statistics against the learned weights: a fault nobody injected may show in any of them. Measured on
synthetic skies: 0 finds more blends, but one quasar in six becomes a false alarm; 4 finds hardly a blend."""


def calibrate(model: SpectrumVAE, learnt: tuple[Floats, Floats], unseen: tuple[Floats, Floats], *, fault_rows: int, seed: int) -> None:
    """Set latent whitening, calibrations and weights of ``model.score``.

    ``learnt`` and ``unseen`` are (flux, ivar) of training and of validation spectra, [n, P] each. The sum is calibrated on unseen
    spectra only: those it learned from are reproduced a little too well, rare classes most of all.
    """
    flux, ivar = learnt
    _whiten(model, _batches(model, flux, ivar, lambda _prepared, encoded: (encoded.mean,))[0])
    usual = measure(model, flux, ivar)
    model.score.statistics.fit(*usual, upper=0.84)
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(flux))[:fault_rows]
    faulty = measure(model, *inject(flux[chosen], ivar[chosen], generator=generator))
    model.score.weights.copy_(separating_weights(excess(model.score.statistics(*usual)), excess(model.score.statistics(*faulty))))
    fresh = measure(model, *unseen)
    model.score.sum.fit(model.score.raw(*fresh).unsqueeze(1), *fresh[1:], upper=0.92, width=0.35)


def measure(model: SpectrumVAE, flux: Floats, ivar: Floats) -> tuple[Tensor, Tensor, Tensor]:
    """Return the uncalibrated statistics [n, F], the S/N [n] and the class probabilities [n, 3] of the spectra."""

    def judged(prepared: Prepared, encoded: Encoded) -> tuple[Tensor, ...]:
        statistics = model.judge(prepared, encoded, model.reconstruct(encoded.mean, prepared))
        return statistics, prepared.snr_B, encoded.logits.softmax(dim=1)

    statistics, snr, member = _batches(model, flux, ivar, judged)
    return statistics, snr, member


@torch.inference_mode()
def _batches(model: SpectrumVAE, flux: Floats, ivar: Floats, of: Callable[[Prepared, Encoded], tuple[Tensor, ...]]) -> list[Tensor]:
    parts = []
    for start in range(0, len(flux), _CHUNK):
        prepared = model.preprocess(*_tensors(model, flux[start : start + _CHUNK], ivar[start : start + _CHUNK]))
        parts.append(of(prepared, model.encoder(prepared.value_BL, prepared.weight_BL)))
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def separating_weights(usual: Tensor, unusual: Tensor, *, steps: int = 400) -> Tensor:
    """Return non-negative weights [F], sum 1, of a logistic regression between two sets of excesses [n, F], [m, F].

    Non-negative, so that more excess never lowers the score.
    """
    with torch.inference_mode(False), torch.enable_grad():
        rows = torch.cat([usual, unusual]).clone()
        target = torch.cat([torch.zeros(len(usual)), torch.ones(len(unusual))]).to(rows.device)
        balance = torch.where(target > 0, len(usual) / max(1, len(unusual)), 1.0)
        raw = torch.full((rows.shape[1],), -2.0, device=rows.device, requires_grad=True)
        offset = torch.zeros(1, device=rows.device, requires_grad=True)
        optimizer = torch.optim.Adam([raw, offset], lr=0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            logit = rows @ functional.softplus(raw) + offset
            functional.binary_cross_entropy_with_logits(logit, target, weight=balance).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    weights = functional.softplus(raw.detach())
    weights = weights / weights.sum()
    even = 1 / len(weights)
    return (weights + _EVEN * even) / (1 + _EVEN)


def _whiten(model: SpectrumVAE, latent: Tensor) -> None:
    """Set the Mahalanobis metric of the training latents; a ridge keeps unused dimensions from ruling."""
    mean = latent.mean(dim=0)
    covariance = (latent - mean).T @ (latent - mean) / max(1, len(latent) - 1)
    ridge = 0.01 * covariance.diagonal().mean().clamp(min=1e-6) * torch.eye(len(mean), device=latent.device)
    values, vectors = torch.linalg.eigh(covariance + ridge)
    model.latent_mean.copy_(mean)
    model.latent_whiten.copy_(vectors * values.clamp(min=1e-8).rsqrt())


def _tensors(model: SpectrumVAE, flux: Floats, ivar: Floats) -> tuple[Tensor, Tensor]:
    device = model.latent_mean.device
    return torch.from_numpy(np.array(flux)).to(device), torch.from_numpy(np.array(ivar)).to(device)
