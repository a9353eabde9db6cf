"""The parts together, as a flow uses them: decide, apply, read back, measure, decide. The world is in memory and never waits."""

from dataclasses import replace

import pytest

from firstlight.verdict import Verdict
from rollout import analysis, controller
from rollout.backends.in_memory import InMemoryBackend
from rollout.errors import StaleChampion
from rollout.measurements import Measurement, VersionMeasurement
from rollout.spec import Phase, RolloutPolicy, RolloutSpec, RolloutStatus, Traffic
from rollout.store import Store
from rollout.timeline import Timeline, point
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_release, promote

HERE = (ENVIRONMENT, MODEL)
HEALTHY = VersionMeasurement(
    version="any",
    requests=400,
    latency_seconds=(0.010, 0.011) * 200,
    quality_good=380,
    quality_total=400,
    agreement_matches=400,
    agreement_total=400,
)


def drive(store: Store, spec: RolloutSpec, backend: InMemoryBackend, canary: VersionMeasurement, release_id: str) -> RolloutStatus:
    """Run a rollout to its end; every look takes ten seconds."""
    now = 0.0
    status, timeline = controller.begin(spec, now), Timeline(store, release_id)
    stable = replace(HEALTHY, version=spec.stable) if spec.stable else None
    while not status.phase.is_final:
        backend.apply(controller.desired_traffic(status))
        now += 10
        measured = Measurement(canary=canary, stable=stable) if status.phase is Phase.PROGRESSING else None
        ready = analysis.readiness(spec.canary, ready=backend.is_ready(spec.canary))
        assessment = analysis.assess(spec.policy, measured) if measured else ready
        timeline.append(point(status, measured, assessment, now=now))
        verdict = assessment.verdict
        if status.phase is Phase.PROMOTING:
            verdict = moved(store, spec, release_id)
        status = controller.advance(spec, status, verdict, now, reasons=assessment.reasons)
    backend.apply(controller.desired_traffic(status))
    return status


def moved(store: Store, spec: RolloutSpec, release_id: str) -> Verdict:
    try:
        store.promote(
            *HERE, version=spec.canary, digest=DIGESTS[spec.canary], release_id=release_id, expected_champion=spec.stable, by="flow"
        )
    except StaleChampion:
        return Verdict.FAIL
    return Verdict.PASS


@pytest.fixture
def spec() -> RolloutSpec:
    return RolloutSpec(canary="2", stable="1", policy=RolloutPolicy())


def test_a_healthy_canary_takes_every_step_and_becomes_champion(sqlite_store: Store, spec: RolloutSpec) -> None:
    promote(sqlite_store, "1", expected=None)
    release, backend = open_release(sqlite_store, "2"), InMemoryBackend()
    status = drive(sqlite_store, spec, backend, replace(HEALTHY, version="2"), release.id)
    assert status.phase is Phase.SUCCEEDED
    assert [traffic.canary_weight for traffic in backend.history] == [0, 5, 25, 50, 100, 0]
    assert backend.current() == Traffic(stable="2") == sqlite_store.desired(*HERE).traffic  # type: ignore[union-attr]
    assert [look.weight for look in Timeline(sqlite_store, release.id).points()] == [0, 5, 25, 50, 100, 100, 100, 100, 100], (
        "watched for 30 s"
    )


def test_the_first_release_of_a_model_is_judged_alone(sqlite_store: Store) -> None:
    first, backend = RolloutSpec(canary="1", stable=None, policy=RolloutPolicy()), InMemoryBackend()
    release = open_release(sqlite_store, "1")
    assert drive(sqlite_store, first, backend, replace(HEALTHY, version="1"), release.id).phase is Phase.SUCCEEDED
    assert backend.history == [Traffic(canary="1"), Traffic(canary="1", canary_weight=100), Traffic(stable="1")]
    assert sqlite_store.champion(*HERE).version == "1"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("canary", "phase", "said"),
    [
        pytest.param({"errors": 60}, Phase.FAILED, "60 of 400 requests failed", id="errors"),
        pytest.param({"latency_seconds": (0.05,) * 400}, Phase.FAILED, "x control", id="slow"),
        pytest.param({"quality_good": 300}, Phase.FAILED, "100 of 400 answers are wrong", id="worse answers"),
        pytest.param({"agreement_matches": 399}, Phase.FAILED, "399 of 400 served answers", id="other answers than evaluated"),
        pytest.param({"requests": 30}, Phase.UNDECIDED, "0 of 30 requests failed", id="too few requests"),
        pytest.param({"quality_total": 0, "quality_good": 0}, Phase.UNDECIDED, "nothing is known of quality", id="no truth"),
    ],
)
def test_any_other_canary_leaves_all_traffic_and_the_champion_where_they_were(
    sqlite_store: Store, spec: RolloutSpec, canary: dict[str, object], phase: Phase, said: str
) -> None:
    promote(sqlite_store, "1", expected=None)
    release, backend = open_release(sqlite_store, "2"), InMemoryBackend()
    status = drive(sqlite_store, spec, backend, replace(HEALTHY, version="2", **canary), release.id)  # type: ignore[arg-type]
    assert status.phase is phase
    assert said in " ".join(status.reasons)
    assert backend.current() == Traffic(stable="1")
    assert sqlite_store.champion(*HERE).version == "1"  # type: ignore[union-attr]
    assert max(traffic.canary_weight for traffic in backend.history) == 5


def test_a_canary_that_never_gets_ready_gets_no_request(sqlite_store: Store, spec: RolloutSpec) -> None:
    promote(sqlite_store, "1", expected=None)
    backend = InMemoryBackend(unready={"2"})
    status = drive(sqlite_store, spec, backend, replace(HEALTHY, version="2"), open_release(sqlite_store, "2").id)
    assert (status.phase, backend.history) == (Phase.UNDECIDED, [Traffic(stable="1", canary="2"), Traffic(stable="1")])


def test_a_canary_that_passed_is_turned_back_when_another_champion_got_in_between(sqlite_store: Store, spec: RolloutSpec) -> None:
    # Given a release of 2 decided against 1, and a rollback to another champion meanwhile
    promote(sqlite_store, "3", expected=None)
    promote(sqlite_store, "1", expected="3")
    release, backend = open_release(sqlite_store, "2"), InMemoryBackend()
    sqlite_store.rollback(*HERE, by="ada", reason="1 is sick")
    # When everything passes, then it is refused all the same
    status = drive(sqlite_store, spec, backend, replace(HEALTHY, version="2"), release.id)
    assert status.phase is Phase.FAILED
    assert sqlite_store.champion(*HERE).version == "3"  # type: ignore[union-attr]
