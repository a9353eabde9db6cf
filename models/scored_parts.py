"""The parts of a table that is being made: one per input file, each there whole or not at all, joined when all are there."""

import fcntl
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from firstlight.digest import sha256_bytes, write_atomic
from firstlight.errors import RefusedError
from spectra.reading import is_uri, siblings

_KEY = b"firstlight.part"
_FORM = "1"
"""Changes when the columns of a part change, so that parts of an older form are made again."""


class Parts:
    """A context around a folder beside the output; while one process is in it no other may be."""

    def __init__(self, out: Path, *, made_by: str) -> None:
        """``made_by`` identifies what makes the parts; parts of another maker are made again."""
        self._out = out
        self._made_by = made_by
        self._folder = out.with_name(out.name + ".parts")

    def __enter__(self) -> Self:
        """Make the folder. Raises RefusedError when it cannot be written or another process is in it."""
        if self._out.is_dir():
            raise RefusedError(f"the output must be a file, {self._out} is a folder: name a .parquet file with --out")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self._folder / ".lock", "w")
        except OSError as error:
            raise RefusedError(
                f"the folder of {self._out} must be writable, it is not ({error.strerror}): choose another with --out"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RefusedError(f"one run at a time may write {self._out}, another one does: wait for it or choose another --out") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let others in; after a success the parts are gone, after a failure they wait for the next run."""
        if kind is None:
            _remove(self._folder)
        self._lock.close()

    def key(self, file: str) -> str:
        """Return the identity of the part of ``file`` as it is now: the maker, and size and time of the file and its siblings.

        A remote file is what its name says: to look at it would cost what scoring it costs.
        """
        return sha256_bytes(":".join([_FORM, self._made_by, file, *(_stamp(name) for name in (file, *siblings(file)))]).encode())

    def has(self, file: str, key: str) -> bool:
        """Say whether the part of ``file`` is there, whole, and has this key."""
        try:
            return self._side(file).is_file() and (pq.read_schema(self._part(file)).metadata or {}).get(_KEY) == key.encode()
        except (OSError, pa.ArrowException):
            return False

    def put(self, file: str, key: str, table: pd.DataFrame, side: pd.DataFrame) -> None:
        """Keep the part of ``file``. The side table comes first: a part counts as finished when its own file is there with the key."""
        self._write(self._side(file), pa.Table.from_pandas(side, preserve_index=False))
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        self._write(self._part(file), arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), _KEY: key.encode()}))

    def join(self, files: Sequence[str], refused: Path) -> tuple[int, int, int]:
        """Write the output and the side table ``refused`` from the parts of ``files``; one part at a time is in memory.

        Returns the rows of the output, and how many rows and files were refused.
        """
        places = np.concatenate([pq.read_table(self._side(file), columns=["row"]).column(0).to_numpy() for file in files])
        self._publish([self._side(file) for file in files], refused)
        rows = self._publish([self._part(file) for file in files], self._out)
        return rows, int((places >= 0).sum()), int((places < 0).sum())

    def _part(self, file: str) -> Path:
        return self._folder / f"{sha256_bytes(file.encode())[:32]}.parquet"

    def _side(self, file: str) -> Path:
        return self._part(file).with_suffix(".refused.parquet")

    def _write(self, path: Path, table: pa.Table) -> None:
        buffer = BytesIO()
        pq.write_table(table, buffer)
        try:
            write_atomic(path, buffer.getvalue())
        except OSError as error:
            raise self._full(error) from None

    def _publish(self, parts: Sequence[Path], target: Path) -> int:
        """Write the tables of ``parts`` one after the other into ``target``, which appears whole or not at all; return the rows."""
        schema = _common_schema(parts)
        scratch = self._folder / f".{target.name}.new"
        try:
            with pq.ParquetWriter(scratch, schema) as writer:
                rows = sum(_append(writer, part, schema) for part in parts)
            os.replace(scratch, target)
        except OSError as error:
            raise self._full(error) from None
        return rows

    def _full(self, error: OSError) -> RefusedError:
        return RefusedError(
            f"{self._out.parent} must be writable with room left, writing there failed ({error.strerror or error}): free space and run "
            "again, what is finished is kept"
        )


def _append(writer: pq.ParquetWriter, part: Path, schema: pa.Schema) -> int:
    table = pq.read_table(part).cast(schema)
    writer.write_table(table)
    return int(table.num_rows)


def _common_schema(parts: Iterable[Path]) -> pa.Schema:
    """Return the schema that fits all parts: a column that is empty in one has no type there."""
    return pa.unify_schemas([pq.read_schema(part).remove_metadata() for part in parts], promote_options="permissive")


def _stamp(file: str) -> str:
    if is_uri(file):
        return "remote"
    try:
        found = os.stat(file)
    except OSError:
        return "absent"
    return f"{found.st_size}-{found.st_mtime_ns}"


def _remove(folder: Path) -> None:
    """Take away what we made; a file of somebody else's stays, and with it the folder."""
    with suppress(OSError):  # the output is there; what cannot be removed is only clutter
        for path in [*folder.glob("*.parquet"), *folder.glob(".*")]:
            path.unlink(missing_ok=True)
        folder.rmdir()
