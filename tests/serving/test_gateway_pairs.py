"""What the gateway counts for good, and the pairs it makes of live answers and a shadow's: complete, and at nobody's expense."""

import os
import signal
import socket
import threading
import time

import httpx
import numpy as np
import pytest

from firstlight.errors import FirstlightError
from rollout.evidence import bucket
from serving import comparing, protocol
from serving.comparing import Job
from serving.control import Control
from serving.forwarding import HELD
from serving.pairs import Answer
from serving.protocol import InferenceResponse
from serving.routes import Routes, Shadow
from tests.serving.acting import INFER, TOKEN, Actor, echo, stage, until, whole


def model(version, *scores, status=200, **more):
    """A model server that answers every request with these scores."""
    outputs = {"score": np.array(scores, np.float32), **more}
    message = protocol.encode_response(InferenceResponse(model="m", version=version, outputs=outputs), binary=dict.fromkeys(outputs, True))
    headers = "".join(f"{name}: {value}\r\n" for name, value in message.headers.items() if name != "content-length")
    said = whole(message.body, headers=headers, version=version, status=status)
    return Actor(lambda ask: said if ask.body() else None, version=version)


def send(made, count, **more):
    with httpx.Client(base_url=made.url, trust_env=False, timeout=20) as client:
        answers = [client.post(INFER, content=b"ab", **more) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}


def pairs(made, count):
    until(lambda: len(made.control.pairs()["pairs"]) >= count, 60)
    return made.control.pairs()["pairs"]


def tracks(made):
    return {(one["track"], one["version"]): one for one in made.control.evidence()["tracks"]}


def test_every_row_of_a_copied_request_becomes_a_pair_that_says_nothing_of_the_question():
    stable, shadow = model("1", 1.0, 2.0), model("2", 1.5, float("nan"))
    with stage(stable, shadow) as made:
        made.route(stable, shadow=Shadow(target=shadow.target, percent=50))
        send(made, 4, headers={"x-request-id": "r-7", "x-firstlight-client": "ada", "x-user": "lovelace"})
        seen = pairs(made, 4)
        assert [pair.pop("seq") for pair in seen] == [1, 2, 3, 4]
        assert all(abs(pair.pop("at") - time.time()) < 60 for pair in seen)
        shared = {
            "request_id": "r-7",
            "live": {"track": "stable", "version": "1", "status": 200},
            "shadow": {"version": "2", "status": 200},
        }
        assert seen[0] == {**shared, "outputs": {"score": [1.0, 1.5]}, "failed": False}
        assert seen[1] == {**shared, "outputs": {"score": [2.0, None]}, "failed": True}
        assert [made.metric("firstlight_gateway_pairs_total", model="m", version="2", outcome=which) for which in ("agrees", "failed")] == [
            2,
            2,
        ]
        assert made.control.pairs(after=3)["pairs"][0]["seq"] == 4
        assert made.control.pairs(after=4) == {
            "epoch": made.control.evidence()["epoch"],
            "next": 4,
            "dropped": 0,
            "uncompared": 0,
            "pairs": [],
        }
        until(lambda: made.gateway.budget.used == 0)


def test_at_full_weight_the_copies_go_to_the_control_and_the_live_side_is_judged():
    stable, canary = model("1", 1.0), model("2", float("nan"))
    with stage(stable, canary) as made:
        made.route(stable, canary, 50, shadow=Shadow(target=canary.target, percent=100, control=stable.target))
        send(made, 4)
        seen = pairs(made, 4)
        assert sorted((pair["live"]["track"], pair["shadow"]["version"], pair["failed"]) for pair in seen) == [
            *[("canary", "1", True)] * 2,
            *[("stable", "2", True)] * 2,
        ]
        # without a control, what the shadow's own version answered is no pair
        made.route(stable, canary, 50, shadow=Shadow(target=canary.target, percent=100))
        send(made, 4)
        assert {pair["live"]["track"] for pair in pairs(made, 6)[4:]} == {"stable"}


def test_sums_tell_the_tracks_apart_and_only_grow():
    stable, baseline, canary = model("1", 1.0), model("1", 1.0), Actor(lambda ask: None, version="2")
    with stage(stable, baseline, canary) as made:
        made.route(stable, canary, 25, baseline=baseline.target, generation=7)
        send(made, 40)
        seen, document = tracks(made), made.control.evidence()
        assert (document["generation"], set(seen)) == (7, {("stable", "1"), ("baseline", "1"), ("canary", "2")})
        assert (seen["baseline", "1"]["requests"], seen["canary", "2"]["requests"], seen["canary", "2"]["errors"]) == (10, 10, 10)
        assert (seen["stable", "1"]["requests"], seen["canary", "2"]["latency"]) == (30, {})
        assert sum(seen["stable", "1"]["latency"].values()) == 30
        assert all(int(number) < bucket(20) for number in seen["stable", "1"]["latency"])
        made.route(stable)
        send(made, 5)
        again = tracks(made)
        assert (again["stable", "1"]["requests"], again["canary", "2"], made.control.evidence()["epoch"]) == (
            35,
            seen["canary", "2"],
            document["epoch"],
        )


