"""What the tests of scoring have in common: a model of spectra at work, in this process or in others."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from models.handoff import HandOff
from models.scored_parts import Parts, Piece, file_key, write_part
from models.scoring import Scored, score_files
from models.scoring_worker import Desk, Post, Source, Unit


def post(papers: HandOff, **changes: Any) -> Post:
    facts = {"folder": str(papers.folder), "digest": papers.digest, "version": "3", "backend": "eager", "device": "cpu"}
    return Post(**{**facts, "compiled": None, "backend_digest": None, **changes})


def score(papers: HandOff, files: list[str], out: Path, **more: Any) -> Scored:
    return score_files(papers, files, out, **{"version": "3", "workers": 1, **more})


def made(desk: Desk, *files: str, **more: Any) -> tuple[pd.DataFrame, list[dict[str, Any]], list[Piece]]:
    """Return the table, the side table's rows and the pieces that a worker makes of ``files``."""
    sources = tuple(Source(name=file, path=file, key=f"key of {file}") for file in files)
    table, side, pieces = desk.make(Unit(part="", sources=sources, **more), tell=lambda total: None)
    assert table.schema == desk._schema
    return table.to_pandas(), side.to_pylist(), pieces


def left_key(papers: HandOff, file: str, *, version: str = "3") -> str:
    """Return the key of ``file`` in a run of ``version``."""
    return file_key(file, made_by=f"{papers.digest}:{version}:eager:None")


def leave_parts(papers: HandOff, desk: Desk, out: Path, files: list[str]) -> None:
    """Leave what a run that ended early leaves: the parts of ``files``, made in this process."""
    with suppress(KeyboardInterrupt), Parts(out) as parts:
        make_parts(papers, desk, parts, files)
        raise KeyboardInterrupt


def make_parts(papers: HandOff, desk: Desk, parts: Parts, files: list[str]) -> None:
    """Make a part of each of ``files``, in this process."""
    for number, file in enumerate(files):
        source = Source(name=file, path=file, key=left_key(papers, file))
        write_part(parts.folder / f"{number}.parquet", *desk.make(Unit(part="", sources=(source,)), tell=lambda total: None))
