"""A model server with protected data: it answers as always, and its log does not know what it was asked."""

import numpy as np
import pytest

from monitoring import inference_log
from serving import protocol
from serving.engine import Engine
from serving.model_server import Identity, ModelServer
from serving.protocol import InferenceRequest
from serving.recorder import Recorder, input_digest
from serving.signature import Signature, TensorSpec
from serving.staff import Loaded, Threads

SIGNATURE = Signature(
    inputs=(TensorSpec(name="flux", dtype="float32", shape=(-1, 3)),), outputs=(TensorSpec(name="total", dtype="float32", shape=(-1,)),)
)
FLUX = np.array([[1.25, 2.5, 1234.5678], [4.0, 5.0, 6.0]], np.float32)


@pytest.mark.parametrize("data_class", ["Protected", "Secrets", "Public-External"])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20], ids=["uncached", "cached"])
def test_only_public_inputs_are_in_the_log(tmp_path, serve_app, until, data_class, cache_bytes):
    # Given a model of this class behind the protocol
    loaded = Loaded(
        name="toy",
        model_digest="d" * 64,
        signature=SIGNATURE,
        run=lambda inputs: {"total": inputs["flux"].sum(axis=1)},
        data_class=data_class,
    )
    recorder = Recorder(tmp_path, model="toy", version="7")
    made = ModelServer(
        Identity(model="toy", version="7"), engine=Engine(Threads(lambda: loaded)), recorder=recorder, cache_bytes=cache_bytes
    )
    message = protocol.encode_request(InferenceRequest(inputs={"flux": FLUX}))
    # When it is asked twice, the second time perhaps from the cache
    with serve_app(made.app()) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        for number in range(2):
            headers = {**message.headers, "x-request-id": f"r{number}", "x-firstlight-client": "ada"}
            answer = client.post("/v2/models/toy/infer", content=message.body, headers=headers)
            assert answer.status_code == 200
    # Then both are logged with what was answered, and only a public class's rows say anything of the question
    table = inference_log.read(tmp_path, model="toy")
    assert table["request_id"].tolist() == ["r0", "r0", "r1", "r1"]
    assert table["total"].tolist() == FLUX.sum(axis=1).tolist() * 2
    if data_class == "Public-External":
        assert set(table["input_digest"]) == {input_digest({"flux": FLUX})}
        assert table["flux_median"].tolist() == [2.5, 5.0] * 2
    else:
        assert table["input_digest"].isna().all()
        assert set(table.columns) == {*inference_log.COLUMNS, "total"}
