"""Who answers, what is started and what is stopped: the pure parts of gateway and supervisor over all their cases."""

import itertools

import pytest
from pydantic import ValidationError

from rollout.spec import Traffic
from serving import planning
from serving import routes as routing
from serving.keeper import routes_for
from serving.measurements import Attempt, Measurements
from serving.options import GatewayOptions
from serving.planning import ServerState
from serving.replicas import Replicas
from serving.routes import Chooser, Routes, Target

STABLE, CANARY = Target(version="1", url="http://127.0.0.1:1"), Target(version="2", url="http://127.0.0.1:2")


@pytest.mark.parametrize("weight", [0, 1, 5, 25, 33, 50, 99, 100])
def test_every_stretch_of_requests_gets_its_share_within_one(weight):
    routes, chooser = Routes(stable=STABLE, canary=CANARY, canary_weight=weight), Chooser()
    canary = [chooser.choose(routes) is routes.canary for _ in range(400)]
    for start, length in itertools.product(range(0, 200, 7), (1, 20, 40, 200)):
        assert abs(sum(canary[start : start + length]) - length * weight / 100) <= 1
    assert sum(canary) == 400 * weight // 100


def test_forty_requests_at_five_percent_are_exactly_two():
    routes, chooser = Routes(stable=STABLE, canary=CANARY, canary_weight=5), Chooser()
    assert sum(chooser.choose(routes) is routes.canary for _ in range(40)) == 2


def test_a_retry_goes_to_the_other_version_but_never_to_a_canary_of_weight_zero():
    chooser = Chooser()
    shared = Routes(stable=STABLE, canary=CANARY, canary_weight=5)
    assert chooser.choose(shared, avoid={STABLE.url}) == CANARY
    assert chooser.choose(shared, avoid={CANARY.url}) == STABLE
    assert chooser.choose(shared.model_copy(update={"canary_weight": 0}), avoid={STABLE.url}) == STABLE
    assert chooser.choose(Routes(canary=CANARY)) is None
    assert chooser.choose(Routes(canary=CANARY, canary_weight=100)) == CANARY
    assert chooser.choose(Routes()) is None


BAD_ROUTES = {
    "weight-without-canary": {"canary_weight": 5},
    "weight-above-100": {"canary": CANARY.model_dump(), "canary_weight": 101},
    "same-version": {"stable": STABLE.model_dump(), "canary": STABLE.model_dump()},
    "file-url": {"stable": {"version": "1", "url": "file:///etc/passwd"}},
    "unknown-field": {"mirror": None},
    "replica-of-a-file": {"stable": {"version": "1", "url": "http://x", "replicas": ["file:///etc/passwd"]}},
    "other-of-the-same-version": {"stable": STABLE.model_dump(), "others": [STABLE.model_dump()]},
    "shadow-above-100": {"shadow": {"target": CANARY.model_dump(), "percent": 101}},
    "sticky-by-nothing": {"sticky": "header:"},
}


@pytest.mark.parametrize("body", BAD_ROUTES.values(), ids=BAD_ROUTES.keys())
def test_routes_that_mean_nothing_are_refused(body):
    with pytest.raises(ValidationError):
        Routes.model_validate(body)


TARGETS = [
    Traffic(),
    Traffic(stable="1"),
    Traffic(canary="2"),
    Traffic(canary="2", canary_weight=100),
    *(Traffic(stable="1", canary="2", canary_weight=weight) for weight in (0, 5, 100)),
]
PRESENTS = [
    Traffic(),
    Traffic(stable="1"),
    Traffic(stable="3"),
    Traffic(stable="3", canary="1", canary_weight=50),
    Traffic(canary="2", canary_weight=100),
]
READY = [set(chosen) for size in range(4) for chosen in itertools.combinations("123", size)]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_whatever_is_wanted_and_whatever_is_up_no_version_that_is_not_ready_is_routed_to(target):
    for present, ready in itertools.product(PRESENTS, READY):
        routed = planning.route(target, ready=ready, present=present)
        assert set(routed.versions) <= ready
        if set(target.versions) <= ready and (target.stable or target.canary):
            assert routed == target
        if target.stable in ready:
            assert routed.stable == target.stable
        if routed.canary_weight and target.stable in ready:
            assert routed.canary_weight == target.canary_weight
        if target.canary_weight == 0:
            assert routed.canary_weight == 0


