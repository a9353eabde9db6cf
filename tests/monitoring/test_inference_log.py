"""The inference log: what is written is read back, whatever happened to the process, the disk or the parts."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from monitoring import inference_log
from monitoring.inference_log import COLUMNS, UNREADABLE
from monitoring.log_writing import Counts, Folder, InferenceLog

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def rows(count=1, *, version="1", time=NOON, **more):
    """One item: the columns of ``count`` rows."""
    moment = int(time.timestamp() * 1e6)
    columns = {**dict.fromkeys(COLUMNS, "x"), "row": 0, "model": "vae", "version": version, "time": moment, "score": 0.5, **more}
    return {name: [value] * count for name, value in columns.items()}


def joined(items):
    """Make the rows of many items, as a recorder does."""
    assert all(item.keys() == items[0].keys() for item in items)
    return {name: [value for item in items for value in item[name]] for name in items[0]}


def open_log(folder, **options):
    options = {"make": joined, **options}
    return InferenceLog(Folder(folder / "vae"), **options)


def write(folder, *items, **options):
    log = open_log(folder, **options)
    for item in items:
        assert log.offer(item, rows=len(item["row"]), size=100)
    log.close()
    return log.counts()


def test_rows_come_back_by_version_and_time_from_one_folder_per_day(tmp_path):
    night = rows(2, version="2", time=NOON + timedelta(days=1))
    counts = write(tmp_path, rows(3), night)
    assert counts == Counts(written=5, dropped=0, failed=0)
    assert sorted(day.name for day in (tmp_path / "vae").iterdir()) == ["date=2026-11-22", "date=2026-11-23"]
    table = inference_log.read(tmp_path, model="vae")
    assert table["time"].is_monotonic_increasing
    assert table["time"].dtype == "datetime64[us, UTC]"
    assert table["time"].iloc[0] == NOON
    assert len(table) == 5
    assert len(inference_log.read(tmp_path, model="vae", version="2")) == 2
    assert len(inference_log.read(tmp_path, model="vae", since=NOON + timedelta(seconds=1))) == 2


def test_a_part_written_before_the_moment_asked_for_is_not_even_opened(tmp_path):
    write(tmp_path, rows(1))
    day = tmp_path / "vae" / "date=2026-11-22"
    (day / f"part-{int(NOON.timestamp() * 1e3) - 1000}-1-1.parquet").write_bytes(b"would be unreadable")
    table = inference_log.read(tmp_path, model="vae", since=NOON)
    assert len(table) == 1
    assert table.attrs[UNREADABLE] == []
    assert len(inference_log.read(tmp_path, model="vae").attrs[UNREADABLE]) == 1


def test_no_folder_is_no_rows_with_the_columns_in_place(tmp_path):
    table = inference_log.read(tmp_path / "nowhere", model="vae", version="1", since=NOON)
    assert len(table) == 0
    assert list(table.columns) == list(COLUMNS)
    assert not inference_log.has_rows(tmp_path / "nowhere", model="vae")


def test_two_models_have_two_folders_and_neither_reads_the_others(tmp_path):
    write(tmp_path, rows(1))
    other = InferenceLog(Folder(tmp_path / "cnn"), make=joined)
    other.offer(rows(2, model="cnn"), rows=2, size=1)
    other.close()
    assert inference_log.has_rows(tmp_path, model="vae")
    assert set(inference_log.read(tmp_path, model="vae")["model"]) == {"vae"}
    assert set(inference_log.read(tmp_path, model="cnn")["model"]) == {"cnn"}


def test_torn_foreign_and_incomplete_parts_are_named_and_the_others_kept(tmp_path):
    write(tmp_path, rows(3))
    day = tmp_path / "vae" / "date=2026-11-22"
    (good,) = day.iterdir()
    (day / "part-torn.parquet").write_bytes(good.read_bytes()[:-20])
    (day / "part-empty.parquet").write_bytes(b"")
    (day / "part-text.parquet").write_text("not parquet")
    pd.DataFrame({"score": [1.0]}).to_parquet(day / "part-foreign.parquet")
    table = inference_log.read(tmp_path, model="vae")
    assert len(table) == 3
    assert len(table.attrs[UNREADABLE]) == 4
    assert any("part-foreign.parquet" in sentence and "missing" in sentence for sentence in table.attrs[UNREADABLE])


def test_parts_of_the_first_form_without_row_and_environment_are_still_read(tmp_path):
    day = tmp_path / "vae" / "date=2026-11-22"
    day.mkdir(parents=True)
    old = pd.DataFrame({**dict.fromkeys(COLUMNS, "x"), "version": "1", "time": NOON}, index=[0]).drop(columns=["row", "environment"])
    old.astype({"time": "datetime64[us, UTC]"}).to_parquet(day / "part-1795000000000-1-1.parquet")
    table = inference_log.read(tmp_path, model="vae")
    assert table.attrs[UNREADABLE] == []
    assert table[["row", "environment"]].iloc[0].tolist() == [0, ""]


def test_versions_with_other_columns_are_read_together(tmp_path):
    write(tmp_path, rows(1))
    write(tmp_path, rows(1, version="2", extra=1.0))
    table = inference_log.read(tmp_path, model="vae")
    assert table["extra"].isna().sum() == 1


def test_what_does_not_fit_the_queue_is_dropped_and_counted_and_nobody_waits(tmp_path):
    gate = threading.Event()

    def held(items):
        gate.wait(10)
        return joined(items)

    log = open_log(tmp_path, make=held, queue_bytes=250)
    began = time.monotonic()
    accepted = [log.offer(rows(1), rows=1, size=100) for _ in range(5)]
    assert time.monotonic() - began < 1
    assert accepted == [True, True, False, False, False]
    gate.set()
    log.close()
    assert log.counts() == Counts(written=2, dropped=3, failed=0)


class StuckDisk(Folder):
    """A folder whose disk takes nothing until it is let go."""

    def __init__(self, folder):
        super().__init__(folder)
        self.is_stuck, self.free = threading.Event(), threading.Event()

    def write(self, name, data):
        self.is_stuck.set()
        self.free.wait(20)
        super().write(name, data)


def test_a_stuck_disk_costs_rows_and_bounded_memory_and_nothing_else(tmp_path):
    disk = StuckDisk(tmp_path / "vae")
    log = InferenceLog(disk, make=joined, flush_seconds=0.05, queue_bytes=1_000)
    log.offer(rows(1), rows=1, size=100)
    assert disk.is_stuck.wait(10)
    # Given a thread that hangs in the disk, when a hundred more requests are answered
    accepted = sum(log.offer(rows(1), rows=1, size=100) for _ in range(100))
    # Then no more is held than the bound, the rest is counted, and all that was accepted is there when the disk works again
    assert accepted == 10
    assert log.counts().dropped == 90
    disk.free.set()
    log.close()
    assert log.counts() == Counts(written=11, dropped=90, failed=0)
    assert len(inference_log.read(tmp_path, model="vae")) == 11


def test_a_disk_that_never_comes_back_does_not_keep_the_process(tmp_path):
    disk = StuckDisk(tmp_path / "vae")
    log = InferenceLog(disk, make=joined, flush_seconds=0.05)
    log.offer(rows(1), rows=1, size=100)
    assert disk.is_stuck.wait(10)
    began = time.monotonic()
    log.close(timeout=0.2)
    assert time.monotonic() - began < 2
    disk.free.set()


def test_one_request_that_makes_no_rows_costs_no_other_its_rows(tmp_path):
    counts = write(tmp_path, rows(2), {"row": [0] * 4}, rows(3))
    assert counts == Counts(written=5, dropped=0, failed=4)


def test_rows_that_cannot_be_written_are_counted_and_later_ones_are_kept(tmp_path):
    # a file where the folder should be: nothing can be written below it
    (tmp_path / "vae").write_text("")
    log = open_log(tmp_path, flush_rows=1)
    log.offer(rows(3), rows=3, size=1)
    deadline = time.monotonic() + 10
    while log.counts().failed == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    (tmp_path / "vae").unlink()
    log.offer(rows(2), rows=2, size=1)
    log.close()
    assert log.counts() == Counts(written=2, dropped=0, failed=3)


def test_a_log_that_nothing_is_offered_to_touches_nothing_and_starts_no_thread(tmp_path):
    before = threading.active_count()
    log = open_log(tmp_path)
    assert threading.active_count() == before
    log.close()
    assert list(tmp_path.iterdir()) == []
    assert not log.offer(rows(1), rows=1, size=1)


WRITER = """
import sys, time
from pathlib import Path
from monitoring.inference_log import COLUMNS
from monitoring.log_writing import Folder, InferenceLog
def joined(items):
    return {name: [item[name] for item in items] for name in items[0]}
