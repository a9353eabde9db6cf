"""One model server in this process, around a model that is a numpy function: protocol paths, refusals, bounds, the log."""

import threading

import jsonschema
import numpy as np
import pytest

from monitoring import inference_log
from serving import protocol
from serving.engine import Engine
from serving.errors import ModelRefusedError
from serving.model_server import Identity, ModelServer
from serving.protocol import HEADER_LENGTH, InferenceRequest, RequestedOutput
from serving.recorder import Recorder
from serving.signature import Signature, TensorSpec
from serving.staff import Loaded, Threads

SIGNATURE = Signature(
    inputs=(TensorSpec(name="flux", dtype="float32", shape=(-1, 3)),),
    outputs=(TensorSpec(name="total", dtype="float32", shape=(-1,)), TensorSpec(name="double", dtype="float32", shape=(-1, 3))),
)
FLUX = np.arange(6, dtype=np.float32).reshape(2, 3)


def doubling(inputs):
    return {"total": inputs["flux"].sum(axis=1), "double": inputs["flux"] * 2}


def model(run=doubling):
    return Loaded(name="toy", model_digest="d" * 64, signature=SIGNATURE, run=run)


def server(load=model, **options):
    return ModelServer(Identity(model="toy", version="7"), engine=Engine(Threads(load), **options.pop("engine", {})), **options)


@pytest.fixture
def client(serve_app, until):
    with serve_app(server().app()) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        yield client


def post(client, request, *, binary=True, **headers):
    message = protocol.encode_request(request, binary=binary)
    return client.post("/v2/models/toy/infer", content=message.body, headers={**message.headers, **headers})


def test_metadata_says_what_the_model_takes_and_gives(client):
    body = client.get("/v2/models/toy/versions/7").json()
    assert body["inputs"] == [{"name": "flux", "datatype": "FP32", "shape": [-1, 3]}]
    assert body["versions"] == ["7"]
    assert "binary_tensor_data" in client.get("/v2").json()["extensions"]


@pytest.mark.parametrize("binary", [True, False], ids=["raw", "json"])
def test_inference_answers_in_the_form_that_was_asked_for(client, binary):
    answer = post(client, InferenceRequest(inputs={"flux": FLUX}, id="night-1", binary=binary), binary=binary)
    assert answer.status_code == 200
    assert (HEADER_LENGTH in answer.headers) is binary
    assert answer.headers["x-firstlight-version"] == "7"
    decoded = protocol.decode_response(answer.content, header_length=answer.headers.get(HEADER_LENGTH))
    assert decoded.id == "night-1"
    assert decoded.outputs["total"].tolist() == [3.0, 12.0]


def test_only_the_selected_output_comes_back_and_the_request_id_is_kept(client):
    wanted = InferenceRequest(inputs={"flux": FLUX}, outputs=(RequestedOutput(name="total", binary=False),))
    answer = post(client, wanted, **{"x-request-id": "abc"})
    assert [output["name"] for output in answer.json()["outputs"]] == ["total"]
    assert answer.headers["x-request-id"] == "abc"


def test_a_row_with_nan_is_refused_by_name(client):
    spoilt = FLUX.copy()
    spoilt[1, 2] = np.nan
    answer = post(client, InferenceRequest(inputs={"flux": spoilt}))
    assert answer.status_code == 400
    assert "row 1" in answer.json()["error"]


WRONG_INPUTS = {
    "name": {"ivar": FLUX},
    "extra": {"flux": FLUX, "ivar": FLUX},
    "dtype": {"flux": FLUX.astype(np.float64)},
    "shape": {"flux": FLUX[:, :2].copy()},
    "rank": {"flux": FLUX[0].copy()},
    "empty": {"flux": FLUX[:0]},
}


@pytest.mark.parametrize("inputs", WRONG_INPUTS.values(), ids=WRONG_INPUTS.keys())
def test_inputs_that_do_not_fit_the_signature_are_a_400_with_a_sentence(client, inputs):
    answer = post(client, InferenceRequest(inputs=inputs))
    assert answer.status_code == 400
    assert "must" in answer.json()["error"]


