"""The whole graph: flux and ivar in, five named outputs out. This is what is exported, handed over and served.

A spectrum without information (fewer than MIN_USABLE usable pixels) gives defined values, never NaN: latent 0,
reconstruction 0, chi2 0, anomaly_score 0, uniform class probabilities.
"""

import torch
from torch import Tensor, nn

from models.spectrum_vae.config import CLASSES, NetworkConfig
from models.spectrum_vae.decoder import Decoder
from models.spectrum_vae.encoder import Encoded, Encoder
from models.spectrum_vae.preprocess import FLUX_LIMIT, Prepared, Preprocess
from models.spectrum_vae.residuals import feature_names, reduced_chi2, residual_features
from models.spectrum_vae.score import Score

OUTPUTS = {
    "latent": "mean of the approximate posterior, dimensionless; leaks redshift and class, is no physical parameter",
    "reconstruction": "decoded spectrum, 1e-17 erg/s/cm2/Angstrom; continuum and broad features, not every narrow line",
    "chi2": "reduced chi-square of the reconstruction over usable pixels; grows with S/N, compare at equal S/N only",
    "anomaly_score": "how unusual for its S/N, about 0 for typical spectra; 0 too where fewer than 64 pixels are usable",
    "class_probabilities": "GALAXY, QSO, STAR as redrock names them; uniform where fewer than 64 pixels are usable",
}
"""Names of the outputs, in order, with their meaning for the hand-off."""
_EXTRA = ("latent_distance", "class_entropy", "blend")


class SpectrumVAE(nn.Module):
    """Preprocess, encode, decode, judge."""

    latent_mean: Tensor
    latent_whiten: Tensor

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or NetworkConfig()
        self.preprocess = Preprocess(pixels=self.config.pixels, bin_pixels=self.config.bin_pixels)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.score = Score(len(self.statistics), groups=len(CLASSES))
        self.register_buffer("latent_mean", torch.zeros(self.config.latent))
        self.register_buffer("latent_whiten", torch.eye(self.config.latent))

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the statistics the score is made of, in order."""
        return (*feature_names(self.config), *_EXTRA)

    def forward(self, flux: Tensor, ivar: Tensor) -> dict[str, Tensor]:
        """[B, P] flux (1e-17 erg/s/cm²/Å) and [B, P] inverse variance, any values -> the outputs of :data:`OUTPUTS`, all finite."""
        prepared = self.preprocess(flux, ivar)
        encoded = self.encoder(prepared.value_BL, prepared.weight_BL)
        latent, probabilities = encoded.mean, encoded.logits.softmax(dim=1)
        model = self.reconstruct(latent, prepared)
        statistics = self.judge(prepared, encoded, model)
        chi2 = reduced_chi2(prepared.flux_BP, prepared.ivar_BP, model, latent=self.config.latent)
        score = self.score(statistics, prepared.snr_B, probabilities)
        usable = prepared.usable_B
        return {
            "latent": latent * usable.unsqueeze(1),
            "reconstruction": model * usable.unsqueeze(1),
            "chi2": chi2 * usable,
            "anomaly_score": score * usable,
            "class_probabilities": torch.where(usable.unsqueeze(1) > 0, probabilities, torch.full_like(probabilities, 1 / len(CLASSES))),
        }

    def reconstruct(self, latent: Tensor, prepared: Prepared) -> Tensor:
        """Return the decoded spectrum in flux units [B, P]."""
        return (self.decoder.to_pixels(self.decoder(latent)) * prepared.scale_B1).clamp(-FLUX_LIMIT, FLUX_LIMIT)

    def judge(self, prepared: Prepared, encoded: Encoded, model: Tensor) -> Tensor:
        """Return the statistics of :attr:`statistics`, uncalibrated [B, F]."""
        probabilities = encoded.logits.softmax(dim=1)
        distance = ((encoded.mean - self.latent_mean) @ self.latent_whiten).square().mean(dim=1).log1p()
        entropy = -(probabilities * probabilities.clamp(min=1e-9).log()).sum(dim=1)
        return torch.cat([residual_features(prepared, model, self.config), torch.stack([distance, entropy, encoded.blend], dim=1)], dim=1)
