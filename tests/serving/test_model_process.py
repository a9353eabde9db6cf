"""A model server as the processes it is: killed piece by piece under load, drained, tampered with, started from a standby."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from firstlight.digest import sha256_file
from models.tensors import read_tensors
from serving.client import InferenceClient

SIGNAL = np.random.default_rng(0).normal(size=(6000, 50)).astype(np.float32)


class Process:
    """``python -m serving model`` around the tiny hand-off, in a process group of its own."""

    def __init__(self, folder: Path, *, log: Path, standby: bool = False, arguments=(), **options) -> None:
        words = [
            "model",
            str(folder),
            "--name",
            "tiny",
            "--version",
            "1",
            "--options",
            json.dumps({"model": {"workers": 2, **options}}),
            *arguments,
        ]
        command = [sys.executable, "-m", "serving", *(["standby"] if standby else words)]
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        if standby:
            assert json.loads(self.process.stdout.readline())["event"] == "warm"
            self.process.stdin.write(json.dumps(words).encode() + b"\n")
            self.process.stdin.flush()
        self.url = f"http://127.0.0.1:{json.loads(self.process.stdout.readline())['port']}"
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        self.log = log

    @property
    def state(self) -> dict:
        return self.http.get("/v2/health/ready").json()

    def ready(self, until) -> "Process":
        until(lambda: self.state["state"] == "ready" or self.state["state"] == "refused", 120)
        assert self.state == {"ready": True, "state": "ready"}
        return self

    def metric(self, name: str) -> float:
        lines = [line for line in self.http.get("/metrics").text.splitlines() if line.startswith(f"{name}{{")]
        return float(lines[0].rpartition(" ")[2])

    @property
    def nursery(self) -> psutil.Process | None:
        """The process that forks workers; None between two."""
        living = [child for child in psutil.Process(self.process.pid).children() if child.is_running()]
        return living[0] if living else None

    def workers(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return self.nursery.children() if self.nursery else []
        return []

    def end(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()


class Stream:
    """Callers who ask again and again; everything that is not a right answer is kept."""

    def __init__(self, url: str, *, callers: int = 4, rows: int = 3) -> None:
        self.answered, self.wrong = 0, []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._ask, args=(url, rows, number)) for number in range(callers)]

    def _ask(self, url, rows, number) -> None:
        with InferenceClient(url, "tiny") as client:
            while not self.stop.is_set():
                number = (number + 7) % 5000
                try:
                    answer = client.infer({"signal": SIGNAL[number : number + rows]})
                except Exception as error:
                    self.wrong.append(repr(error))
                    return
                self.answered += answer.ok
                time.sleep(0.005)
                if not answer.ok or answer.outputs["score"].shape != (rows,):
                    self.wrong.append(answer.error)

    def __enter__(self) -> "Stream":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(20)


@pytest.fixture(scope="module")
def handoff(tmp_path_factory, tiny):
    return tiny.write_tiny_handoff(tmp_path_factory.mktemp("process") / "tiny")


@pytest.fixture(scope="module")
def server(handoff, tmp_path_factory, until):
    """Started from a standby, with the digests the registry knows; the last test that uses it stops it."""
    digests = ("--model-digest", sha256_file(handoff / "model.pt2"), "--handoff-digest", sha256_file(handoff / "handoff.yaml"))
    made = Process(handoff, log=tmp_path_factory.mktemp("log") / "log", standby=True, arguments=digests, cache_mb=0)
    yield made.ready(until)
    made.end()


@pytest.fixture(scope="module")
def narrow(handoff, tmp_path_factory, until):
    """One worker, room for two to wait, and a backend whose compiled file is not there; the last test that uses it kills it."""
    place = tmp_path_factory.mktemp("narrow")
    options = {"queue_requests": 2, "workers": 1, "cache_mb": 0, "compiled": str(place / "compiled")}
    made = Process(handoff, log=place / "log", arguments=("--backend", "onnx", "--backend-digest", "1" * 64), **options)
    yield made.ready(until)
    made.end()


@pytest.fixture
def started(handoff, tmp_path):
    made = []

    def start(folder=handoff, **options) -> Process:
        made.append(Process(folder, log=tmp_path / f"log-{len(made)}", **options))
        return made[-1]

    yield start
    for process in made:
        process.end()


def test_the_answers_of_worker_processes_are_the_golden_ones_whole_and_in_parts(server, handoff):
    golden = read_tensors((handoff / "golden.safetensors").read_bytes(), where="golden")
    with InferenceClient(server.url, "tiny") as client:
        for rows in (1, 3, 8):
            answer = client.infer({"signal": golden["input.signal"][:rows]})
            for name in ("score", "embedding", "class_probabilities"):
                np.testing.assert_allclose(answer.outputs[name], golden[f"output.{name}"][:rows], rtol=1e-4, atol=1e-5)
        # a request that is cut over both workers, more than once
        large, one = client.infer({"signal": SIGNAL}), client.infer({"signal": SIGNAL[4321:4322]})
    np.testing.assert_allclose(large.outputs["score"][4321], one.outputs["score"][0], rtol=1e-4)
    assert server.metric("firstlight_batch_rows_count") > 6000 / 64


def test_json_of_megabytes_is_read_and_written_by_workers_and_the_server_answers_others_meanwhile(server):
    body = json.dumps({"inputs": [{"name": "signal", "datatype": "FP32", "shape": [6000, 50], "data": SIGNAL.tolist()}]}).encode()
    assert len(body) > 4 << 20
    answer = server.http.post("/v2/models/tiny/infer", content=body)
    with InferenceClient(server.url, "tiny") as client:
        raw = client.infer({"signal": SIGNAL})
    for output in answer.json()["outputs"]:
        np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), raw.outputs[output["name"]], rtol=1e-4, atol=1e-6)
    refused = server.http.post("/v2/models/tiny/infer", content=body[:-1])
    assert (refused.status_code, "JSON object" in refused.json()["error"]) == (400, True)
    ragged = server.http.post("/v2/models/tiny/infer", content=body.replace(b"[6000, 50]", b"[6001, 50]"))
    assert (ragged.status_code, "takes 300050 values" in ragged.json()["error"] or "like its shape" in ragged.json()["error"]) == (
        400,
        True,
    )
    assert server.metric("firstlight_queue_bytes") == 0


def test_a_row_that_is_not_finite_is_refused_by_a_worker_and_named(server):
    spoilt = SIGNAL[:5].copy()
    spoilt[3, 7] = np.inf
    with InferenceClient(server.url, "tiny") as client:
        answer = client.infer({"signal": spoilt})
    assert (answer.status, "row 3" in answer.error) == (400, True)


def test_killing_workers_under_load_fails_no_request_and_they_are_replaced(server, until):
    with Stream(server.url) as stream:
        for _ in range(3):
            before, restarts = stream.answered, server.metric("firstlight_worker_restarts_total")
            server.workers()[0].kill()
            until(lambda restarts=restarts: server.metric("firstlight_worker_restarts_total") > restarts)
            until(lambda: server.metric("firstlight_workers") == 2)
            until(lambda before=before: stream.answered > before + 20)
    assert stream.wrong == []


def test_killing_the_nursery_and_a_worker_fails_no_request_and_both_come_back(server, until):
    with Stream(server.url) as stream:
        until(lambda: stream.answered > 20)
        nursery, workers = server.nursery, server.workers()
        nursery.kill()
        workers[0].kill()
        until(lambda: (now := server.nursery) and now.pid != nursery.pid and len(server.workers()) == 1, 120)
        until(lambda: server.metric("firstlight_workers") == 2, 60)
    assert stream.wrong == []


def test_a_changed_byte_in_the_model_is_refused_and_the_server_stays_to_say_so(started, handoff, tmp_path, until):
    folder = Path(shutil.copytree(handoff, tmp_path / "copy"))
    archive = bytearray((folder / "model.pt2").read_bytes())
    archive[len(archive) // 2] ^= 1
    (folder / "model.pt2").write_bytes(archive)
    server = started(folder)
    until(lambda: server.state["state"] == "refused", 60)
    assert "model.pt2" in server.state["error"]
    assert server.http.get("/v2/health/live").status_code == 200
    with InferenceClient(server.url, "tiny") as client:
        assert client.infer({"signal": SIGNAL[:1]}).status == 503
    assert server.metric("firstlight_ready") == 0


def test_an_idle_server_gives_the_memory_of_its_bodies_back(server, until):
    with InferenceClient(server.url, "tiny") as client:
        assert client.infer({"signal": SIGNAL}).ok
    maps = psutil.Process(server.process.pid).memory_maps(grouped=False)
    assert any("firstlight-arena" in entry.path and entry.rss > 1 << 20 for entry in maps)

    def resident():
        return sum(entry.rss for entry in psutil.Process(server.process.pid).memory_maps(grouped=False) if "firstlight-arena" in entry.path)

    until(lambda: resident() == 0, 30)
    with InferenceClient(server.url, "tiny") as client:
        assert client.infer({"signal": SIGNAL[:1]}).ok


def test_stopping_fails_no_request_that_was_sent_even_when_the_signal_goes_to_the_whole_group(server, until):
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) >= 2
    with Stream(server.url, callers=6, rows=300) as stream:
        until(lambda: stream.answered > 30)
        os.killpg(server.process.pid, signal.SIGTERM)
        assert server.process.wait(20) == 0
    # Then all that was not an answer is a connection that could not be made, because nobody listens any more
    assert {wrong for wrong in stream.wrong if "must answer, got ConnectError" not in wrong} == set()
    assert psutil.wait_procs(children, timeout=5)[1] == []


def test_a_compiled_file_that_is_not_there_costs_speed_and_is_said(narrow):
    assert 'backend="eager",device="cpu"' in narrow.http.get("/metrics").text
    assert narrow.metric("firstlight_backend_missing") == 1
    assert "onnx cannot be had" in narrow.log.read_text()


def test_a_compiled_file_that_is_not_the_recorded_one_is_refused(started, tmp_path, until):
    digest = "1" * 64
    (tmp_path / "compiled" / digest).mkdir(parents=True)
    (tmp_path / "compiled" / digest / "manifest.json").write_text("{}")
    wrong = started(arguments=("--backend", "onnx", "--backend-digest", digest), compiled=str(tmp_path / "compiled"))
    until(lambda: wrong.state["state"] == "refused", 60)
    assert digest in wrong.state["error"]


def test_more_than_may_wait_is_told_to_come_again_and_who_does_is_answered(narrow):
    statuses = []

    def ask(number):
        with InferenceClient(narrow.url, "tiny") as client:
            for step in range(3):
                while not (answer := client.infer({"signal": SIGNAL[number * 50 + step :][:5000]})).ok:
                    statuses.append(answer.status)
                    time.sleep(0.05)
                statuses.append(answer.status)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(statuses) == {200, 503}
    assert statuses.count(200) == 36
    assert narrow.metric("firstlight_queue_bytes") == 0
    assert narrow.http.get("/v2/health/ready").status_code == 200


def test_killing_the_server_leaves_no_process_behind(narrow):
    children = psutil.Process(narrow.process.pid).children(recursive=True)
    narrow.process.kill()
    assert psutil.wait_procs(children, timeout=5)[1] == []
