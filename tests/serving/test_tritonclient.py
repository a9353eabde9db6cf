"""NVIDIA's own client, unmodified, against our server: everything of it that is Open Inference Protocol V2, in every form it can send."""

import numpy as np
import pytest
import tritonclient.http as triton
from ml_dtypes import bfloat16
from tritonclient.utils import InferenceServerException

from serving.engine import Engine
from serving.model_server import Identity, ModelServer
from serving.signature import Signature, TensorSpec
from serving.staff import Loaded, Threads

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="flux", dtype="float32", shape=(-1, 3)),
        TensorSpec(name="mask", dtype="uint8", shape=(-1, 3)),
        TensorSpec(name="target", dtype="int64", shape=(-1,)),
        TensorSpec(name="half", dtype="bfloat16", shape=(-1, 2)),
        TensorSpec(name="name", dtype="object", shape=(-1,)),
    ),
    outputs=(
        TensorSpec(name="total", dtype="float32", shape=(-1,)),
        TensorSpec(name="small", dtype="float16", shape=(-1, 3)),
        TensorSpec(name="next", dtype="int64", shape=(-1,)),
        TensorSpec(name="half", dtype="bfloat16", shape=(-1, 2)),
        TensorSpec(name="greeting", dtype="object", shape=(-1,)),
        TensorSpec(name="good", dtype="bool", shape=(-1, 3)),
    ),
)
ROWS = 2
ARRAYS = {
    "flux": np.arange(6, dtype=np.float32).reshape(ROWS, 3),
    "mask": np.array([[0, 1, 0], [1, 1, 1]], np.uint8),
    "target": np.array([2**62, -1], np.int64),
    "half": np.array([[1.5, -2.0], [0.25, 1024.0]], np.float32),
    "name": np.array(["Åsa".encode(), b""], dtype=object),
}
EXPECTED = {
    "total": [3.0, 12.0],
    "small": [[0.0, 0.5, 1.0], [1.5, 2.0, 2.5]],
    "next": [2**62 + 1, 0],
    "half": [[3.0, -4.0], [0.5, 2048.0]],
    "greeting": ["clear skies, Åsa".encode(), b"clear skies, "],
    "good": [[True, False, True], [False, False, False]],
}


def model(inputs):
    return {
        "total": inputs["flux"].sum(axis=1),
        "small": (inputs["flux"] / 2).astype(np.float16),
        "next": inputs["target"] + 1,
        "half": inputs["half"] * 2,
        "greeting": np.array([b"clear skies, " + name for name in inputs["name"]], dtype=object),
        "good": inputs["mask"] == 0,
    }


@pytest.fixture(scope="module")
def client(serve_app, until):
    loaded = Loaded(name="toy", model_digest="d" * 64, signature=SIGNATURE, run=model)
    server = ModelServer(Identity(model="toy", version="7"), engine=Engine(Threads(lambda: loaded)), cache_bytes=1 << 20)
    with serve_app(server.app()) as plain:
        until(lambda: plain.get("/v2/health/ready").status_code == 200)
        client = triton.InferenceServerClient(plain.base_url.netloc.decode(), concurrency=2)
        yield client
        client.close()


def inputs_of(*, binary, rows=ROWS, **changes):
    made = []
    for spec in SIGNATURE.inputs:
        array = {**ARRAYS, **changes}[spec.name]
        entry = triton.InferInput(spec.name, list(array.shape), spec.kind)
        # bfloat16 has no JSON form in the protocol
        entry.set_data_from_numpy(array.astype(bfloat16) if spec.kind == "BF16" else array, binary_data=binary or spec.kind == "BF16")
        made.append(entry)
    return made


def test_the_server_and_its_model_describe_themselves(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert client.is_model_ready("toy", "7")
    assert not client.is_model_ready("toy", "8")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    described = client.get_model_metadata("toy")
    assert [entry["datatype"] for entry in described["inputs"]] == ["FP32", "UINT8", "INT64", "BF16", "BYTES"]
    assert client.get_model_config("toy")["input"][4] == {"name": "name", "data_type": "TYPE_STRING", "dims": [-1]}
    assert client.get_model_repository_index() == [{"name": "toy", "version": "7", "state": "READY"}]


@pytest.mark.parametrize("packed_answer", [None, "gzip", "deflate"])
@pytest.mark.parametrize("packed_request", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["raw", "json"])
def test_every_datatype_goes_there_and_back_in_every_form(client, binary, packed_request, packed_answer):
    outputs = [triton.InferRequestedOutput(spec.name, binary_data=binary or spec.kind in ("BF16", "FP16")) for spec in SIGNATURE.outputs]
    answer = client.infer(
        "toy",
        inputs_of(binary=binary),
        outputs=outputs,
        request_id="night-1",
        request_compression_algorithm=packed_request,
        response_compression_algorithm=packed_answer,
    )
    found = answer.get_response()
    assert (found["id"], found["model_name"], found["model_version"]) == ("night-1", "toy", "7")
    for name, expected in EXPECTED.items():
        values = answer.as_numpy(name).tolist()
        texts = [value.encode() if isinstance(value, str) else value for value in values]
        assert texts == expected, name


def test_outputs_that_were_not_asked_for_do_not_come_and_all_come_when_none_was_named(client):
    answer = client.infer("toy", inputs_of(binary=True), outputs=[triton.InferRequestedOutput("next")])
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["next"]
    everything = client.infer("toy", inputs_of(binary=True), model_version="7")
    assert [output["name"] for output in everything.get_response()["outputs"]] == list(EXPECTED)
    assert everything.as_numpy("total").tolist() == EXPECTED["total"]


def test_requests_in_flight_at_once_are_answered_each_with_its_own_id(client):
    waiting = [client.async_infer("toy", inputs_of(binary=True), request_id=str(number)) for number in range(8)]
    assert [each.get_result().get_response()["id"] for each in waiting] == [str(number) for number in range(8)]


REFUSED = {
    "unknown-model": ({"model_name": "other"}, "the model here is 'toy'"),
    "unknown-version": ({"model_version": "8"}, "the version here is '7'"),
    "unknown-output": ({"outputs": [triton.InferRequestedOutput("spam")]}, "requested outputs must be among"),
    "classification": ({"outputs": [triton.InferRequestedOutput("total", class_count=2)]}, "does not offer"),
    "missing-input": ({"inputs": inputs_of(binary=True)[:-1]}, "inputs must be exactly"),
    "wrong-shape": ({"inputs": inputs_of(binary=True, target=np.zeros((3,), np.int64))}, "same number of rows"),
    "nan": ({"inputs": inputs_of(binary=True, flux=np.full((2, 3), np.nan, np.float32))}, "must be finite"),
}


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_every_refusal_reaches_the_client_as_the_protocols_error(client, changes, sentence):
    with pytest.raises(InferenceServerException, match=sentence):
        client.infer(**{"model_name": "toy", "inputs": inputs_of(binary=True), **changes})


def test_what_is_not_offered_is_an_error_object_too(client):
    for call in (client.get_system_shared_memory_status, client.get_trace_settings, client.get_log_settings):
        with pytest.raises(InferenceServerException, match="Not Found"):
            call()


def test_the_statistics_count_what_was_asked(client):
    before = client.get_inference_statistics("toy")["model_stats"][0]
    client.infer("toy", inputs_of(binary=True, flux=np.full((2, 3), 7, np.float32)))
    after = client.get_inference_statistics("toy")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + ROWS
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
