"""The whole online plane as real processes, and then killed piece by piece. One supervisor for the module; the last test kills it.

Every scenario starts from stable "1" alone with all traffic.
"""

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
from firstlight.errors import FirstlightError
from monitoring import inference_log
from rollout.spec import ServableVersion, Traffic
from rollout.store import Store
from serving import control, process
from serving.client import InferenceClient
from serving.errors import SettingsError
from serving.supervisor import Settings, Supervisor

ENVIRONMENT, MODEL = "testing", "tiny"
SIGNAL = {"signal": np.random.default_rng(0).normal(size=(1, 50)).astype(np.float32)}
STABLE = Traffic(stable="1")
pytestmark = pytest.mark.timeout(400)


class World:
    """One supervisor process with its store, and what a test wants to do to them."""

    def __init__(self, state: Path, until) -> None:
        self.state, self.until = state, until
        self.store_url = f"sqlite:///{state / 'state.db'}"
        self.store = Store(self.store_url)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, **options: str) -> list[str]:
        given = {"environment": ENVIRONMENT, "model": MODEL, "state": str(self.state), "store": self.store_url, **options}
        given.setdefault("options", json.dumps({"model": {"inference_log": str(self.state / "inference-log")}}))
        return [sys.executable, "-m", "serving", "supervise", *(word for key, value in given.items() for word in (f"--{key}", value))]

    def start(self) -> None:
        self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE)
        self.url = json.loads(self.process.stdout.readline())["gateway_url"]

    def add(self, version: str, folder: Path) -> None:
        digests = {"model_digest": sha256_file(folder / "model.pt2"), "handoff_digest": sha256_file(folder / "handoff.yaml")}
        self.store.add_version(ServableVersion(model=MODEL, version=version, folder=str(folder), **digests))

    def want(self, traffic: Traffic, *, lease: float = 120.0):
        until = time.time() + lease if traffic.canary else None
        return self.store.propose(ENVIRONMENT, MODEL, traffic, lease_until=until, expected_generation=None, by="test")

    def observed(self):
        return self.store.observed(ENVIRONMENT, MODEL)

    def becomes(self, traffic: Traffic, seconds: float = 120.0):
        return self.until(lambda: (seen := self.observed()) and seen.traffic == traffic and seen, seconds)

    def problem(self, *words: str):
        return self.until(lambda: [p for p in self.observed().problems if all(word in p for word in words)], 120)

    def pids(self, *words: str) -> list[int]:
        """Process ids of children whose command line (a standby's: whose log) has ``words``."""
        return [child.pid for child in psutil.Process(self.process.pid).children() if _named(child, words)]

    def server(self, version: str) -> int:
        """Process id of the server of ``version``, found by the port the gateway routes to."""
        with self.control as gateway:
            routes, _ = gateway.routes()
        port = int(routes.target(version).url.rsplit(":", 1)[1])
        for child in psutil.Process(self.process.pid).children():
            if any(connection.laddr.port == port for connection in child.net_connections() if connection.status == "LISTEN"):
                return child.pid
        raise AssertionError(f"nobody listens on {port}")

    def measured(self, since: float) -> dict:
        with self.control as gateway:
            return gateway.measurements(since=since)["versions"]

    @property
    def control(self):
        return control.find(self.state, environment=ENVIRONMENT, model=MODEL)


def _named(child: psutil.Process, words) -> bool:
    with contextlib.suppress(psutil.Error):
        return all(word in child.cmdline() for word in words)
    return False


class Stream:
    """Clients that ask a hundred times a second at most; every answer that is not a 200 is kept as a failure."""

    def __init__(self, url: str, clients: int = 2) -> None:
        self.versions: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,)) for _ in range(clients)]

    def _ask(self, url: str) -> None:
        with InferenceClient(url, MODEL) as client:
            while not self._stop.is_set():
                try:
                    answer = client.infer(SIGNAL)
                except FirstlightError as error:
                    self.failures.append(str(error))
                    continue
                self.versions.append(answer.version)
                time.sleep(0.01)
                if not answer.ok:
                    self.failures.append(answer.error)

    def __enter__(self) -> "Stream":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny, until):
    state = tmp_path_factory.mktemp("state")
    made = World(state, until)
    for version, seed in (("1", 1), ("2", 2)):
        made.add(version, tiny.write_tiny_handoff(state / f"tiny-{version}", seed=seed))
    made.want(STABLE)
    made.start()
    yield made
    if made.process.poll() is None:
        made.process.terminate()
        made.process.wait(20)
    made.process.stdout.close()
    made.store.close()


