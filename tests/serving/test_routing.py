"""Who answers, what is started and what is stopped: the pure parts of gateway and supervisor over all their cases."""

import itertools
import time

import pytest
from pydantic import ValidationError

from rollout.evidence import bucket
from rollout.spec import Desired, Traffic
from serving import planning
from serving import routes as routing
from serving.measurements import Measurements
from serving.options import GatewayOptions
from serving.planning import ServerState
from serving.replicas import Replicas
from serving.routes import Chooser, Routes, Target
from serving.served import Served
from serving.steering import routes_for, traffic_of

STABLE, CANARY = Target(version="1", url="http://127.0.0.1:1"), Target(version="2", url="http://127.0.0.1:2")
BASELINE = Target(version="1", url="http://127.0.0.1:3")


@pytest.mark.parametrize("weight", [0, 1, 5, 25, 33, 50, 99, 100])
def test_every_stretch_of_requests_gets_its_share_within_one(weight):
    routes, chooser = Routes(stable=STABLE, canary=CANARY, canary_weight=weight), Chooser()
    canary = [chooser.choose(routes) is routes.canary for _ in range(400)]
    for start, length in itertools.product(range(0, 200, 7), (1, 20, 40, 200)):
        assert abs(sum(canary[start : start + length]) - length * weight / 100) <= 1
    assert sum(canary) == 400 * weight // 100


@pytest.mark.parametrize("weight", [0, 1, 5, 25, 33, 49, 50, 51, 75, 99, 100])
def test_canary_baseline_and_stable_each_get_their_share_of_every_stretch_within_one(weight):
    routes, chooser = Routes(stable=STABLE, canary=CANARY, canary_weight=weight, baseline=BASELINE), Chooser()
    shares = {"canary": weight, "baseline": min(weight, 100 - weight), "stable": 100 - weight - min(weight, 100 - weight)}
    assert routes.baseline_weight == shares["baseline"]
    chosen = [routes.track(chooser.choose(routes)) for _ in range(400)]
    for start, length in itertools.product(range(0, 200, 7), (1, 20, 40, 200)):
        stretch = chosen[start : start + length]
        assert all(abs(stretch.count(track) - length * share / 100) <= 1 for track, share in shares.items())
    assert {track: chosen.count(track) for track in shares} == {track: 4 * share for track, share in shares.items()}


def test_the_counter_stays_exact_while_a_rollout_goes_up_its_steps():
    chooser, seen = Chooser(), []
    for weight in (5, 25, 50, 75, 100, 5):
        routes = Routes(stable=STABLE, canary=CANARY, canary_weight=weight, baseline=BASELINE)
        chosen = [routes.track(chooser.choose(routes)) for _ in range(37)]
        shares = {"canary": weight, "baseline": routes.baseline_weight, "stable": 100 - weight - routes.baseline_weight}
        seen += [abs(chosen.count(track) - 37 * share / 100) for track, share in shares.items()]
    assert max(seen) <= 1


def test_forty_requests_at_five_percent_are_exactly_two():
    routes, chooser = Routes(stable=STABLE, canary=CANARY, canary_weight=5), Chooser()
    assert sum(chooser.choose(routes) is routes.canary for _ in range(40)) == 2


