"""One supervisor with two models and two replicas of each, as real processes: one address for both, and a killed server costs no request."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import tritonclient.http as triton

from firstlight.digest import sha256_file
from rollout.spec import ServableVersion, Traffic
from rollout.store import Store
from serving import adoption, control
from serving.client import InferenceClient
from tests.serving.test_supervised import Stream

ENVIRONMENT, MODELS = "testing", ("tiny", "twin")
SIGNAL = {"signal": np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)}
pytestmark = pytest.mark.timeout(300)


class Pair:
    """One supervisor process."""

    def __init__(self, state, tiny):
        self.state = state
        url = f"sqlite:///{state / 'state.db'}"
        self.store = Store(url)
        for seed, model in enumerate(MODELS):
            folder = tiny.write_tiny_handoff(state / model, seed=seed, name=model)
            digests = {"model_digest": sha256_file(folder / "model.pt2"), "handoff_digest": sha256_file(folder / "handoff.yaml")}
            self.store.add_version(ServableVersion(model=model, version="1", folder=str(folder), **digests))
            self.store.propose(ENVIRONMENT, model, Traffic(stable="1"), lease_until=None, expected_generation=None, by="test")
        options = json.dumps({"model": {"workers": 1, "replicas": 2, "cache_mb": 0}})
        words = ["--environment", ENVIRONMENT, "--state", str(state), "--store", url, "--options", options, "--no-standby"]
        words += ["--ready-seconds", "200"]
        words += [word for model in MODELS for word in ("--model", model)]
        self.command = [sys.executable, "-m", "serving", "supervise", *words]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE)
        self.url = json.loads(self.process.stdout.readline())["gateway_url"]

    def routes(self, model):
        with control.find(self.state, environment=ENVIRONMENT, model=model) as gateway:
            return gateway.routes()[0]

    def replicas(self, model):
        with contextlib.suppress(Exception):
            stable = self.routes(model).stable
            return stable.urls if stable else ()
        return ()

    def listener(self, url):
        """Process id of the model server at ``url``."""
        port = int(url.rsplit(":", 1)[1])
        for child in psutil.Process(self.process.pid).children():
            if any(found.laddr.port == port for found in child.net_connections() if found.status == "LISTEN"):
                return child.pid
        raise AssertionError(f"nobody listens at {url}")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, tiny, until):
    made = Pair(tmp_path_factory.mktemp("together"), tiny)
    try:
        until(lambda: all(len(made.replicas(model)) == 2 for model in MODELS), 200, 0.2)
        yield made
    finally:
        made.process.terminate()
        assert made.process.wait(30) == 0
        made.process.stdout.close()
        made.store.close()


def test_both_models_answer_at_one_address_and_are_reported_and_measured_apart(pair):
    with InferenceClient(pair.url, "tiny") as one, InferenceClient(pair.url, "twin") as two:
        first, second = one.infer(SIGNAL), two.infer(SIGNAL)
    assert (first.status, second.status) == (200, 200)
    assert not np.array_equal(first.outputs["score"], second.outputs["score"])
    for model in MODELS:
        seen = pair.store.observed(ENVIRONMENT, model)
        assert (seen.traffic, seen.ready, seen.problems, seen.gateway_url) == (Traffic(stable="1"), ("1",), (), pair.url)
        with control.find(pair.state, environment=ENVIRONMENT, model=model) as gateway:
            assert [track["requests"] for track in gateway.evidence()["tracks"]] == [1]


def test_a_model_server_killed_under_load_costs_no_request_when_there_is_another(pair, until):
    urls = pair.replicas("tiny")
    with Stream(pair.url) as stream:
        until(lambda: len(stream.versions) > 50)
        os.kill(pair.listener(urls[0]), signal.SIGKILL)
        until(lambda: len(pair.replicas("tiny")) == 1)
        until(lambda: len(pair.replicas("tiny")) == 2, 90)
        count = len(stream.versions)
        until(lambda: len(stream.versions) > count + 50)
    assert stream.failures == []
    assert pair.replicas("twin")


def test_somebody_elses_client_works_through_the_gateway(pair):
    client = triton.InferenceServerClient(pair.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("twin")
    assert client.get_model_metadata("twin")["inputs"][0]["shape"] == [-1, 50]
    asked = triton.InferInput("signal", [2, 50], "FP32")
    asked.set_data_from_numpy(SIGNAL["signal"], binary_data=True)
    plain = client.infer("twin", [asked], request_id="mine").as_numpy("score")
    packed = client.infer("twin", [asked], request_compression_algorithm="gzip", response_compression_algorithm="gzip").as_numpy("score")
    with InferenceClient(pair.url, "twin") as ours:
        np.testing.assert_array_equal(plain, ours.infer(SIGNAL).outputs["score"])
    np.testing.assert_array_equal(plain, packed)
    with pytest.raises(triton.InferenceServerException, match="there is no model 'nobody' here"):
        client.infer("nobody", [asked])
    client.close()


def test_the_next_supervisor_takes_over_both_models_with_every_replica(pair, until):
    def running():
        lists = [adoption.read(control.folder(pair.state, environment=ENVIRONMENT, model=model)) for model in MODELS]
        return {census.supervisor.pid for census in lists}, sorted(
            (child.role, child.number, child.being.pid) for census in lists for child in census.children
        )

    until(lambda: all(len(pair.replicas(model)) == 2 for model in MODELS), 90, 0.2)
    addresses, before, url = [pair.replicas(model) for model in MODELS], running()[1], pair.url
    assert [role for role, *_ in before] == ["gateway", *["model"] * 4]
    with Stream(pair.url) as stream:
        pair.process.kill()
        pair.process.wait(20)
        pair.process.stdout.close()
        pair.start()
        until(lambda: all(pair.store.observed(ENVIRONMENT, model).heartbeat > time.time() - 1 for model in MODELS))
        count = len(stream.versions)
        until(lambda: len(stream.versions) > count + 20)
    assert stream.failures == []
    assert running() == ({pair.process.pid}, before)
    assert ([pair.replicas(model) for model in MODELS], pair.url) == (addresses, url)
