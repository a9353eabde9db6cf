"""The whole product: phases x verdicts x steps x deadline. Every combination has a stated outcome."""

from dataclasses import replace
from itertools import product

import pytest

from firstlight.verdict import Verdict
from rollout.controller import advance, begin, desired_traffic
from rollout.errors import RolloutError
from rollout.spec import Phase, RolloutPolicy, RolloutSpec, RolloutStatus, Traffic

POLICY = RolloutPolicy(step_deadline_seconds=60)
WITH_STABLE = RolloutSpec(canary="2", stable="1", policy=POLICY)
FIRST_RELEASE = RolloutSpec(canary="2", stable=None, policy=POLICY)
STARTED, EARLY, LATE = 1000.0, 1030.0, 1060.0

PASS, CANNOT_TELL, FAIL = Verdict.PASS, Verdict.CANNOT_TELL, Verdict.FAIL
STAY, NEXT, BACK_FAILED, BACK_UNDECIDED = "stay", "next", "back: failed", "back: undecided"

RULES = {
    # (verdict, the deadline has passed) -> outcome, in every phase that is not an end
    (PASS, False): NEXT,
    (PASS, True): NEXT,
    (CANNOT_TELL, False): STAY,
    (CANNOT_TELL, True): BACK_UNDECIDED,
    (FAIL, False): BACK_FAILED,
    (FAIL, True): BACK_FAILED,
}
RUNNING = (Phase.STARTING, Phase.PROGRESSING, Phase.PROMOTING)
ENDS = (Phase.SUCCEEDED, Phase.FAILED, Phase.UNDECIDED)
SPECS = pytest.mark.parametrize("spec", [pytest.param(WITH_STABLE, id="with stable"), pytest.param(FIRST_RELEASE, id="first release")])


def at(spec: RolloutSpec, phase: Phase, step: int) -> RolloutStatus:
    weight = {Phase.PROGRESSING: spec.steps[step], Phase.PROMOTING: 100}.get(phase, 0)
    return RolloutStatus(
        stable=spec.stable, canary=spec.canary, phase=phase, step=step, weight=weight, started=500.0, step_started=STARTED, reasons=("old",)
    )


def reachable(spec: RolloutSpec) -> list[RolloutStatus]:
    last = len(spec.steps) - 1
    progressing = [at(spec, Phase.PROGRESSING, step) for step in range(last + 1)]
    ends = [at(spec, phase, step) for phase, step in product(ENDS, range(last + 1))]
    return [at(spec, Phase.STARTING, 0), *progressing, at(spec, Phase.PROMOTING, last), *ends]


def expected(spec: RolloutSpec, status: RolloutStatus, verdict: Verdict, now: float) -> RolloutStatus:
    if status.phase in ENDS:
        return status
    outcome = RULES[verdict, now == LATE]
    if outcome == STAY:
        return replace(status, reasons=("why",))
    if outcome == BACK_FAILED:
        return replace(status, phase=Phase.FAILED, weight=0, step_started=now, reasons=("why",))
    if outcome == BACK_UNDECIDED:
        waited = f"not decided within 60 s while {status.phase.value} at {status.weight} %"
        return replace(status, phase=Phase.UNDECIDED, weight=0, step_started=now, reasons=(waited, "why"))
    following = {
        Phase.STARTING: (Phase.PROGRESSING, 0, spec.steps[0]),
        Phase.PROMOTING: (Phase.SUCCEEDED, status.step, 0),
        Phase.PROGRESSING: (Phase.PROGRESSING, status.step + 1, spec.steps[status.step + 1])
        if status.step + 1 < len(spec.steps)
        else (Phase.PROMOTING, status.step, 100),
    }
    phase, step, weight = following[status.phase]
    return replace(status, phase=phase, step=step, weight=weight, step_started=now, reasons=())