def test_traffic_stays_where_it_is_until_the_wanted_version_is_ready():
    assert planning.route(Traffic(stable="2"), ready={"1"}, present=Traffic(stable="1")) == Traffic(stable="1")
    assert planning.route(Traffic(stable="2"), ready={"1", "2"}, present=Traffic(stable="1")) == Traffic(stable="2")


def test_the_canary_takes_all_when_stable_is_lost():
    target = Traffic(stable="1", canary="2", canary_weight=5)
    assert planning.route(target, ready={"2"}, present=target) == Traffic(canary="2", canary_weight=100)


@pytest.mark.parametrize("stable", ServerState)
def test_a_canary_is_started_only_when_stable_is_up_or_has_shown_that_it_does_not_come_up(stable):
    target = Traffic(stable="1", canary="2", canary_weight=5)
    started = planning.servers(target, states={"1": stable})
    assert started == (("1",) if stable in (ServerState.ABSENT, ServerState.STARTING) else ("1", "2"))
    assert planning.servers(target, states={"1": stable, "2": ServerState.READY}) == ("1", "2")


def test_a_server_is_stopped_only_when_nobody_wants_it_routes_to_it_or_waits_for_it():
    existing = ("1", "2", "3", "4")
    assert planning.removable(existing, wanted=["1"], routed=Traffic(stable="2"), in_flight={"3": 1}) == ("4",)
    assert planning.removable(existing, wanted=["1"], routed=Traffic(stable="1"), in_flight={"3": 0}) == ("2", "3", "4")


def test_the_wait_between_starts_grows_and_is_bounded():
    waits = [planning.backoff(failures) for failures in range(100)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.0, 30.0)


def test_measurements_count_attempts_failures_and_answered_latencies_since_a_moment():
    seen = Measurements(100.0)
    for at, attempt in ((101, (0.1, False, True)), (102, (0.2, True, False)), (103, (0.3, True, True))):
        seen.begin("2")
        seen.end("2", Attempt(at, *attempt), track="stable")
    assert seen.since(0)["versions"]["2"] == {"requests": 3, "errors": 2, "refused": 0, "seconds": [0.1, 0.3]}
    assert seen.since(103)["versions"]["2"]["requests"] == 1
    assert seen.in_flight() == {}
    seen.begin("2")
    assert seen.in_flight() == {"2": 1}


def test_a_canary_that_stands_in_for_stable_keeps_the_traffic_until_the_next_stable_is_ready():
    stand_in = Traffic(canary="1", canary_weight=100)
    assert planning.route(Traffic(stable="2"), ready={"1"}, present=stand_in) == Traffic(stable="1")
    assert planning.route(Traffic(), ready={"1"}, present=stand_in) == Traffic()


def test_the_version_a_rollback_goes_to_has_a_server_once_everything_that_answers_is_ready():
    ready, starting = ServerState.READY, ServerState.STARTING
    live = Traffic(stable="2")
    assert planning.rehearsed(live, previous="1", states={"2": ready}) == ("1",)
    assert planning.rehearsed(live, previous="1", states={"2": starting}) == ()
    assert planning.rehearsed(live, previous="1", states={"2": starting, "1": ready}) == ("1",)
    assert planning.rehearsed(live, previous="1", states={"2": ready, "1": ServerState.DEAD}) == ("1",)
    assert planning.rehearsed(Traffic(stable="2", canary="1"), previous="1", states={"2": ready}) == ()
    assert planning.rehearsed(live, previous=None, states={"2": ready}) == ()
    assert planning.rehearsed(Traffic(), previous="1", states={}) == ()


def test_a_caller_keeps_its_side_when_the_weight_grows_and_each_canary_draws_anew():
    callers = [f"caller-{number}" for number in range(2000)]
    places = {caller: routing.place(caller, "2") for caller in callers}
    for weight in (1, 5, 25, 50, 99):
        assert abs(sum(place < weight for place in places.values()) / 20 - weight) < 3
        routes = Routes(stable=STABLE, canary=CANARY, canary_weight=weight)
        assert all((Chooser().choose(routes, key=caller) == CANARY) is (places[caller] < weight) for caller in callers[:50])
    other = {caller for caller in callers if routing.place(caller, "3") < 50}
    assert 0.4 < sum(places[caller] < 50 for caller in other) / len(other) < 0.6