def test_foreign_names_versions_paths_and_methods_are_protocol_errors(client):
    for path in ("/v2/models/other", "/v2/models/toy/versions/8", "/v2/models/toy/versions/8/ready", "/nothing"):
        answer = client.get(path)
        assert (answer.status_code, list(answer.json())) == (404, ["error"])
    assert client.get("/v2/models/toy/infer").status_code == 405


def test_a_body_above_the_limit_is_a_413_announced_or_streamed(serve_app, until):
    with serve_app(server(body_bytes=1000).app()) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        assert client.post("/v2/models/toy/infer", content=b"x" * 1001).status_code == 413
        assert client.post("/v2/models/toy/infer", content=iter([b"x" * 600] * 2)).status_code == 413
        assert client.post("/v2/models/toy/infer", content=b"x" * 1000).status_code == 400


def test_a_version_that_cannot_be_vouched_for_stays_live_and_unready_and_says_why(serve_app, until):
    def load():
        raise ModelRefusedError("golden vectors must come out again: output 'total' differs by 0.5 in row 3")

    with serve_app(server(load).app()) as client:
        until(lambda: client.get("/v2/health/ready").json().get("state") == "refused")
        assert client.get("/v2/health/live").status_code == 200
        ready = client.get("/v2/models/toy/ready")
        assert (ready.status_code, "row 3" in ready.json()["error"]) == (503, True)
        answer = post(client, InferenceRequest(inputs={"flux": FLUX}))
        assert (answer.status_code, "row 3" in answer.json()["error"]) == (503, True)