def test_a_drill_gets_copies_that_are_counted_and_compared_with_nothing():
    stable, drill = model("1", 1.0), model("1", 1.0)
    with stage(stable, drill) as made:
        made.control.put_routes(Routes(stable=stable.target, drill=Shadow(target=drill.target, percent=100)))
        send(made, 3)
        until(lambda: tracks(made).get(("drill", "1"), {}).get("requests") == 3)
        assert tracks(made)["drill", "1"]["errors"] == 0
        assert made.control.pairs() | {"epoch": ""} == {"epoch": "", "next": 0, "dropped": 0, "uncompared": 0, "pairs": []}
        assert made.gateway.shadows.comparer.pid is None


def test_a_shadow_that_gives_no_answer_is_a_failed_pair_and_no_failed_request():
    stable, gone = model("1", 1.0), Actor(lambda ask: None, version="2")
    with stage(stable, gone) as made:
        made.route(stable, shadow=Shadow(target=gone.target, percent=100))
        send(made, 2)
        gone.close()
        send(made, 2)
        assert [(pair["shadow"]["status"], pair["outputs"], pair["failed"]) for pair in pairs(made, 4)] == [
            (0, {"score": [1.0, None]}, True)
        ] * 4
        assert tracks(made)["shadow", "2"]["errors"] == 4


def test_the_comparing_process_may_be_killed_and_costs_no_pair():
    stable, shadow = model("1", 1.0), model("2", 1.0)
    with stage(stable, shadow) as made:
        made.route(stable, shadow=Shadow(target=shadow.target, percent=100))
        send(made, 1)
        pairs(made, 1)
        first = made.gateway.shadows.comparer.pid
        os.kill(first, signal.SIGKILL)
        send(made, 3)
        assert len(pairs(made, 4)) == 4
        second = made.gateway.shadows.comparer.pid
        assert second not in (first, None)
        until(lambda: made.gateway.budget.used == 0)
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_answers_that_the_comparing_process_dies_of_are_given_up_and_the_next_ones_compared(monkeypatch):
    monkeypatch.setattr("serving.comparing._PATIENCE_SECONDS", 0.0)
    lay = comparing.lay
    monkeypatch.setattr("serving.comparing.lay", lambda memory, batch: b"no JSON\n" if batch[0].request_id == "bad" else lay(memory, batch))
    stable, shadow = model("1", 1.0), model("2", 1.0)
    with stage(stable, shadow) as made:
        made.route(stable, shadow=Shadow(target=shadow.target, percent=100))
        send(made, 1, headers={"x-request-id": "bad"})
        until(lambda: made.control.pairs()["uncompared"] == 1, 60)
        send(made, 1)
        assert [pair["failed"] for pair in pairs(made, 1)] == [False]


def test_a_comparing_process_that_cannot_be_started_is_asked_for_rarely_and_nothing_is_held(monkeypatch):
    monkeypatch.setattr("serving.comparing.sys.executable", "/nowhere/python")
    stable, shadow = model("1", 1.0), model("2", 1.0)
    with stage(stable, shadow) as made:
        made.route(stable, shadow=Shadow(target=shadow.target, percent=100))
        send(made, 5)
        until(lambda: made.control.pairs()["uncompared"] == 5)
        assert made.metric("firstlight_gateway_pairs_total", model="m", version="2", outcome="uncompared") == 5
        until(lambda: made.gateway.budget.used == 0)


@pytest.mark.parametrize("which", ["live", "shadow"])
def test_an_answer_too_long_to_be_kept_is_passed_on_and_not_compared(which):
    short, long = model("1", 1.0), model("2", 1.0, text=np.zeros((1, 4 * HELD), np.uint8))
    with stage(short, long) as made:
        made.route(
            *((long,) if which == "live" else (short,)), shadow=Shadow(target=(short if which == "live" else long).target, percent=100)
        )
        send(made, 2)
        until(lambda: made.control.pairs()["uncompared"] == 2)
        assert made.control.pairs()["pairs"] == []
        until(lambda: made.gateway.budget.used == 0)


def test_pairs_are_for_the_holder_of_the_control_token_alone():
    actor = echo()
    with stage(actor) as made, Control(made.control.url, token="another") as stranger:
        made.route(actor)
        assert httpx.get(made.url + "/pairs", headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False).status_code == 404
        for ask in (stranger.pairs, stranger.evidence):
            with pytest.raises(FirstlightError, match="401"):
                ask()
        address = made.control.url + "/pairs?after=-1"
        assert httpx.get(address, headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False).status_code == 400


def test_a_comparing_process_ends_when_nothing_comes_any_more():
    ours, theirs = socket.socketpair()
    memory = os.memfd_create("test")
    one = threading.Thread(target=comparing.run, args=(theirs.detach(), memory), kwargs={"idle_seconds": 0.2})
    one.start()
    job = Job(
        model="m",
        request_id="r",
        live=Answer(status=200, pieces=(b"a", b"bc")),
        live_track="stable",
        live_version="1",
        shadow=Answer(status=500),
        shadow_version="2",
    )
    ours.sendall(comparing.lay(memory, [job, job]))
    said = b'f"outputs":{},"failed":true'
    assert (ours.recv(1000), os.pread(memory, 2 * len(said), 0)) == (b"[%d,%d]\n" % (len(said), len(said)), 2 * said)
    one.join(10)
    assert not one.is_alive()
    assert ours.recv(1) == b""
    ours.close()
    os.close(memory)
