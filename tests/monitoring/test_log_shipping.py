"""Parts on their way to an object store: kept while it is away, shipped when it is back, by whoever runs, against a real S3 server."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
from moto.server import ThreadedMotoServer

from firstlight.errors import TransientError
from monitoring import inference_log
from monitoring.inference_log import COLUMNS, UNREADABLE
from monitoring.log_shipping import Spool
from monitoring.log_writing import InferenceLog, SpoolFullError
from spectra.object_store import ObjectStore

WHERE = "s3://logs/inference"


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(endpoint):
    store = ObjectStore(endpoint, access_key="key", secret_key="secret")
    store._client.create_bucket(Bucket="logs")
    yield store
    for uri in store.list("s3://logs/"):
        store._client.delete_object(Bucket="logs", Key=uri.removeprefix("s3://logs/"))


def spool(folder, upload, *, model="vae", max_bytes=1 << 20):
    return Spool(folder, model=model, prefix=WHERE, upload=lambda: upload, max_bytes=max_bytes)


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.02)


def parts(folder):
    return sorted(path.name for path in folder.glob("*/*/date=*/part-*"))


NAMES = [f"date=2026-11-22/part-{number}-1-1.parquet" for number in range(1000, 1005)]


class Away:
    """A store that answers when it is let, and remembers what it was given."""

    def __init__(self, *, answers=False):
        self.answers, self.tries, self.taken = threading.Event(), 0, []
        if answers:
            self.answers.set()

    def __call__(self, path, uri):
        self.tries += 1
        if not self.answers.is_set():
            raise TransientError("the store must answer, it does not; repeat it later")
        self.taken.append((uri, path.read_bytes()))


def test_rows_written_to_s3_are_read_back_from_it_and_leave_nothing_on_the_disk(tmp_path, store):
    def joined(items):
        return {name: [item[name] for item in items] for name in items[0]}

    log = InferenceLog(spool(tmp_path / "spool", store.upload), make=joined, flush_seconds=0.2)
    now = time.time_ns() // 1000
    for number in range(3):
        log.offer({**dict.fromkeys(COLUMNS, "x"), "row": number, "model": "vae", "time": now}, rows=1, size=10)
    until(lambda: inference_log.has_rows(WHERE, model="vae", store=store))
    log.offer({**dict.fromkeys(COLUMNS, "x"), "row": 3, "model": "vae", "time": now}, rows=1, size=10)
    log.close()
    since = datetime.fromtimestamp(now / 1e6, tz=UTC)
    for table in (inference_log.read(WHERE, model="vae", store=store), inference_log.read(WHERE, model="vae", store=store, since=since)):
        assert table["row"].tolist() == [0, 1, 2, 3]
        assert table.attrs[UNREADABLE] == []
    assert len(inference_log.read(WHERE, model="another", store=store)) == 0
    assert log.counts().written == 4
    assert log.waiting_bytes() == 0
    assert [path for path in (tmp_path / "spool").rglob("*") if path.is_file()] == []


def test_a_foreign_object_is_named_and_a_store_that_does_not_answer_is_transient(store):
    store._client.put_object(Bucket="logs", Key="inference/vae/date=2026-11-22/part-1-1-1.parquet", Body=b"not parquet")
    assert len(inference_log.read(WHERE, model="vae", store=store).attrs[UNREADABLE]) == 1
    with pytest.raises(TransientError):
        inference_log.read(WHERE, model="vae", store=ObjectStore("http://127.0.0.1:9", access_key="k", secret_key="s"))


def test_while_the_store_is_away_parts_wait_and_when_it_is_back_all_arrive_in_order(tmp_path):
    away = Away()
    waiting = spool(tmp_path, away)
    waiting.start()
    for name in NAMES:
        waiting.write(name, name.encode())
    until(lambda: away.tries >= 2)
    assert waiting.waiting_bytes() == sum(map(len, NAMES))
    away.answers.set()
    until(lambda: waiting.waiting_bytes() == 0)
    waiting.close(5)
    assert away.taken == [(f"{WHERE}/vae/{name}", name.encode()) for name in NAMES]


def test_more_than_the_bound_is_refused_and_what_waits_is_kept(tmp_path):
    waiting = spool(tmp_path, Away(), max_bytes=250)
    waiting.write(NAMES[0], bytes(100))
    waiting.write(NAMES[1], bytes(100))
    with pytest.raises(SpoolFullError, match="at most 250 bytes"):
        waiting.write(NAMES[2], bytes(100))
    # the bound is the model's, not a process's: a second server does not double it
    with pytest.raises(SpoolFullError):
        spool(tmp_path, Away(), max_bytes=250).write(NAMES[3], bytes(100))
    waiting.close(5)
    assert parts(tmp_path) == ["part-1000-1-1.parquet", "part-1001-1-1.parquet"]


def test_rows_beyond_the_spool_are_counted_as_dropped(tmp_path):
    log = InferenceLog(
        spool(tmp_path, Away(), max_bytes=10), make=lambda items: {name: [item[name] for item in items] for name in items[0]}
    )
    log.offer({**dict.fromkeys(COLUMNS, "x"), "row": 0, "time": 0}, rows=1, size=10)
    log.close()
    assert (log.counts().written, log.counts().dropped) == (0, 1)


def test_a_store_that_raises_what_nobody_expects_is_tried_again(tmp_path):
    taken = []

    def upload(path, uri):
        if not taken:
            taken.append("tried")
            raise RuntimeError("cannot schedule new futures")
        taken.append(uri)

    waiting = spool(tmp_path, upload)
    waiting.write(NAMES[0], b"x")
    until(lambda: len(taken) == 2)
    waiting.close(5)
    assert parts(tmp_path) == []


def test_a_clean_end_without_the_store_leaves_the_parts_to_the_next_process_of_any_model(tmp_path):
    first = spool(tmp_path, Away())
    first.write(NAMES[0], b"left")
    first.close(5)
    assert parts(tmp_path) == ["part-1000-1-1.parquet"]
    store = Away(answers=True)
    second = spool(tmp_path, store, model="cnn")
    second.start()
    until(lambda: store.taken)
    second.close(5)
    assert store.taken == [(f"{WHERE}/vae/{NAMES[0]}", b"left")]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nobody_ships_what_a_living_process_holds(tmp_path):
    living, store = spool(tmp_path, Away()), Away(answers=True)
    living.write(NAMES[0], b"mine")
    other = spool(tmp_path, store)
    other.write(NAMES[1], b"other")
    other.close(5)
    assert [uri for uri, _ in store.taken] == [f"{WHERE}/vae/{NAMES[1]}"]
    living.close(5)


KILLED = """
import sys, time
from pathlib import Path
from firstlight.errors import TransientError
from monitoring.log_shipping import Spool
def upload(path, uri):
    raise TransientError("away")
spool = Spool(Path(sys.argv[1]), model="vae", prefix="s3://logs/inference", upload=lambda: upload, max_bytes=1 << 20)
for number in range(1000, 1003):
    spool.write(f"date=2026-11-22/part-{number}-1-1.parquet", b"%d" % number)
print("written", flush=True)
time.sleep(60)
"""


def test_what_a_killed_process_had_in_the_spool_is_shipped_by_the_next_one(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    with process.stdout:
        assert process.stdout.readline() == b"written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    assert len(parts(tmp_path)) == 3
    store = Away(answers=True)
    following = spool(tmp_path, store)
    following.start()
    until(lambda: len(store.taken) == 3)
    following.close(5)
    assert [data for _, data in store.taken] == [b"1000", b"1001", b"1002"]
    assert parts(tmp_path) == []
