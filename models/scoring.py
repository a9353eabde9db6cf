"""One version over many files of spectra: bounded memory, resumable, nothing lost.

Each input file becomes a part beside the output table as soon as it is scored. A run that was killed and is run again keeps the
parts that are whole and were made by the same model from the same bytes. Rows and files that cannot be scored go to a side table
with their reasons; the others still count.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import spectra
from firstlight.digest import sha256_bytes
from firstlight.errors import RefusedError
from models.errors import HandOffError
from models.handoff_folder import HandOff
from models.program import Program
from models.summary import summarise
from spectra.object_store import ObjectStore

BATCH = 64
"""Spectra a call: beyond this a call on one core gains nothing."""

_KEY = b"firstlight.part"
_KEPT = ("targetid", "survey", "program", "spectype", "z", "zwarn", "snr", "petal", "fiber", "night", "source_file")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a scoring run left."""

    out: Path
    """Parquet table: one row per good spectrum."""
    refused: Path
    """Parquet table: source_file, row (-1: the whole file), targetid, reason."""
    files: int
    rows: int
    refused_rows: int
    refused_files: int
    reused: int
    """Files that an earlier run had finished."""


def score_batch(program: Program, batch: spectra.SpectrumBatch) -> dict[str, np.ndarray]:
    """Run a version over a batch of spectra; outputs by name, n rows each. Raises HandOffError when it is no model of spectra on our grid."""
    offered = {"flux": batch.flux, "ivar": batch.ivar}
    wanted = {item.name: tuple(item.shape[1:]) for item in program.inputs}
    foreign = {name: shape for name, shape in wanted.items() if name not in offered or shape != offered[name].shape[1:]}
    if foreign:
        raise HandOffError(
            f"a model that scores spectra must take flux and ivar of {len(spectra.WAVELENGTH)} pixels, this one asks for {foreign}"
        )
    chunks = [program({name: offered[name][start : start + BATCH] for name in wanted}) for start in range(0, max(1, len(batch)), BATCH)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def score_files(
    papers: HandOff,
    files: Sequence[str],
    out: Path,
    *,
    version: str,
    store: ObjectStore | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scored:
    """Score every file and write ``out`` and its side table ``<out>.refused.parquet``.

    ``progress`` is told (files done, files in all). Raises RefusedError when ``out`` cannot be written or no file is given.
    """
    if not files:
        raise RefusedError(
            "at least one file of spectra must be given, none was found: name coadd-*.fits, spectra-*.fits or spec-*.fits files or their folder"
        )
    parts = _folder_of_parts(out)
    program = Program.load(papers)
    reused = 0
    for done, file in enumerate(files):
        progress(done, len(files))
        key = _key(file, papers, version)
        if _finished(_part(parts, file), key):
            reused += 1
            continue
        _write_part(_part(parts, file), key, *_score_one(papers, program, file, version, store))
    progress(len(files), len(files))
    return _join(out, parts, files, reused)


def _score_one(papers: HandOff, program: Program, file: str, version: str, store: ObjectStore | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of one file and what was refused of it."""
    batch, refused_files = spectra.read_many([file], store=store)
    refused = [{"source_file": item.source_file, "row": -1, "targetid": -1, "reason": item.reason} for item in refused_files]
    refused += [
        {"source_file": item.source_file, "row": item.row, "targetid": item.targetid, "reason": item.reason} for item in batch.refused
    ]
    side = pd.DataFrame(refused, columns=["source_file", "row", "targetid", "reason"])
    if not len(batch):
        return pd.DataFrame(), side
    outputs = summarise({}, score_batch(program, batch))
    kept = batch.metadata[[column for column in _KEPT if column in batch.metadata]].reset_index(drop=True)
    table = pd.concat([kept, outputs.reset_index(drop=True)], axis=1)
    threshold = papers.model.score_threshold
    score = papers.role("score")
    if threshold is not None and score in table:
        table["flagged"] = table[score] >= threshold
    return table.assign(predicted_class=_classes(papers, outputs, len(table)), model_version=version), side


def _classes(papers: HandOff, outputs: pd.DataFrame, rows: int) -> list[str]:
    role, names = papers.role("class_probabilities"), papers.model.classes
    columns = [f"{role}_{index}" for index in range(len(names))]
    if not names or not set(columns) <= set(outputs):
        return [""] * rows
    return [names[index] for index in outputs[columns].to_numpy().argmax(axis=1)]


def _folder_of_parts(out: Path) -> Path:
    parts = out.with_name(out.name + ".parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError(f"the folder of {out} must be writable, it is not ({error.strerror}): choose another with --out") from None
    return parts


def _part(parts: Path, file: str) -> Path:
    return parts / f"{sha256_bytes(file.encode())[:24]}.parquet"


def _key(file: str, papers: HandOff, version: str) -> bytes:
    """Identity of a part: model, version, and the file as it is now (size and time; its bytes would have to be read to be hashed)."""
    local = Path(file)
    stamp = f"{local.stat().st_size}:{local.stat().st_mtime_ns}" if "://" not in file and local.is_file() else "remote"
    return hashlib.sha256(f"{papers.model_digest}:{version}:{file}:{stamp}".encode()).hexdigest().encode()


def _finished(part: Path, key: bytes) -> bool:
    try:
        return (pq.read_schema(part).metadata or {}).get(_KEY) == key
    except (OSError, pa.ArrowException):
        return False


def _write_part(part: Path, key: bytes, table: pd.DataFrame, side: pd.DataFrame) -> None:
    """Write the side table first: a part counts as finished when its own file is there with the key."""
    _write(part.with_suffix(".refused.parquet"), pa.Table.from_pandas(side, preserve_index=False))
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    _write(part, arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), _KEY: key}))


def _write(path: Path, table: pa.Table) -> None:
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        pq.write_table(table, scratch)
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise RefusedError(
            f"{path.parent} must be writable with room left, writing {path.name} failed ({error.strerror or error}): free space and run again"
        ) from None


def _join(out: Path, parts: Path, files: Sequence[str], reused: int) -> Scored:
    tables = [table for file in files if (table := pd.read_parquet(_part(parts, file))).shape[1]]
    sides = [pd.read_parquet(_part(parts, file).with_suffix(".refused.parquet")) for file in files]
    scores = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"targetid": pd.Series(dtype="int64")})
    side = pd.concat([one for one in sides if len(one)] or sides[:1], ignore_index=True)
    refused = out.with_name(out.stem + ".refused.parquet")
    _write(refused, pa.Table.from_pandas(side, preserve_index=False))
    _write(out, pa.Table.from_pandas(scores, preserve_index=False))
    _remove(parts)
    return Scored(
        out=out,
        refused=refused,
        files=len(files),
        rows=len(scores),
        refused_rows=int((side["row"] >= 0).sum()) if len(side) else 0,
        refused_files=int((side["row"] < 0).sum()) if len(side) else 0,
        reused=reused,
    )


def _remove(parts: Path) -> None:
    for path in _inside(parts):
        path.unlink(missing_ok=True)
    parts.rmdir()


def _inside(parts: Path) -> Iterator[Path]:
    yield from list(parts.iterdir())
