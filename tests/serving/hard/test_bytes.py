"""Bytes that no client should send: wrong framings, wrong tensors, bodies without end, bombs. Every one gets its code, nobody else notices."""

import gzip
import json
import socket

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.soak.callers import answers_to, bomb, pour, question, request, statuses
from serving.protocol import HEADER_LENGTH
from tests.serving.hard.conftest import BODY_MB, SIGNAL

HEADERS, BODY = question(SIGNAL)
LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"


def ask(house, door, body, **headers):
    answer = httpx.post(f"{house.url(door)}{house.path}", content=body, headers=headers, timeout=30, trust_env=False)
    if answer.status_code != 200:
        assert set(answer.json()) == {"error"}, answer.text
        assert "Traceback" not in answer.text
    return answer


# --- framings -----------------------------------------------------------------------------------------------------------

SMUGGLED = b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n"
SHAPES = {
    "two lengths": b"content-length: 6\r\ncontent-length: 5\r\n\r\n",
    "two equal lengths": b"content-length: 5\r\ncontent-length: 5\r\n\r\n",
    "a list of lengths": b"content-length: 5, 6\r\n\r\n",
    "length and chunks": b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "chunks twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked is not last": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"transfer-encoding : chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "a folded header": b"transfer-encoding:\r\n chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "a vertical tab": b"transfer-encoding: \x0bchunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "a signed length": b"content-length: +5\r\n\r\n",
    "a length in hexadecimal": b"content-length: 0x5\r\n\r\n",
    "a length with a space": b"content-length: 5 0\r\n\r\n",
    "a huge length": b"content-length: 99999999999999999999999\r\n\r\n",
    "a bare line feed": b"content-length: 0\n\n",
    "a bare carriage return": b"x: a\rcontent-length: 5\r\n\r\n",
    "a zero byte": b"x: a\x00b\r\ncontent-length: 0\r\n\r\n",
    "a chunk size that overflows": b"transfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n",
    "a negative chunk": b"transfer-encoding: chunked\r\n\r\n-1\r\n",
    "a chunk longer than it says": b"transfer-encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
    "chunk extensions without end": b"transfer-encoding: chunked\r\n\r\n1;" + b"x" * 100_000 + b"\r\na\r\n0\r\n\r\n",
}
READ_IN_ONE_WAY = (SHAPES["a bare line feed"], SHAPES["chunk extensions without end"])
"""What everybody reads as a whole request, and a second one after it."""


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_nothing_that_is_said_to_be_body_is_answered_as_a_request(house, door, shape):
    # Given a request whose framing can be read in two ways, and a second request that is its body in one of them
    with house.connect(door) as stranger:
        stranger.sendall(b"POST " + house.path.encode() + b" HTTP/1.1\r\nhost: x\r\n" + shape + SMUGGLED)
        stranger.shutdown(socket.SHUT_WR)
        data = answers_to(stranger)
    # Then it is refused or read in one way; never is an error followed by an answer to what came after it
    told = statuses(data)
    assert told == [] or told[0] in (400, 411, 413, 415, 501), data[:300]
    if 200 in told:
        assert shape in READ_IN_ONE_WAY, (told, data[:600])
    assert ask(house, door, BODY, **HEADERS).status_code == 200


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    length=st.one_of(st.none(), st.integers(-2, 400).map(str), st.sampled_from(["0", "9" * 30, "1e3", "", " 12", "0x10", "١٢"])),
    change=st.sampled_from(["shape", "datatype", "size", "cut", "more", "name", "twice", "raw", "deep"]),
)
def test_binary_bodies_that_are_nearly_right_are_refused_with_a_sentence(house, data, length, change):
    header = {"inputs": [{"name": "signal", "shape": [3, 50], "datatype": "FP32", "parameters": {"binary_data_size": 600}}]}
    tail = SIGNAL["signal"].tobytes()
    item = header["inputs"][0]
    if change == "shape":
        item["shape"] = data.draw(st.lists(st.integers(-(2**65), 2**65) | st.sampled_from([0, 1, 3, 50, None, "3", 3.0, True]), max_size=5))
    elif change == "datatype":
        item["datatype"] = data.draw(st.sampled_from(["FP64", "INT8", "BYTES", "BF16", "fp32", "", None, 7, "FP32\x00", [], {}]))
    elif change == "size":
        item["parameters"]["binary_data_size"] = data.draw(
            st.integers(-(2**70), 2**70) | st.sampled_from([599, 601, 0, None, "600", 600.5])
        )
    elif change == "cut":
        tail = tail[: data.draw(st.integers(0, 599))]
    elif change == "more":
        tail += data.draw(st.binary(min_size=1, max_size=700))
    elif change == "name":
        item["name"] = data.draw(st.text(max_size=20) | st.none() | st.integers())
    elif change == "twice":
        header["inputs"].append(dict(item))
        tail *= 2
    elif change == "raw":
        item[data.draw(st.sampled_from(["data", "parameters", "shape", "inputs"]))] = data.draw(
            st.none() | st.integers() | st.text(max_size=5)
        )
    else:
        header["id"] = data.draw(st.recursive(st.none(), lambda inner: st.lists(inner, max_size=1), max_leaves=200))
    text = json.dumps(header).encode()
    given_length = str(len(text)) if length is None else length
    with house.connect("gateway") as stranger:
        head = {HEADER_LENGTH: given_length.encode().decode("latin-1")}
        lines = [f"POST {house.path} HTTP/1.1", "host: x", f"content-length: {len(text) + len(tail)}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        stranger.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + text + tail)
        answer = answers_to(stranger)
    (status,) = statuses(answer)
    assert 400 <= status < 500 or (status == 200 and item["name"] == "signal"), answer[:500]
    if status != 200:
        assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error"}


# --- tensors ------------------------------------------------------------------------------------------------------------


def body_of(array, *, datatype="FP32", shape=None):
    header = {"name": "signal", "shape": list(shape or array.shape), "datatype": datatype, "parameters": {"binary_data_size": array.nbytes}}
    text = json.dumps({"inputs": [header]}).encode()
    return {HEADER_LENGTH: str(len(text))}, text + array.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_refused_by_its_row(house, door, value):
    rows = SIGNAL["signal"].copy()
    rows[2, 7] = value
    headers, body = body_of(rows)
    answer = ask(house, door, body, **headers)
    assert answer.status_code == 400
    assert "2" in answer.json()["error"]


@pytest.mark.parametrize(
    ("array", "datatype", "shape"),
    [
        (np.zeros((3, 50), np.float64), "FP64", None),
        (np.zeros((3, 50), np.int64), "INT64", None),
        (np.zeros((3, 50), np.float16), "FP16", None),
        (np.zeros((3, 50), np.float32), "FP64", None),
        (np.zeros((3, 49), np.float32), "FP32", None),
        (np.zeros((0, 50), np.float32), "FP32", None),
        (np.zeros(150, np.float32), "FP32", None),
        (np.zeros((3, 50), np.float32), "FP32", (3, 50, 1)),
        (np.zeros((3, 50), np.float32), "FP32", (-1, 50)),
        (np.zeros((3, 50), np.float32), "FP32", (2**62, 50)),
        (np.zeros((3, 50), np.float32), "BYTES", None),
    ],
)
def test_a_wrong_dtype_shape_or_length_is_a_400(house, door, array, datatype, shape):
    headers, body = body_of(array, datatype=datatype, shape=shape)
    assert ask(house, door, body, **headers).status_code == 400


# --- size ---------------------------------------------------------------------------------------------------------------

GIGABYTE = 1 << 30


def test_a_gigabyte_that_is_announced_is_refused_before_it_is_sent(house, door, bystander):
    head = f"POST {house.path} HTTP/1.1\r\nhost: x\r\ncontent-length: {GIGABYTE}\r\n\r\n".encode()
    with house.connect(door) as large:
        large.sendall(head)
        assert statuses(answers_to(large, seconds=5)) == [413]
    with house.connect(door) as stubborn:
        sent, answer = pour(stubborn, head, bytes(1 << 16), most=GIGABYTE)
    assert sent < 64 << 20
    assert statuses(answer) in ([413], [])  # who goes on sending may lose the answer


def test_a_gigabyte_in_chunks_is_refused_at_the_limit(house, door, bystander):
    before = house.memory()[door]
    with house.connect(door) as endless:
        head = f"POST {house.path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        sent, answer = pour(endless, head, b"10000\r\n" + bytes(1 << 16) + b"\r\n", most=GIGABYTE)
    assert sent < 64 << 20
    assert statuses(answer) in ([413], [])
    assert house.memory()[door] - before < 64


BOMBS = {"gzip": bomb(GIGABYTE, wbits=31), "deflate": bomb(GIGABYTE, wbits=15), "gzip, gzip": gzip.compress(bomb(GIGABYTE, wbits=31))}


@pytest.mark.parametrize("coding", [*BOMBS, "br"])
def test_what_unfolds_to_a_gigabyte_is_refused_and_never_held(house, door, coding, bystander):
    body = BOMBS.get(coding, b"\x0b\x02\x80x\x03")
    assert len(body) < BODY_MB << 20
    before, worked = house.memory()[door], house.processor_seconds(door)
    answer = ask(house, door, body, **{"content-encoding": coding})
    assert answer.status_code in (400, 413, 415)
    assert house.processor_seconds(door) - worked < 1
    assert house.memory()[door] - before < 64


def test_a_bomb_inside_the_envelope_is_refused(house, door):
    nested = b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    wide = b'{"id":"' + b"x" * (BODY_MB << 20) + b'"}'
    number = b'{"inputs":[{"name":"signal","shape":[1],"datatype":"FP32","data":[1' + b"0" * 1_000_000 + b"]}]}"
    assert [ask(house, door, body).status_code for body in (nested, wide, number)] == [400, 413, 400]


# --- pipelining ---------------------------------------------------------------------------------------------------------


def test_requests_sent_ahead_are_answered_in_order_and_without_end_not_collected(house, door):
    with house.connect(door) as eager:
        eager.sendall((LIVE + request(house.path, HEADERS, BODY)) * 5)
        assert statuses(answers_to(eager, seconds=3)) == [200] * 10
    with house.connect(door) as wrong:
        wrong.sendall(LIVE * 3 + request(house.path, HEADERS, BODY) + b"nonsense\r\n\r\n")
        # what is wrong comes last: no answer to it may be taken for one to a request before it
        assert statuses(answers_to(wrong, seconds=3)) in ([200] * 4, [200] * 4 + [400], [200] * 3, [200] * 2, [200])
    before = house.memory()[door]
    with house.connect(door) as flood:
        flood.settimeout(3)
        sent = 0
        try:
            while sent < 256 << 20:
                flood.sendall(LIVE * 1000)  # and no answer is ever read
                sent += len(LIVE) * 1000
        except (TimeoutError, ConnectionError):
            pass
    assert sent < 64 << 20
    assert house.memory()[door] - before < 64
