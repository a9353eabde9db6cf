"""The model that everybody serves, its inputs, and the answers that everybody must give."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backends import EAGER, open_backend
from models.handoff import HandOff, load

Array = NDArray[Any]

HERE = Path(__file__).parent
CACHE = HERE.parent / ".environments"
"""Everything that is made once and kept: the peers' environments, the model, compiled files. Git ignores it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """One way to run the model, with its compiled file when it needs one."""

    name: str
    folder: Path | None = None
    digest: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One hand-off."""

    folder: Path
    papers: HandOff

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of one row by input."""
        return {spec.name: tuple(spec.shape[1:]) for spec in self.papers.model.inputs}

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of one row by output."""
        return {spec.name: tuple(spec.shape[1:]) for spec in self.papers.model.outputs}

    def inputs(self, *, rows: int, seed: int = 0) -> dict[str, Array]:
        """Return ``rows`` held-out rows, others for another seed; C-contiguous."""
        return take(held_out(self.papers), rows=rows, seed=seed)

    def answers(self, asked: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the model as it was handed over answers, in this process."""
        return open_backend(self.papers, EAGER, threads=1)(asked)

    def worst(self, found: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
        """Return the largest difference in units of the hand-off's own tolerance: at most 1 is the same answer.

        Raises ValueError when an output is missing or has another shape.
        """
        epsilon, worst = self.papers.model.epsilon, 0.0
        for name, expected in wanted.items():
            if name not in found or found[name].shape != expected.shape:
                got = found[name].shape if name in found else f"only {sorted(found)}"
                raise ValueError(f"the answer must have {name!r} of shape {expected.shape}, got {got}")
            allowed = epsilon.atol + epsilon.rtol * np.abs(expected)
            difference = np.abs(found[name] - expected)
            worst = max(worst, float(np.max(difference / allowed)) if np.isfinite(difference).all() else float("inf"))
        return worst


def held_out(papers: HandOff) -> dict[str, Array]:
    """Return all held-out rows of ``papers``, the inputs in declared order."""
    held = papers.holdout_inputs()
    return {spec.name: held[spec.name] for spec in papers.model.inputs}


def take(held: Mapping[str, Array], *, rows: int, seed: int = 0) -> dict[str, Array]:
    """Return ``rows`` of the held-out rows, others for another seed; arrays of their own, C-contiguous."""
    at = (np.arange(rows) + 37 * seed) % len(next(iter(held.values())))
    return {name: np.ascontiguousarray(array[at]) for name, array in held.items()}


def subject(folder: Path | None = None) -> Subject:
    """Return the hand-off in ``folder``; None is a reference model that is trained once (half a minute) and kept."""
    if folder is None:
        folder = CACHE / "model"
        if not folder.is_dir():
            _train(folder)
    return Subject(folder=folder.resolve(), papers=load(folder))


def _train(out: Path) -> None:
    """What a model learned does not change what it costs, so two epochs do."""
    import spectra
    from models.training import Recipe, train
    from spectra.sky import SkyRecipe, write_sky

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as sky:
        files = write_sky(SkyRecipe(seed=5, spectra=600), Path(sky))
        batch, _ = spectra.read_many(files)
        recipe = Recipe(epochs=2, fault_rows=100, threads=1)
        trainer = ("Benchmark", "benchmark@firstlight.example")
        train(batch, recipe, out=out, trainer=trainer, data_uri="synthetic sky", data_files=files)
