"""The whole online plane with access control and mTLS, as processes: strangers stay out, callers come in, our own release flow goes on."""

import contextlib
import json
import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from firstlight import settings
from firstlight.digest import sha256_file
from firstlight.errors import FirstlightError
from rollout.spec import ServableVersion, Traffic
from rollout.store import Store
from serving import control
from serving.client import InferenceClient
from serving.errors import SettingsError, UnreachableError
from serving.supervisor import Settings, Supervisor
from tasks import safeguards
from tests.serving.certificates import Authority
from tests.serving.keeping import House

ENVIRONMENT, MODEL = "testing", "tiny"
SECRET_CHARACTERS = 43
SIGNAL = {"signal": np.random.default_rng(0).normal(size=(1, 50)).astype(np.float32)}
pytestmark = pytest.mark.timeout(300)


class Plane:
    """One supervisor process."""

    def __init__(self, state, tiny):
        self.state, self.house, self.authority = state, House(state), Authority(state)
        certificate, key = self.authority.server()
        self.house.client("portal", models=["tiny"], limits={"rows": 2}).client("neighbour", models=["other"])
        self.house.client("edge", models=["tiny"], certificates=[{"dns": "edge.lab.example"}])
        gateway = {"access": str(self.house.write()), "tls_certificate": str(certificate), "tls_key": str(key)}
        options = {"gateway": {**gateway, "tls_client_ca": str(self.authority.path)}, "model": {"workers": 1}}
        url = f"sqlite:///{state / 'state.db'}"
        folder = tiny.write_tiny_handoff(state / "tiny-1", seed=1)
        with contextlib.closing(Store(url)) as store:
            digests = {"model_digest": sha256_file(folder / "model.pt2"), "handoff_digest": sha256_file(folder / "handoff.yaml")}
            store.add_version(ServableVersion(model=MODEL, version="1", folder=str(folder), **digests))
            store.propose(ENVIRONMENT, MODEL, Traffic(stable="1"), lease_until=None, expected_generation=None, by="test")
        given = {"environment": ENVIRONMENT, "model": MODEL, "state": state, "store": url, "options": json.dumps(options)}
        words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen([sys.executable, "-m", "serving", "supervise", "--no-standby", *words], stdout=subprocess.PIPE)
        self.url = json.loads(self.process.stdout.readline())["gateway_url"]

    @property
    def folder(self):
        return control.folder(self.state, environment=ENVIRONMENT, model=MODEL)

    def caller(self, certificate="edge", san="edge.lab.example"):
        context = ssl.create_default_context(cafile=str(self.authority.path))
        context.load_cert_chain(*self.authority.issue(certificate, san))
        return context

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def plane(tmp_path_factory, tiny, until):
    made = Plane(tmp_path_factory.mktemp("plane"), tiny)

    def answers():
        with contextlib.suppress(FirstlightError), InferenceClient(*_own(made)[:1], MODEL, key=_own(made)[1]) as client:
            return client.infer(SIGNAL).ok

    try:
        until(answers, 120, 0.2)
        yield made
    finally:
        made.close()


def _own(plane):
    return control.entrance(plane.state, environment=ENVIRONMENT, model=MODEL)


def test_the_release_flows_own_way_in_needs_neither_certificate_nor_access_file(plane):
    url, key = _own(plane)
    assert (url.startswith("http://127.0.0.1:"), plane.url.startswith("https://127.0.0.1:")) == (True, True)
    with InferenceClient(url, MODEL, client="somebody else", key=key) as client:
        assert client.infer(SIGNAL).version == "1"
    # It is counted like live traffic, cannot steer, and stands where only its own user reads it
    with control.find(plane.state, environment=ENVIRONMENT, model=MODEL) as gateway:
        assert gateway.evidence()["tracks"][0]["requests"] >= 1
    with pytest.raises(FirstlightError, match="401"), control.Control(url, token=key) as stranger:
        stranger.routes()
    for name in ("reader.key", "control.token", control.ADDRESS_FILE, "access.log"):
        assert stat.S_IMODE((plane.folder / name).stat().st_mode) & 0o077 == 0, name


def test_a_release_finds_out_by_trying_that_strangers_are_refused(plane):
    here = settings.load(state_dir=plane.state, environment=ENVIRONMENT, gateway_access_file=plane.house.write(), gateway_host="0.0.0.0")
    assert safeguards.strangers_are_refused(here, model=MODEL) is True


def test_callers_come_in_by_key_and_by_certificate_and_have_their_limits(plane, until):
    with InferenceClient(plane.url, MODEL, key=plane.house.keys["portal"], tls=plane.caller("any", "any.lab.example")) as client:
        assert client.infer(SIGNAL).ok
        three = client.infer({"signal": np.repeat(SIGNAL["signal"], 3, axis=0)})
        assert (three.status, "at most 2 rows" in three.error) == (413, True)
    with InferenceClient(plane.url, MODEL, tls=plane.caller()) as client:
        assert client.infer(SIGNAL).ok
    until(lambda: {"canary-replay", "portal", "edge"} <= {line.get("client") for line in _lines(plane)}, 10, 0.2)
    assert {line["rows"] for line in _lines(plane) if line["status"] == 200} == {1}


def test_strangers_and_neighbours_stay_out(plane):
    with InferenceClient(plane.url, MODEL, key=plane.house.keys["neighbour"], tls=plane.caller()) as client:
        assert (client.infer(SIGNAL).status, client.infer(SIGNAL).error) == (404, "there is no model 'tiny' here")
    with InferenceClient(plane.url, MODEL, tls=plane.caller("stranger", "stranger.lab.example")) as client:
        assert client.infer(SIGNAL).status == 401
    nobody = ssl.create_default_context(cafile=str(plane.authority.path))
    with pytest.raises(UnreachableError), InferenceClient(plane.url, MODEL, key=plane.house.keys["portal"], tls=nobody) as client:
        client.infer(SIGNAL)
    with pytest.raises(httpx.HTTPError):
        httpx.get(plane.url.replace("https", "http") + "/v2", trust_env=False)


def test_no_key_is_in_any_log_or_command_line(plane):
    keys = [*plane.house.keys.values(), _own(plane)[1], (plane.folder / "control.token").read_text()]
    texts = [path.read_text(errors="replace") for path in plane.folder.glob("*.log*")]
    for pid in [plane.process.pid, *_children(plane.process.pid)]:
        texts += [Path(f"/proc/{pid}/{what}").read_bytes().decode(errors="replace") for what in ("cmdline", "environ")]
    assert len(texts) >= 8
    # the secret part alone; it may hold an underscore itself
    assert not any(key[-SECRET_CHARACTERS:] in text for key in keys for text in texts)


def _children(pid):
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _lines(plane):
    return [json.loads(line) for line in (plane.folder / "access.log").read_text().splitlines()]


def test_a_supervisor_that_would_listen_for_everybody_says_what_is_missing(tmp_path):
    settings = Settings(
        environment=ENVIRONMENT, models=(MODEL,), state=tmp_path, store_url=f"sqlite:///{tmp_path / 's.db'}", host="0.0.0.0"
    )
    with pytest.raises(SettingsError, match=r"gateway_access_file.*gateway_tls_certificate"):
        Supervisor(settings)
    assert os.listdir(tmp_path) == []
