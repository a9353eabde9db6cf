"""A model that tries every door between a program and its compiled forms: two inputs, whole clamp bounds, writes in place, an echo."""

from pathlib import Path

import numpy as np
import torch

from models.handoff import write
from models.program import export
from tests.models.tiny import LENGTH, ROWS, tiny_facts, tiny_signals, tiny_table


class OddModel(torch.nn.Module):
    """Outputs in another order than they are declared in, one of them a piece of the input.

    torch says that the sign of NaN is 0, ONNX says NaN: on that one the two disagree, though no golden vector tells.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = torch.nn.Linear(LENGTH, 4)
        self.classify = torch.nn.Linear(4, 2)

    def forward(self, signal: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        clean = torch.nan_to_num(signal).clamp(-3, 3)
        embedding = torch.tanh(self.embed(clean * weight.sign()))
        embedding.mul_(2.0)
        signal.add_(1.0)
        return {
            "class_probabilities": torch.softmax(self.classify(embedding), dim=1),
            "score": embedding.square().mean(dim=1),
            "embedding": embedding,
            "piece": signal[:, :3],
        }


def odd_inputs(rows: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Return signals and positive weights, (rows, 50) each."""
    return {"signal": tiny_signals(rows, seed), "weight": np.abs(tiny_signals(rows, seed + 100))}


def write_odd_handoff(folder: Path) -> Path:
    """Write the hand-off of the odd model to ``folder`` (must not exist) and return it."""
    facts = tiny_facts()
    meanings = {**facts["output_meanings"], "piece": "the first samples plus one"}
    facts |= {"exported": export(OddModel(), odd_inputs(4)), "name": "odd", "output_meanings": meanings}
    facts |= {"input_units": {"signal": "1", "weight": "1"}, "golden": odd_inputs(8, seed=2), "holdout": odd_inputs(ROWS)}
    return write(folder, **facts, **({} if "reference_table" in facts else {"reference_table": tiny_table()})).folder