def test_a_retry_goes_to_the_other_version_but_never_to_a_canary_of_weight_zero():
    chooser = Chooser()
    shared = Routes(stable=STABLE, canary=CANARY, canary_weight=5)
    assert chooser.choose(shared, avoid={STABLE.url}) == CANARY
    assert chooser.choose(shared, avoid={CANARY.url}) == STABLE
    assert chooser.choose(shared.model_copy(update={"canary_weight": 0}), avoid={STABLE.url}) == STABLE
    compared = shared.model_copy(update={"baseline": BASELINE})
    assert chooser.choose(compared, avoid={STABLE.url}) == BASELINE
    assert chooser.choose(compared, avoid={BASELINE.url, CANARY.url}) == STABLE
    assert chooser.choose(compared, avoid={STABLE.url, BASELINE.url}) == CANARY
    assert chooser.choose(compared.model_copy(update={"canary_weight": 0}), avoid={STABLE.url}) == STABLE
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
    "baseline-without-canary": {"stable": STABLE.model_dump(), "baseline": BASELINE.model_dump()},
    "baseline-of-the-canary": {
        "stable": STABLE.model_dump(),
        "canary": CANARY.model_dump(),
        "baseline": {"version": "2", "url": "http://127.0.0.1:3"},
    },
    "baseline-that-is-stable": {"stable": STABLE.model_dump(), "canary": CANARY.model_dump(), "baseline": STABLE.model_dump()},
    "a-share-for-no-time": {"canary_seconds": 0},
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
    *(Traffic(stable="1", canary="2", canary_weight=weight, baseline=True) for weight in (0, 5, 75, 100)),
]
PRESENTS = [
    Traffic(),
    Traffic(stable="1"),
    Traffic(stable="3"),
    Traffic(stable="3", canary="1", canary_weight=50),
    Traffic(stable="1", canary="2", canary_weight=50, baseline=True),
    Traffic(canary="2", canary_weight=100),
]
READY = [set(chosen) for size in range(4) for chosen in itertools.combinations("123", size)]
FRESH = [set(), {"1"}, {"3"}]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_whatever_is_wanted_and_whatever_is_up_nothing_that_is_not_ready_is_routed_to(target):
    for present, ready, fresh in itertools.product(PRESENTS, READY, FRESH):
        routed = planning.route(target, ready=ready, present=present, fresh=fresh)
        able = ready | fresh
        assert set(routed.versions) <= able
        assert routed.canary is None or routed.canary in ready
        # a baseline needs a server of its own beside stable's, and never more than the share that was asked for
        assert not routed.baseline or (target.baseline and routed.stable in ready & fresh and routed.canary)
        if set(target.versions) <= ready and (target.stable or target.canary) and (not target.baseline or target.stable in fresh):
            assert routed == target
        if target.stable in able:
            assert routed.stable == target.stable
            assert routed.canary_weight == (target.canary_weight if routed.canary else 0)
        # traffic is never sent to nothing while somebody who may have it is ready; else a canary of weight 0 gets none
        carries = {present.stable, present.canary if present.canary_weight == 100 else None} & able - {None}
        if target.canary_weight == 0 and (target.stable in able or not carries):
            assert routed.canary_weight == 0
        if target.stable and (target.stable in able or carries or (target.canary in ready and target.canary_weight)):
            assert routed.stable or routed.canary_weight == 100


def test_a_baseline_answers_for_stable_while_stable_has_no_other_server():
    target = Traffic(stable="1", canary="2", canary_weight=5, baseline=True)
    without = Traffic(stable="1", canary="2", canary_weight=5)
    assert planning.route(target, ready={"2"}, fresh={"1"}, present=target) == without
    assert planning.route(Traffic(stable="1"), ready={"2"}, fresh={"1"}, present=target) == Traffic(stable="1")
    assert planning.baselines(target, wanted=("1",)) == ()
    assert planning.baselines(target, wanted=("1", "2")) == ("1",)
    assert planning.baselines(without, wanted=("1", "2")) == ()


def test_the_gateway_may_send_a_canary_requests_as_long_as_its_lease_lasts_unless_it_stands_in_for_stable():
    out, alone = Traffic(stable="1", canary="2", canary_weight=5), Traffic(canary="2", canary_weight=100)
    assert planning.canary_seconds(out, target=out, left=12.5) == 12.5
    assert planning.canary_seconds(out, target=out, left=-3.0) == planning.SHORTEST_SECONDS
    assert planning.canary_seconds(alone, target=alone, left=12.5) == 12.5
    assert planning.canary_seconds(alone, target=out, left=12.5) is None
    assert planning.canary_seconds(Traffic(stable="1"), target=out, left=12.5) is None
    assert planning.canary_seconds(out, target=out, left=None) is None


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


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 0.0009, 0.00123, 0.5, 1.0, 1.0001, 3.7, 35.0, 400.0])
def test_sums_keep_times_in_the_buckets_of_the_evidence(seconds):
    seen = Measurements()
    seen.begin("2")
    seen.end("2", track="canary", status=200, seconds=seconds)
    assert seen.totals() == [
        {"track": "canary", "version": "2", "requests": 1, "errors": 0, "refused": 0, "latency": {str(bucket(seconds)): 1}}
    ]


