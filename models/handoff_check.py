"""Everything that is wrong with a hand-off folder, cheap questions first; nothing is parsed whose digest is wrong."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from models import archive
from models.document import DOCUMENT, GOLDEN, HOLDOUT, HOLDOUT_TABLE, MODEL, REFERENCE_TABLE, Document, FileEntry, Model, faults
from models.errors import HandOffError
from models.handoff_folder import (
    HandOff,
    Problem,
    digest_problems,
    listing_problems,
    load,
    read_document,
    read_verified,
    split_golden,
)
from models.meaning import meaning_faults
from models.parquet_table import read_table
from models.strict_yaml import parse_yaml
from models.tensors import Array, mismatch, read_tensors, rows_of

GOLDEN_ROWS = range(8, 33)
"""Fewer rows do not exercise a model; more make every start slow."""
_PLAIN = (".md", ".txt", ".json", ".yaml", ".csv", ".parquet", ".safetensors", ".png", ".svg")
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".dill", ".npy", ".npz", ".h5", ".keras")


def check(folder: Path | str, *, run: bool = True) -> list[Problem]:
    """Return every problem of the hand-off in ``folder``, [] when it is good. Runs the model last, if at all. Never raises on bad input."""
    place = Path(folder)
    try:
        problems = _still_problems(place)
        return problems or (_moving_problems(place) if run else [])
    except HandOffError as problem:
        return [Problem(where=DOCUMENT, what=str(problem), mend="mend this first, then check again")]
    except OSError as problem:
        return [Problem(where=str(place), what=f"must be readable, found {problem.strerror!r}", mend="check path and permissions")]


def _still_problems(folder: Path) -> list[Problem]:
    """Everything that can be seen without running the model."""
    value = parse_yaml(read_document(folder), where=DOCUMENT)
    files = _claimed_files(value)
    problems = [*_document_problems(value), *listing_problems(folder, files), *_pickle_problems(folder)]
    changed = digest_problems(folder, files)
    sound = {name: files[name] for name in files if name not in {problem.where for problem in [*changed, *problems]}}
    return [*problems, *changed, *_content_problems(folder, sound, _claimed_model(value))]


def _document_problems(value: Any) -> list[Problem]:
    try:
        document = Document.model_validate(value)
    except ValidationError as problem:
        return [_fault(words) for words in faults(problem)]
    return [Problem(where=f"{DOCUMENT}: {field}", what=what, mend=mend) for field, what, mend in meaning_faults(document)]


def _fault(words: str) -> Problem:
    field, _, what = words.partition(": ")
    if field.startswith("files.") and ("/" in field or "\\" in field or ".." in field):
        what = "must be the plain name of a file in the folder, found a path that leads elsewhere"
    return Problem(where=f"{DOCUMENT}: {field}", what=what, mend="see models/handoff.schema.json")


def _claimed_files(value: Any) -> dict[str, FileEntry]:
    """The well-formed entries of the file list, also when the rest of the document is broken."""
    files = value.get("files") if isinstance(value, dict) else None
    claimed: dict[str, FileEntry] = {}
    for name, entry in (files if isinstance(files, dict) else {}).items():
        if "/" in name or "\\" in name or name in ("", ".", "..", DOCUMENT) or "\0" in name:
            continue
        try:
            claimed[name] = FileEntry.model_validate(entry)
        except ValidationError:
            continue
    return claimed


def _claimed_model(value: Any) -> Model | None:
    try:
        return Model.model_validate(value["model"])
    except (ValidationError, KeyError, TypeError):
        return None


def _pickle_problems(folder: Path) -> Iterator[Problem]:
    mend = "remove it: a pickle runs code when it is read; use safetensors or Parquet"
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file() or path.name in (MODEL, DOCUMENT):
            continue
        if path.suffix.lower() in _PICKLES or _looks_pickled(path):
            yield Problem(where=path.name, what="must not be a pickle or a format that may carry one", mend=mend)
        elif path.suffix.lower() not in _PLAIN:
            yield Problem(where=path.name, what=f"must end in one of {', '.join(_PLAIN)}", mend="convert or remove it")


def _looks_pickled(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            start = stream.read(4)
    except OSError:
        return False
    return (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and path.suffix != ".safetensors") or start == b"PK\x03\x04"


def _content_problems(folder: Path, sound: Mapping[str, FileEntry], model: Model | None) -> list[Problem]:
    """Look into the files whose digest is right."""
    problems: list[Problem] = []

    def look(name: str, question: Callable[[bytes], list[str]], mend: str) -> None:
        if name not in sound:
            return
        try:
            found = question(read_verified(folder / name, sound[name]))
        except HandOffError as problem:
            found = [str(problem)]
        problems.extend(Problem(where=name, what=what, mend=mend) for what in found)

    rows: dict[str, int] = {}
    look(MODEL, archive.inspect, "export the model again with models.program.export")
    look(REFERENCE_TABLE, lambda data: _table_faults(data, REFERENCE_TABLE, rows), "write one row per reference spectrum")
    look(HOLDOUT_TABLE, lambda data: _table_faults(data, HOLDOUT_TABLE, rows), "write one row per held-out spectrum")
    if model:
        look(GOLDEN, lambda data: _golden_faults(data, model), "record the golden vectors again")
        look(HOLDOUT, lambda data: _holdout_faults(data, model, rows), "write the held-out inputs again")
    if rows.get(HOLDOUT, 0) != rows.get(HOLDOUT_TABLE, 0) and {HOLDOUT, HOLDOUT_TABLE} <= rows.keys():
        what = f"must have one row for each of the {rows[HOLDOUT]} rows of {HOLDOUT}, found {rows[HOLDOUT_TABLE]}"
        problems.append(Problem(where=HOLDOUT_TABLE, what=what, mend="write both from the same objects in the same order"))
    return problems


def _table_faults(data: bytes, name: str, rows: dict[str, int]) -> list[str]:
    table = read_table(data, where=name)
    rows[name] = len(table)
    return [] if len(table) else ["must have at least one row, found none"]


def _holdout_faults(data: bytes, model: Model, rows: dict[str, int]) -> list[str]:
    tensors = read_tensors(data, where=HOLDOUT)
    found = _form_faults({spec.name: (spec.dtype, spec.shape) for spec in model.inputs}, tensors)
    if not found:
        rows[HOLDOUT] = rows_of(tensors).pop()
    return found


def _golden_faults(data: bytes, model: Model) -> list[str]:
    tensors = read_tensors(data, where=GOLDEN)
    wanted = {f"input.{spec.name}": (spec.dtype, spec.shape) for spec in model.inputs}
    wanted |= {f"output.{spec.name}": (spec.dtype, spec.shape) for spec in model.outputs}
    if found := _form_faults(wanted, tensors):
        return found
    rows = rows_of(tensors).pop()
    found = [] if rows in GOLDEN_ROWS else [f"must have {GOLDEN_ROWS.start} to {GOLDEN_ROWS.stop - 1} rows, found {rows}"]
    outputs = split_golden(tensors)[1]
    return found + [
        f"output {name!r} must be finite, found NaN or infinity" for name, array in outputs.items() if not np.isfinite(array).all()
    ]


def _form_faults(wanted: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Mapping[str, Array]) -> list[str]:
    """Names first, then dtype and shape of each, then the row counts together."""
    if set(wanted) != set(tensors):
        return [f"must hold the tensors {sorted(wanted)}, found {sorted(tensors)}"]
    found = [
        f"tensor {name!r} must be {dtype} {list(shape)}, found {words}"
        for name, (dtype, shape) in wanted.items()
        if (words := mismatch(tensors[name], dtype=dtype, shape=shape))
    ]
    if not found and len(rows_of(tensors)) != 1:
        return [f"all tensors must have the same number of rows, found {sorted(rows_of(tensors))}"]
    return found


def _moving_problems(folder: Path) -> list[Problem]:
    """Run the model: the golden rows, and one row alone."""
    from models.golden import replay
    from models.program import Program

    try:
        handoff: HandOff = load(folder)
        program = Program.load(handoff)
        replay(program, handoff)  # once before: a model that remembers its last call does not answer the same the second time
        report = replay(program, handoff)
        program({name: array[:1] for name, array in handoff.golden()[0].items()})
    except HandOffError as problem:
        return [Problem(where=MODEL, what=str(problem), mend="export the model again, or declare what it really takes and gives")]
    return [Problem(where=GOLDEN, what=reason, mend="record the golden vectors with the saved model") for reason in report.reasons]
