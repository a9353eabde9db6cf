"""A model that takes and gives numbers of every type that a hand-off can declare, small enough to write in a second."""

from pathlib import Path

import numpy as np
import torch

from models.handoff import write
from models.program import export
from tests.models.tiny import ROWS, tiny_facts

SHELVES = 10
"""``which`` must be below; the model fails on anything else, as models do on what their trainer never saw."""


class TypedModel(torch.nn.Module):
    """One output for each input, none of them the input itself."""

    def forward(self, flux, half, weight, which, small, mask, good, wide, short, middle):  # type: ignore[no-untyped-def]
        shelf = torch.arange(1, SHELVES + 1, dtype=torch.int64)
        return {
            "total": (flux * weight.float()).sum(1),
            "halved": half / 2,
            "heavier": weight * 2,
            "next": shelf[which] + (1 << 60),
            "negative": -small,
            "masked": mask * 2,
            "bad": ~good,
            "widest": wide + 1e-12,
            "shorter": short - 1,
            "middling": middle * 1000,
        }


DTYPES = {
    "total": "float32",
    "halved": "float16",
    "heavier": "bfloat16",
    "next": "int64",
    "negative": "int8",
    "masked": "uint8",
    "bad": "bool",
    "widest": "float64",
    "shorter": "int16",
    "middling": "int32",
}
"""By output, in the order of the inputs that have the same type."""


def typed_inputs(rows: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Return inputs of so many rows; the weights, bfloat16 to the model, are multiples of 1/8 that it can hold."""
    of = np.random.default_rng(seed)
    return {
        "flux": of.normal(size=(rows, 3)).astype(np.float32),
        "half": of.normal(size=(rows, 2)).astype(np.float16),
        "weight": (of.integers(-64, 64, (rows, 3)) / 8).astype(np.float32),
        "which": of.integers(0, SHELVES, rows),
        "small": of.integers(-100, 100, (rows, 2), dtype=np.int8),
        "mask": of.integers(0, 128, (rows, 3), dtype=np.uint8),
        "good": of.random((rows, 3)) < 0.5,
        "wide": of.normal(size=(rows, 2)),
        "short": of.integers(-1000, 1000, rows, dtype=np.int16),
        "middle": of.integers(-1000, 1000, (rows, 2), dtype=np.int32),
    }


def typed_answers(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what numpy says the model must answer."""
    return {
        "total": (inputs["flux"] * inputs["weight"]).sum(axis=1),
        "halved": inputs["half"] / np.float16(2),
        "heavier": inputs["weight"] * 2,
        "next": inputs["which"] + 1 + (1 << 60),
        "negative": -inputs["small"],
        "masked": inputs["mask"] * np.uint8(2),
        "bad": ~inputs["good"],
        "widest": inputs["wide"] + 1e-12,
        "shorter": inputs["short"] - np.int16(1),
        "middling": inputs["middle"] * np.int32(1000),
    }


def write_typed_handoff(folder: Path, *, name: str = "typed") -> Path:
    """Write the hand-off of the typed model to ``folder`` (must not exist) and return it."""
    examples = {name: torch.from_numpy(array) for name, array in typed_inputs(4).items()}
    examples["weight"] = examples["weight"].to(torch.bfloat16)
    facts = {
        "name": name,
        "exported": export(TypedModel(), examples),
        "input_units": dict.fromkeys(examples, "1"),
        "output_meanings": dict.fromkeys(DTYPES, "what came in, a little changed"),
        "golden": typed_inputs(8, seed=2),
        "holdout": typed_inputs(ROWS),
        "classes": (),
        "roles": {},
        "score_threshold": None,
    }
    return write(folder, **{**tiny_facts(), **facts}).folder
