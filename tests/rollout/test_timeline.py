"""Points: what a look leaves, and which of many looks are kept."""

from dataclasses import replace

from rollout.analysis import assess, readiness
from rollout.controller import advance, begin
from rollout.evidence import Evidence, Stream
from rollout.spec import Event, RolloutPolicy, RolloutSpec
from rollout.timeline import is_worth_keeping, point

SPEC = RolloutSpec(canary="2", stable="1", policy=RolloutPolicy())
STARTED = begin(SPEC, 100.0)


def test_a_look_at_a_canary_that_is_not_ready_is_a_point_without_figures() -> None:
    seen = point(STARTED, Evidence(), readiness("2", ready=False), now=101.5)
    assert (seen.t_s, seen.phase, seen.weight, seen.requests, seen.latency_ms_p99, seen.quality) == (1.5, "starting", 0, 0, None, None)
    assert (seen.verdict, seen.summary) == ("cannot tell", "version 2 is not ready yet")


def test_a_look_at_a_canary_in_traffic_has_its_figures_and_every_measurement_against_its_boundary() -> None:
    status = advance(SPEC, STARTED, readiness("2", ready=True).verdict, 110.0)
    seen = Evidence(canary=Stream.of([0.01, 0.02, 0.03], errors=3, good=1, judged=2), control=Stream.of([0.01] * 40), step_requests=6)
    look = point(status, seen, assess(SPEC.policy, seen), now=120.0, event=Event.PAUSE, by="pause by ada")
    assert (look.t_s, look.phase, look.weight, look.requests, look.errors) == (20.0, "progressing", 5, 6, 3)
    assert (look.quality, look.verdict, look.event, look.by) == (0.5, "cannot tell", "pause", "pause by ada")
    assert 30 <= (look.latency_ms_p99 or 0) < 30 * 1.05
    errors = next(check for check in look.checks if check["name"] == "errors")
    assert 0 < errors["log_evidence_fail"] < errors["needed_fail"]


def test_a_day_of_looks_leaves_some_hundreds_of_points_and_every_change() -> None:
    one, kept, last = point(STARTED, Evidence(), readiness("2", ready=False), now=100.0), 0, None
    changes = {40_000: {"weight": 25}, 40_001: {"weight": 50}, 40_002: {"event": "pause"}}
    for second in range(86_400):
        new = replace(one, t_s=float(second), **{"weight": 50 if second > 40_002 else 0, **changes.get(second, {})})  # type: ignore[arg-type]
        if is_worth_keeping(new, last):
            kept, last = kept + 1, new
            changes.pop(second, None)
    assert (kept < 1000, changes) == (True, {})
    assert last is not None
    assert last.t_s > 85_000
