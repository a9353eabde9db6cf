"""Callers who send too much, too slowly, too early or nonsense: each gets the right answer, and the others are served."""

import threading
import time

import httpx
import pytest

from serving.lobby import Limits
from tests.serving.acting import INFER, Actor, echo, measured, read_answer, stage, until, whole


def test_a_body_that_is_too_large_is_refused_before_and_while_it_is_read():
    actor = echo()
    with stage(actor, body_mb=1) as made:
        made.route(actor)
        announced = made.post(b"x" * (2 << 20))
        chunked = made.post(iter([b"x" * 65_536] * 32))
        assert (announced.status_code, chunked.status_code) == (413, 413)
        assert "at most 1048576 bytes" in announced.json()["error"]
        assert made.post(b"x" * (1 << 20)).status_code == 200
        with made.connect() as careful:
            careful.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 99999999\r\n\r\n")
            assert read_answer(careful)[0] == 413
        assert made.gateway.budget.used == 0


def test_a_caller_who_asks_before_sending_is_told_to_go_on():
    actor = echo()
    with stage(actor) as made, made.connect() as careful:
        made.route(actor)
        careful.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        assert careful.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        careful.sendall(b"abc")
        assert read_answer(careful)[2] == b"cba"


def test_requests_sent_ahead_are_answered_in_order():
    actor = Actor(lambda ask: time.sleep(0.02 if ask.number == 0 else 0) or whole(ask.body()))
    with stage(actor) as made, made.connect() as eager:
        made.route(actor)
        eager.sendall(b"".join(b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: 2\r\n\r\n%02d" % number for number in range(10)))
        data = b""
        while data.count(b"HTTP/1.1 200") < 10 or not data.endswith(b"09"):
            data += eager.recv(1 << 16)
        assert [part[-2:] for part in data.split(b"HTTP/1.1 200")[1:]] == [b"%02d" % number for number in range(10)]


MALFORMED = {
    "no-http": b"hello\r\n\r\n",
    "bad-length": b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: x\r\n\r\n",
    "two-lengths": b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "length-and-chunks": b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad-chunk": b"POST /v2/models/m/infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "negative-length": b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    "smuggled-newline": b"POST /v2/models/m/infer HTTP/1.1\r\nx: a\rcontent-length: 3\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_http_is_answered_400_and_the_connection_closed(data):
    actor = echo()
    with stage(actor) as made, made.connect() as stranger:
        made.route(actor)
        stranger.sendall(data)
        assert read_answer(stranger)[0] == 400
        assert stranger.recv(1) == b""
        assert made.post().status_code == 200


def test_a_head_that_is_too_long_and_one_with_too_many_headers_are_refused():
    with stage() as made:
        for head in (b"x: " + b"a" * 70_000 + b"\r\n", b"x: a\r\n" * 200, b"".join(b"x%d: a\r\n" % number for number in range(200))):
            with made.connect() as stranger:
                stranger.sendall(b"GET /v2/health/live HTTP/1.1\r\n" + head + b"\r\n")
                assert read_answer(stranger)[0] in (431, 200)
            with made.connect() as endless:
                endless.sendall(b"GET /v2/health/live HTTP/1.1\r\nx: " + b"a" * 200_000)
                assert read_answer(endless)[0] == 431


def test_slow_heads_slow_bodies_and_idle_connections_are_closed_and_others_are_served():
    actor = echo()
    limits = Limits(head_seconds=0.3, body_seconds=0.3, idle_seconds=1.5)
    with stage(actor, limits=limits) as made, made.connect() as head, made.connect() as body, made.connect() as idle:
        made.route(actor)
        head.sendall(b"POST /v2/models/m/infer HT")
        body.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: 100\r\n\r\nslow")
        assert made.post().status_code == 200
        assert (read_answer(head)[0], read_answer(body)[0]) == (408, 408)
        assert idle.recv(1) == b""
        assert (measured(made, "1")[:2], len(actor.asked)) == ((1, 0), 1)
        assert made.gateway.budget.used == 0


def test_a_caller_who_reads_nothing_is_left_and_holds_little_memory_until_then():
    actor = Actor(lambda ask: whole(b"x" * 20_000_000) if ask.body() else None)
    with stage(actor, limits=Limits(stall_seconds=0.5)) as made, made.connect() as deaf:
        made.route(actor)
        deaf.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: 1\r\n\r\nx")
        until(lambda: actor.asked)
        (connection,) = made.listening.lobbies[0].connections
        time.sleep(0.3)
        assert connection.transport.get_write_buffer_size() < 2_000_000
        until(lambda: not made.listening.lobbies[0].connections)
        until(lambda: made.gateway.budget.used == 0)


def test_one_connection_more_than_there_may_be_closes_the_longest_idle_one():
    with stage(limits=Limits(connections=3)) as made, made.connect() as first, made.connect() as second, made.connect() as third:
        until(lambda: len(made.listening.lobbies[0].connections) == 3)
        assert httpx.get(made.url + "/v2/health/live", trust_env=False).status_code == 200
        assert first.recv(1) == b""
        second.sendall(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
        third.sendall(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
        assert (read_answer(second)[0], read_answer(third)[0]) == (200, 200)


def test_when_the_memory_for_bodies_is_used_up_the_answer_is_503_and_nothing_is_lost():
    release = threading.Event()
    actor = Actor(lambda ask: ask.body() and release.wait(10) and whole(b"ok"))
    with stage(actor, memory_mb=8) as made:
        made.route(actor)
        body, answers = b"x" * 1_000_000, []
        threads = [threading.Thread(target=lambda: answers.append(made.post(body))) for _ in range(40)]
        for thread in threads:
            thread.start()
        until(lambda: len(answers) + len(actor.asked) == 40)
        release.set()
        for thread in threads:
            thread.join()
        codes = sorted(answer.status_code for answer in answers)
        assert set(codes) == {200, 503}
        assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)
        assert made.gateway.budget.used == 0
        assert made.post(body).status_code == 200


def test_paths_that_do_not_exist_and_wrong_methods_are_protocol_errors():
    actor = echo()
    with stage(actor) as made:
        made.route(actor)
        asked = {
            path: httpx.get(made.url + path, trust_env=False).status_code
            for path in ("/", "/v2/models", "/v2/models/n", "/v2/models/m/x", "/routes", "//")
        }
        assert set(asked.values()) == {404}
        assert httpx.get(made.url + INFER, trust_env=False).status_code == 405
        assert httpx.post(made.url + "/metrics", trust_env=False).status_code == 405
        assert made.post(path="/v2/models/m/versions/9/infer").status_code == 404
        assert made.post(path="/v2/models/n/infer").json() == {"error": "there is no model 'n' here"}
        assert made.post(path="/v2/models/m/versions/1/infer").status_code == 200
