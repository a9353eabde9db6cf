"""``python -m models.scoring_worker``: one process that reads, scores and writes whole units of work, told line by line what to do.

A process, because compiled models hold Python's lock while they compute: threads would take turns. One thread computes; a second writes
what is finished while the next unit is read. It ends when whoever told it is gone, and what it leaves half written nobody takes for whole.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import pyarrow as pa

import spectra
from firstlight.errors import FirstlightError, RefusedError
from firstlight.verdict import Verdict
from models import golden
from models.backends import EAGER, BackendUnavailable, Runner, open_backend
from models.errors import HandOffError, ProgramError
from models.handoff_folder import load
from models.scored_parts import Piece, write_part
from models.scored_table import BATCH, KEPT, Refusal, require_spectra, score_batch, scores, scores_schema, side_table
from models.tensors import Array

_PIECE = 4 * BATCH
"""Rows of a file that are in memory at once."""
_TOGETHER = 2048
"""Rows that become a table together. Until then their few numbers lie between the large arrays that come and go, and these cannot be put
where those were: 30 kB a row were measured. A table's memory is elsewhere."""

_Answer = tuple[pd.DataFrame, dict[str, Array]]
"""Some spectra, and what the model says of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Post:
    """What a worker is for."""

    folder: str
    """Of the hand-off."""
    digest: str
    """Of the hand-off as whoever hired the worker knows it."""
    version: str
    backend: str
    compiled: str | None
    backend_digest: str | None
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of a unit."""

    name: str
    """As it is called in the output."""
    path: str
    """Where it can be read now."""
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What a worker does in one go and writes as one part: some small files, or a range of rows of one file."""

    part: str
    sources: tuple[Source, ...]
    first: int = 0
    stop: int | None = None
    total: int = 0
    """Rows of the file where they are known already."""


class Desk:
    """The model, and the making of a part with it."""

    def __init__(self, post: Post) -> None:
        """Open the model and replay its golden vectors. Raises HandOffError when it is refused, or another one than was meant."""
        self._papers = load(post.folder)
        if self._papers.digest != post.digest:
            raise HandOffError(f"the hand-off {post.folder} must stay as it is while it is used, it changed: run again")
        self._version = post.version
        require_spectra(self._papers.model.inputs)
        self.instead = ""
        """Why another backend than the wanted one is used."""
        self.runner = self._open(post)
        report = golden.replay(self.runner, self._papers)  # type: ignore[arg-type]
        if report.verdict is not Verdict.PASS:
            raise HandOffError(f"the model must answer its golden vectors before it scores, it does not: {'; '.join(report.reasons[:3])}")
        self._schema = scores_schema(self._papers, version=post.version)

    def _open(self, post: Post) -> Runner:
        compiled = Path(post.compiled) if post.compiled else None
        try:
            return open_backend(self._papers, post.backend, compiled=compiled, digest=post.backend_digest, device=post.device)
        except BackendUnavailable as problem:
            if post.backend == EAGER:
                raise
            self.instead = str(problem)
            return open_backend(self._papers, EAGER, device=post.device)

    def make(self, unit: Unit, *, tell: "Teller") -> tuple[pa.Table, pa.Table, list[Piece]]:
        """Return the part of ``unit``: its table, its side table and its pieces; ``tell`` is told the rows of a file as soon as they are known."""
        tables: list[pa.Table] = []
        waiting: list[_Answer] = []
        refusals: list[Refusal] = []
        pieces = []
        for source in unit.sources:
            answered, answers, refused, total = self._file(source, unit, tell=tell)
            if answered:
                tables += [self._table(waiting), *answered]
                waiting = []
            waiting += answers
            if sum(len(metadata) for metadata, _ in waiting) >= _TOGETHER:
                tables.append(self._table(waiting))
                waiting = []
            refusals += refused
            rows = sum(table.num_rows for table in answered) + sum(len(metadata) for metadata, _ in answers)
            pieces.append(Piece(key=source.key, first=unit.first, stop=unit.stop, total=total, rows=rows, refused=len(refused)))
        return pa.concat_tables([*tables, self._table(waiting)]), side_table(refusals), pieces

    def _file(self, source: Source, unit: Unit, *, tell: "Teller") -> tuple[list[pa.Table], list[_Answer], list[Refusal], int]:
        """Return what the model says of the wanted rows of one file: tables, and what is for the next table; what is refused; the file's rows.

        What cannot be read, or makes the model fail, is refused as a whole: half a file would be taken for the file.
        """
        tables: list[pa.Table] = []
        answers: list[_Answer] = []
        refused: list[Refusal] = []
        total = unit.total
        try:
            rows = spectra.pieces(source.path, size=_PIECE, first=unit.first, stop=unit.stop, name=source.name, wanted=KEPT, masks=False)
            for batch, total in rows:
                tell(total)
                if len(batch):
                    answers.append((batch.metadata, score_batch(self.runner, batch)))
                refused += [(item.source_file, item.row, item.targetid, item.reason) for item in batch.refused]
                if sum(len(metadata) for metadata, _ in answers) >= _TOGETHER:
                    tables.append(self._table(answers))
                    answers = []
        except (spectra.SpectraError, ProgramError) as error:
            where = f"rows {unit.first} to {(unit.stop or unit.total) - 1}: " if unit.first else ""
            return [], [], [(source.name, -1, -1, f"{where}{error}")], unit.total
        return tables, answers, refused, total

    def _table(self, found: Sequence[_Answer]) -> pa.Table:
        if not found:
            return self._schema.empty_table()
        metadata = pd.concat([metadata for metadata, _ in found], ignore_index=True)
        outputs = {name: np.concatenate([outputs[name] for _, outputs in found]) for name in found[0][1]}
        return pa.Table.from_pandas(
            scores(self._papers, metadata, outputs, version=self._version), schema=self._schema, preserve_index=False
        )


class Teller:
    """Says, once a unit, how many rows its file has."""

    def __init__(self, answers: "Answers", unit: int) -> None:
        """Take the way to whoever asked."""
        self._answers, self._unit, self._told = answers, unit, False

    def __call__(self, total: int) -> None:
        """Say it, the first time."""
        if not self._told:
            self._told = True
            self._answers.say(unit=self._unit, total=total)


class Answers:
    """JSON lines to whoever tells this process what to do, from more than one thread."""

    def __init__(self, stream: TextIO) -> None:
        """Take the stream."""
        self._stream, self._lock = stream, threading.Lock()

    def say(self, **values: Any) -> None:
        """Write one line."""
        with self._lock:
            self._stream.write(json.dumps(values) + "\n")
            self._stream.flush()


def _orders() -> Iterator[dict[str, Any]]:
    """Yield what is asked, one after the other. The moment nobody can ask any more this process ends, whatever it is doing."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, name="orders", daemon=True).start()
    while True:
        yield json.loads(lines.get())