@pytest.fixture
def settled(world):
    world.want(STABLE)
    world.becomes(STABLE)
    return world


def test_a_canary_gets_its_share_exactly_and_its_answers_are_measured(settled):
    # Given stable 1 and canary 2 at 5 percent
    settled.want(Traffic(stable="1", canary="2", canary_weight=5))
    seen = settled.becomes(Traffic(stable="1", canary="2", canary_weight=5))
    assert (seen.ready, seen.problems) == (("1", "2"), ())
    before = time.time()
    # When 40 requests come
    with InferenceClient(settled.url, MODEL, client="replay") as client:
        answers = [client.infer(SIGNAL, request_id=f"share-{number}") for number in range(40)]
    # Then two of them are the canary's, the two models differ, and the gateway has measured just that
    assert [answer.status for answer in answers] == [200] * 40
    assert sum(answer.version == "2" for answer in answers) == 2
    assert len({answer.outputs["score"].tobytes() for answer in answers}) == 2
    measured = settled.measured(before)
    assert {version: (kept["requests"], kept["errors"], len(kept["seconds"])) for version, kept in measured.items()} == {
        "1": (38, 0, 38),
        "2": (2, 0, 2),
    }
    # And every row is in the inference log within its flush time
    log = _logged(settled, 40)
    shares = log[log["request_id"].str.startswith("share-")]
    assert shares["version"].value_counts().to_dict() == {"1": 38, "2": 2}
    assert set(shares["client"]) == {"replay"}


def _logged(world, rows):
    def enough():
        table = inference_log.read(world.state / "inference-log", model=MODEL)
        return [table] if len(table) >= rows else []

    return world.until(enough, 15, 0.2)[0]


def test_killing_the_canary_in_the_middle_of_a_stream_fails_no_request(settled):
    wanted = Traffic(stable="1", canary="2", canary_weight=50)
    settled.want(wanted)
    settled.becomes(wanted)
    before = time.time()
    with Stream(settled.url) as stream:
        settled.until(lambda: stream.versions.count("2") > 30)
        os.kill(settled.server("2"), signal.SIGKILL)
        settled.problem("version 2", "ended with -9")
        settled.until(lambda: settled.observed().traffic in (STABLE, wanted))
        # When it is back, it gets its share again
        settled.becomes(wanted)
        count = len(stream.versions)
        settled.until(lambda: "2" in stream.versions[count:])
    assert stream.failures == []
    assert settled.measured(before)["1"]["errors"] == 0


def test_killing_stable_while_a_canary_is_out_fails_no_request(settled):
    wanted = Traffic(stable="1", canary="2", canary_weight=5)
    settled.want(wanted)
    settled.becomes(wanted)
    with Stream(settled.url) as stream:
        settled.until(lambda: len(stream.versions) > 60)
        os.kill(settled.server("1"), signal.SIGKILL)
        settled.becomes(Traffic(canary="2", canary_weight=100))
        settled.becomes(wanted)
        count = len(stream.versions)
        settled.until(lambda: "1" in stream.versions[count:])
    assert stream.failures == []


def test_killing_the_gateway_brings_it_back_on_the_same_port_with_the_same_routes(settled):
    (gateway,) = settled.pids("gateway")
    os.kill(gateway, signal.SIGKILL)
    # The supervisor holds the socket: a caller who comes now waits, and is answered.
    with InferenceClient(settled.url, MODEL) as client:
        assert settled.until(lambda: _answers(client), 20)
    assert settled.pids("gateway") != [gateway]
    assert settled.becomes(STABLE).gateway_url == settled.url


def _answers(client) -> bool:
    with contextlib.suppress(FirstlightError):
        return client.infer(SIGNAL).ok
    return False


def test_a_lease_that_nobody_renews_returns_the_traffic_to_stable(settled):
    wanted = Traffic(stable="1", canary="2", canary_weight=50)
    settled.want(wanted)
    settled.becomes(wanted)
    settled.want(wanted, lease=1.0)
    settled.becomes(STABLE)
    settled.problem("lease of canary 2 lapsed")
    with InferenceClient(settled.url, MODEL) as client:
        assert {client.infer(SIGNAL).version for _ in range(20)} == {"1"}


