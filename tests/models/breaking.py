"""Ways to break a hand-off folder so that only the intended thing is wrong, and what its check then says."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from firstlight.digest import sha256_bytes
from models.handoff import check


def document(folder: Path) -> dict[str, Any]:
    """Return handoff.yaml as plain values."""
    return yaml.safe_load((folder / "handoff.yaml").read_text())


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the document of ``folder`` in place."""
    content = document(folder)
    change(content)
    # by way of JSON: a value used twice would become an anchor
    (folder / "handoff.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False))
    return folder


def put(folder: Path, name: str, data: bytes) -> Path:
    """Put a file into ``folder`` with the right digest: its content alone can be wrong now."""
    (folder / name).write_bytes(data)
    return rewrite(folder, lambda content: content["files"].__setitem__(name, {"sha256": sha256_bytes(data), "bytes": len(data)}))


def words(folder: Path) -> str:
    """Return every problem of a folder as one text, and hold each to the form of a sentence with advice."""
    problems = check(folder)
    assert all(problem.where and problem.what and problem.mend for problem in problems)
    return "\n".join(str(problem) for problem in problems)


def parquet(table: pd.DataFrame) -> bytes:
    """Return the bytes of a Parquet file of ``table``."""
    buffer = BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
