"""The whole online plane as real processes, and then killed piece by piece. One supervisor for the module, but for the tests that kill it.

A scenario starts from stable "1" alone with all traffic, or with canary "2" and a baseline beside it.
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
from serving import adoption, control, process
from serving.client import InferenceClient

ENVIRONMENT, MODEL = "testing", "tiny"
SIGNAL = {"signal": np.random.default_rng(0).normal(size=(1, 50)).astype(np.float32)}
STABLE = Traffic(stable="1")
COMPARED = Traffic(stable="1", canary="2", canary_weight=25, baseline=True)
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
        given.setdefault("options", json.dumps({"model": {"workers": 1, "inference_log": str(self.state / "inference-log")}}))
        given.setdefault("ready-seconds", "200")
        return [sys.executable, "-m", "serving", "supervise", *(word for key, value in given.items() for word in (f"--{key}", value))]

    def start(self, *more: str, **options: str) -> None:
        self.process = subprocess.Popen([*self.command(**options), *more], stdout=subprocess.PIPE)
        self.url = json.loads(self.process.stdout.readline())["gateway_url"]

    def kill_supervisor(self) -> None:
        self.process.kill()
        self.process.wait(20)
        self.process.stdout.close()

    def add(self, version: str, folder: Path) -> None:
        digests = {"model_digest": sha256_file(folder / "model.pt2"), "handoff_digest": sha256_file(folder / "handoff.yaml")}
        self.store.add_version(ServableVersion(model=MODEL, version=version, folder=str(folder), **digests))

    def want(self, traffic: Traffic, *, lease: float = 120.0):
        until = time.time() + lease if traffic.canary else None
        seconds = lease if traffic.canary else None
        return self.store.propose(
            ENVIRONMENT, MODEL, traffic, lease_until=until, lease_seconds=seconds, expected_generation=None, by="test"
        )

    def observed(self):
        return self.store.observed(ENVIRONMENT, MODEL)

    def becomes(self, traffic: Traffic, seconds: float = 200.0):
        return self.until(lambda: (seen := self.observed()) and seen.traffic == traffic and seen, seconds)

    def drilled(self, asked: str) -> dict:
        """The report of a drill that is over."""
        seen = lambda: (found := self.observed().drill) and found["asked"] == asked and found["state"] in ("done", "failed") and found  # noqa: E731
        return self.until(seen, 200, 0.1)

    def problem(self, *words: str):
        return self.until(lambda: [p for p in self.observed().problems if all(word in p for word in words)], 200)

    def running(self) -> dict[tuple[str, str], int]:
        """Process ids by role and version, as the supervisor's list has them."""
        return {(child.role, child.version): child.being.pid for child in adoption.read(self.folder).children}

    def server(self, version: str, role: str = "model") -> int:
        """Process id of the server of ``version``: it must be the one the gateway routes to."""
        (child,) = [child for child in adoption.read(self.folder).children if (child.role, child.version) == (role, version)]
        with self.control as gateway:
            routes, _ = gateway.routes()
        target = routes.baseline if role == "baseline" else routes.target(version)
        assert target.url == f"http://127.0.0.1:{child.port}"
        return child.being.pid

    def told(self) -> float | None:
        """For how long the gateway was last told to send the canary requests; None: not at all any more."""
        with self.control as gateway:
            return gateway.routes()[0].canary_seconds

    def asked(self, version: str) -> int:
        """Attempts at ``version`` that the gateway has counted."""
        with self.control as gateway:
            return sum(track["requests"] for track in gateway.evidence()["tracks"] if track["version"] == version)

    @property
    def folder(self) -> Path:
        return control.folder(self.state, environment=ENVIRONMENT, model=MODEL)

    @property
    def control(self):
        return control.find(self.state, environment=ENVIRONMENT, model=MODEL)


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


@pytest.fixture
def compared(world):
    world.want(COMPARED)
    world.becomes(COMPARED)
    return world


def test_a_canary_and_its_baseline_get_their_share_exactly_and_their_answers_are_measured(compared):
    # Given stable 1, canary 2 and a baseline of 1 at 5 percent
    settled, wanted = compared, Traffic(stable="1", canary="2", canary_weight=5, baseline=True)
    settled.want(wanted)
    seen = settled.becomes(wanted)
    assert (seen.ready, seen.baseline_ready, seen.problems) == (("1", "2"), True, ())
    # When 40 requests come
    with InferenceClient(settled.url, MODEL, client="replay") as client:
        answers = [client.infer(SIGNAL, request_id=f"share-{number}") for number in range(40)]
    # Then two of them are the canary's, two the baseline's, the two models differ, and the gateway has measured just that
    assert [answer.status for answer in answers] == [200] * 40
    assert sum(answer.version == "2" for answer in answers) == 2
    assert len({answer.outputs["score"].tobytes() for answer in answers}) == 2
    with settled.control as gateway:
        counted = {
            track["track"]: (track["requests"], track["errors"], sum(track["latency"].values())) for track in gateway.evidence()["tracks"]
        }
    assert counted == {"stable": (36, 0, 36), "canary": (2, 0, 2), "baseline": (2, 0, 2)}
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


