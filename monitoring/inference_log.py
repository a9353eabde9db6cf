"""The inference log: what every spectrum was asked and answered, as Parquet parts of one folder per model and day, and how they are read.

``<where>/<model>/date=YYYY-MM-DD/part-<unix milliseconds>-….parquet``, where ``where`` is a folder or an s3:// prefix.
Written by :mod:`monitoring.log_writing` and, towards an object store, :mod:`monitoring.log_shipping`.
pandas and pyarrow are imported by the functions that need them.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from firstlight.errors import RefusedError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("request_id", "row", "time", "client", "environment", "model", "version", "model_digest", "input_digest")
"""Columns every row has. ``row`` counts within the request, ``time`` is UTC, ``input_digest`` is empty where the inputs' class forbids it.
After them come the summary features of the inputs and the outputs that are a number, a short vector or a text."""

UNREADABLE = "unreadable"
"""Key in ``DataFrame.attrs`` under which :func:`read` leaves one sentence for every part it could not read."""

_PART = re.compile(r"/date=\d{4}-\d{2}-\d{2}/part-(?:(\d+)-)?[^/]*\.parquet$")
_DOWNLOADS = 8
_ADDED_LATER: dict[str, int | str] = {"row": 0, "environment": ""}
"""Columns that the first form of the log did not have, and what its rows get for them."""


class Objects(Protocol):
    """What is needed of an object store (spectra.object_store has it)."""

    def list(self, uri: str) -> Iterator[str]:
        """Yield the URIs of the objects below ``uri``."""

    def local_copy(self, uri: str, folder: Path) -> Path:
        """Copy an object into ``folder``. Raises RefusedError when there is none, TransientError when the store does not answer."""


def read(
    where: Path | str, *, model: str, version: str | None = None, since: datetime | None = None, store: Objects | None = None
) -> "pd.DataFrame":
    """Return the logged rows of ``model``, oldest first; the columns are at least :data:`COLUMNS`.

    ``version`` keeps one version, ``since`` (aware, or taken as UTC) keeps what came at that time or later. ``where`` is a folder, or an s3://
    prefix in ``store``. A part that is torn, foreign or unreadable is left out and named in a sentence under ``.attrs["unreadable"]``; the
    other parts still count. A missing folder is no rows. Raises TransientError when the store does not answer.
    """
    import pandas as pd

    since = _as_utc(since)
    frames, unreadable = [], []
    for name, found in _tables(where, model, since=since, store=store):
        if isinstance(found, Exception):
            unreadable.append(f"{name} must be a part of the inference log, got {type(found).__name__} ({found}): left out, move it away")
        else:
            frames.append(found)
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({name: [] for name in COLUMNS})
    table = table if frames else table.astype({"time": "datetime64[us, UTC]"})
    if version is not None:
        table = table[table["version"] == version]
    if since is not None:
        table = table[table["time"] >= since]
    table = table.sort_values("time", kind="stable", ignore_index=True)
    table.attrs[UNREADABLE] = unreadable
    return table


def has_rows(where: Path | str, *, model: str, store: Objects | None = None) -> bool:
    """Return whether there is any part of ``model``. Raises TransientError when the store does not answer."""
    return next(_parts(where, model, since=None, store=store), None) is not None


def is_remote(where: Path | str) -> bool:
    """Return whether ``where`` is an s3:// prefix."""
    return str(where).startswith("s3://")


def _tables(
    where: Path | str, model: str, *, since: datetime | None, store: Objects | None
) -> Iterator[tuple[str, "pd.DataFrame | Exception"]]:
    parts = _parts(where, model, since=since, store=store)
    if not is_remote(where):
        yield from ((name, _read_part(Path(name))) for name in parts)
        return
    assert store is not None
    with tempfile.TemporaryDirectory(prefix="firstlight-log-") as scratch, ThreadPoolExecutor(_DOWNLOADS) as pool:
        names = list(parts)
        yield from zip(names, pool.map(lambda name: _read_object(store, name, Path(scratch)), names), strict=True)


def _parts(where: Path | str, model: str, *, since: datetime | None, store: Objects | None) -> Iterator[str]:
    """Yield the parts that may hold rows since then: a part is named by the moment it was written, after its last row."""
    for name in _names(where, model, since=since, store=store):
        found = _PART.search(name)
        if found and (since is None or found[1] is None or int(found[1]) >= since.timestamp() * 1e3 - 1):
            yield name


def _names(where: Path | str, model: str, *, since: datetime | None, store: Objects | None) -> Iterable[str]:
    if not is_remote(where):
        folder = Path(where) / model
        first = f"date={since:%Y-%m-%d}" if since else ""
        days = sorted(folder.glob("date=*")) if folder.is_dir() else []
        return [str(path) for day in days if day.name >= first for path in sorted(day.glob("part-*.parquet"))]
    if store is None:
        raise RefusedError(f"the inference log at {where} needs an object store to read it from, got none: pass store")
    prefix = f"{str(where).rstrip('/')}/{model}/"
    if since is None:
        return store.list(prefix)
    day, today = since.date(), (datetime.now(UTC) + timedelta(days=1)).date()
    dates = [day + timedelta(days=number) for number in range((today - day).days + 1)]
    return (name for date in dates for name in store.list(f"{prefix}date={date:%Y-%m-%d}/"))


def _read_object(store: Objects, name: str, scratch: Path) -> "pd.DataFrame | Exception":
    try:
        copy = store.local_copy(name, scratch)
    except RefusedError as error:  # a store that does not answer is not caught: repeating the whole read may succeed
        return error
    try:
        return _read_part(copy)
    finally:
        copy.unlink()


def _read_part(path: Path) -> "pd.DataFrame | Exception":
    import pyarrow.parquet as pq

    try:
        table: pd.DataFrame = pq.ParquetFile(path).read().to_pandas()
        for name, value in _ADDED_LATER.items():
            table = table if name in table.columns else table.assign(**{name: value})
        missing = [name for name in COLUMNS if name not in table.columns]
        return ValueError(f"columns {', '.join(missing)} are missing") if missing else table
    except Exception as error:
        return error


def _as_utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
