"""The gateway between several models, versions, replicas and a shadow, and while its routes change."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from rollout.evidence import bucket
from serving.control import Control
from serving.routes import Routes, Shadow, Target
from tests.serving.acting import INFER, TOKEN, Actor, Stage, echo, stage, until, whole


def test_two_models_behind_one_gateway_keep_their_routes_and_counts_apart():
    first, second = echo("1"), Actor(lambda ask: whole(b"second"), version="5")
    with (
        stage(first, second, models=("m", "n")) as made,
        Control(made.control.url, token=TOKEN, model="n") as other,
        Control(made.control.url, token=TOKEN, model="m") as one,
    ):
        one.put_routes(Routes(stable=first.target))
        other.put_routes(Routes(stable=second.target))
        assert made.post(b"ab").content == b"ba"
        assert made.post(path="/v2/models/n/infer").content == b"second"
        assert [{track["version"] for track in model.evidence()["tracks"]} for model in (one, other)] == [{"1"}, {"5"}]
        assert other.routes()[0].stable == second.target


def test_replicas_share_the_load_and_one_that_fails_is_left_out_without_a_failed_request():
    ill = threading.Event()
    first = echo()
    second = Actor(lambda ask: None if ill.is_set() else whole(ask.body()[::-1]))
    with stage(first, second, health_seconds=30) as made, httpx.Client(base_url=made.url, trust_env=False) as client:
        made.route(first)
        made.control.put_routes(
            made.control.routes()[0].model_copy(update={"stable": Target(version="1", url=first.url, replicas=(second.url,))})
        )
        for _ in range(10):
            assert client.post(INFER, content=b"ab").content == b"ba"
        assert (len(first.asked), len(second.asked)) == (5, 5)
        ill.set()
        codes = {client.post(INFER, content=b"ab").status_code for _ in range(60)}
        assert codes == {200}
        assert made.metric("firstlight_gateway_ejected", model="m", version="1", replica=second.url) == 1.0
        assert len(second.asked) < 30


def test_a_replica_that_fails_its_health_checks_is_asked_no_more_until_it_is_well():
    first, second = echo(), echo()
    with stage(first, second, health_seconds=0.05) as made, httpx.Client(base_url=made.url, trust_env=False) as client:
        made.route(first)
        made.control.put_routes(
            made.control.routes()[0].model_copy(update={"stable": Target(version="1", url=first.url, replicas=(second.url,))})
        )
        second.is_healthy = False
        until(lambda: made.gateway.served["m"].replicas.known[second.url].failed_checks >= 2)
        before = len(second.asked)
        assert {client.post(INFER, content=b"ab").status_code for _ in range(10)} == {200}
        assert len(second.asked) == before
        second.is_healthy = True
        until(lambda: made.gateway.served["m"].replicas.known[second.url].failed_checks == 0)
        assert {client.post(INFER, content=b"ab").status_code for _ in range(10)} == {200}
        assert len(second.asked) > before


def test_a_shadow_gets_its_share_of_copies_and_its_troubles_reach_no_caller():
    stable, shadow = echo("1"), Actor(lambda ask: ask.body() and whole(b"ill", status=500), version="2")
    with stage(stable, shadow) as made, httpx.Client(base_url=made.url, trust_env=False) as client:
        made.route(stable, shadow=Shadow(target=shadow.target, percent=25))
        assert {client.post(INFER, content=b"ab").content for _ in range(40)} == {b"ba"}
        until(lambda: len(made.control.pairs()["pairs"]) == 10, 60)
        assert {(pair["live"]["status"], pair["shadow"]["status"]) for pair in made.control.pairs()["pairs"]} == {(200, 500)}
        (copied,) = [track for track in made.control.evidence()["tracks"] if track["version"] == "2"]
        assert (copied["track"], copied["requests"], copied["errors"], sum(copied["latency"].values())) == ("shadow", 10, 10, 10)
        until(lambda: made.gateway.budget.used == 0)


def test_a_shadow_that_hangs_costs_copies_and_no_time():
    stable, shadow = echo("1"), Actor(lambda ask: time.sleep(3), version="2")
    with stage(stable, shadow) as made, httpx.Client(base_url=made.url, trust_env=False) as client:
        made.route(stable, shadow=Shadow(target=shadow.target, percent=100))
        assert {client.post(INFER, content=b"ab").status_code for _ in range(100)} == {200}
        assert made.metric("firstlight_gateway_shadow_total", model="m", version="2", outcome="dropped") >= 100 - 64 - 2
        (live,) = [track for track in made.control.evidence()["tracks"] if track["track"] == "stable"]
        assert max(map(int, live["latency"])) < bucket(2.0)


def test_a_caller_stays_on_one_side_by_name_or_header_and_the_weight_holds_over_many():
    one, two = echo("1"), echo("2")
    with stage(one, two) as made, httpx.Client(base_url=made.url, trust_env=False) as client:
        for sticky, header in (("client", "x-firstlight-client"), ("header:x-user", "x-user")):
            made.route(one, two, 30, sticky=sticky)
            sides = {}
            for user in range(60):
                seen = {
                    client.post(INFER, content=b"a", headers={header: f"user-{user}"}).headers["x-firstlight-version"] for _ in range(3)
                }
                assert len(seen) == 1
                sides[user] = seen.pop()
            assert 5 <= sum(side == "2" for side in sides.values()) <= 32
            made.route(one, two, 60, sticky=sticky)
            for user, side in sides.items():
                now = client.post(INFER, content=b"a", headers={header: f"user-{user}"}).headers["x-firstlight-version"]
                assert now == "2" or side == "1"


def test_routes_change_under_load_without_a_failed_request():
    one, two = echo("1"), echo("2")
    with stage(one, two) as made:
        made.route(one)
        failures, versions, stop = [], [], threading.Event()

        def ask():
            with httpx.Client(base_url=made.url, trust_env=False) as client:
                while not stop.is_set():
                    answer = client.post(INFER, content=b"x" * 50_000)
                    versions.append(answer.headers["x-firstlight-version"])
                    if answer.status_code != 200:
                        failures.append(answer.status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(60):
            made.route(*((one, two, number) if number % 3 else (two,)))
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
        assert (failures, set(versions)) == ([], {"1", "2"})
        assert made.control.routes()[1] == {}


def test_the_control_socket_infers_for_our_own_processes_and_asks_for_the_token():
    actor = echo()
    with stage(actor) as made:
        made.route(actor)
        mine = httpx.post(
            made.control.url + INFER,
            content=b"ab",
            headers={"authorization": f"Bearer {TOKEN}", "x-firstlight-client": "canary-replay"},
            trust_env=False,
        )
        assert (mine.status_code, mine.content) == (200, b"ba")
        assert actor.asked[-1].headers["x-firstlight-client"] == "canary-replay"
        for path in ("/routes", "/evidence", "/metrics"):
            assert httpx.get(made.control.url + path, trust_env=False).status_code == 401


def test_a_request_that_fails_while_the_routes_change_is_tried_by_the_new_ones():
    changed = threading.Event()
    old, brother, new = Actor(lambda ask: changed.wait(10) and None), echo(), echo()
    with stage(old, brother, new) as made:
        made.control.put_routes(Routes(stable=Target(version="1", url=old.url, replicas=(brother.url,))))
        made.gateway.served["m"].replicas.known[brother.url].in_flight = 1
        answers = []
        asking = threading.Thread(target=lambda: answers.append(made.post(b"ab")))
        asking.start()
        until(lambda: old.asked)
        made.control.put_routes(Routes(stable=Target(version="1", url=new.url)))
        changed.set()
        asking.join(20)
        assert [(answer.status_code, answer.content) for answer in answers] == [(200, b"ba")]
        assert (len(new.asked), len(brother.asked)) == (1, 0)


def test_a_baseline_has_the_canarys_share_and_the_loss_of_any_of_the_three_costs_no_request():
    stable, canary, baseline = echo("1"), echo("2"), echo("1")
    with stage(stable, canary, baseline) as made, httpx.Client(base_url=made.url, trust_env=False) as client:
        made.route(stable, canary, 25, baseline=baseline.target)
        assert {client.post(INFER, content=b"ab").content for _ in range(40)} == {b"ba"}
        assert [len(actor.asked) for actor in (stable, canary, baseline)] == [20, 10, 10]
        tracks = {track["track"]: track["requests"] for track in made.control.evidence()["tracks"]}
        assert tracks == {"stable": 20, "canary": 10, "baseline": 10}
        for lost in (baseline, canary, stable):
            others = [actor for actor in (stable, canary, baseline) if actor is not lost]
            for actor in others:
                actor.play = echo().play
            play, lost.play = lost.play, lambda ask: None
            assert {client.post(INFER, content=b"ab").content for _ in range(20)} == {b"ba"}
            lost.play = play


def test_a_canarys_share_that_nobody_renews_falls_to_stable_and_a_renewal_keeps_it():
    stable, canary, baseline = echo("1"), echo("2"), echo("1")
    with stage(stable, canary, baseline) as made, httpx.Client(base_url=made.url, trust_env=False) as client:
        made.route(stable, canary, 50, baseline=baseline.target, canary_seconds=1.5)
        for _ in range(8):
            time.sleep(0.25)
            made.route(stable, canary, 50, baseline=baseline.target, canary_seconds=1.5)
        assert {client.post(INFER, content=b"a").headers["x-firstlight-version"] for _ in range(4)} == {"1", "2"}
        until(lambda: made.control.routes()[0].canary_weight == 0)
        assert made.control.routes()[0].baseline is None
        before = len(stable.asked)
        assert {client.post(INFER, content=b"a").headers["x-firstlight-version"] for _ in range(20)} == {"1"}
        assert len(stable.asked) == before + 20
        assert made.metric("firstlight_gateway_weight_percent", model="m", version="1", track="stable") == 100.0


def test_callers_of_a_gateway_that_has_no_routes_yet_wait_for_them_and_not_for_ever():
    made, actor = Stage(), echo()
    made.listening.patience_seconds = 1.0
    made.start()
    try:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(made.post(b"ab")))
        asking.start()
        made.route(actor)
        asking.join(20)
        assert [(answer.status_code, answer.content) for answer in answers] == [(200, b"ba")]
    finally:
        made.close()
        actor.close()
    untold = Stage()
    untold.listening.patience_seconds = 0.2
    untold.start()
    try:
        assert untold.post(b"ab").status_code == 503
    finally:
        untold.close()


def test_a_request_waits_for_the_server_that_replaces_a_dead_one_and_no_longer_than_its_caller_would():
    dead, new = Actor(lambda ask: whole(b"never")), Actor(lambda ask: whole(b"again"))
    with stage(dead, new, wait_seconds=30.0) as made, ThreadPoolExecutor(3) as callers:
        made.route(dead)
        dead.close()
        began = time.monotonic()
        assert made.post(headers={"x-firstlight-timeout-ms": "200"}).status_code == 503
        waiting = [callers.submit(made.post) for _ in range(2)]
        made.route(None)
        waiting.append(callers.submit(made.post))
        assert time.monotonic() - began < 25, "the caller's own deadline counts"
        made.route(new)
        assert [answer.result().content for answer in waiting] == [b"again"] * 3
    with stage(wait_seconds=30.0) as made:
        assert made.post().status_code == 503, "nobody waits for whom nobody has seen"


def test_a_canary_without_a_share_answers_for_nobody_and_stops_nobody():
    dead, new = Actor(lambda ask: whole(b"never")), Actor(lambda ask: whole(b"again"))
    canary = Actor(lambda ask: whole(b"not judged"), version="2")
    with stage(dead, canary, new, wait_seconds=1.5) as made, ThreadPoolExecutor(1) as callers:
        made.route(dead, canary)
        dead.close()
        waiting = callers.submit(made.post)
        made.route(None, canary)
        assert httpx.get(made.url + "/v2/health/live", trust_env=False, timeout=1).status_code == 200, "the others are served meanwhile"
        made.route(new, canary)
        assert waiting.result().content == b"again"
        made.route(None, canary)
        assert made.post().status_code == 503, "who waits does so for a bounded time, although somebody is alive"
