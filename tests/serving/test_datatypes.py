"""Every type of number that a hand-off can declare, from NVIDIA's client through the model server's processes to an exported program and back."""

import json

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from ml_dtypes import bfloat16
from tritonclient.utils import InferenceServerException

from serving import tensors
from tests.models.typed import DTYPES, SHELVES, typed_answers, typed_inputs, write_typed_handoff
from tests.serving.test_model_process import Process

ONLY_BINARY = ("weight", "heavier")
"""The protocol has no JSON for bfloat16."""


@pytest.fixture(scope="module")
def server(tmp_path_factory, until):
    place = tmp_path_factory.mktemp("typed")
    made = Process(write_typed_handoff(place / "handoff", name="tiny"), log=place / "log", workers=1, cache_mb=0)
    yield made.ready(until)
    made.end()


@pytest.fixture(scope="module")
def client(server):
    made = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield made
    made.close()


def asked(inputs, *, binary=True):
    kinds = dict(zip(inputs, map(tensors.datatype, DTYPES.values()), strict=True))
    made = []
    for name, array in inputs.items():
        entry = triton.InferInput(name, list(array.shape), kinds[name])
        entry.set_data_from_numpy(
            array.astype(bfloat16) if name in ONLY_BINARY else array, binary_data=binary or kinds[name] in ("BF16", "FP16")
        )
        made.append(entry)
    return made


def test_what_the_hand_off_declares_is_what_the_server_says(server, client):
    described = client.get_model_metadata("tiny")
    kinds = [tensors.datatype(dtype) for dtype in DTYPES.values()]
    assert [entry["datatype"] for entry in described["inputs"]] == [entry["datatype"] for entry in described["outputs"]] == kinds
    assert set(kinds) == set(tensors.DTYPES) - {"BYTES", "UINT16", "UINT32", "UINT64"}


@pytest.mark.parametrize("rows", [1, 5, 300])
@pytest.mark.parametrize("binary", [True, False], ids=["raw", "json"])
def test_numbers_of_every_type_are_answered_exactly_as_the_model_would(client, binary, rows):
    inputs = typed_inputs(rows, seed=rows)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary or name in (*ONLY_BINARY, "halved")) for name in DTYPES]
    answer = client.infer("tiny", asked(inputs, binary=binary), outputs=outputs)
    for name, expected in typed_answers(inputs).items():
        found = answer.as_numpy(name)
        assert found.dtype.name == DTYPES[name], name
        if name == "total":
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)


def test_another_type_than_the_declared_one_is_refused_by_name(client):
    wrong = asked(typed_inputs(2))
    wrong[3] = triton.InferInput("which", [2], "FP32")
    wrong[3].set_data_from_numpy(np.zeros(2, np.float32))
    with pytest.raises(InferenceServerException, match="input 'which' must be INT64, got FP32"):
        client.infer("tiny", wrong)


def test_a_request_on_which_the_model_fails_is_in_the_log_with_its_id_and_where_it_was_raised(server, client):
    inputs = typed_inputs(2)
    inputs["which"][1] = SHELVES + 7
    with pytest.raises(InferenceServerException, match="log has the reason"):
        client.infer("tiny", asked(inputs), headers={"x-request-id": "night-7"})
    found = [json.loads(line) for line in server.log.read_text().splitlines() if "the model failed" in line]
    assert len(found) >= 2
    assert {line["request_id"] for line in found} == {"night-7"}
    (worker,) = (line for line in found if line["process"] == "nursery")
    assert "out of bounds" in worker["exception"]
    assert httpx.get(f"{server.url}/v2/health/ready", trust_env=False).status_code == 200
