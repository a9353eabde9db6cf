"""The parts of a table that is being made: each there whole or not at all, each saying what it holds, joined when nothing is missing.

A part holds the scores of some pieces: of whole small files, or of a range of rows of a large one. What a run left is found by reading
the parts' footers; a file whose pieces are all there, made by the same version from the same bytes, is finished.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from firstlight.digest import sha256_bytes, write_atomic
from firstlight.errors import RefusedError
from models.scored_table import SIDE
from spectra.reading import is_uri, siblings

_FIELD = b"firstlight.part"
_FORM = "2"
"""Changes when the columns of a part change, so that parts of an older form are made again."""
_ROW_GROUP = 32_768
"""Rows of the output that are in memory at once."""
_OPEN_PARTS = 8
_SIDE_SUFFIX = ".refused.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What was made of a range of rows of one file."""

    key: str
    """Identity of the file as it was, and of what made this."""
    first: int
    stop: int | None
    """The file's rows from ``first`` to before ``stop``; None: to its end."""
    total: int
    """Rows of the whole file."""
    rows: int
    """Rows of the part that belong to it."""
    refused: int
    """Rows of the part's side table that belong to it."""

    @property
    def end(self) -> int:
        """First row after this piece."""
        return self.total if self.stop is None else min(self.stop, self.total)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a piece lies: its part, and its first row there and in the part's side table."""

    piece: Piece
    part: Path
    row: int
    side_row: int


Found = dict[str, dict[int, Place]]
"""Pieces by key and first row."""


def write_part(path: Path, table: pa.Table, side: pa.Table, pieces: Sequence[Piece]) -> None:
    """Write a part. The side table comes first: a part counts when its own file is there. Raises RefusedError when there is no room."""
    try:
        if side.num_rows:
            _write(_side(path), side)
        _write(path, table.replace_schema_metadata({_FIELD: json.dumps([asdict(piece) for piece in pieces]).encode()}))
    except OSError as error:
        raise _full(path.parent, error) from None


