"""Pairs of what real model servers answer, in every form a caller may ask for, about protected data."""

import contextlib

import httpx
import numpy as np
import pytest

from serving import protocol
from serving.engine import Engine
from serving.model_server import Identity, ModelServer
from serving.protocol import InferenceRequest
from serving.routes import Routes, Shadow, Target
from serving.signature import Signature, TensorSpec
from serving.staff import Loaded, Threads
from tests.serving.acting import INFER, TOKEN, stage

SIGNATURE = Signature(
    inputs=(TensorSpec(name="flux", dtype="float32", shape=(-1, 3)),),
    outputs=(
        TensorSpec(name="total", dtype="float32", shape=(-1,)),
        TensorSpec(name="share", dtype="float32", shape=(-1, 3)),
        TensorSpec(name="long", dtype="float32", shape=(-1, 4000)),
    ),
)
FLUX = np.array([[1.0, 2.0, 4.0], [77.125, 5.0, 6.0]], np.float32)


def server(version, *, add=0.0, turn=0):
    """A model server whose answers differ by a constant, and by whose share is largest."""

    def run(inputs):
        flux = inputs["flux"]
        share = np.roll(flux / flux.sum(axis=1, keepdims=True), turn, axis=1)
        long = np.full((len(flux), 4000), add, np.float32)
        return {"total": flux.sum(axis=1) + np.float32(add), "share": share, "long": long}

    loaded = Loaded(name="m", model_digest=version * 64, signature=SIGNATURE, run=run, data_class="Protected")
    return ModelServer(Identity(model="m", version=version), engine=Engine(Threads(lambda: loaded))).app()


@pytest.fixture(scope="module")
def served(serve_app, until):
    """A gateway before version 1, with version 2 as its shadow."""
    with contextlib.ExitStack() as stack:
        urls = []
        for app in (server("1"), server("2", add=0.5, turn=1)):
            client = stack.enter_context(serve_app(app))
            until(lambda client=client: client.get("/v2/health/ready").status_code == 200)
            urls.append(str(client.base_url).rstrip("/"))
        made = stack.enter_context(stage())
        shadow = Shadow(target=Target(version="2", url=urls[1]), percent=100)
        made.control.put_routes(Routes(stable=Target(version="1", url=urls[0]), shadow=shadow))
        yield made


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_what_both_versions_said_is_compared_and_nothing_of_the_question_is_there(served, until, binary, coding):
    before = served.control.pairs(after=10**9)["next"]
    message = protocol.encode_request(InferenceRequest(inputs={"flux": FLUX}, binary=binary), binary=binary)
    headers = {**message.headers, "accept-encoding": coding, "x-request-id": "r-1", "x-firstlight-client": "lovelace"}
    with httpx.Client(base_url=served.url, trust_env=False) as client:
        answer = client.post(INFER, content=message.body, headers=headers)
    assert (answer.status_code, answer.headers.get("content-encoding", "identity")) == (200, coding)
    assert (protocol.HEADER_LENGTH in answer.headers) is binary
    # What comes of it are the two versions' answers to each row
    until(lambda: len(served.control.pairs(after=before)["pairs"]) == 2, 60)
    pairs = served.control.pairs(after=before)["pairs"]
    assert [pair["outputs"]["total"] for pair in pairs] == [[7.0, 7.5], [88.125, 88.625]]
    assert [pair["outputs"]["share"]["argmax"] for pair in pairs] == [[2, 0], [0, 1]]
    assert [pair["outputs"]["long"] for pair in pairs] == [{"rms": 0.5}] * 2
    assert [(pair["failed"], pair["request_id"]) for pair in pairs] == [(False, "r-1")] * 2
    # and the question is in none of them
    page = httpx.get(f"{served.control.url}/pairs", headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False).text
    assert "lovelace" not in page
    assert "77.125" not in page