def test_a_version_whose_bytes_were_changed_never_gets_a_request_and_the_problem_says_digest(settled):
    # Given a folder that was registered and then changed by one byte
    folder = settled.state / "tampered"
    shutil.copytree(settled.state / "tiny-2", folder)
    settled.add("3", folder)
    archive = bytearray((folder / "model.pt2").read_bytes())
    archive[len(archive) // 2] ^= 1
    (folder / "model.pt2").write_bytes(archive)
    # When it is wanted as a canary with half of the traffic
    settled.want(Traffic(stable="1", canary="3", canary_weight=50))
    with Stream(settled.url, clients=1) as stream:
        sentences = settled.problem("version 3", "model.pt2")
        settled.until(lambda: len(stream.versions) > 50)
    # Then it stays unready, the sentence says why, and stable answers everything
    assert "sha256" in sentences[0] or "digest" in sentences[0]
    assert (settled.observed().traffic, settled.observed().ready) == (STABLE, ("1",))
    assert (stream.failures, set(stream.versions)) == ([], {"1"})


def test_after_fifty_changes_in_a_row_the_last_one_is_true(settled):
    choices = [
        STABLE,
        Traffic(stable="1", canary="2", canary_weight=25),
        Traffic(stable="2"),
        Traffic(stable="2", canary="1", canary_weight=75),
    ]
    last = Traffic(stable="1", canary="2", canary_weight=33)
    with Stream(settled.url, clients=1) as stream:
        for number in range(49):
            settled.want(choices[number % len(choices)])
            time.sleep(0.02)
        generation = settled.want(last).generation
        seen = settled.becomes(last)
    assert seen.generation == generation
    assert stream.failures == []


def test_a_version_that_nobody_registered_is_a_problem_and_moves_nothing(settled):
    settled.want(Traffic(stable="1", canary="99", canary_weight=10))
    settled.problem("version 99", "cannot be started")
    assert settled.observed().traffic == STABLE


def test_prometheus_is_told_where_the_gateway_and_every_server_is_and_reaches_them(settled):
    def found(role):
        groups = json.loads((settled.state / "prometheus" / f"{role}.{ENVIRONMENT}.{MODEL}.json").read_text())
        assert all(group["labels"] == {"environment": ENVIRONMENT, "__scheme__": "http"} for group in groups)
        return [target for group in groups for target in group["targets"]]

    assert found("gateway") == [settled.url.removeprefix("http://")]
    settled.until(lambda: found("model"))
    for address, word in ((found("gateway")[0], "firstlight_gateway_weight_percent"), (found("model")[0], 'firstlight_ready{model="tiny"')):
        assert word in httpx.get(f"http://{address}/metrics", trust_env=False).text


def test_control_asks_for_the_token(settled):
    with settled.control as known, control.Control(known.url, token="guessed") as stranger, pytest.raises(FirstlightError, match="401"):
        stranger.routes()
    assert (control.folder(settled.state, environment=ENVIRONMENT, model=MODEL) / control.ADDRESS_FILE).stat().st_mode & 0o077 == 0


def test_a_second_supervisor_and_a_taken_port_are_sentences_and_exit_code_1(settled, tmp_path):
    second = subprocess.run(settled.command(), capture_output=True, timeout=30)
    assert (second.returncode, b"must have one supervisor" in second.stderr) == (1, True)
    with contextlib.closing(process.bind()) as taken:
        port = str(process.port_of(taken))
        refused = subprocess.run(settled.command(state=str(tmp_path), port=port), capture_output=True, timeout=30)
    assert (refused.returncode, f"127.0.0.1:{port} must be free".encode() in refused.stderr) == (1, True)
    assert b"Traceback" not in second.stderr + refused.stderr


def test_killing_the_supervisor_leaves_nothing_behind_and_the_next_one_can_start(settled):
    children = psutil.Process(settled.process.pid).children(recursive=True)
    assert len(children) >= 2
    settled.process.kill()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    port = int(settled.url.rsplit(":", 1)[1])
    with Supervisor(
        Settings(environment=ENVIRONMENT, models=(MODEL,), state=settled.state, store_url=settled.store_url, port=port)
    ) as successor:
        assert successor.url == settled.url
        with pytest.raises(SettingsError, match="one supervisor"):
            Supervisor(Settings(environment=ENVIRONMENT, models=(MODEL,), state=settled.state, store_url=settled.store_url))
