"""A gateway and a model server as real processes, watched from outside: one trace, metrics that exist, log lines that belong together."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from moto.server import ThreadedMotoServer

from monitoring import inference_log
from serving.control import Control
from serving.routes import Routes, Shadow, Target
from spectra.object_store import ObjectStore
from tests.serving.collecting import collecting

ROOT = Path(__file__).parent.parent.parent
MONITORING = ROOT / "deployments" / "monitoring"
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, PARENT = CALLER.split("-")[1:3]
ONLY_WITH_A_GPU = {"firstlight_gpu_memory_bytes", "firstlight_gpu_utilisation_ratio"}


class Watched:
    """The two processes, the collector they send to, the object store they log to."""

    def __init__(self, folder, collector, *, objects, handoff, width):
        self.folder, self.collector, self.width = folder, collector, width
        log = {"inference_log": "s3://logs/rows", "inference_log_spool": str(folder / "spool"), "flush_seconds": 0.5}
        options = {"model": {"workers": 1, **log}, "s3": {"endpoint_url": objects}, "environment": "test", "otlp_endpoint": collector.url}
        self.store = ObjectStore(objects, access_key="key", secret_key="secret")
        self.store._client.create_bucket(Bucket="logs")
        # the keys come by the environment, as the supervisor passes them on
        self._environment = {**os.environ, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        self._given = ("--options", json.dumps(options), "--parent", str(os.getpid()))
        (folder / "token").write_text("secret")
        self.processes = []
        self.model = self._start("model", str(handoff), "--name", "tiny", "--version", "3")["port"]
        bound = self._start("gateway", "--model", "tiny", "--token-file", str(folder / "token"))
        self.gateway, self._control = bound["port"], bound["control_port"]

    def _start(self, role, *arguments):
        log = self.folder / f"{role}.log"
        child = subprocess.Popen(
            [sys.executable, "-m", "serving", role, *arguments, *self._given, "--log", str(log)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self._environment,
        )
        self.processes.append(child)
        assert child.stdout is not None
        return json.loads(child.stdout.readline())

    def route(self, **more):
        with Control(f"http://127.0.0.1:{self._control}", token="secret", model="tiny") as control:
            control.put_routes(Routes(generation=1, stable=Target(version="3", url=f"http://127.0.0.1:{self.model}"), **more))

    def live_a_little(self):
        """Answer, refuse, retry and shadow, so that every counter has something to say."""
        nobody = Target(version="4", url="http://127.0.0.1:9")
        self.route(canary=nobody, canary_weight=50)
        for number in range(4):
            assert self.ask(data=[float(number)] * 2 * self.width).status_code == 200
        self.route(canary=nobody, shadow=Shadow(target=nobody, percent=100))
        assert self.ask().status_code == 200
        httpx.get(f"http://127.0.0.1:{self.gateway}/v2/models/tiny/infer", trust_env=False)
        self.route()

    def ask(self, *, rows=2, port=None, headers=None, data=None):
        body = {"inputs": [{"name": "signal", "shape": [rows, self.width], "datatype": "FP32", "data": data or [1.5] * rows * self.width}]}
        url = f"http://127.0.0.1:{port or self.gateway}/v2/models/tiny/infer"
        return httpx.post(url, json=body, headers=headers, timeout=20, trust_env=False)

    def metrics(self, port):
        return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text

    def log_lines(self, role):
        return [json.loads(line) for line in (self.folder / f"{role}.log").read_text().splitlines() if line.startswith("{")]

    def stop(self):
        for child in self.processes:
            child.terminate()
        for child in self.processes:
            child.wait(15)
            child.stdout.close()


@contextmanager
def object_store():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def watched(tmp_path_factory, tiny, until):
    folder = tmp_path_factory.mktemp("watched")
    handoff = tiny.write_tiny_handoff(folder / "hand-off")
    with collecting() as collector, object_store() as objects:
        made = Watched(folder, collector, objects=objects, handoff=handoff, width=tiny.LENGTH)
        try:
            until(lambda: httpx.get(f"http://127.0.0.1:{made.model}/v2/health/ready", trust_env=False).status_code == 200, 120, 0.1)
            made.live_a_little()
            yield made
        finally:
            made.stop()


def test_one_trace_goes_from_the_caller_through_the_gateway_to_the_model_server(watched):
    answer = watched.ask(headers={"traceparent": CALLER, "x-request-id": "seen-1"}, data=[2.5] * 2 * watched.width)
    assert answer.status_code == 200
    gateway = watched.collector.of(TRACE, "gateway infer")
    attempts = watched.collector.of(TRACE, "attempt")
    servers = watched.collector.of(TRACE, "infer")
    assert (len(gateway), len(attempts), len(servers)) == (1, 1, 1)
    assert gateway[0].parent_id == PARENT
    assert attempts[0].parent_id == gateway[0].span_id
    assert servers[0].parent_id == attempts[0].span_id
    assert (gateway[0].service, servers[0].service) == ("firstlight-gateway", "firstlight-model-server")
    assert servers[0].resource["firstlight.version"] == "3"
    assert gateway[0].seconds >= attempts[0].seconds >= servers[0].seconds > 0
    for name in ("queue", "compute"):
        (inside,) = watched.collector.of(TRACE, name)
        assert inside.parent_id == servers[0].span_id
        assert servers[0].began - 0.001 <= inside.began
        assert inside.began + inside.seconds <= servers[0].began + servers[0].seconds + 0.001


def exposed(page):
    return set(re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE))


def asked_for():
    """Every metric that rules and dashboards name, without what a histogram's or a counter's samples append."""
    texts = [(MONITORING / "firstlight.rules.yml").read_text()]
    texts += [path.read_text() for path in (MONITORING / "grafana" / "dashboards").glob("*.json")]
    return {re.sub(r"_(bucket|sum|count)$", "", name) for text in texts for name in re.findall(r"\bfirstlight_[a-z_]+", text)}


def test_every_metric_that_rules_and_dashboards_ask_for_is_on_a_running_page(watched):
    # openmetrics-style names: prometheus_client writes the type of a counter under its name with _total
    known = exposed(watched.metrics(watched.model)) | exposed(watched.metrics(watched.gateway))
    missing = {name for name in asked_for() if name not in known and name.removesuffix("_total") not in known}
    assert missing - ONLY_WITH_A_GPU == set()


def test_every_metric_is_explained_in_the_documentation(watched):
    text = (ROOT / "docs" / "observability.md").read_text()
    known = {name for port in (watched.model, watched.gateway) for name in exposed(watched.metrics(port)) if not name.endswith("_created")}
    assert {name for name in known if name not in text} == set()


def test_labels_that_rules_select_by_are_on_the_pages(watched):
    page = watched.metrics(watched.gateway)
    assert re.search(r'firstlight_gateway_requests_total\{code="200",model="tiny"\} [1-9]', page)
    assert re.search(r'firstlight_gateway_weight_percent\{model="tiny",track="stable",version="3"\} 100', page)
    assert re.search(r'firstlight_gateway_attempts_total\{code="200",model="tiny",track="stable",version="3"\} [1-9]', page)
    page = watched.metrics(watched.model)
    assert re.search(r'firstlight_rows_total\{model="tiny",version="3"\} [1-9]', page)
    assert re.search(r'firstlight_trace_spans_total\{outcome="sent"\}', page)
    info = re.search(r"firstlight_model_info\{(.*)\} 1", page)
    assert info
    assert all(f'{label}="' in info[1] for label in ("model_digest", "backend", "device"))
    for rule in (rule for group in yaml.safe_load((MONITORING / "firstlight.rules.yml").read_text())["groups"] for rule in group["rules"]):
        assert "client" not in rule["expr"]


def test_a_refused_request_can_be_found_in_the_log_by_its_id_and_its_trace(watched, until):
    answer = watched.ask(headers={"traceparent": CALLER, "x-request-id": "seen-2"}, data=["not a number"])
    assert answer.status_code == 400
    assert answer.headers["x-request-id"] == "seen-2"
    for line in (*watched.log_lines("gateway"), *watched.log_lines("model")):
        assert {"time", "level", "process", "pid", "message"} <= line.keys()
    (line,) = until(lambda: [line for line in watched.log_lines("access") if line["request_id"] == "seen-2"])
    assert (line["trace_id"], line["status"]) == (TRACE, 400)


def test_what_was_asked_through_the_gateway_is_in_the_inference_log_in_the_object_store(watched, until):
    answer = watched.ask(rows=3, headers={"x-request-id": "logged-1", "x-firstlight-client": "ada"}, data=[3.5] * 3 * watched.width)
    assert answer.status_code == 200

    def rows():
        table = inference_log.read("s3://logs/rows", model="tiny", version="3", store=watched.store)
        return table[table["request_id"] == "logged-1"]

    until(lambda: len(rows()))
    table = rows()
    assert table["row"].tolist() == [0, 1, 2]
    assert set(table["environment"]) == {"test"}
    assert set(table["client"]) == {"ada"}
    assert (table["signal_median"] == 3.5).all()
    assert 'firstlight_inference_log_spool_bytes{model="tiny",version="3"} 0.0' in watched.metrics(watched.model)
