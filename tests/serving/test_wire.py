"""Bodies and connections as hostile or clumsy callers make them: what is answered, that nothing is held afterwards, and that others are served."""

import gzip
import json
import socket
import zlib

import numpy as np
import pytest

from serving import intake, protocol, wire
from serving.engine import Engine
from serving.model_server import Identity, ModelServer
from serving.protocol import InferenceRequest
from serving.signature import Signature, TensorSpec
from serving.staff import Loaded, Threads

LIMIT = 4 << 20
WIDTH = 1000
SIGNATURE = Signature(
    inputs=(TensorSpec(name="flux", dtype="float32", shape=(-1, WIDTH)),), outputs=(TensorSpec(name="total", dtype="float64", shape=(-1,)),)
)
PATH = "/v2/models/toy/infer"


def total(inputs):
    return {"total": inputs["flux"].sum(axis=1, dtype=np.float64)}


class Served:
    """A server in this process, and a way to speak to it in raw bytes."""

    def __init__(self, engine, client) -> None:
        self.engine, self.client = engine, client
        self.address = (client.base_url.host, client.base_url.port)

    def socket(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def say(self, *pieces: bytes) -> bytes:
        """Send ``pieces`` and return all that comes until the server closes the connection."""
        with self.socket() as caller:
            for piece in pieces:
                caller.sendall(piece)
            return hear(caller)

    def holds_nothing(self) -> bool:
        return self.engine.budget.held == 0 and self.engine.arena.is_free


def hear(caller: socket.socket) -> bytes:
    parts = []
    while part := caller.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.fixture
def served(serve_app, until):
    loaded = Loaded(name="toy", model_digest="d" * 64, signature=SIGNATURE, run=total)
    engine = Engine(Threads(lambda: loaded), queue_bytes=3 * LIMIT)
    with serve_app(ModelServer(Identity(model="toy", version="7"), engine=engine, body_bytes=LIMIT).app()) as client:
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        made = Served(engine, client)
        yield made
        # whatever was done to it: it still answers, and nothing is left of what came
        assert client.post(PATH, **request(1)).status_code == 200
        until(made.holds_nothing, 5)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(wire, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(intake, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(wire, "_LINGER_SECONDS", 0.2)


def request(rows, *, seed=0):
    flux = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    message = protocol.encode_request(InferenceRequest(inputs={"flux": flux}))
    return {"content": message.body, "headers": dict(message.headers)}


def expected(rows, *, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32).sum(axis=1, dtype=np.float64)


def head(size, *extra):
    return "\r\n".join([f"POST {PATH} HTTP/1.1", "host: x", f"content-length: {size}", *extra, "", ""]).encode()


@pytest.mark.parametrize("rows", [1, 15, 17, 300, 1000])
def test_a_body_of_any_length_reaches_the_model_unchanged(served, rows):
    for seed in range(3):
        answer = served.client.post(PATH, **request(rows, seed=seed))
        assert answer.status_code == 200
        np.testing.assert_allclose(answer.json()["outputs"][0]["data"], expected(rows, seed=seed), rtol=1e-9)


def test_a_large_body_in_small_pieces_and_the_request_behind_it_are_both_answered(served):
    # Given a body that is read straight into shared memory, in odd pieces, with the next request glued to its end
    asked, next_one = request(500), request(2, seed=1)
    fields = [f"{name}: {value}" for name, value in asked["headers"].items() if name != "content-length"]
    first = head(len(asked["content"]), *fields) + asked["content"]
    length = f"inference-header-content-length: {next_one['headers']['inference-header-content-length']}"
    second = head(len(next_one["content"]), length, "connection: close") + next_one["content"]
    whole = first + second
    answers = served.say(*(whole[at : at + 77_777] for at in range(0, len(whole), 77_777)))
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert json.loads(answers.rpartition(b"\r\n\r\n")[2])["outputs"][0]["data"] == pytest.approx(expected(2, seed=1).tolist())


def test_a_chunked_body_and_one_that_waits_for_100_continue_are_answered(served):
    asked = request(300)
    chunked = served.client.post(
        PATH, content=iter([asked["content"][:100_000], asked["content"][100_000:]]), headers=_without_length(asked)
    )
    assert chunked.status_code == 200
    with served.socket() as caller:
        fields = [f"{name}: {value}" for name, value in _without_length(asked).items()]
        caller.sendall(head(len(asked["content"]), "expect: 100-continue", "connection: close", *fields))
        assert caller.recv(100).startswith(b"HTTP/1.1 100 Continue")
        caller.sendall(asked["content"])
        assert hear(caller).startswith(b"HTTP/1.1 200")


def _without_length(asked):
    return {name: value for name, value in asked["headers"].items() if name != "content-length"}


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw-deflate"])
def test_a_packed_body_is_unpacked(served, coding):
    asked = request(300)
    packers = {"gzip": gzip.compress, "deflate": zlib.compress, "raw-deflate": lambda body: zlib.compress(body)[2:-4]}
    headers = {**_without_length(asked), "content-encoding": coding.removeprefix("raw-")}
    answer = served.client.post(PATH, content=packers[coding](asked["content"]), headers=headers)
    assert answer.status_code == 200
    np.testing.assert_allclose(answer.json()["outputs"][0]["data"], expected(300), rtol=1e-9)


BAD_PACKING = {
    "bomb": (gzip.compress(b"\0" * (LIMIT + 1)), "gzip", 413, "at most"),
    "bomb-of-many-files": (gzip.compress(b"\0" * 100) * 1000, "gzip", 400, "one piece"),
    "torn": (gzip.compress(b"x" * 1000)[:-20], "gzip", 400, "ends in the middle"),
    "no-gzip": (b"hello", "gzip", 400, "must be gzip"),
    "foreign": (b"hello", "br", 415, "content coding"),
    "empty": (b"", "gzip", 400, "ends in the middle"),
}


@pytest.mark.parametrize(("body", "coding", "status", "sentence"), BAD_PACKING.values(), ids=BAD_PACKING.keys())
def test_a_body_that_cannot_be_unpacked_or_grows_too_large_is_refused(served, body, coding, status, sentence):
    answer = served.client.post(PATH, content=body, headers={"content-encoding": coding})
    assert (answer.status_code, sentence in answer.json()["error"]) == (status, True)


def test_a_body_announced_too_large_is_refused_at_once_and_who_sends_on_is_cut_off(served, impatient):
    with served.socket() as caller:
        caller.sendall(head(1 << 30))
        assert b"413" in caller.recv(4096).split(b"\r\n")[0]
        with pytest.raises(OSError):
            caller.sendall(b"x" * (1 << 28))


def test_a_body_that_stops_coming_is_a_408_and_gives_its_memory_back(served, impatient):
    for size in (100, 50_000, 3_000_000):
        for came in (0, 50, size // 2):
            answer = served.say(head(size), b"x" * came)
            assert answer.startswith(b"HTTP/1.1 408"), (size, came)
            assert b"until it is whole" in answer
    assert served.holds_nothing()


def test_a_head_that_trickles_is_a_408_and_one_without_end_a_431(served, impatient):
    assert served.say(b"POST /v2").startswith(b"HTTP/1.1 408")
    endless = (b"x-%d: %s\r\n" % (number, b"a" * 8000) for number in range(60))
    assert served.say(b"GET /v2 HTTP/1.1\r\n", *endless).startswith(b"HTTP/1.1 431")


def test_what_is_not_http_is_a_400_in_the_protocols_form(served):
    answer = served.say(b"\x16\x03\x01 hello\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert "valid HTTP" in json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]


def test_trailers_without_end_are_not_collected(served):
    chunk = b"2\r\n{}\r\n0\r\n" + b"".join(b"t-%d: x\r\n" % number for number in range(5000)) + b"\r\n"
    start = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    assert served.say(start + chunk).startswith(b"HTTP/1.1 400")


def test_callers_who_leave_in_the_middle_leave_nothing_behind(served, until):
    asked = request(900)
    for came in (10, 100_000, 3_000_000):
        with served.socket() as caller:
            caller.sendall(head(len(asked["content"])) + asked["content"][:came])
    until(served.holds_nothing, 5)


def test_many_who_send_large_bodies_slowly_do_not_keep_a_small_request_out(served, until):
    # Given four callers who together hold what large bodies may hold
    callers = [served.socket() for _ in range(4)]
    for caller in callers:
        caller.sendall(head(LIMIT - 100) + b"x" * (LIMIT - 4096))
    until(lambda: served.engine.budget.held > LIMIT, 5)
    # When somebody asks about one spectrum, then it is answered
    assert served.client.post(PATH, **request(1)).status_code == 200
    for caller in callers:
        caller.close()


@pytest.mark.parametrize("length", ["-1", "1e3", "abc", "99999999999999999999"])
def test_a_content_length_that_is_no_length_is_refused(served, length):
    answer = served.say(head(length, "connection: close"), b"{}")
    assert answer[9:12] in (b"400", b"413")


def test_deadlines_by_header_and_parameter_must_mean_something(served):
    for value in ("0", "-1", "soon", "1" * 12):
        answer = served.client.post(PATH, content=b"{}", headers={"x-firstlight-timeout-ms": value})
        assert (answer.status_code, "milliseconds" in answer.json()["error"]) == (400, True)
