"""A hand-off folder appears whole or not at all: written beside its place, checked as anyone would check it, then renamed."""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from pydantic import BaseModel

from firstlight.digest import sha256_bytes
from models.document import (
    DOCUMENT,
    FORMAT,
    GOLDEN,
    HOLDOUT,
    HOLDOUT_TABLE,
    MODEL,
    REFERENCE_TABLE,
    Data,
    Epsilon,
    Model,
    Trainer,
    parse_document,
)
from models.errors import HandOffError
from models.handoff_check import check
from models.handoff_folder import HandOff, load, sentence
from models.tensors import Array, write_tensors

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def write(
    folder: Path | str,
    *,
    exported: "ExportedProgram",
    name: str,
    trainer: Trainer | tuple[str, str],
    purpose: str,
    not_for: str,
    data_class: str,
    data: Data,
    recipe: Mapping[str, Any],
    metrics: Mapping[str, float],
    input_units: Mapping[str, str],
    output_meanings: Mapping[str, str],
    golden: Mapping[str, Array],
    holdout: Mapping[str, Array],
    holdout_table: pd.DataFrame,
    reference_table: pd.DataFrame,
    git_commit: str = "none",
    epsilon: Epsilon | None = None,
    classes: Sequence[str] = (),
    roles: Mapping[str, str] | None = None,
    score_threshold: float | None = None,
    created: datetime | None = None,
) -> HandOff:
    """Write a hand-off folder and return it, loaded.

    ``exported`` comes from :func:`models.program.export`. ``golden`` holds the inputs of 8 to 32 rows; their outputs are recorded by
    running the *saved* archive. Row i of ``holdout`` and ``holdout_table`` is the same object. ``folder`` must not exist yet.
    Raises HandOffError with what is wrong; nothing is left behind then.
    """
    from models.program_form import archive_bytes, declared_form

    place = Path(folder)
    if place.exists():
        raise HandOffError(f"{place} must not exist yet, found something there: choose another folder, hand-offs are never changed")
    model = declared_form(
        exported,
        units=input_units,
        meanings=output_meanings,
        rest={
            "epsilon": _plain(epsilon or Epsilon()),
            "classes": list(classes),
            "roles": dict(roles or {}),
            "score_threshold": score_threshold,
        },
    )
    archive = archive_bytes(exported)
    contents = {
        MODEL: archive,
        GOLDEN: _golden(archive, model, golden),
        HOLDOUT: write_tensors(holdout),
        HOLDOUT_TABLE: _parquet(holdout_table),
        REFERENCE_TABLE: _parquet(reference_table),
    }
    facts = {
        "format": FORMAT,
        "name": name,
        "created": (created or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
        "trainer": _plain(trainer) if isinstance(trainer, Trainer) else dict(zip(("name", "email"), trainer, strict=True)),
        "purpose": purpose,
        "not_for": not_for,
        "data_class": data_class,
        "data": _plain(data),
        "git_commit": git_commit,
        "environment": _environment(),
        "recipe": dict(recipe),
        "metrics": {key: float(value) if isinstance(value, Real) else value for key, value in metrics.items()},
        "model": _plain(model),
        "files": {key: {"sha256": sha256_bytes(value), "bytes": len(value)} for key, value in contents.items()},
    }
    parse_document(facts)
    return _publish(place, {**contents, DOCUMENT: _yaml(facts)})


def _golden(archive: bytes, model: Model, inputs: Mapping[str, Array]) -> bytes:
    from models.program import Program

    outputs = Program(archive, model=model)(inputs)
    tensors = {f"input.{name}": array for name, array in inputs.items()}
    return write_tensors(tensors | {f"output.{name}": array for name, array in outputs.items()})


def _publish(place: Path, contents: Mapping[str, bytes]) -> HandOff:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    except OSError as problem:
        raise HandOffError(f"{place.parent} must be writable, found {problem.strerror!r}: choose another folder") from None
    try:
        for name, data in contents.items():
            _write_durably(draft / name, data)
        if problems := check(draft):
            raise HandOffError(sentence(place, problems))
        draft.chmod(0o755)
        _sync_folder(draft)
        os.rename(draft, place)
    except OSError as problem:
        raise HandOffError(f"{place} must be writable and new, found {problem.strerror!r}: make room or choose another folder") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _sync_folder(place.parent)
    return load(place)


def _write_durably(path: Path, data: bytes) -> None:
    with open(path, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _yaml(facts: Mapping[str, Any]) -> bytes:
    # a name or commit that looks like a number is quoted by the dumper; the order of the fields is the order of reading
    # by way of JSON, because a list used twice would become an anchor, which a reader refuses
    return yaml.safe_dump(json.loads(json.dumps(facts)), sort_keys=False, allow_unicode=True, width=120).encode()


def _plain(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(mode="json", exclude_none=True)


def _environment() -> dict[str, str]:
    import torch

    return {"python": platform.python_version(), "torch": str(torch.__version__), "platform": platform.platform()}
