"""The inference log's writing side: every request and its answer as Parquet, one row per spectrum, written where no caller waits for it.

The model server offers what it answered (:meth:`InferenceLog.offer`: a lock and a list append); a thread of its own makes the rows of many
requests at once and, every few seconds or few thousand rows, writes one part whole or not at all:
``<folder>/<model>/date=YYYY-MM-DD/part-….parquet``, in a folder or in an object store (:mod:`monitoring.log_shipping`).
The queue is bounded in bytes: what does not fit is dropped and counted, so a slow disk costs rows and never an answer.
``kill -9`` loses at most the rows of the last ``flush_seconds``. What is in a part and how it is read: :mod:`monitoring.inference_log`.

pyarrow is imported by the thread, not by this module: a model server must be ready in seconds. pandas is not needed to write.
"""

import io
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from firstlight.digest import write_atomic
from firstlight.errors import TransientError
from monitoring.inference_log import COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

Item = TypeVar("Item")
Columns = Mapping[str, Sequence[Any]]
"""Column name to one value per row; ``time`` in microseconds since 1970, UTC."""

_LOG = logging.getLogger(__name__)
_GATHER_SECONDS = 0.1
"""Requests are gathered this long before their rows are made: making the rows of 32 spectra at once costs a third of one by one."""
_GROUP_ROWS = 32
_MARGIN = 0.8
"""A part is begun at this share of ``flush_seconds``, so that it is whole on disk before they are over."""


class SpoolFullError(TransientError):
    """The bound on what may wait for the object store is reached."""


class Sink(Protocol):
    """Where parts go."""

    def start(self) -> None:
        """Begin what runs in the background; called once, before the first part."""

    def write(self, name: str, data: bytes) -> None:
        """Keep ``data`` as the part ``<date>/<file>``, whole or not at all. Raises OSError, or SpoolFullError at the bound."""

    def waiting_bytes(self) -> int:
        """Return the bytes that are safe on this machine but not yet where they shall go."""

    def close(self, timeout: float) -> None:
        """Bring away what waits, for ``timeout`` seconds at the longest."""


class Folder:
    """Parts in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        """Write below ``folder``, which is made when needed."""
        self._folder = Path(folder)

    def start(self) -> None:
        """Nothing runs in the background."""

    def write(self, name: str, data: bytes) -> None:
        """Write the part; it is synced to the disk. Raises OSError."""
        write_atomic(self._folder / name, data)

    def waiting_bytes(self) -> int:
        """Nothing waits."""
        return 0

    def close(self, timeout: float) -> None:
        """Nothing waits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What became of the rows offered since the start."""

    written: int
    """Rows in whole parts on disk: in the log's folder, or in the spool from which an object store is served."""
    dropped: int
    """Rows that found the queue, or the spool, full."""
    failed: int
    """Rows whose making or writing raised."""


@dataclass(frozen=True, slots=True)
class _Offer(Generic[Item]):
    item: Item
    rows: int
    size: int
    at: float