class Parts:
    """A context around a folder beside the output; while one process is in it no other may be."""

    def __init__(self, out: Path) -> None:
        """Name the output; nothing is touched yet."""
        self._out = out
        self.folder = out.with_name(out.name + ".parts")

    def __enter__(self) -> Self:
        """Make the folder. Raises RefusedError when it cannot be written or another process is in it."""
        if self._out.is_dir():
            raise RefusedError(f"the output must be a file, {self._out} is a folder: name a .parquet file with --out")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / ".lock", "w")
        except OSError as error:
            raise RefusedError(
                f"the folder of {self._out} must be writable, it is not ({error.strerror}): choose another with --out"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RefusedError(f"one run at a time may write {self._out}, another one does: wait for it or choose another --out") from None
        _remove([path for path in self.folder.glob(".*") if path.name != ".lock"])  # what a kill left half written
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let others in; after a success the parts are gone, after a failure they wait for the next run."""
        if kind is None:
            _remove([*self.folder.glob("*.parquet"), *self.folder.glob(".*")])
            with suppress(OSError):  # a file of somebody else's stays, and with it the folder
                self.folder.rmdir()
        self._lock.close()

    def found(self) -> Found:
        """Return the pieces of all parts that are there, whole or as far as their footers tell."""
        found: Found = {}
        for path in sorted(self.folder.glob("*.parquet")):
            if not path.name.endswith(_SIDE_SUFFIX):
                add(found, path, _pieces(path))
        return found

    def join(self, keys: Sequence[str], found: Found, *, schema: pa.Schema, refused: Path) -> tuple[int, int, int]:
        """Write the output and the side table ``refused`` from the pieces of the files with these ``keys``, in this order.

        A few parts and :data:`_ROW_GROUP` rows are in memory at once. Returns the rows of the output, and how many rows and files were refused.
        """
        places = [place for key in keys for _, place in sorted(found[key].items())]
        refused_rows, refused_files = 0, set[str]()
        try:
            for table in self._written(refused, _slices(places, side=True), SIDE):
                whole = pc.less(table["row"], 0)
                refused_files.update(table["source_file"].filter(whole).to_pylist())
                refused_rows += len(table.filter(pc.invert(whole)))
            written = sum(table.num_rows for table in self._written(self._out, _slices(places, side=False), schema))
        except OSError as error:
            raise _full(self._out.parent, error) from None
        return written, refused_rows, len(refused_files)

    def _written(self, target: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
        """Write ``tables`` into ``target``, which appears whole or not at all; yield them as they were written."""
        scratch = self.folder / f".{target.name}.new"
        with pq.ParquetWriter(scratch, schema) as writer:
            for table in _steady(tables, schema):
                writer.write_table(table)
                yield table
        with open(scratch, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(scratch, target)


def file_key(file: str, *, made_by: str) -> str:
    """Return the identity of ``file`` as it is now: its maker, and size and time of the file and its siblings.

    A remote file is what its name says: to look at it would cost what scoring it costs.
    """
    return sha256_bytes(":".join([_FORM, made_by, file, *(_stamp(name) for name in (file, *siblings(file)))]).encode())


def finished(pieces: Mapping[int, Place] | None) -> bool:
    """Say whether ``pieces`` of a file are all of it."""
    return pieces is not None and not missing(pieces)


def missing(pieces: Mapping[int, Place]) -> bool:
    """Say whether rows lie between or after the ``pieces`` of a file."""
    reached = 0
    for first, place in sorted(pieces.items()):
        if first > reached:
            return True
        reached = max(reached, place.piece.end)
    return not pieces or reached < max(place.piece.total for place in pieces.values())


def add(found: Found, path: Path, pieces: Sequence[Piece]) -> None:
    """Put the pieces of the part at ``path`` into ``found``."""
    row = side_row = 0
    for piece in pieces:
        found.setdefault(piece.key, {})[piece.first] = Place(piece=piece, part=path, row=row, side_row=side_row)
        row, side_row = row + piece.rows, side_row + piece.refused


def _side(part: Path) -> Path:
    return part.with_name(part.name.removesuffix(".parquet") + _SIDE_SUFFIX)


def _write(path: Path, table: pa.Table) -> None:
    buffer = BytesIO()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())


def _pieces(path: Path) -> list[Piece]:
    """Return the pieces of the part at ``path``, none when it or its side table is damaged or of another form."""
    try:
        footer = pq.read_metadata(path)
        pieces = [Piece(**item) for item in json.loads((footer.metadata or {})[_FIELD])]
        refused = sum(piece.refused for piece in pieces)
        whole = footer.num_rows == sum(piece.rows for piece in pieces) and (
            not refused or pq.read_metadata(_side(path)).num_rows == refused
        )
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return []
    return pieces if whole else []


def _slices(places: Sequence[Place], *, side: bool) -> Iterator[pa.Table]:
    """Yield the rows of ``places`` in order; neighbours in one part come as one table."""
    opened = lru_cache(_OPEN_PARTS)(pq.read_table)
    runs: list[tuple[Path, int, int]] = []
    for place in places:
        start, count = (place.side_row, place.piece.refused) if side else (place.row, place.piece.rows)
        if runs and runs[-1][0] == place.part and sum(runs[-1][1:]) == start:
            runs[-1] = (place.part, runs[-1][1], runs[-1][2] + count)
        elif count:
            runs.append((place.part, start, count))
    for part, start, count in runs:
        yield opened(_side(part) if side else part).slice(start, count)


def _steady(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the same rows in tables of the same length, whatever the parts were: the output is the same bytes after any number of kills."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table.replace_schema_metadata().cast(schema))
        if sum(item.num_rows for item in waiting) >= _ROW_GROUP:
            whole = pa.concat_tables(waiting)
            for start in range(0, whole.num_rows - _ROW_GROUP + 1, _ROW_GROUP):
                yield whole.slice(start, _ROW_GROUP).combine_chunks()
            waiting = [whole.slice(whole.num_rows - whole.num_rows % _ROW_GROUP)]
    rest = pa.concat_tables(waiting).combine_chunks() if waiting else schema.empty_table()
    if rest.num_rows or not waiting:
        yield rest


def _stamp(file: str) -> str:
    if is_uri(file):
        return "remote"
    try:
        found = os.stat(file)
    except OSError:
        return "absent"
    return f"{found.st_size}-{found.st_mtime_ns}"


def _full(folder: Path, error: OSError) -> RefusedError:
    return RefusedError(
        f"{folder} must be writable with room left, writing there failed ({error.strerror or error}): free space and run again, "
        "what is finished is kept"
    )


def _remove(paths: Iterable[Path]) -> None:
    """Take away what we made; what cannot be removed is only clutter."""
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
