from rollout.analysis import assess, readiness
from rollout.controller import advance, begin
from rollout.measurements import Measurement, VersionMeasurement
from rollout.spec import RolloutPolicy, RolloutSpec
from rollout.timeline import point

SPEC = RolloutSpec(canary="2", stable="1", policy=RolloutPolicy())


def test_a_look_at_a_canary_that_is_not_ready_is_a_point_without_figures() -> None:
    seen = point(begin(SPEC, 100.0), None, readiness("2", ready=False), now=101.5)
    assert (seen.t_s, seen.phase, seen.weight, seen.requests, seen.latency_ms_p99, seen.quality) == (1.5, "starting", 0, 0, None, None)
    assert (seen.verdict, seen.summary) == ("cannot tell", "version 2 is not ready yet")


def test_a_look_at_a_canary_in_traffic_has_its_figures() -> None:
    readied = readiness("2", ready=True)
    status = advance(SPEC, begin(SPEC, 100.0), readied.verdict, 110.0)
    canary = VersionMeasurement(
        version="2", requests=4, errors=1, latency_seconds=(0.01, 0.02, 0.03, float("nan")), quality_good=1, quality_total=2
    )
    measured = Measurement(canary=canary, stable=VersionMeasurement(version="1"))
    seen = point(status, measured, assess(SPEC.policy, measured), now=120.0)
    assert (seen.t_s, seen.phase, seen.weight, seen.requests, seen.errors) == (20.0, "progressing", 5, 4, 1)
    assert (seen.latency_ms_p99, seen.quality, seen.verdict) == (30.0, 0.5, "cannot tell")