class InferenceLog(Generic[Item]):
    """The writing side: one per model server process."""

    def __init__(
        self,
        sink: Sink,
        *,
        make: Callable[[Sequence[Item]], Columns],
        flush_seconds: float = 5.0,
        flush_rows: int = 5_000,
        queue_bytes: int = 64 << 20,
    ) -> None:
        """Write the rows that ``make`` gives for the items offered to ``sink``; nothing runs or is touched before the first offer."""
        self._sink, self._make = sink, make
        self._flush_seconds, self._flush_rows, self._queue_bytes = flush_seconds, flush_rows, queue_bytes
        self._lock = threading.Lock()
        self._offers: list[_Offer[Item]] = []
        self._waiting_bytes = self._written = self._dropped = self._failed = self._parts = 0
        self._tables: list[pa.Table] = []
        self._first_at = 0.0
        self._closed, self._wake, self._hurry = False, threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._who = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def start(self) -> None:
        """Start the writing thread now instead of at the first offer; what another process left to be shipped goes on its way."""
        with self._lock:
            self._start()

    def offer(self, item: Item, *, rows: int, size: int) -> bool:
        """Queue an item of ``rows`` rows that holds ``size`` bytes of arrays; return False when it was dropped. Never blocks."""
        with self._lock:
            if self._closed or (self._waiting_bytes and self._waiting_bytes + size > self._queue_bytes):
                self._dropped += rows
                return False
            self._waiting_bytes += size
            is_first = not self._offers
            self._offers.append(_Offer(item, rows, size, time.monotonic()))
            if self._thread is None:
                self._start()
        if is_first:
            self._wake.set()
        if self._waiting_bytes > self._queue_bytes // 4:
            self._hurry.set()
        return True

    def counts(self) -> Counts:
        """Return the counters."""
        with self._lock:
            return Counts(written=self._written, dropped=self._dropped, failed=self._failed)

    def waiting_bytes(self) -> int:
        """Return the bytes of parts that are safe on this machine but not yet in the object store; 0 for a folder."""
        return self._sink.waiting_bytes()

    def close(self, *, timeout: float = 10.0) -> None:
        """Write what waits and stop; returns after ``timeout`` seconds at the latest."""
        until = time.monotonic() + timeout
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake.set()
        self._hurry.set()
        if thread is not None:
            thread.join(timeout)
            self._sink.close(max(until - time.monotonic(), 0.0))

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="inference-log", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        import pyarrow.parquet  # noqa: F401 - the import takes a while: here it delays nobody

        try:
            self._sink.start()
        except OSError:
            _LOG.exception("the place of the inference log cannot be used now; it is tried again for every part")
        while True:
            self._wake.wait(self._seconds_left())
            self._wake.clear()
            if self._offers:
                self._hurry.wait(_GATHER_SECONDS)
                self._hurry.clear()
            with self._lock:
                offers, self._offers = self._offers, []
                ended = self._closed
            for group in _grouped(offers):
                self._add(group)
            if ended or self._is_due():
                self._flush()
            if ended:
                return

    def _seconds_left(self) -> float | None:
        """Return the seconds until the next part is due; None while there is nothing to write."""
        if not self._tables:
            return None
        return max(self._first_at + _MARGIN * self._flush_seconds - time.monotonic(), 0.0)

    def _is_due(self) -> bool:
        return self._seconds_left() == 0.0 or sum(map(len, self._tables)) >= self._flush_rows

    def _add(self, group: Sequence[_Offer[Item]]) -> None:
        """Make the rows of the group; where that fails, of each request alone, so that one bad request costs no other its rows."""
        try:
            table = _table(self._make([offer.item for offer in group]))
        except Exception:
            if len(group) > 1:
                for offer in group:
                    self._add([offer])
                return
            _LOG.exception("the rows of a request could not be made")
            self._count(failed=group[0].rows, freed=group[0].size)
            return
        if not self._tables:
            self._first_at = group[0].at
        self._tables.append(table)
        self._count(freed=sum(offer.size for offer in group))
        if sum(map(len, self._tables)) >= self._flush_rows:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        tables, self._tables = self._tables, []
        if not tables:
            return
        try:
            days = _by_date(pa.concat_tables(tables, promote_options="default"))
        except Exception:
            _LOG.exception("rows of the inference log do not fit together, they are lost")
            self._count(failed=sum(map(len, tables)))
            return
        for date, table in days:
            self._write(table, date=date)

    def _write(self, table: "pa.Table", *, date: str) -> None:
        import pyarrow.parquet as pq

        self._parts += 1
        name = f"date={date}/part-{time.time_ns() // 1_000_000}-{self._who}-{self._parts}.parquet"
        buffer = io.BytesIO()
        try:
            pq.write_table(table, buffer, compression="snappy")
            self._sink.write(name, buffer.getvalue())
        except SpoolFullError as full:
            _LOG.warning("rows of the inference log are dropped: %s", full)
            self._count(dropped=len(table))
        except Exception:
            _LOG.exception("a part of the inference log could not be written, its rows are lost")
            self._count(failed=len(table))
        else:
            self._count(written=len(table))

    def _count(self, *, written: int = 0, dropped: int = 0, failed: int = 0, freed: int = 0) -> None:
        with self._lock:
            self._written += written
            self._dropped += dropped
            self._failed += failed
            self._waiting_bytes -= freed


def _grouped(offers: Sequence[_Offer[Item]]) -> list[list[_Offer[Item]]]:
    """Return the offers in order, in groups of about :data:`_GROUP_ROWS` rows: enough to share the work, few enough for the cache."""
    groups: list[list[_Offer[Item]]] = []
    rows = _GROUP_ROWS
    for offer in offers:
        if rows >= _GROUP_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(offer)
        rows += offer.rows
    return groups


def _table(columns: Columns) -> "pa.Table":
    import pyarrow as pa

    texts = {name: pa.string() for name in COLUMNS if name not in ("row", "time")}
    types = {**texts, "row": pa.int32(), "time": pa.timestamp("us", tz="UTC")}
    names = [*COLUMNS, *(name for name in columns if name not in COLUMNS)]
    return pa.table({name: pa.array(columns[name], type=types.get(name)) for name in names})


def _by_date(table: "pa.Table") -> list[tuple[str, "pa.Table"]]:
    """Return the rows by their UTC day: nearly always one."""
    import pyarrow.compute as pc

    days = pc.strftime(table["time"], format="%Y-%m-%d")
    return [(str(day), table.filter(pc.equal(days, day))) for day in sorted(pc.unique(days).to_pylist())]