@SPECS
def test_every_combination_of_phase_step_verdict_and_deadline_has_its_stated_outcome(spec: RolloutSpec) -> None:
    seen = set()
    for status, verdict, now in product(reachable(spec), Verdict, (EARLY, LATE)):
        assert advance(spec, status, verdict, now, reasons=("why",)) == expected(spec, status, verdict, now), (status, verdict, now)
        seen.add((status.phase, status.step, verdict, now))
    assert {phase for phase, *_ in seen} == set(Phase)
    assert len(seen) == (1 + len(spec.steps) + 1 + 3 * len(spec.steps)) * 3 * 2


@SPECS
def test_only_a_rollout_that_passed_everything_ends_with_the_canary_as_stable(spec: RolloutSpec) -> None:
    for status in reachable(spec):
        traffic = desired_traffic(status)
        if status.phase is Phase.SUCCEEDED:
            assert traffic == Traffic(stable="2")
        elif status.phase in ENDS:
            assert traffic == Traffic(stable=spec.stable)
        else:
            assert traffic == Traffic(stable=spec.stable, canary="2", canary_weight=status.weight)


def test_passing_all_the_way_takes_every_weight_once() -> None:
    # Given a rollout whose every look passes
    status, weights, now = begin(WITH_STABLE, 0.0), [], 0.0
    # When it is advanced until it ends
    while not status.phase.is_final:
        weights.append(desired_traffic(status).canary_weight)
        now += 1
        status = advance(WITH_STABLE, status, PASS, now)
    # Then the canary was started without traffic, took every step, and is stable
    assert weights == [0, 5, 25, 50, 100, 100]
    assert (status.phase, desired_traffic(status)) == (Phase.SUCCEEDED, Traffic(stable="2"))
    assert status.started == 0.0


def test_the_first_release_takes_everything_in_one_step() -> None:
    status = advance(FIRST_RELEASE, begin(FIRST_RELEASE, 0.0), PASS, 1.0)
    assert desired_traffic(status) == Traffic(stable=None, canary="2", canary_weight=100)
    assert advance(FIRST_RELEASE, status, PASS, 2.0).phase is Phase.PROMOTING
    assert desired_traffic(advance(FIRST_RELEASE, status, FAIL, 2.0)) == Traffic()


def test_no_sequence_of_verdicts_without_a_full_set_of_passes_promotes() -> None:
    # 6 passes are needed; any run of 7 looks with fewer never succeeds, and one fail ends it for good
    for verdicts in product(Verdict, repeat=7):
        status = begin(WITH_STABLE, 0.0)
        for second, verdict in enumerate(verdicts):
            status = advance(WITH_STABLE, status, verdict, float(second))
        before_fail = verdicts[: verdicts.index(FAIL)] if FAIL in verdicts else verdicts
        assert (status.phase is Phase.SUCCEEDED) == (before_fail.count(PASS) >= 6)


def test_each_step_has_its_own_deadline() -> None:
    status = advance(WITH_STABLE, begin(WITH_STABLE, 0.0), PASS, 59.0)
    assert advance(WITH_STABLE, status, CANNOT_TELL, 118.0).phase is Phase.PROGRESSING
    assert advance(WITH_STABLE, status, CANNOT_TELL, 119.0).phase is Phase.UNDECIDED


def test_a_clock_that_jumps_back_ends_nothing() -> None:
    status = at(WITH_STABLE, Phase.PROGRESSING, 1)
    assert advance(WITH_STABLE, status, CANNOT_TELL, STARTED - 3600).phase is Phase.PROGRESSING


def test_the_status_of_another_rollout_is_refused() -> None:
    with pytest.raises(RolloutError, match="belongs to one rollout"):
        advance(WITH_STABLE, begin(FIRST_RELEASE, 0.0), PASS, 1.0)


def test_a_status_travels_as_json() -> None:
    assert begin(WITH_STABLE, 3.0).to_dict() == {
        "phase": "starting", "stable": "1", "canary": "2", "step": 0, "weight": 0, "started": 3.0, "step_started": 3.0, "reasons": [],
    }  # fmt: skip
