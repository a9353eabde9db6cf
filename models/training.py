"""From spectra to a hand-off folder: split, fit, calibrate, choose a threshold, measure, export, write.

Labels are what a survey has: redrock's SPECTYPE where ZWARN is 0. The truth columns of a synthetic sky are never read
here; they travel with the held-out table, and only evaluation looks at them.
"""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from firstlight.errors import RefusedError
from models import archive, spectrum_vae
from models.document import MODEL, Data, Epsilon, Trainer
from models.handoff import data_digest, load, write
from models.judgement import judge
from models.meaning import trainer_faults
from models.program import export
from models.spectrum_vae import SpectrumVAE
from models.spectrum_vae.calibrate import calibrate
from models.spectrum_vae.config import CLASSES
from models.spectrum_vae.fit import Binned, fit, start_basis
from models.spectrum_vae.loss import NO_LABEL
from models.spectrum_vae.model import OUTPUTS
from models.spectrum_vae.recipe import Recipe
from models.split import Part, split
from models.summary import summarise
from spectra import SpectrumBatch

__all__ = ["Progress", "Recipe", "TrainingError", "train"]

Progress = Callable[[str, float], None]
"""Called with (phase, fraction of that phase done); the phase "fit" carries its loss in the text, "fit, loss 1.23"."""

MIN_TRAIN, MIN_VALIDATION, MIN_HELDOUT = 64, 20, 20
"""Fewest spectra in each part for a model worth handing over; below, training is refused."""
GOLDEN_ROWS = 16
_CHUNK = 128
_ROLES = {name: name for name in ("class_probabilities", "latent", "chi2", "reconstruction")} | {"score": "anomaly_score"}
_UNITS = {"flux": "1e-17 erg/s/cm2/Angstrom", "ivar": "1e34 (s cm2 Angstrom / erg)^2"}


