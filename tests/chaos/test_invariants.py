"""The checker of the invariants finds what it is there to find: each record here is one that must not be, or is just allowed."""

import math
from dataclasses import replace

import pytest

from firstlight.digest import sha256_json
from rollout.records import Champion, Decision
from rollout.spec import Traffic
from tests.chaos import invariants
from tests.chaos.client import NO_ANSWER, Asked
from tests.chaos.invariants import Excused, Happened
from tests.chaos.witness import Written

GOOD = Asked(number=1, began=10.0, ended=10.1, status=200, version="1")
REFUSED = replace(GOOD, status=503, version="", error="no version answered")
STABLE_DIED = Happened(at=9.0, what="kill", victim="stable", place="starting", answered=("stable",), mended=9.0, healed=12.0)
CANARY_DIED = replace(STABLE_DIED, victim="canary", answered=("canary",))
GATEWAY_DIED = replace(STABLE_DIED, victim="gateway")


def failed(*asked, happened=()):
    return invariants.failed_requests(asked, happened, callers=2, wait_seconds=5.0)


def test_a_failed_request_is_wrong_whatever_else_happens():
    assert failed(GOOD) == ([], Excused(repeated=0, met_nobody=0))
    for happened in (
        (),
        (GATEWAY_DIED,),
        (replace(STABLE_DIED, answered=("stable", "canary")),),
        (CANARY_DIED,),
        (replace(STABLE_DIED, what="jump"),),
    ):
        wrong, excused = failed(REFUSED, happened=happened)
        assert "request 1 got 503" in wrong[0]
        assert excused.met_nobody == 0


@pytest.mark.parametrize(
    ("began", "ended", "status", "is_excused"),
    [
        (8.0, 8.1, 503, False),  # before
        (8.95, 9.1, 503, True),  # in flight in the process when it was killed
        (8.95, 9.1, 500, True),
        (10.0, 10.1, 503, False),  # it did not wait for the next process
        (10.0, 15.0, 503, True),  # it did, and there was none
        (10.0, 15.0, 500, False),
        (13.0, 18.0, 503, False),  # after
    ],
)
def test_only_a_request_in_a_dead_process_without_a_replica_or_one_that_waited_for_the_next_may_fail(began, ended, status, is_excused):
    wrong, excused = failed(replace(REFUSED, status=status, began=began, ended=ended), happened=[STABLE_DIED])
    assert (wrong == [], excused.met_nobody) == (is_excused, int(is_excused))


def test_a_dropped_connection_needs_a_killed_gateway_and_every_caller_has_one_at_most():
    dropped = replace(GOOD, dropped=(9.5,))
    assert failed(dropped, dropped, happened=[GATEWAY_DIED]) == ([], Excused(repeated=2, met_nobody=0))
    assert "no gateway was killed" in failed(dropped, happened=[STABLE_DIED])[0][0]
    assert "3 connections were dropped" in failed(dropped, dropped, dropped, happened=[GATEWAY_DIED])[0][0]
    assert "no answer" in failed(replace(dropped, status=NO_ANSWER), happened=[GATEWAY_DIED])[0][0]


def line(sequence, version):
    names = {"environment": "e", "model": "m", "previous": None, "action": "promote", "release_id": "r", "reason": "", "by": "b", "at": 0.0}
    return Champion(sequence=sequence, version=version, digest=version * 64, **names)


def desired(generation=1, stable="1", canary=None, weight=0, **more):
    row = {"generation": generation, "stable": stable, "canary": canary, "canary_weight": weight, "baseline": False}
    return Written("desired_state", False, {**row, "sticky": None, "shadow_percent": 0, **more})


CHAMPION_1 = Written("champions", True, {"version": "1", "action": "promote", "digest": "1" * 64})


