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
from monitoring.inference_log import COLUMNS, UNREADABLE, Counts, InferenceLog

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def rows(count=1, *, version="1", time=NOON, **more):
    frame = pd.DataFrame(
        {**dict.fromkeys(COLUMNS, "x"), "model": "vae", "version": version, "time": time, "score": 0.5, **more}, index=range(count)
    )
    return frame.astype({"time": "datetime64[us, UTC]"})


def write(folder, *frames, **options):
    log = InferenceLog(folder, model="vae", **options)
    for frame in frames:
        assert log.offer(lambda frame=frame: frame, rows=len(frame), size=100)
    log.close()
    return log.counts()


def test_rows_come_back_by_version_and_time_from_one_folder_per_day(tmp_path):
    night = rows(2, version="2", time=NOON + timedelta(days=1))
    counts = write(tmp_path, rows(3), night)
    assert counts == Counts(written=5, dropped=0, failed=0)
    assert sorted(day.name for day in (tmp_path / "vae").iterdir()) == ["date=2026-11-22", "date=2026-11-23"]
    assert len(inference_log.read(tmp_path, model="vae")) == 5
    assert len(inference_log.read(tmp_path, model="vae", version="2")) == 2
    assert len(inference_log.read(tmp_path, model="vae", since=NOON + timedelta(seconds=1))) == 2
    assert inference_log.read(tmp_path, model="vae")["time"].is_monotonic_increasing


def test_no_folder_is_no_rows_with_the_columns_in_place(tmp_path):
    table = inference_log.read(tmp_path / "nowhere", model="vae", version="1", since=NOON)
    assert len(table) == 0
    assert list(table.columns) == list(COLUMNS)


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


def test_versions_with_other_columns_are_read_together(tmp_path):
    write(tmp_path, rows(1))
    write(tmp_path, rows(1, version="2", extra=1.0))
    table = inference_log.read(tmp_path, model="vae")
    assert table["extra"].isna().sum() == 1


def test_what_does_not_fit_the_queue_is_dropped_and_counted_and_nobody_waits(tmp_path):
    gate = threading.Event()
    log = InferenceLog(tmp_path, model="vae", queue_bytes=250)

    def held():
        gate.wait(10)
        return rows(1)

    began = time.monotonic()
    accepted = [log.offer(held, rows=1, size=100) for _ in range(5)]
    assert time.monotonic() - began < 1
    assert accepted == [True, True, False, False, False]
    gate.set()
    log.close()
    assert log.counts() == Counts(written=2, dropped=3, failed=0)


def test_rows_that_cannot_be_made_or_written_are_counted_and_later_ones_are_kept(tmp_path):
    counts = write(tmp_path, rows(1))
    assert counts.written == 1
    log = InferenceLog(tmp_path, model="vae")
    log.offer(lambda: 1 // 0, rows=4, size=1)
    log.offer(lambda: rows(2), rows=2, size=1)
    log.close()
    assert log.counts() == Counts(written=2, dropped=0, failed=4)
    # a file where the folder should be: nothing can be written below it
    (tmp_path / "blocked").write_text("")
    assert write(tmp_path / "blocked", rows(3)) == Counts(written=0, dropped=0, failed=3)


WRITER = """
import sys, time
import pandas as pd
from monitoring.inference_log import COLUMNS, InferenceLog
log = InferenceLog(sys.argv[1], model="vae", flush_seconds=0.3)
for number in range(100_000):
    now = pd.Timestamp.now(tz="UTC")
    frame = pd.DataFrame({**dict.fromkeys(COLUMNS, "x"), "request_id": str(number), "time": now}, index=[0]).astype({"time": "datetime64[us, UTC]"})
    log.offer(lambda frame=frame: frame, rows=1, size=10)
    if number == 50:
        print("started", flush=True)
    time.sleep(0.01)
"""


def test_kill_minus_nine_loses_no_more_than_the_last_flush_and_leaves_no_torn_part(tmp_path):
    # Given a process that logs a row every 10 ms and flushes every 0.3 s
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
    # Then the rows are there without a gap up to about the flush time before the kill
    table = inference_log.read(tmp_path, model="vae")
    assert table.attrs[UNREADABLE] == []
    assert table["request_id"].astype(int).tolist() == list(range(len(table)))
    assert (killed - table["time"].max()).total_seconds() < 1.3


@pytest.mark.parametrize("moment", [NOON, NOON.replace(tzinfo=None)], ids=["aware", "naive-is-utc"])
def test_since_takes_aware_and_naive_times_as_utc(tmp_path, moment):
    write(tmp_path, rows(1))
    assert len(inference_log.read(tmp_path, model="vae", since=moment)) == 1
