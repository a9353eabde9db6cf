from dataclasses import replace
from typing import Any

from firstlight.verdict import Verdict
from rollout.analysis import assess, readiness
from rollout.controller import advance, begin
from rollout.evidence import Evidence, Pairs, Stream
from rollout.policy import RolloutPolicy
from rollout.spec import Event, RolloutSpec
from rollout.timeline import Timeline, is_worth_keeping, point
from tests.rollout.stores import ENVIRONMENT, MODEL

SPEC = RolloutSpec(canary="2", stable="1", policy=RolloutPolicy())
STARTING = point(begin(SPEC, 100.0), None, readiness("2", ready=False), now=101.5)
SEEN = Evidence(
    canary=Stream.of([0.01] * 98 + [0.2, 0.3], errors=1, good=1, judged=2),
    control=Stream.of([0.01] * 50, errors=2),
    pairs=Pairs(total=30, failed=3, copied=30, control_total=30),
)


def test_a_look_at_a_canary_that_is_not_ready_is_a_point_without_figures() -> None:
    seen = STARTING
    assert (seen.t_s, seen.phase, seen.weight, seen.requests, seen.latency_ms_p99, seen.quality) == (1.5, "starting", 0, 0, None, None)
    assert (seen.verdict, seen.summary) == ("cannot tell", "version 2 is not ready yet")


def test_a_look_at_a_canary_in_traffic_has_its_figures_and_boundaries() -> None:
    status = advance(SPEC, begin(SPEC, 100.0), Verdict.PASS, 110.0)
    found = assess(SPEC.policy, SEEN)
    seen = point(status, SEEN, found, now=120.0, event=Event.PAUSE, by="pause by ada: lunch", outlook="about 6 h")
    assert (seen.t_s, seen.phase, seen.weight, seen.requests, seen.errors) == (20.0, "progressing", 5, 101, 1)
    assert (seen.pairs, seen.quality) == (30, 0.5)
    assert seen.latency_ms_p99 is not None
    assert 200 <= seen.latency_ms_p99 < 200 * 1.05, "the upper edge of the bucket of the 99th of 100 answers"
    assert [check["name"] for check in seen.checks] == [check.name for check in found.checks]
    assert (seen.event, seen.by, seen.outlook) == ("pause", "pause by ada: lunch", "about 6 h")


def test_the_timeline_keeps_every_point_and_can_read_those_of_before(store: Any) -> None:
    timeline = Timeline(store, "r")
    status = advance(SPEC, begin(SPEC, 100.0), Verdict.PASS, 110.0)
    points = [STARTING, point(status, SEEN, assess(SPEC.policy, SEEN), now=120.0, event=Event.ABORT)]
    # Given a point of the first firstlight, which knew less, and one of a firstlight to come, which knows more
    first = ("t_s", "phase", "weight", "requests", "errors", "latency_ms_p99", "quality", "verdict", "summary")
    store.add_point("r", {name: getattr(STARTING, name) for name in first})
    store.add_point("r", {**{name: getattr(STARTING, name) for name in first}, "temperature": 4})
    for one in points:
        timeline.append(one)
    found = timeline.points()
    assert found[:2] == [replace(STARTING, checks=[])] * 2
    assert found[2:] == points
    assert Timeline(store, "other").points() == []
    assert [decision.what for decision in store.decisions(ENVIRONMENT, MODEL)] == [], "a look is no decision"


def test_a_rollout_of_any_length_keeps_its_changes_and_some_hundred_looks() -> None:
    status = advance(SPEC, begin(SPEC, 100.0), Verdict.PASS, 110.0)
    cannot_tell = readiness("2", ready=False)
    kept = [point(status, Evidence(canary=Stream(requests=0)), cannot_tell, now=110.0)]
    for requests in range(1, 20_000):
        new = point(status, Evidence(canary=Stream(requests=requests)), cannot_tell, now=110.0 + requests)
        if is_worth_keeping(new, kept[-1]):
            kept.append(new)
    assert 100 < len(kept) < 1000
    assert not is_worth_keeping(kept[-1], kept[-1])
    for change in ({"event": "pause"}, {"phase": "paused"}, {"weight": 25}, {"verdict": "fail"}):
        assert is_worth_keeping(replace(kept[-1], **change), kept[-1])  # type: ignore[arg-type]
