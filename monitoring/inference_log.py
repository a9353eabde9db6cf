"""Every request and its answer as Parquet, one row per spectrum, written where no caller waits for it.

The model server hands over a function that makes the rows (:meth:`InferenceLog.offer`); a thread of its own calls it and, every few seconds
or few thousand rows, writes one part file whole or not at all: ``<folder>/<model>/date=YYYY-MM-DD/part-….parquet``.
The queue is bounded in bytes: what does not fit is dropped and counted, so a slow disk costs rows and never an answer.
``kill -9`` loses at most the rows of the last ``flush_seconds``.

pandas and pyarrow are imported by the thread and by :func:`read`, not by this module: a model server must be ready in seconds.
"""

import io
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.digest import write_atomic

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("request_id", "time", "client", "model", "version", "model_digest", "input_digest")
"""Columns every row has; ``time`` is UTC. After them come the summary features and scalar outputs of the model."""

UNREADABLE = "unreadable"
"""Key in ``DataFrame.attrs`` under which :func:`read` leaves one sentence for every part it could not read."""

_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What became of the rows offered since the start."""

    written: int
    """Rows in part files on disk."""
    dropped: int
    """Rows that found the queue full."""
    failed: int
    """Rows whose making or writing raised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Offer:
    rows: int
    size: int
    frame: Callable[[], "pd.DataFrame"]


class InferenceLog:
    """The writing side: one per model server process."""

    def __init__(
        self,
        folder: Path,
        *,
        model: str,
        flush_seconds: float = 5.0,
        flush_rows: int = 5_000,
        queue_bytes: int = 64 << 20,
    ) -> None:
        """Write parts for ``model`` under ``folder``; nothing is touched before the first flush."""
        self._folder = Path(folder) / model
        self._flush_seconds, self._flush_rows, self._queue_bytes = flush_seconds, flush_rows, queue_bytes
        self._offers: queue.SimpleQueue[_Offer] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = self._written = self._dropped = self._failed = self._parts = 0
        self._frames: list[pd.DataFrame] = []
        self._first_at = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inference-log", daemon=True)
        self._thread.start()

    def offer(self, frame: Callable[[], "pd.DataFrame"], *, rows: int, size: int) -> bool:
        """Queue ``rows`` rows that ``frame()`` will make from ``size`` bytes of arrays; return False when they were dropped. Never blocks."""
        with self._lock:
            full = self._closing.is_set() or (self._waiting_bytes and self._waiting_bytes + size > self._queue_bytes)
            if full:
                self._dropped += rows
                return False
            self._waiting_bytes += size
        self._offers.put(_Offer(rows=rows, size=size, frame=frame))
        return True

    def counts(self) -> Counts:
        """Return the counters."""
        with self._lock:
            return Counts(written=self._written, dropped=self._dropped, failed=self._failed)

    def close(self, *, timeout: float = 10.0) -> None:
        """Write what waits and stop; returns after ``timeout`` seconds at the latest."""
        self._closing.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        import pandas  # noqa: F401 - the import takes a second: here it delays nobody
        import pyarrow.parquet  # noqa: F401

        while not (self._closing.is_set() and self._offers.empty()):
            self._take()
            if self._due():
                self._flush()
        self._flush()

    def _take(self) -> None:
        try:
            offer = self._offers.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return
        try:
            frame = offer.frame()
        except Exception:
            _LOG.exception("the rows of a request could not be made")
            self._count(failed=offer.rows, freed=offer.size)
            return
        if not self._frames:
            self._first_at = time.monotonic()
        self._frames.append(frame)
        self._count(freed=offer.size)

    def _due(self) -> bool:
        if not self._frames:
            return False
        return time.monotonic() - self._first_at >= self._flush_seconds or sum(map(len, self._frames)) >= self._flush_rows

    def _flush(self) -> None:
        import pandas as pd

        frames, self._frames = self._frames, []
        if not frames:
            return
        for date, table in _by_date(pd.concat(frames, ignore_index=True)):
            self._write(table, date=date)

    def _write(self, table: "pd.DataFrame", *, date: str) -> None:
        self._parts += 1
        name = f"part-{time.time_ns() // 1_000_000}-{os.getpid()}-{self._parts}.parquet"
        buffer = io.BytesIO()
        try:
            table.to_parquet(buffer, index=False)
            write_atomic(self._folder / f"date={date}" / name, buffer.getvalue())
        except Exception:
            _LOG.exception("a part of the inference log could not be written, its rows are lost")
            self._count(failed=len(table))
            return
        self._count(written=len(table))

    def _count(self, *, written: int = 0, failed: int = 0, freed: int = 0) -> None:
        with self._lock:
            self._written += written
            self._failed += failed
            self._waiting_bytes -= freed


def read(folder: Path | str, *, model: str, version: str | None = None, since: datetime | None = None) -> "pd.DataFrame":
    """Return the logged rows of ``model``, oldest first; the columns are at least :data:`COLUMNS`.

    ``version`` keeps one version, ``since`` (aware, or taken as UTC) keeps what came at that time or later. A part that is torn, foreign or
    unreadable is left out and named in a sentence under ``.attrs["unreadable"]``; the other parts still count. A missing folder is no rows.
    """
    import pandas as pd

    since = _as_utc(since)
    frames, unreadable = [], []
    for path in _parts(Path(folder) / model, since=since):
        try:
            frames.append(_read_part(path))
        except Exception as error:
            unreadable.append(f"{path} must be a part of the inference log, got {type(error).__name__} ({error}): left out, move it away")
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({name: [] for name in COLUMNS})
    table = table if frames else table.astype({"time": "datetime64[us, UTC]"})
    if version is not None:
        table = table[table["version"] == version]
    if since is not None:
        table = table[table["time"] >= since]
    table = table.sort_values("time", kind="stable", ignore_index=True)
    table.attrs[UNREADABLE] = unreadable
    return table


def _parts(folder: Path, *, since: datetime | None) -> Iterator[Path]:
    first = f"date={since:%Y-%m-%d}" if since else ""
    days: Iterable[Path] = sorted(folder.glob("date=*")) if folder.is_dir() else ()
    for day in days:
        if day.name >= first:
            yield from sorted(day.glob("part-*.parquet"))


def _read_part(path: Path) -> "pd.DataFrame":
    import pyarrow.parquet as pq

    table: pd.DataFrame = pq.ParquetFile(path).read().to_pandas()
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"columns {', '.join(missing)} are missing")
    return table


def _by_date(table: "pd.DataFrame") -> Iterator[tuple[str, "pd.DataFrame"]]:
    for date, rows in table.groupby(table["time"].dt.strftime("%Y-%m-%d"), sort=True):
        yield str(date), rows


def _as_utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