def test_a_loader_that_crashes_refuses_the_version_instead_of_the_process(serve_app, until):
    with serve_app(server(lambda: 1 // 0).app()) as client:
        until(lambda: client.get("/v2/health/ready").json().get("state") == "refused")
        assert "ZeroDivisionError" in client.get("/v2/health/ready").json()["error"]


def test_a_model_that_fails_is_a_500_without_its_insides_and_the_next_request_is_answered(serve_app, until):
    def fails_on_negative(inputs):
        if inputs["flux"].min() < 0:
            raise RuntimeError("secret path /home")
        return doubling(inputs)

    with serve_app(server(lambda: model(fails_on_negative)).app()) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        answer = post(client, InferenceRequest(inputs={"flux": -FLUX}))
        assert (answer.status_code, "secret" in answer.text) == (500, False)
        assert post(client, InferenceRequest(inputs={"flux": FLUX})).status_code == 200


def test_more_work_than_may_wait_is_a_503_with_retry_after_and_the_queue_recovers(serve_app, until):
    gate, entered = threading.Event(), threading.Event()

    def slow(inputs):
        entered.set()
        gate.wait(10)
        return doubling(inputs)

    # Given a worker that is busy and a queue of one that is full
    with serve_app(server(lambda: model(slow), engine={"queue_requests": 1}).app()) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        statuses = []
        threads = [
            threading.Thread(target=lambda: statuses.append(post(client, InferenceRequest(inputs={"flux": FLUX})).status_code))
            for _ in range(2)
        ]
        threads[0].start()
        assert entered.wait(5)
        threads[1].start()
        until(lambda: 'firstlight_queue_requests{model="toy",version="7"} 1.0' in client.get("/metrics").text)
        # When one more comes
        answer = post(client, InferenceRequest(inputs={"flux": FLUX}))
        # Then it is told to come back, and those that waited are answered
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        gate.set()
        for thread in threads:
            thread.join(5)
        assert statuses == [200, 200]


def test_every_answered_row_is_in_the_inference_log_after_the_server_stops(tmp_path, serve_app, until):
    made = server(recorder=Recorder(tmp_path, model="toy", version="7"))
    with serve_app(made.app()) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        for number in range(3):
            post(client, InferenceRequest(inputs={"flux": FLUX}), **{"x-request-id": f"r{number}", "x-firstlight-client": "desi"})
        assert 'firstlight_requests_total{code="200",model="toy",version="7"} 3.0' in client.get("/metrics").text
    log = inference_log.read(tmp_path, model="toy", version="7")
    assert log["request_id"].tolist() == ["r0", "r0", "r1", "r1", "r2", "r2"]
    assert log["total"].tolist() == [3.0, 12.0] * 3
    assert log["flux_median"].tolist() == [1.0, 4.0] * 3
    assert set(log["client"]) == {"desi"}
    assert log["input_digest"].nunique() == 1


def test_the_same_question_is_computed_once_and_the_metrics_say_how_often_it_was_answered(serve_app, until):
    calls = []

    def counting(inputs):
        calls.append(len(inputs["flux"]))
        return doubling(inputs)

    with serve_app(server(lambda: model(counting), cache_bytes=1 << 20).app()) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        wanted = InferenceRequest(inputs={"flux": FLUX}, outputs=(RequestedOutput(name="total", binary=False),))
        answers = [post(client, wanted).json()["outputs"] for _ in range(3)]
        post(client, InferenceRequest(inputs={"flux": FLUX + 1}))
        page = client.get("/metrics").text
    assert answers == [answers[0]] * 3
    assert calls == [2, 2]
    assert 'firstlight_cache_requests_total{model="toy",outcome="hit",version="7"} 2.0' in page
    assert 'firstlight_cache_requests_total{model="toy",outcome="miss",version="7"} 2.0' in page


@pytest.mark.parametrize("how", ["header", "parameter"])
def test_a_request_that_is_not_answered_by_its_deadline_is_a_504_and_is_never_computed(serve_app, until, how):
    gate, entered, seen = threading.Event(), threading.Event(), []

    def slow(inputs):
        seen.append(float(inputs["flux"][0, 0]))
        entered.set()
        gate.wait(10)
        return doubling(inputs)

    with serve_app(server(lambda: model(slow)).app()) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        first = threading.Thread(target=post, args=(client, InferenceRequest(inputs={"flux": FLUX})))
        first.start()
        assert entered.wait(5)
        if how == "header":
            answer = post(client, InferenceRequest(inputs={"flux": FLUX + 5}), **{"x-firstlight-timeout-ms": "50"})
        else:
            tensor = {"name": "flux", "datatype": "FP32", "shape": [1, 3], "data": [5, 5, 5]}
            answer = client.post("/v2/models/toy/infer", json={"inputs": [tensor], "parameters": {"timeout": 50_000}})
        assert (answer.status_code, "deadline" in answer.json()["error"]) == (504, True)
        gate.set()
        first.join(5)
        assert post(client, InferenceRequest(inputs={"flux": FLUX + 9})).status_code == 200
    assert seen == [0.0, 9.0]


METRICS = (
    'firstlight_requests_total{code="200",',
    "firstlight_request_seconds_bucket{",
    "firstlight_rows_total{",
    "firstlight_queue_requests{",
    "firstlight_queue_bytes{",
    "firstlight_batch_rows_bucket{",
    "firstlight_batch_seconds_bucket{",
    'firstlight_cache_requests_total{model="toy",outcome="joined",',
    "firstlight_cache_bytes{",
    "firstlight_workers{",
    "firstlight_worker_restarts_total{",
    "firstlight_ready{",
    'firstlight_model_info{backend="python",device="cpu",model="toy",model_digest="' + "d" * 64,
)


def test_every_metric_that_rules_and_dashboards_use_is_there(client):
    post(client, InferenceRequest(inputs={"flux": FLUX}))
    page = client.get("/metrics").text
    assert [name for name in METRICS if name not in page] == []


def test_the_openapi_document_describes_what_the_server_answers(client):
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            asked = client.post(path, json={}) if verb == "post" else client.get(path)
            assert str(asked.status_code) in operation["responses"]
    schema = {**document["components"]["schemas"]["InferenceRequest"], "components": document["components"]}
    tensor = {"name": "flux", "datatype": "FP32", "shape": [2, 3], "data": [0, 1, 2, 3, 4, 5]}
    valid = jsonschema.Draft202012Validator(schema)
    assert valid.is_valid({"inputs": [tensor], "outputs": [{"name": "total"}]})
    for wrong in ({"name": "ivar"}, {"datatype": "FP64"}, {"shape": [2, 4]}, {"shape": [0, 3]}):
        assert not valid.is_valid({"inputs": [{**tensor, **wrong}]})


def test_the_page_for_people_names_the_tensors_and_loads_nothing_from_anywhere(client):
    answer = client.get("/docs")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<code>flux</code></td><td>FP32</td><td>[-1, 3]" in answer.text
    assert "http" not in answer.text.replace("HTTP", "").replace("tritonclient.http", "")
