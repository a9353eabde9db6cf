"""A model of toy spectra that passes every gate, one that is wrong about half of them, and a policy that such small things can pass."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from models.handoff import Data, Trainer, write
from models.program import export

NAME = "toy"
LENGTH = 24
ROWS = 240
CLASSES = ("GALAXY", "STAR")
TRAINER = Trainer(name="Cecilia Payne", email="cecilia@lab.example")

POLICY: dict[str, Any] = {
    "data": {"min_reference_rows": 60},
    "evaluation": {"at_least": {"anomaly_auc": 0.6}},
    "bias": {"required": [{"dimension": "class", "metric": "false_alarm_rate"}]},
    "benchmark": {
        "backends": ["eager"],
        "batches": [1],
        "rounds": 3,
        "spectra_per_round": 2,
        "calls_at_least": 2,
        "latency_ratio_limit": 1000.0,
    },
    "risk": {"bands": [{"name": "Any", "low": 1, "high": 25, "approvers": {"system-owner": 1}}]},
    "rollout": {
        "steps": [50, 100],
        "requests_per_step": 40,
        "step_deadline_seconds": 120.0,
        "lease_seconds": 10.0,
        "baseline": False,
        "watch_seconds": 1.0,
        "latency_quantile": 0.6,
        "error_limit": 0.95,
        "error_margin": 0.9,
        "latency_ratio_limit": 1000.0,
        "quality_margin": 0.3,
        "answers": {"anomaly_score": {"margin": 0.5}},
        "flags_margin": 0.2,
        "classes_margin": 0.2,
        "quality_minimum": 0.5,
        "agreement_minimum": 5,
        "drill": {"required": True, "limit_seconds": 60.0},
    },
}
"""Every gate is in force; it asks for fewer requests, rows and rounds than one would in earnest. Times are not judged here, classes only
by the canary, and a version may fail nearly as often as it likes: a test kills it. There is no baseline: it would be a third process."""


class ToyModel(torch.nn.Module):
    """The sign of the mean says the class, the largest sample the score. ``gain`` sets the models apart; below zero it is wrong."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(gain))

    def forward(self, flux: torch.Tensor) -> dict[str, torch.Tensor]:
        mean = self.gain * flux.mean(dim=1)
        return {"anomaly_score": flux.abs().amax(dim=1), "class_probabilities": torch.softmax(torch.stack([mean, -mean], dim=1), dim=1)}


def write_policy(path: Path, **sections: Any) -> Path:
    """Write the toy policy with ``sections`` replaced."""
    path.write_text(yaml.safe_dump({**POLICY, **sections}))
    return path


def write_toy(folder: Path, *, gain: float = 1.0, rows: int = ROWS, **changes: Any) -> Path:
    """Write a hand-off to ``folder`` and return the folder; another gain is another model."""
    flux, table = toy_sky(rows)
    return write(
        folder,
        exported=export(ToyModel(gain), {"flux": flux[:4]}),
        holdout={"flux": flux},
        holdout_table=table,
        reference_table=_reference(flux, table),
        golden={"flux": flux[:8]},
        **{**_FACTS, "recipe": {"gain": gain}, **changes},
    ).folder


def toy_sky(rows: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Return toy spectra (rows, 24) and what is true of them: two classes in turn, every eighth one with a spike that is no spectrum's."""
    rng = np.random.default_rng(7)
    place = np.arange(rows)
    flux = np.where(place % 2 == 0, 1.0, -1.0)[:, None] + rng.normal(0, 0.3, (rows, LENGTH))
    strange = place % 8 == 0
    flux[strange, 3] += 6.0
    kinds = np.array(CLASSES)[place % 2]
    table = pd.DataFrame(
        {
            "targetid": place + 1000,
            "survey": "synthetic",
            "spectype": kinds,
            "zwarn": 0,
            "z": rng.uniform(0.1, 2.0, rows),
            "snr": rng.uniform(1.0, 20.0, rows),
            "has_truth": True,
            "true_spectype": kinds,
            "anomaly": np.where(strange, "amplifier-step", ""),
        }
    )
    return flux.astype(np.float32), table


def _reference(flux: np.ndarray, table: pd.DataFrame) -> pd.DataFrame:
    """Return the reference for drift: the columns models.summary makes, over the same sky."""
    from models.summary import summarise

    score = np.abs(flux).max(axis=1)
    return pd.concat([table, summarise({"flux": flux}, {"anomaly_score": score})], axis=1)


_FACTS: dict[str, Any] = {
    "name": NAME,
    "trainer": TRAINER,
    "purpose": "shows that the whole chain works on something small",
    "not_for": "any decision about the sky",
    "data_class": "Public-Internal",
    "data": Data(uri="memory://toy", sha256="0" * 64, spectra=ROWS, description="seeded toy spectra"),
    "metrics": {"class_accuracy_macro": 1.0},
    "input_units": {"flux": "arbitrary"},
    "output_meanings": {"anomaly_score": "largest absolute sample", "class_probabilities": "share of belief in each class"},
    "classes": CLASSES,
    "roles": {"score": "anomaly_score", "class_probabilities": "class_probabilities"},
    "score_threshold": 4.0,
}