def test_sums_tell_failures_refusals_and_answers_apart_and_what_is_in_flight():
    seen = Measurements()
    for status in (200, 404, 500, 0):
        seen.begin("2")
        seen.end("2", track="stable", status=status, seconds=0.1)
    (found,) = seen.totals()
    assert (found["requests"], found["errors"], found["refused"], found["latency"]) == (4, 2, 1, {str(bucket(0.1)): 3})
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
    # beside a baseline the canary's callers are the same ones, and a baseline's caller changes sides at most once
    before = dict.fromkeys(callers, "stable")
    for weight in (1, 5, 25, 50, 75, 99):
        routes = Routes(stable=STABLE, canary=CANARY, canary_weight=weight, baseline=BASELINE)
        sides = {caller: routes.track(Chooser().choose(routes, key=caller)) for caller in callers[:200]}
        assert all((side == "canary") is (places[caller] < weight) for caller, side in sides.items())
        assert all(sides[caller] != "stable" for caller in sides if before[caller] != "stable")
        assert abs(sum(side == "baseline" for side in sides.values()) / 2 - routes.baseline_weight) < 10
        before.update(sides)
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


def wanted(traffic, **more):
    lease = {"lease_until": 1e12} if traffic.canary else {}
    return Desired(environment="testing", model="tiny", generation=3, traffic=traffic, **lease, **more)


def test_traffic_becomes_routes_with_every_replica_and_copies_go_to_whoever_did_not_answer():
    urls, fresh = {"1": ("http://a", "http://b"), "2": ("http://c",)}, {"1": ("http://d",)}
    options = GatewayOptions(sticky="client", shadow_percent=10)
    for weight in (0, 5, 100):
        traffic = Traffic(stable="1", canary="2", canary_weight=weight, baseline=True)
        made = routes_for(traffic, urls=urls, fresh=fresh, desired=wanted(traffic), options=options, seconds=7.5)
        assert (made.stable.urls, made.canary.urls, made.baseline.urls) == (("http://a", "http://b"), ("http://c",), ("http://d",))
        assert (made.generation, made.sticky, made.canary_weight, made.canary_seconds) == (3, "client", weight, 7.5)
        assert (made.shadow.target, made.shadow.percent, made.shadow.control) == (made.canary, 10, made.baseline)
        assert (made.shadow.copied_to("1"), made.shadow.copied_to("2")) == (made.canary, made.baseline)
        assert traffic_of(made) == traffic
        assert traffic_of(made.lapsed()) == Traffic(stable="1", canary="2")
    # without a baseline the copies come to stable, which may have no server but the baseline's
    plain = Traffic(stable="1", canary="2", canary_weight=5)
    stood_in = routes_for(plain, urls={"2": ("http://c",)}, fresh=fresh, desired=wanted(plain), options=options)
    assert (stood_in.stable.url, stood_in.shadow.control, stood_in.baseline) == ("http://d", stood_in.stable, None)


def test_what_a_rollout_says_of_callers_and_copies_stands_above_the_gateways_options():
    traffic, urls = Traffic(stable="1", canary="2", canary_weight=5), {"1": ("http://a",), "2": ("http://c",)}
    said = wanted(traffic, sticky="header:x-user", shadow_percent=100)
    options = GatewayOptions(sticky="client", shadow_percent=10)
    assert routes_for(traffic, urls=urls, desired=said, options=options).sticky == "header:x-user"
    assert routes_for(traffic, urls=urls, desired=said, options=options).shadow.percent == 100
    assert routes_for(traffic, urls=urls, desired=said, options=GatewayOptions()).shadow.percent == 100
    assert routes_for(traffic, urls=urls, desired=wanted(traffic), options=GatewayOptions()).shadow is None
    assert routes_for(Traffic(), urls={}, options=options) == Routes(sticky="client")


def test_a_share_that_nobody_renews_in_time_falls_to_stable():
    served, routes = Served("m"), Routes(stable=STABLE, canary=CANARY, canary_weight=50, canary_seconds=5, baseline=BASELINE)
    served.route(routes)
    began = time.monotonic()
    assert not served.lapse(began + 4)
    served.route(routes)
    assert not served.lapse(began + 4.9)
    assert served.lapse(began + 6)
    assert (served.routes.canary_weight, served.routes.baseline, served.routes.stable) == (0, None, STABLE)
    assert not served.lapse(began + 60)
    # one that is given for good is never taken away
    served.route(routes.model_copy(update={"canary_seconds": None}))
    assert not served.lapse(began + 1e9)
    assert routes.says(served.routes)
