"""Everything that decides a training run. Written into handoff.yaml, so a run can be repeated."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.spectrum_vae.config import NetworkConfig


class Recipe(BaseModel):
    """One training run. The defaults are the demo: about 2,000 spectra in about a minute on two cores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=1, ge=0)
    """Seeds weights, order of batches, augmentation and injected faults. Same seed, data and thread count on a CPU: same weights."""
    epochs: int = Field(default=30, ge=1, le=10_000)
    """Passes over the training spectra from a fresh start."""
    warm_epochs: int = Field(default=8, ge=1, le=10_000)
    """Passes when the weights of an earlier hand-off are continued."""
    batch_size: int = Field(default=64, ge=2, le=65_536)
    """Spectra per step."""
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    """Peak of the one-cycle schedule of AdamW."""
    kl: float = Field(default=2e-3, ge=0)
    """Weight of the latent's divergence from its prior against a misfit per bin; small, because a bin is one of 1946."""
    class_weight: float = Field(default=0.3, ge=0)
    """Weight of the classification against the misfit."""
    blend_weight: float = Field(default=0.2, ge=0)
    """Weight of telling sums of two training spectra from single ones."""
    model_error: float = Field(default=0.05, gt=0, le=1)
    """Fraction of the flux granted as model error: keeps the brightest spectra from being all that is learned."""
    heldout_share: float = Field(default=0.25, gt=0, lt=0.9)
    """Share of the targets nothing is learned from; golden and held-out rows are taken there."""
    validation_share: float = Field(default=0.2, gt=0, lt=0.9)
    """Share of the other targets that calibrate the score and choose its threshold, and teach no weight."""
    heldout_rows: int = Field(default=2_000, ge=1)
    """Most rows written into holdout.safetensors (62 kB each)."""
    flagged_share: float = Field(default=0.08, gt=0, lt=0.5)
    """Share of the validation spectra above the score threshold. No anomaly labels are needed to choose it: 8 % is a false-alarm
    rate near 5 % when 6 % of the spectra are anomalous and about half of them are found."""
    fault_rows: int = Field(default=1_200, ge=10)
    """Training spectra that get an injected fault to learn the score's weights from."""
    latent: int = Field(default=10, ge=1, le=256)
    """Latent dimensions."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Channels of the strided convolutions."""
    hidden: int = Field(default=128, ge=1)
    """Width of the dense layers."""
    rank: int = Field(default=96, ge=1)
    """Basis spectra of the decoder."""
    threads: int = Field(default=2, ge=1)
    """CPU threads; enters the order of sums, so it is part of the recipe."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA when there is a GPU. Only the CPU repeats bit by bit."""

    @classmethod
    def large(cls, *, seed: int = 1) -> "Recipe":
        """Return the recipe for a GPU and 1e4 or more spectra: wider, longer, larger batches."""
        return cls(
            seed=seed, epochs=120, warm_epochs=30, batch_size=256, channels=(32, 64, 128, 256), hidden=512, rank=256, fault_rows=20_000
        )

    def network(self) -> NetworkConfig:
        """Return the network this recipe trains."""
        return NetworkConfig(latent=self.latent, channels=self.channels, hidden=self.hidden, rank=self.rank)
