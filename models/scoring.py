"""One version over many files of spectra: bounded memory, resumable, nothing lost.

Each input file becomes a part beside the output table as soon as it is scored, and the next file is read meanwhile. A run that was
killed and is run again keeps the parts that are whole and were made by the same version from the same files. Rows and files that
cannot be scored go to a side table with their reasons; the others still count.

All cores work, each on calls of its own with one thread: threads that share a call wait for the slowest at every layer, and beside
another busy process that was measured to be ten times slower than one thread alone. So a row's score does not depend on the cores.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

import spectra
from firstlight.errors import RefusedError
from models.document import InputSpec
from models.errors import HandOffError, ProgramError
from models.evaluation import narrow_outputs
from models.handoff_folder import HandOff
from models.hardware import choose_device
from models.program import Program
from models.scored_parts import Parts
from models.summary import summarise
from models.tensors import Array
from spectra.reading import Store

BATCH = 64
"""Spectra a call: beyond this a call on one core gains nothing."""

_KEPT = ("targetid", "survey", "program", "spectype", "z", "zwarn", "snr", "petal", "fiber", "night", "source_file")
_OURS = ("flagged", "predicted_class", "model_version")
_SIDE = ("source_file", "row", "targetid", "reason")
Read = tuple[spectra.SpectrumBatch, list[spectra.RefusedFile]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a scoring run left."""

    out: Path
    """Parquet table: one row per good spectrum, in the order of the files."""
    refused: Path
    """Parquet table: source_file, row (-1: the whole file), targetid, reason."""
    files: int
    rows: int
    refused_rows: int
    refused_files: int
    reused: int
    """Files that an earlier run had finished."""


def score_batch(program: Program, batch: spectra.SpectrumBatch, *, pool: Executor | None = None) -> dict[str, Array]:
    """Run a version over a batch of spectra; outputs by name, n rows each, without those wider than 64 (a reconstruction).

    Calls of :data:`BATCH` spectra are shared among the workers of ``pool``; without one they are made one after the other.
    Raises HandOffError when it is no model of spectra on our grid, ProgramError when it fails.
    """
    _require_spectra(program.inputs)
    offered = {"flux": batch.flux, "ivar": batch.ivar}
    inputs = {item.name: offered[item.name].astype(item.dtype, copy=False) for item in program.inputs}
    chunks = [{name: array[start : start + BATCH] for name, array in inputs.items()} for start in range(0, max(1, len(batch)), BATCH)]
    answers = list((pool.map if pool else map)(partial(narrow_outputs, program, batch_size=BATCH), chunks))
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def workers(device: str) -> ThreadPoolExecutor:
    """Return a pool with a worker for each core we may use; a GPU is fed by one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(cores if device == "cpu" else 1, thread_name_prefix="score")


def score_files(
    papers: HandOff,
    files: Sequence[str],
    out: Path,
    *,
    version: str,
    store: Store | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scored:
    """Score every file, each once, and write ``out`` and its side table ``<out>.refused.parquet``.

    ``progress`` is told (files done, files in all). Raises RefusedError when ``out`` cannot be written, no file is given or another
    run writes there, HandOffError when the model does not take spectra, TransientError when the store does not answer; what was
    scored until then is kept for the next run.
    """
    wanted = list(dict.fromkeys(files))
    if not wanted:
        raise RefusedError(
            "at least one file of spectra must be given, none was found: name coadd-*.fits, spectra-*.fits or spec-*.fits files or their folder"
        )
    _require_spectra(papers.model.inputs)
    program = Program.load(papers, device=choose_device(), threads=1, batch_size=BATCH)
    with Parts(out, made_by=f"{papers.digest}:{version}") as parts, workers(program.device) as pool:
        keys = {file: parts.key(file) for file in wanted}  # before reading: a file that changes meanwhile is scored again next time
        missing = [file for file in wanted if not parts.has(file, keys[file])]
        progress(len(wanted) - len(missing), len(wanted))
        for done, (file, found) in enumerate(_read_ahead(missing, store), start=1 + len(wanted) - len(missing)):
            parts.put(file, keys[file], *_score(papers, program, file, found, version=version, pool=pool))
            progress(done, len(wanted))
        refused = out.with_name(out.stem + ".refused.parquet")
        rows, refused_rows, refused_files = parts.join(wanted, refused)
    return Scored(
        out=out,
        refused=refused,
        files=len(wanted),
        rows=rows,
        refused_rows=refused_rows,
        refused_files=refused_files,
        reused=len(wanted) - len(missing),
    )


def _require_spectra(inputs: Sequence[InputSpec]) -> None:
    foreign = {item.name: list(item.shape) for item in inputs if item.name not in ("flux", "ivar") or item.shape != (-1, _PIXELS)}
    if foreign:
        raise HandOffError(
            f"a model that scores spectra must take flux and ivar of {_PIXELS} pixels, this one asks for {foreign}: choose another model"
        )


_PIXELS = len(spectra.WAVELENGTH)


def _read_ahead(files: Sequence[str], store: Store | None) -> Iterator[tuple[str, Read]]:
    """Yield every file with what it holds; while the caller works on one, the next is read, and never more than that."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        coming: Future[Read] | None = None
        for place, file in enumerate(files):
            now = coming or reader.submit(spectra.read_many, [file], store=store)
            found = now.result()
            coming = reader.submit(spectra.read_many, [files[place + 1]], store=store) if place + 1 < len(files) else None
            yield file, found


def _score(
    papers: HandOff, program: Program, file: str, found: Read, *, version: str, pool: Executor | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of one file and what was refused of it."""
    batch, refused_files = found
    whole = [(item.source_file, -1, -1, item.reason) for item in refused_files]
    single = [(item.source_file, item.row, item.targetid, item.reason) for item in batch.refused]
    try:
        outputs = score_batch(program, batch, pool=pool)
    except ProgramError as error:
        whole.append((file, -1, -1, str(error)))
        batch = batch.take([])
        outputs = score_batch(program, batch)
    side = pd.DataFrame([*whole, *single], columns=_SIDE).astype({"row": "int64", "targetid": "int64"})
    return _table(papers, batch.metadata, outputs, version=version), side


def _table(papers: HandOff, metadata: pd.DataFrame, outputs: dict[str, Array], *, version: str) -> pd.DataFrame:
    """Return one row per spectrum: what is known of it, what the model answered, and what follows from the answer."""
    kept = metadata[[column for column in _KEPT if column in metadata]].reset_index(drop=True)
    answers = summarise({}, outputs)
    taken = {*kept.columns, *_OURS}
    named = answers.rename(columns=lambda column: f"output_{column}" if column in taken else column)
    table = pd.concat([kept, named], axis=1)
    score, threshold = papers.role("score"), papers.model.score_threshold
    if threshold is not None and score in answers:
        table["flagged"] = (answers[score] >= threshold).astype("boolean").mask(answers[score].isna())
    return table.assign(predicted_class=_classes(papers, answers), model_version=version)


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
