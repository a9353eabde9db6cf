"""What a model answers for spectra, as the rows of a table; and what was refused of them, as the rows of its side table."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

import spectra
from models.backends import Runner
from models.document import InputSpec, OutputSpec
from models.errors import HandOffError
from models.handoff_folder import HandOff
from models.summary import VECTOR_LIMIT, summarise
from models.tensors import Array, held_as
from spectra.batch import empty

BATCH = 64
"""Spectra a call: beyond this a call on one core gains nothing."""

_PIXELS = len(spectra.WAVELENGTH)
KEPT = ("targetid", "survey", "program", "spectype", "z", "zwarn", "snr", "petal", "fiber", "night", "source_file")
"""What of a spectrum's metadata is in the table."""
_OURS = ("flagged", "predicted_class", "model_version")
SIDE = pa.schema([("source_file", pa.string()), ("row", pa.int64()), ("targetid", pa.int64()), ("reason", pa.string())])
"""The side table: row -1 stands for the whole file, or for the rows that the reason names."""

Refusal = tuple[str, int, int, str]
"""One row of the side table."""


def require_spectra(inputs: Sequence[InputSpec]) -> None:
    """Raise HandOffError when a model takes anything but flux and ivar on our grid."""
    foreign = {item.name: list(item.shape) for item in inputs if item.name not in ("flux", "ivar") or item.shape != (-1, _PIXELS)}
    if foreign:
        raise HandOffError(
            f"a model that scores spectra must take flux and ivar of {_PIXELS} pixels, this one asks for {foreign}: choose another model"
        )


def score_batch(runner: Runner, batch: spectra.SpectrumBatch) -> dict[str, Array]:
    """Run a version over a batch of spectra, :data:`BATCH` a call; the outputs by name that become columns, n rows each.

    Raises HandOffError when it is no model of spectra on our grid, ProgramError when it fails.
    """
    require_spectra(runner.inputs)
    offered = {"flux": batch.flux, "ivar": batch.ivar}
    inputs = {item.name: offered[item.name].astype(held_as(item.dtype), copy=False) for item in runner.inputs}
    wanted = columns(runner.outputs)
    answers = [
        runner({name: array[start : start + BATCH] for name, array in inputs.items()}, wanted=wanted)
        for start in range(0, max(1, len(batch)), BATCH)
    ]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in wanted}


def columns(outputs: Sequence[OutputSpec]) -> list[str]:
    """Return the names of the outputs that are narrow enough to become columns: no reconstruction is kept, or even copied."""
    return [item.name for item in outputs if len(item.shape) == 1 or (len(item.shape) == 2 and item.shape[1] <= VECTOR_LIMIT)]


def scores(papers: HandOff, metadata: pd.DataFrame, outputs: dict[str, Array], *, version: str) -> pd.DataFrame:
    """Return one row per spectrum: what is known of it, what the model answered, and what follows from the answer."""
    kept = metadata[[column for column in KEPT if column in metadata]].reset_index(drop=True)
    answers = summarise({}, outputs)
    taken = {*kept.columns, *_OURS}
    named = answers.rename(columns=lambda column: f"output_{column}" if column in taken else column)
    table = pd.concat([kept, named], axis=1)
    score, threshold = papers.role("score"), papers.model.score_threshold
    if threshold is not None and score in answers:
        table["flagged"] = (answers[score] >= threshold).astype("boolean").mask(answers[score].isna())
    return table.assign(predicted_class=_classes(papers, answers), model_version=version)


def scores_schema(papers: HandOff, *, version: str) -> pa.Schema:
    """Return the columns that every table of this version has, also one without rows."""
    kept = columns(papers.model.outputs)
    outputs = {item.name: np.zeros((0, *item.shape[1:]), dtype=held_as(item.dtype)) for item in papers.model.outputs if item.name in kept}
    return pa.Schema.from_pandas(scores(papers, empty().metadata, outputs, version=version), preserve_index=False).remove_metadata()


def side_table(refusals: Sequence[Refusal]) -> pa.Table:
    """Return the side table of ``refusals``."""
    columns = list(zip(*refusals, strict=True)) or [()] * len(SIDE)
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, SIDE.types, strict=True)], schema=SIDE)


def _classes(papers: HandOff, answers: pd.DataFrame) -> "pd.Series[str]":
    """Return the most probable class of each row, "" where the model names none or a probability is no number."""
    role, names = papers.role("class_probabilities"), papers.model.classes
    columns = [f"{role}_{index}" for index in range(len(names))]
    if not names or not set(columns) <= set(answers):
        return pd.Series([""] * len(answers), dtype="str")
    shares = answers[columns].to_numpy()
    known = np.isfinite(shares).all(axis=1)
    best = np.where(known, np.asarray(names, dtype=object)[np.where(known[:, None], shares, 0).argmax(axis=1)], "")
    return pd.Series(best, dtype="str")