log = InferenceLog(Folder(Path(sys.argv[1]) / "vae"), make=joined, flush_seconds=0.5)
for number in range(100_000):
    log.offer({**dict.fromkeys(COLUMNS, "x"), "row": 0, "request_id": str(number), "time": time.time_ns() // 1000}, rows=1, size=10)
    if number == 50:
        print("started", flush=True)
    time.sleep(0.01)
"""


def test_kill_minus_nine_loses_no_more_than_the_last_flush_and_leaves_no_torn_part(tmp_path):
    # Given a process that logs a row every 10 ms and promises to lose no more than 0.5 s
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    with writer.stdout:
        writer.stdout.readline()
    while not list(tmp_path.glob("vae/*/part-*.parquet")):
        assert writer.poll() is None
        time.sleep(0.05)
    time.sleep(1.5)
    # When it is killed
    os.kill(writer.pid, signal.SIGKILL)
    killed = pd.Timestamp.now(tz="UTC")
    writer.wait(10)
    # Then the rows are there without a gap up to the flush time before the kill (and a second for a busy machine)
    table = inference_log.read(tmp_path, model="vae")
    assert table.attrs[UNREADABLE] == []
    assert table["request_id"].astype(int).tolist() == list(range(len(table)))
    assert (killed - table["time"].max()).total_seconds() < 0.5 + 1.0


@pytest.mark.parametrize("moment", [NOON, NOON.replace(tzinfo=None)], ids=["aware", "naive-is-utc"])
def test_since_takes_aware_and_naive_times_as_utc(tmp_path, moment):
    write(tmp_path, rows(1))
    assert len(inference_log.read(tmp_path, model="vae", since=moment)) == 1