def unit_of(content: dict[str, Any]) -> Unit:
    """Return the unit that was written as JSON."""
    return Unit(**{**content, "sources": tuple(Source(**source) for source in content["sources"])})


def work(answers: Answers) -> None:
    """Open the model, then make a part for every order."""
    orders = _orders()
    desk = Desk(Post(**next(orders)))
    answers.say(ready=desk.runner.name, instead=desk.instead)
    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        for order in orders:
            number, unit = int(order["number"]), unit_of(order["unit"])
            answers.say(begun=number)
            table, side, pieces = desk.make(unit, tell=Teller(answers, number))
            if writing is not None:
                writing.result()  # one part waits to be written at most
            writing = writer.submit(_deliver, answers, number, unit, table, side, pieces)


def _deliver(answers: Answers, number: int, unit: Unit, table: pa.Table, side: pa.Table, pieces: list[Piece]) -> None:
    try:
        write_part(Path(unit.part), table, side, pieces)
    except FirstlightError as error:
        answers.say(failed=type(error).__name__, why=str(error))
        raise
    answers.say(unit=number, pieces=[asdict(piece) for piece in pieces])


def main() -> None:
    """Work; whatever libraries print goes to stderr, only answers go to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever hired us; we end with it
    answers = Answers(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    try:
        work(answers)
    except RefusedError as error:
        answers.say(failed=type(error).__name__, why=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