def test_what_should_answer_is_the_one_champion_at_every_moment():
    assert invariants.champions([line(1, "1")], [CHAMPION_1, desired()]) == []
    assert "wants stable 2 while 1" in invariants.champions([line(1, "1")], [CHAMPION_1, desired(stable="2")])[0]
    assert "has sequence 3" in invariants.champions([line(1, "1"), line(3, "2")], [])[0]


def observed(*ready, stable="1", canary=None, weight=0, baseline_ready=False):
    traffic = {"stable": stable, "canary": canary, "canary_weight": weight}
    return Written("observed_state", True, {"generation": 1, "traffic": traffic, "ready": list(ready), "baseline_ready": baseline_ready})


def test_a_share_goes_to_who_is_ready_and_leaves_soon_who_is_not():
    canary = {"canary": "2", "weight": 50}
    ready = invariants.ready_before_traffic
    assert ready([observed("1"), observed("1", "2", **canary), *[observed("1", **canary)] * 3, observed("1")]) == []
    assert ready([observed("1", canary="2"), observed(baseline_ready=True)]) == []
    assert ready([observed("1"), observed("1", **canary)]) == ["version 2 got a share of the requests and was not ready (generation 1)"]
    assert "kept its share for 4 reports" in ready([observed("1", "2", **canary), *[observed("1", **canary)] * 9])[0]


def test_healing_is_timed_from_the_end_of_what_was_done():
    assert invariants.healed_in_time([STABLE_DIED], seconds=3.0) == []
    assert "it took 3.0 s" in invariants.healed_in_time([STABLE_DIED], seconds=2.9)[0]
    assert "never was as desired" in invariants.healed_in_time([replace(STABLE_DIED, healed=None)], seconds=math.inf)[0]


def told(number, what, digest=""):
    return Decision(number=number, environment="e", model="m", what=what, digest=digest, detail="", by="b", at=0.0)


def traffic(number, **who):
    return told(number, "traffic", sha256_json(Traffic(**who).to_dict()))


def rollout(phase, *, paused=False, is_new=False, approved=None, abort=False):
    status = phase and {"canary": "2", "phase": phase, "step": 0, "weight": 0}
    return Written("rollouts", is_new, {"status": status, "paused": paused, "abort": abort, "approved_by": approved})


HAPPENED = [
    desired(1),
    desired(1, lease_until=9.0),  # a renewed lease is no change
    Written("fences", True, {"token": 1}),
    rollout(None, is_new=True),
    rollout("starting"),
    rollout("starting"),
    rollout("starting", paused=True),
    desired(2, canary="2", weight=50),
    CHAMPION_1,
    Written("releases", True, {"status": "open", "model_digest": "d"}),
    Written("releases", False, {"status": "promoted", "model_digest": "d"}),
]
TOLD = [
    traffic(1, stable="1"),
    told(2, "claim-rollout"),
    told(3, "rollout"),
    told(4, "pause-rollout"),
    traffic(5, stable="1", canary="2", canary_weight=50),
    told(7, "promote", "1" * 64),
    told(8, "open-release", "d"),
    told(9, "close-release", "d"),
]


def test_a_trail_that_tells_everything_once_is_right():
    assert invariants.audit(TOLD, HAPPENED) == []


@pytest.mark.parametrize("place", range(len(TOLD)))
def test_a_trail_that_leaves_out_one_change_or_tells_one_twice_is_wrong(place):
    what = TOLD[place].what
    once_less = invariants.audit(TOLD[:place] + TOLD[place + 1 :], HAPPENED)
    once_more = invariants.audit([*TOLD, replace(TOLD[place], number=99)], HAPPENED)
    assert [what in wrong[0] for wrong in (once_less, once_more)] == [True, True]


def test_a_trail_that_tells_of_another_traffic_or_in_another_order_is_wrong():
    other = [traffic(1, stable="3"), *TOLD[1:]]
    assert invariants.audit(other, HAPPENED) == ["the trail tells traffic of other things than happened"]
    assert invariants.audit([TOLD[1], TOLD[0], *TOLD[2:]], HAPPENED) == ["the trail's numbers do not rise"]
