"""The gateway on real sockets: what it passes on, what it hides from callers, and whom it charges for a failure."""

import threading
import time

import httpx
import pytest

from tests.serving.acting import INFER, Actor, echo, measured, read_answer, stage, until, whole


def test_an_inference_passes_through_both_ways_with_its_headers_and_without_credentials():
    actor = Actor(lambda ask: whole(ask.body()[::-1], headers="inference-header-content-length: 3\r\nserver: secret\r\n"))
    with stage(actor) as made:
        made.route(actor)
        sent = {
            "x-request-id": "r-1",
            "inference-header-content-length": "4",
            "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            "authorization": "Bearer fl_secret",
            "cookie": "c=1",
            "x-firstlight-client": "alice",
        }
        answer = made.post(b"question", headers=sent)
    assert (answer.status_code, answer.content) == (200, b"noitseuq")
    assert answer.headers["x-firstlight-version"] == "1"
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.headers["inference-header-content-length"] == "3"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    (ask,) = actor.asked
    assert {
        name: ask.headers[name] for name in ("x-request-id", "inference-header-content-length", "traceparent", "x-firstlight-client")
    } == {name: sent[name] for name in ("x-request-id", "inference-header-content-length", "traceparent", "x-firstlight-client")}
    assert not {"authorization", "cookie"} & ask.headers.keys()


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_000, 9_000_000])
def test_bodies_of_every_size_come_out_as_they_went_in_announced_or_in_chunks(size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    actor = echo()
    with stage(actor) as made, httpx.Client(base_url=made.url, trust_env=False, timeout=30) as client:
        made.route(actor)
        for content in (body, (body[at : at + 100_000] for at in range(0, size, 100_000)), body):
            answer = client.post(INFER, content=content)
            assert answer.status_code == 200
            assert answer.content == body[::-1]
    assert actor.asked[1].headers.get("transfer-encoding") == "chunked"


def test_a_request_that_one_version_fails_is_answered_by_the_other_and_charged_to_the_first():
    stable = echo("1")
    for play in (
        lambda ask: whole(b"{}", status=500, version="2"),
        lambda ask: None,
        lambda ask: ask.stream.sendall(whole(b"x" * 100)[:60]),
    ):
        canary = Actor(lambda ask, play=play: play(ask) if ask.body() else None, version="2")
        with stage(canary) as made:
            made.route(stable, canary, 50)
            answers = [made.post() for _ in range(10)]
            assert {(answer.status_code, answer.headers["x-firstlight-version"]) for answer in answers} == {(200, "1")}
            assert measured(made, "1")[:2] == (10, 0)
            assert measured(made, "2")[:2] == (5, 5)
            assert made.metric("firstlight_gateway_retries_total", model="m") == 5
    stable.close()


def test_a_failure_of_the_only_version_is_passed_on_and_no_answer_at_all_is_503():
    actor = Actor(lambda ask: whole(b'{"error":"ill"}', status=500))
    with stage(actor) as made:
        assert made.post().status_code == 503
        made.route(actor)
        assert (made.post().status_code, made.post().json()) == (500, {"error": "ill"})
        assert len(actor.asked) == 2
        actor.close()
        answer = made.post()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_when_one_version_answers_with_an_error_and_the_other_not_at_all_the_error_is_passed_on_whole():
    ill, gone = (
        Actor(lambda ask: whole(b'{"error":"ill"}', status=500) if ask.body() else None, version="1"),
        Actor(lambda ask: None, version="2"),
    )
    with stage(ill, gone) as made:
        made.route(ill, gone, 1)
        answer = made.post()
        assert (answer.status_code, answer.json()) == (500, {"error": "ill"})
        assert (measured(made, "1")[:2], measured(made, "2")[:2]) == ((1, 1), (1, 1))
        assert made.gateway.budget.used == 0


def test_the_callers_own_fault_is_passed_on_once_and_counted_as_refused():
    stable, canary = Actor(lambda ask: ask.body() and whole(b"{}", status=400), version="1"), echo("2")
    with stage(stable, canary) as made:
        made.route(stable, canary, 0)
        assert made.post().status_code == 400
        assert (measured(made, "1"), len(stable.asked), len(canary.asked)) == ((1, 0, 1, 1), 1, 0)


def test_a_kept_connection_that_the_model_server_closed_is_no_failure():
    actor = echo()
    with stage(actor) as made, httpx.Client(base_url=made.url, trust_env=False) as client:
        made.route(actor)
        for _ in range(5):
            assert client.post(INFER, content=b"abc").content == b"cba"
            actor.hang_up()
        assert measured(made, "1")[:2] == (5, 0)
        assert actor.connections >= 5


def test_a_model_server_that_closes_on_the_request_itself_is_asked_again_on_a_fresh_connection():
    # The close and the request cross on the way: seen from here the connection was good when it was chosen.
    seen = []
    actor = Actor(lambda ask: whole(b"ok") if ask.body() and (len(seen) != 1 or seen.append(ask)) and not seen.append(ask) else None)
    with stage(actor) as made:
        made.route(actor)
        assert [made.post().status_code for _ in range(2)] == [200, 200]


def test_another_version_at_the_address_of_this_one_is_not_taken_for_it():
    actor = Actor(lambda ask: whole(b"wrong", version="7"), version="1")
    with stage(actor) as made:
        made.route(actor)
        assert made.post().status_code == 503
        assert measured(made, "1")[:2] == (2, 2)


@pytest.mark.parametrize(
    "head",
    ["transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "connection: close\r\n\r\nhello world"],
    ids=["chunked", "without-length"],
)
def test_answers_without_a_length_arrive_whole(head):
    actor = Actor(lambda ask: ask.body() and (ask.stream.sendall(f"HTTP/1.1 200 OK\r\n{head}".encode()) or None))
    with stage(actor) as made:
        made.route(actor)
        for _ in range(2):
            assert made.post().content == b"hello world"
        with made.connect() as old:
            old.sendall(b"POST /v2/models/m/infer HTTP/1.0\r\ncontent-length: 1\r\n\r\nx")
            data = b""
            while piece := old.recv(1000):
                data += piece
        assert data.endswith(b"\r\n\r\nhello world")


def test_a_long_answer_that_breaks_off_reaches_the_caller_as_broken_and_is_charged():
    actor = Actor(lambda ask: ask.body() and (ask.stream.sendall(whole(b"x" * 4_000_000)[:3_000_000]) or None))
    with stage(actor) as made:
        made.route(actor)
        with pytest.raises(httpx.RemoteProtocolError):
            made.post()
        until(lambda: measured(made, "1")[:2] == (1, 1))
        assert made.gateway.budget.used == 0


def test_a_caller_who_leaves_is_not_computed_for_any_longer_and_nobody_is_charged():
    left = threading.Event()

    def wait(ask):
        ask.body()
        if not ask.stream.recv(1):
            left.set()

    actor = Actor(wait)
    with stage(actor) as made:
        made.route(actor)
        with made.connect() as caller:
            caller.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody")
            until(lambda: actor.asked)
        assert left.wait(5)
        until(lambda: made.control.routes()[1] == {})
        assert measured(made, "1")[0] == 0
        assert made.gateway.budget.used == 0


def test_draining_answers_what_is_in_flight_and_what_comes_on_kept_connections():
    release = threading.Event()
    actor = Actor(lambda ask: (ask.body() == b"slow" and release.wait(10) and whole(b"late")) or whole(b"soon"))
    with stage(actor) as made, made.connect() as kept, made.connect() as busy:
        made.route(actor)
        request = b"POST /v2/models/m/infer HTTP/1.1\r\ncontent-length: 4\r\n\r\n"
        kept.sendall(request + b"fast")
        assert read_answer(kept)[1].get("connection") is None
        busy.sendall(request + b"slow")
        until(lambda: len(actor.asked) == 2)
        made.drain()
        time.sleep(0.1)
        kept.sendall(request + b"fast")
        status, headers, body = read_answer(kept)
        assert (status, headers["connection"], body) == (200, "close", b"soon")
        release.set()
        status, headers, body = read_answer(busy)
        assert (status, headers["connection"], body) == (200, "close", b"late")
        assert made.ended(5)


def test_health_metadata_and_metrics_are_answered():
    actor = echo()
    with stage(actor) as made, httpx.Client(base_url=made.url, trust_env=False) as client:
        assert (client.get("/v2/health/live").status_code, client.get("/v2/health/ready").status_code) == (200, 503)
        made.route(actor)
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert client.get("/v2/models/m").json() == {"ready": True, "name": "m"}
        assert client.get("/v2/models/m/versions/1/ready").headers["x-firstlight-version"] == "1"
        assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
        head = client.head("/v2/health/live")
        assert (head.status_code, head.content) == (200, b"")
        client.post(INFER, content=b"x")
        page = client.get("/metrics").text
        for name in (
            'firstlight_gateway_requests_total{code="200",model="m"} 1.0',
            'firstlight_gateway_attempts_total{code="200",model="m",track="stable",version="1"} 1.0',
            'firstlight_gateway_weight_percent{model="m",track="stable",version="1"} 100.0',
            "firstlight_gateway_request_seconds_bucket",
            "firstlight_gateway_attempt_seconds_bucket",
            "firstlight_gateway_connections 1.0",
            f'firstlight_gateway_ejected{{model="m",replica="{actor.url}",version="1"}} 0.0',
        ):
            assert name in page


def test_a_deadline_shrinks_by_the_time_that_a_failed_attempt_took():
    slow, good = Actor(lambda ask: time.sleep(0.2), version="1"), echo("2")
    with stage(slow, good) as made:
        made.route(slow, good, 1)
        assert made.post(headers={"x-firstlight-timeout-ms": "5000"}).status_code == 200
    assert int(good.asked[0].headers["x-firstlight-timeout-ms"]) <= 4800