def test_killing_canary_baseline_and_stable_in_the_middle_of_a_stream_fails_no_request(compared):
    without = Traffic(stable="1", canary="2", canary_weight=25)
    before = compared.asked("2")
    with Stream(compared.url) as stream:
        # Given callers of all three, when the canary is killed, then it comes back and gets its share again
        compared.until(lambda: stream.versions.count("2") > 10)
        os.kill(compared.server("2"), signal.SIGKILL)
        compared.problem("version 2", "ended with -9")
        compared.until(lambda: compared.observed().traffic in (STABLE, COMPARED))
        compared.becomes(COMPARED)
        count = len(stream.versions)
        compared.until(lambda: "2" in stream.versions[count:])
        # When the baseline is killed, then its share is stable's until it is back
        os.kill(compared.server("1", "baseline"), signal.SIGKILL)
        compared.problem("the baseline's server of version 1", "ended with -9")
        compared.becomes(COMPARED)
        # When stable is killed, then the baseline answers for it: the canary gets no more than its share
        os.kill(compared.server("1"), signal.SIGKILL)
        compared.becomes(without)
        compared.becomes(COMPARED)
        count = len(stream.versions)
        compared.until(lambda: "1" in stream.versions[count:])
    assert stream.failures == []
    assert compared.asked("2") - before < len(stream.versions) / 2


def test_a_killed_supervisor_costs_no_request_and_the_next_one_starts_nothing_again(compared):
    running, keys = compared.running(), [(compared.folder / name).read_text() for name in ("control.token", "reader.key")]
    assert sorted(running) == [("baseline", "1"), ("gateway", ""), ("model", "1"), ("model", "2")]
    url = compared.url
    with Stream(url) as stream:
        compared.until(lambda: len(stream.versions) > 20)
        compared.kill_supervisor()
        count = len(stream.versions)
        compared.until(lambda: {"1", "2"} <= set(stream.versions[count + 20 :]))
        # When the next supervisor comes
        compared.start("--no-standby")
        compared.until(lambda: adoption.read(compared.folder).supervisor.pid == compared.process.pid)
        compared.until(lambda: compared.observed().heartbeat > time.time() - 1)
        compared.becomes(COMPARED)
        count = len(stream.versions)
        compared.until(lambda: {"1", "2"} <= set(stream.versions[count + 20 :]))
    # Then the same processes answer at the same address, with the same keys
    assert stream.failures == []
    assert (compared.running(), compared.url) == (running, url)
    assert [(compared.folder / name).read_text() for name in ("control.token", "reader.key")] == keys
    # And it has the listening socket: a gateway that is killed now is replaced while callers wait
    os.kill(running["gateway", ""], signal.SIGKILL)
    compared.until(lambda: not psutil.pid_exists(running["gateway", ""]))
    with InferenceClient(compared.url, MODEL) as client:
        assert client.infer(SIGNAL).ok
    assert compared.becomes(COMPARED).gateway_url == url
    assert compared.running()["gateway", ""] != running["gateway", ""]


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
    # And rehearsing its start says the same
    settled.want(STABLE)
    asked = settled.store.request_drill(ENVIRONMENT, MODEL, "3", "test")
    report = settled.drilled(asked)
    assert (report["state"], "sha256" in report["reason"] or "digest" in report["reason"]) == ("failed", True)


def test_a_drill_starts_a_version_anew_asks_it_copies_and_touches_no_caller(settled):
    with Stream(settled.url, clients=1) as stream:
        asked = settled.store.request_drill(ENVIRONMENT, MODEL, "2", "test")
        report = settled.drilled(asked)
    assert (report["state"], report["version"], report["failed"], report["reason"]) == ("done", "2", 0, "")
    assert report["answered"] > 0
    assert 0 < report["seconds"] < 60
    assert (stream.failures, set(stream.versions)) == ([], {"1"})
    # It is over once, and its server is gone
    settled.until(lambda: not any("drill-2.log" in word for child in _children(settled) for word in child.cmdline()), 20, 0.2)
    assert settled.observed().drill == report


def _children(world):
    return [child for child in psutil.Process(world.process.pid).children() if child.status() != psutil.STATUS_ZOMBIE]


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


def test_with_flow_and_supervisor_dead_a_canary_ends_and_a_changed_supervisor_replaces_everything_without_a_failed_request(compared):
    # Given a lease that nobody will renew, and no supervisor to see it end
    compared.want(COMPARED, lease=3.0)
    compared.until(lambda: compared.told() is not None and compared.told() <= 3.0)
    before = compared.running()
    with Stream(compared.url) as stream:
        compared.kill_supervisor()
        compared.until(lambda: compared.told() is None, 30, 0.1)
        count = len(stream.versions)
        compared.until(lambda: len(stream.versions) > count + 30)
        assert set(stream.versions[count + 5 :]) == {"1"}
        # When a supervisor comes whose processes behave otherwise, then all of them are replaced, capacity before traffic
        compared.start("--no-standby", options=json.dumps({"orphan_seconds": 1.0, "model": {"workers": 1}}))
        compared.until(lambda: set(compared.running()) == {("gateway", ""), ("model", "1")}, 120, 0.2)
        compared.until(lambda: not set(compared.running().values()) & set(before.values()), 120, 0.2)
        compared.becomes(STABLE)
        compared.until(lambda: not any(psutil.pid_exists(pid) for pid in before.values()), 60, 0.2)
        count = len(stream.versions)
        compared.until(lambda: len(stream.versions) > count + 30)
    assert stream.failures == []
    # And when it is killed and nobody comes, everything ends by itself
    left = [psutil.Process(pid) for pid in compared.running().values()]
    left += [child for process in left for child in process.children(recursive=True)]
    compared.kill_supervisor()
    _, alive = psutil.wait_procs(left, timeout=30)
    assert alive == []
