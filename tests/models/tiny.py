"""A hand-off of another shape than ours, small enough to write in a second: 50 samples in, three outputs out, two classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from models.handoff import Data, Trainer, write
from models.program import export

LENGTH = 50
ROWS = 40
CLASSES = ("calm", "wild")


class TinyModel(torch.nn.Module):
    """Linear maps of one signal; seeded, so that two of the same seed are the same model."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Linear(LENGTH, 4)
        self.classify = torch.nn.Linear(4, len(CLASSES))
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
        embedding = torch.tanh(self.embed(torch.nan_to_num(signal) / self.scale))
        return {
            "score": embedding.square().mean(dim=1),
            "embedding": embedding,
            "class_probabilities": torch.softmax(self.classify(embedding), dim=1),
        }


def tiny_signals(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    """Return (rows, 50) float32 normal noise."""
    return np.random.default_rng(seed).normal(size=(rows, LENGTH)).astype(np.float32)


def tiny_table(rows: int = ROWS) -> pd.DataFrame:
    """Return labels and slices for the rows of the tiny hold-out."""
    generator = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "targetid": np.arange(rows, dtype=np.int64),
            "spectype": np.where(generator.random(rows) < 0.5, *CLASSES),
            "snr": generator.uniform(1, 20, rows),
            "anomaly": np.where(np.arange(rows) % 10 == 0, "blend", ""),
        }
    )


def tiny_facts(*, seed: int = 1) -> dict[str, Any]:
    """Return the arguments of models.handoff.write for the tiny model."""
    return {
        "exported": export(TinyModel(seed), {"signal": tiny_signals(4)}),
        "name": "tiny",
        "trainer": Trainer(name="Vera Rubin", email="vera@carnegie.edu"),
        "purpose": "shows that a model of another shape can be handed over",
        "not_for": "any decision about the sky",
        "data_class": "Public-Internal",
        "data": Data(uri="memory://tiny", sha256="0" * 64, spectra=ROWS, description="seeded normal noise"),
        "recipe": {"seed": seed},
        "metrics": {"loss": 0.5},
        "input_units": {"signal": "standard deviations"},
        "output_meanings": {
            "score": "mean square of the embedding",
            "embedding": "four bounded features",
            "class_probabilities": "share of belief in each class",
        },
        "golden": {"signal": tiny_signals(8, seed=2)},
        "holdout": {"signal": tiny_signals()},
        "holdout_table": tiny_table(),
        "reference_table": tiny_table().assign(score=0.5),
        "classes": CLASSES,
        "roles": {"score": "score", "class_probabilities": "class_probabilities", "latent": "embedding"},
        "score_threshold": 0.4,
    }


def write_tiny_handoff(folder: Path, *, seed: int = 1, **changes: Any) -> Path:
    """Write the tiny hand-off to ``folder`` (must not exist), with ``changes`` to the arguments of write; return the folder."""
    return write(folder, **{**tiny_facts(seed=seed), **changes}).folder
