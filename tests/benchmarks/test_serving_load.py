"""The load generator, its bodies and its arithmetic."""

import json

import numpy as np
import pytest

from benchmarks.serving import bodies
from benchmarks.serving.load import Done, _Answer, figures
from serving import protocol
from serving.protocol import InferenceResponse

INPUTS = {"flux": np.linspace(1, 2, 12, dtype=np.float32).reshape(3, 4), "ivar": np.ones((3, 4), np.float32)}
SHAPES = {"latent": (2,), "chi2": ()}
OUTPUTS = {"latent": np.arange(6, dtype=np.float32).reshape(3, 2), "chi2": np.asarray([0.1, 2, 3], np.float32)}


def every_form():
    return {
        "v2 binary": bodies.v2_binary("/"),
        "v2 json": bodies.v2_json("/"),
        "raw": bodies.raw("/"),
        "columns": bodies.columns("/"),
        "parquet": bodies.mlflow_parquet("/"),
        "mlflow json": bodies.mlflow_json("/"),
    }


@pytest.mark.parametrize("name", every_form())
def test_every_body_has_one_mark_where_it_is_said_to_be(name):
    body = every_form()[name].body(INPUTS)
    mark = body.data[body.mark_at :]
    if body.mark_kind == "raw":
        assert np.frombuffer(mark[:4], "<f4")[0] == bodies.MARK
    else:
        assert float(mark[:10]) == pytest.approx(float(bodies.MARK))
    assert np.array_equal(INPUTS["flux"][0, :1], np.asarray([1], np.float32)), "the caller's arrays are not marked"


@pytest.mark.parametrize("name", ["v2 binary", "v2 json"])
def test_our_own_protocol_reads_what_the_benchmark_sends_and_the_other_way_round(name):
    form = every_form()[name]
    data, headers = form.encode(INPUTS)
    asked = protocol.decode_request(data, header_length=headers.get("inference-header-content-length"))
    for tensor, array in INPUTS.items():
        assert np.array_equal(asked.inputs[tensor], array)
    answer = InferenceResponse(model="m", version="1", outputs=OUTPUTS)
    message = protocol.encode_response(answer, binary=dict.fromkeys(OUTPUTS, name == "v2 binary"))
    found = form.decode(message.body, {key.lower(): value for key, value in message.headers.items()}, SHAPES)
    for tensor, array in OUTPUTS.items():
        assert np.array_equal(found[tensor], array)


def test_raw_answers_are_taken_apart_by_the_declared_shapes():
    data = b"".join(OUTPUTS[name].tobytes() for name in SHAPES)
    found = bodies.raw("/").decode(data, {}, SHAPES)
    assert all(np.array_equal(found[name], OUTPUTS[name]) for name in SHAPES)


def test_throughput_is_right_when_no_request_fits_into_the_window():
    # eight callers, four seconds each, one answered every half a second: two a second, though the window is one second long
    done = [Done(start / 2, start / 2 + 4, 200) for start in range(40)]
    found = figures(done, 10.2, 11.2, rows=16)
    assert found["rows_per_second"] == pytest.approx(2 * 16)
    assert found["p50_ms"] == pytest.approx(4000)


def test_throughput_counts_good_answers_only_and_says_what_failed():
    done = [Done(at / 10, at / 10 + 0.1, 503 if at % 2 else 200) for at in range(40)]
    found = figures(done, 1.0, 3.0, rows=1)
    assert found["rows_per_second"] == pytest.approx(5, rel=0.05)
    assert sum(found["failed"].values()) == pytest.approx(10, abs=1)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_answers_end_where_they_end_however_they_arrive(size):
    plain = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world"
    chunked = b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
    closing = b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    for data, status, closes in ((plain, 200, False), (chunked, 201, False), (closing, 503, True)):
        answer = _Answer()
        pieces = [memoryview(data[at : at + size]) for at in range(0, len(data), size)]
        complete = [answer.feed(piece) for piece in pieces]
        assert complete == [False] * (len(pieces) - 1) + [True]
        assert (answer.status, answer.close) == (status, closes)


def test_columns_are_plain_json():
    data, headers = bodies.columns("/").encode(INPUTS)
    assert headers == {"content-type": "application/json"}
    assert np.array_equal(np.asarray(json.loads(data)["flux"], np.float32), INPUTS["flux"])