def test_a_sticky_choice_leaves_the_exact_split_of_the_others_alone():
    routes, chooser = Routes(stable=STABLE, canary=CANARY, canary_weight=25, sticky="client"), Chooser()
    chosen = []
    for number in range(400):
        chooser.choose(routes, key=f"somebody-{number % 7}")
        chosen.append(chooser.choose(routes))
    assert chosen.count(CANARY) == 100


def test_whose_key_a_request_has():
    by_client, by_header = Routes(sticky="client"), Routes(sticky="header:x-user")
    assert routing.sticky_key(by_client, {}, client="alice") == "alice"
    assert routing.sticky_key(by_header, {"x-user": "7"}, client="alice") == "7"
    assert routing.sticky_key(by_header, {}, client="alice") == ""
    assert routing.sticky_key(Routes(), {"x-user": "7"}, client="alice") == ""
    assert routing.sticky_key(by_client, {}, client=routing.REPLAY) == ""


def replicas(*urls):
    made = Replicas()
    made.keep(urls)
    return made


def test_a_replica_that_fails_in_a_row_is_left_out_for_a_time_that_doubles_and_is_forgiven():
    made = replicas("a", "b")
    ill, times, now = made.known["a"], [], 1000.0
    for _ in range(8):
        while not (out := made.note(ill, ("a", "b"), failed=True, now=now)):
            pass
        times.append(out)
        assert made.choose(("a", "b"), now=now).url == "b"
        now += out
        assert {made.choose(("a", "b"), now=now).url for _ in range(2)} == {"a", "b"}
    assert times == [5, 10, 20, 40, 80, 160, 300, 300]
    for _ in range(10):
        now += 600
        made.note(ill, ("a", "b"), failed=False, now=now)
    while not (out := made.note(ill, ("a", "b"), failed=True, now=now)):
        pass
    assert out == 5


def test_a_replica_that_fails_every_other_request_is_left_out_too_and_a_rare_failure_is_nothing():
    made = replicas("a", "b")
    outs = [made.note(made.known["a"], ("a", "b"), failed=number % 2 == 0, now=1.0) for number in range(60)]
    assert any(outs)
    assert not any(made.note(made.known["b"], ("a", "b"), failed=number % 10 == 0, now=1.0) for number in range(200))


def test_the_last_usable_replica_is_never_left_out():
    made = replicas("a", "b")
    for url in ("a", "b"):
        for _ in range(50):
            made.note(made.known[url], ("a", "b"), failed=True, now=1.0)
    assert [replica.is_usable(1.0) for replica in made.known.values()] == [False, True]
    alone = replicas("a")
    assert not any(alone.note(alone.known["a"], ("a",), failed=True, now=1.0) for _ in range(50))


def test_the_least_busy_replica_answers_and_a_retry_goes_to_another_one():
    made = replicas("a", "b", "c")
    made.known["a"].in_flight, made.known["b"].in_flight = 2, 1
    assert {made.choose(("a", "b", "c"), now=1.0).url for _ in range(9)} == {"c"}
    assert made.choose(("a", "b", "c"), now=1.0, avoid={"c"}).url == "b"
    assert made.choose(("a", "b", "c"), now=1.0, avoid={"a", "b", "c"}).url == "c"


def test_what_is_known_of_a_replica_survives_a_change_of_routes():
    made = replicas("a", "b")
    for _ in range(5):
        made.note(made.known["a"], ("a", "b"), failed=True, now=1.0)
    made.keep(("a", "c"))
    assert (made.known["a"].is_usable(2.0), sorted(made.known)) == (False, ["a", "c"])


def test_traffic_becomes_routes_with_every_replica_and_the_shadow_ends_when_the_canary_has_weight():
    urls = {"1": ("http://a", "http://b"), "2": ("http://c",)}
    options = GatewayOptions(sticky="client", shadow_percent=10)
    silent = routes_for(Traffic(stable="1", canary="2"), urls=urls, generation=3, options=options)
    assert (silent.stable.urls, silent.canary.urls, silent.generation, silent.sticky) == (
        ("http://a", "http://b"),
        ("http://c",),
        3,
        "client",
    )
    assert (silent.shadow.target, silent.shadow.percent) == (silent.canary, 10)
    assert routes_for(Traffic(stable="1", canary="2", canary_weight=5), urls=urls, generation=3, options=options).shadow is None
    assert routes_for(Traffic(stable="1", canary="2"), urls=urls, generation=3, options=GatewayOptions()).shadow is None
    assert routes_for(Traffic(), urls={}, generation=0, options=options) == Routes(sticky="client")