class TrainingError(RefusedError):
    """No model can be trained from these spectra; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """The batch and which row does what."""

    batch: SpectrumBatch
    part: NDArray[np.str_]
    kind: str

    def rows(self, *parts: Part) -> NDArray[np.intp]:
        return np.flatnonzero(np.isin(self.part, [part.value for part in parts]))


def train(
    batch: SpectrumBatch,
    recipe: Recipe,
    *,
    out: Path,
    trainer: tuple[str, str],
    data_uri: str,
    data_files: list[Path],
    purpose: str = "Compress optical spectra, rank them by how unusual they are for their S/N, and propose a class.",
    not_for: str = "Redshifts, line fluxes, or any decision about a person; spectra of another instrument; S/N below 0.3.",
    name: str = "desi-vae",
    data_class: str = "Public-External",
    data_description: str = "",
    git_commit: str = "none",
    progress: Progress | None = None,
    warm_start: Path | None = None,
) -> Path:
    """Train on ``batch`` and write the hand-off folder ``out``, which must not exist yet; return it.

    ``trainer`` is (name, e-mail). ``data_files`` are digested as the data reference. ``warm_start`` is an earlier hand-off of
    the same network: its weights are continued for ``recipe.warm_epochs``; one of another shape is ignored, and the recipe in
    handoff.yaml says which happened. Raises TrainingError (too few spectra, a trainer who is nobody: before any training) or HandOffError
    (another field is refused).
    """
    tell = progress or (lambda _phase, _fraction: None)
    started = time.monotonic()
    _require_person(trainer)
    parts = _divide(batch, recipe)
    learnt = _learn(parts, recipe, warm_start=warm_start, tell=tell)
    held = _heldout_rows(parts, recipe)
    table = batch.metadata.iloc[held].reset_index(drop=True)
    outputs = {key: value[held] for key, value in learnt.outputs.items()}
    figures = judge(table, outputs, roles=_ROLES, classes=CLASSES, threshold=learnt.threshold)
    tell("export", 0.0)
    write(
        out,
        exported=export(learnt.model, {"flux": batch.flux[held[:2]], "ivar": batch.ivar[held[:2]]}),
        name=name,
        trainer=trainer,
        purpose=purpose,
        not_for=not_for,
        data_class=data_class,
        data=Data(uri=data_uri, sha256=data_digest(data_files), spectra=len(batch), description=data_description or _description(parts)),
        recipe=recipe.model_dump(mode="json") | learnt.facts | {"split_by": parts.kind, "seconds": round(time.monotonic() - started, 1)},
        metrics={key: value for key, value in figures.values.items() if value is not None},
        input_units=_UNITS,
        output_meanings=OUTPUTS,
        golden=_golden(batch, held),
        holdout={"flux": batch.flux[held], "ivar": batch.ivar[held]},
        holdout_table=table,
        reference_table=_reference(learnt.summary, parts),
        git_commit=git_commit,
        epsilon=Epsilon(rtol=1e-3, atol=1e-3),  # the score divides by small spreads: float32 noise of another CPU grows about tenfold
        classes=CLASSES,
        roles=_ROLES,
        score_threshold=learnt.threshold,
    )
    tell("export", 1.0)
    return Path(out)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Learnt:
    """A trained network on the CPU, and what it says of every spectrum."""

    model: SpectrumVAE
    outputs: dict[str, NDArray[Any]]
    summary: pd.DataFrame
    threshold: float
    facts: dict[str, Any]


def _learn(parts: _Parts, recipe: Recipe, *, warm_start: Path | None, tell: Progress) -> _Learnt:
    with _torch(recipe) as device:
        model, warm = _started_model(recipe, warm_start)
        model = model.to(device)
        loss = _fit(model, parts, recipe, warm=warm, tell=tell)
        tell("calibrate", 0.0)
        flux, ivar = parts.batch.flux, parts.batch.ivar
        learnt, unseen = ((flux[rows], ivar[rows]) for rows in (parts.rows(Part.TRAIN), parts.rows(Part.VALIDATION)))
        calibrate(model, learnt, unseen, fault_rows=recipe.fault_rows, seed=recipe.seed)
        tell("calibrate", 1.0)
        outputs, summary = _outputs(model, parts.batch, tell)
    threshold = _threshold(outputs["anomaly_score"][parts.rows(Part.VALIDATION)], recipe)
    facts = {"final_loss": round(loss, 6), "warm_start": warm, "device_used": device, **_shape_of(model)}
    return _Learnt(model=model.cpu(), outputs=outputs, summary=summary, threshold=threshold, facts=facts)


def _shape_of(model: SpectrumVAE) -> dict[str, Any]:
    """Return what the network is and how many numbers it learns, for its model card."""
    about = (spectrum_vae.__doc__ or "").partition(":")[0]
    return {"architecture": f"{type(model).__name__}: {about}", "parameters": sum(part.numel() for part in model.parameters())}


def _require_person(trainer: tuple[str, str]) -> None:
    """Raise TrainingError for a trainer that the hand-off would refuse: not after an hour of training."""
    faults = list(trainer_faults(Trainer.model_construct(name=trainer[0], email=trainer[1])))
    if faults:
        raise TrainingError("; ".join(f"{field} {what}: {mend}" for field, what, mend in faults))


def _divide(batch: SpectrumBatch, recipe: Recipe) -> _Parts:
    part, kind = split(batch.metadata, heldout=recipe.heldout_share, validation=recipe.validation_share)
    for name, least in ((Part.TRAIN, MIN_TRAIN), (Part.VALIDATION, MIN_VALIDATION), (Part.HELDOUT, MIN_HELDOUT)):
        found = int((part == name.value).sum())
        if found < least:
            raise TrainingError(f"training needs at least {least} {name} spectra, found {found} of {len(batch)}: give more files")
    return _Parts(batch=batch, part=part, kind=kind)


@contextmanager
def _torch(recipe: Recipe) -> Iterator[str]:
    """Set threads and seed for the run and yield the device; put the thread count and the random state back after."""
    before = torch.get_num_threads()
    device = "cuda" if recipe.device != "cpu" and torch.cuda.is_available() else "cpu"
    if recipe.device == "cuda" and device == "cpu":
        raise TrainingError("device 'cuda' needs a GPU that torch can use, found none: use device='auto' or 'cpu'")
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        try:
            yield device
        finally:
            torch.set_num_threads(before)


def _started_model(recipe: Recipe, warm_start: Path | None) -> tuple[SpectrumVAE, bool]:
    """Return a network, and whether it continues the weights of ``warm_start``."""
    model = SpectrumVAE(recipe.network())
    if warm_start is None:
        return model, False
    weights = _weights(warm_start)
    own = model.state_dict()
    if weights.keys() != own.keys() or any(weights[key].shape != own[key].shape for key in own):
        return model, False
    model.load_state_dict(weights)
    return model, True


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a hand-off's model.pt2: digest verified, archive rebuilt from what was understood, then parsed."""
    data = archive.rebuild(load(folder).read(MODEL))
    return dict(torch.export.load(io.BytesIO(data)).state_dict)


def _fit(model: SpectrumVAE, parts: _Parts, recipe: Recipe, *, warm: bool, tell: Progress) -> float:
    tell("prepare", 0.0)
    data = _binned(model, parts.batch.take(parts.rows(Part.TRAIN)))
    if not warm:
        start_basis(model, data)
    tell("prepare", 1.0)
    epochs = recipe.warm_epochs if warm else recipe.epochs
    return fit(model, data, recipe, epochs=epochs, after_epoch=lambda epoch, loss: tell(f"fit, loss {loss:.3f}", epoch / epochs))


@torch.inference_mode()
def _binned_chunk(model: SpectrumVAE, flux: NDArray[np.float32], ivar: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
    prepared = model.preprocess(*(torch.from_numpy(array).to(model.latent_mean.device) for array in (flux, ivar)))
    return prepared.value_BL, prepared.weight_BL


def _binned(model: SpectrumVAE, batch: SpectrumBatch) -> Binned:
    """Return the training spectra as the encoder sees them, with the labels a survey has."""
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(batch), _CHUNK)]
    pairs = [_binned_chunk(model, batch.flux[chunk], batch.ivar[chunk]) for chunk in chunks]
    label = torch.from_numpy(survey_labels(batch.metadata)).to(model.latent_mean.device)
    # clone: a tensor made in inference mode may not enter autograd
    return Binned(value=torch.cat([p[0] for p in pairs]).clone(), weight=torch.cat([p[1] for p in pairs]).clone(), label=label)


def survey_labels(metadata: pd.DataFrame) -> NDArray[np.int64]:
    """Return the class index of each row where redrock gave one without a warning (ZWARN 0), else NO_LABEL."""
    index = metadata["spectype"].map({name: i for i, name in enumerate(CLASSES)}).fillna(NO_LABEL).to_numpy(dtype=np.int64)
    return np.where(metadata["zwarn"].fillna(-1).to_numpy(dtype=np.int64) == 0, index, NO_LABEL)


def _outputs(model: SpectrumVAE, batch: SpectrumBatch, tell: Progress) -> tuple[dict[str, NDArray[Any]], pd.DataFrame]:
    """Return the narrow outputs of all spectra, and their feature summary; the reconstructions are not kept."""
    narrow: list[dict[str, NDArray[Any]]] = []
    tables = []
    device = model.latent_mean.device
    for start in range(0, len(batch), _CHUNK):
        inputs = {"flux": batch.flux[start : start + _CHUNK], "ivar": batch.ivar[start : start + _CHUNK]}
        with torch.inference_mode():
            answer = model(**{name: torch.from_numpy(array).to(device) for name, array in inputs.items()})
        arrays = {name: tensor.cpu().numpy() for name, tensor in answer.items()}
        tables.append(summarise(inputs, arrays))
        narrow.append({name: array for name, array in arrays.items() if name != "reconstruction"})
        tell("measure", min(1.0, (start + _CHUNK) / len(batch)))
    return {name: np.concatenate([part[name] for part in narrow]) for name in narrow[0]}, pd.concat(tables, ignore_index=True)


def _heldout_rows(parts: _Parts, recipe: Recipe) -> NDArray[np.intp]:
    """Return the held-out rows that are handed over: all, or an even sample of them when there are very many."""
    rows = parts.rows(Part.HELDOUT)
    if len(rows) <= recipe.heldout_rows:
        return rows
    return rows[np.linspace(0, len(rows) - 1, recipe.heldout_rows).astype(np.intp)]


def _threshold(score: NDArray[Any], recipe: Recipe) -> float:
    """Return the score above which ``flagged_share`` of the validation spectra lie."""
    return float(np.quantile(score.astype(np.float64), 1 - recipe.flagged_share))


def _golden(batch: SpectrumBatch, held: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
    """Return held-out spectra spread over the table; the last row is emptied, so that the answer to nothing is recorded too."""
    chosen = held[np.linspace(0, len(held) - 1, GOLDEN_ROWS).astype(np.intp)]
    golden = {"flux": batch.flux[chosen].copy(), "ivar": batch.ivar[chosen].copy()}
    for array in golden.values():
        array[-1] = 0
    return golden


def _reference(summary: pd.DataFrame, parts: _Parts) -> pd.DataFrame:
    """Return the feature summary of all spectra beside their metadata and part; on a shared name the summary's value stays."""
    metadata = parts.batch.metadata.drop(columns=[name for name in summary if name in parts.batch.metadata])
    return pd.concat([summary, metadata, pd.Series(parts.part, name="part")], axis=1)


def _description(parts: _Parts) -> str:
    counts = ", ".join(f"{int((parts.part == part.value).sum())} {part.value}" for part in Part)
    files = parts.batch.metadata["source_file"].nunique()
    return f"{len(parts.batch)} spectra from {files} files, divided by {parts.kind}: {counts}"
