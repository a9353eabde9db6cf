"""The whole product: phases x steps x verdicts x events x ready flags x deadline. Every combination has a stated outcome."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import pytest

from firstlight.verdict import Verdict
from rollout.controller import advance, begin, desired_traffic, foremost
from rollout.errors import RolloutError
from rollout.policy import RolloutPolicy
from rollout.spec import Event, Phase, RolloutSpec, RolloutStatus, Traffic

POLICY = RolloutPolicy(step_deadline_seconds=60, watch_seconds=30)
ASKING = POLICY.model_copy(update={"approval": "before-promotion"})
UNWATCHED = POLICY.model_copy(update={"watch_seconds": 0.0})
WITH_STABLE = RolloutSpec(canary="2", stable="1", policy=POLICY)
FIRST_RELEASE = RolloutSpec(canary="2", stable=None, policy=POLICY)
SPECS = {
    "with stable": WITH_STABLE,
    "first release": FIRST_RELEASE,
    "asks a person": replace(WITH_STABLE, policy=ASKING),
    "first release, asks a person": replace(FIRST_RELEASE, policy=ASKING),
    "not watched": replace(WITH_STABLE, policy=UNWATCHED),
}
STARTED, EARLY, LATE = 1000.0, 1020.0, 1060.0

PASS, CANNOT_TELL, FAIL = Verdict.PASS, Verdict.CANNOT_TELL, Verdict.FAIL
JUDGED = (Phase.STARTING, Phase.PROGRESSING, Phase.PAUSED, Phase.APPROVING)
ENDS = tuple(phase for phase in Phase if phase.is_final)


class Case(NamedTuple):
    """One point of the product."""

    spec: RolloutSpec
    status: RolloutStatus
    verdict: Verdict
    event: Event
    stable_ready: bool
    canary_ready: bool
    now: float

    def after(self) -> RolloutStatus:
        return advance(
            self.spec, self.status, self.verdict, self.now, event=self.event, reasons=("why",),
            stable_ready=self.stable_ready, canary_ready=self.canary_ready,
        )  # fmt: skip

    @property
    def way_back_answers(self) -> bool:
        return self.spec.stable is None or (self.stable_ready and self.event is not Event.STABLE_SICK)


# What is stated: rows from above, the first that fits. (phases, verdict, event, canary ready, late) -> outcome; None is any.
ROWS = [
    (ENDS, None, None, None, None, "unchanged"),
    (JUDGED, FAIL, None, None, None, "back: failed"),
    (JUDGED, None, Event.ABORT, None, None, "back: aborted"),
    (JUDGED, None, Event.NEW_VERSION, None, None, "back: superseded"),
    ((Phase.PROGRESSING, Phase.APPROVING), None, Event.LEASE_LAPSED, None, None, "start again"),
    ((Phase.PAUSED,), None, Event.LEASE_LAPSED, None, None, "start again when resumed"),
    ((Phase.STARTING, Phase.PROGRESSING, Phase.APPROVING), None, Event.PAUSE, None, None, "pause"),
    ((Phase.PAUSED,), None, Event.RESUME, None, None, "resume"),
    ((Phase.PAUSED,), None, None, None, None, "stay"),
    ((Phase.STARTING, Phase.PROGRESSING), PASS, None, True, False, "next, when stable answers"),
    ((Phase.STARTING, Phase.PROGRESSING), PASS, None, True, True, "next, when stable answers, else back: undecided"),
    ((Phase.APPROVING,), PASS, Event.APPROVE, True, None, "next, when stable answers"),
    ((Phase.STARTING, Phase.PROGRESSING), None, None, None, True, "back: undecided"),
    (JUDGED, None, None, None, None, "stay"),
    ((Phase.PROMOTING,), PASS, None, None, None, "next"),
    ((Phase.PROMOTING,), FAIL, None, None, None, "failed"),
    ((Phase.PROMOTING,), None, Event.LEASE_LAPSED, None, None, "start again"),
    ((Phase.PROMOTING,), None, None, False, None, "back: failed"),
    ((Phase.PROMOTING,), None, Event.ABORT, None, None, "back: aborted"),
    ((Phase.PROMOTING,), None, None, None, True, "back: undecided"),
    ((Phase.PROMOTING,), None, None, None, False, "stay"),
    ((Phase.WATCHING,), FAIL, None, None, None, "back: failed"),
    ((Phase.WATCHING,), None, None, False, None, "back: failed"),
    ((Phase.WATCHING,), None, Event.ABORT, None, None, "back: aborted"),
    ((Phase.WATCHING,), None, Event.PAUSE, None, None, "stay"),
    ((Phase.WATCHING,), None, None, None, True, "next"),
    ((Phase.WATCHING,), None, None, None, False, "stay"),
]


def stated(case: Case) -> str:
    """Return the outcome by the rows, with what depends on a way back that answers resolved."""
    actual = (case.verdict, case.event, case.canary_ready, case.now == LATE)
    outcome = next(
        row[-1]
        for row in ROWS
        if case.status.phase in row[0] and all(want in (None, found) for want, found in zip(row[1:-1], actual, strict=True))
    )
    if "when stable answers" in outcome:
        outcome = "next" if case.way_back_answers else (outcome.partition("else ")[2] or "stay")
    carries = case.status.phase is Phase.WATCHING or (case.status.weight > 0 and case.canary_ready)
    if outcome.startswith("back") and carries and not case.way_back_answers:
        return "held"
    return outcome.removeprefix("back: ")


def following(case: Case) -> tuple[Phase, int, int]:
    """Return (phase, step, weight) after a step forward."""
    spec, status = case.spec, case.status
    step = status.step + (status.phase is Phase.PROGRESSING)
    if status.phase is Phase.PROMOTING:
        return (Phase.WATCHING, step, 100) if spec.stable and spec.policy.watch_seconds else (Phase.SUCCEEDED, step, 0)
    if status.phase is Phase.WATCHING:
        return Phase.SUCCEEDED, step, 0
    if status.phase in (Phase.STARTING, Phase.PROGRESSING) and step < len(spec.steps):
        return Phase.PROGRESSING, step, spec.steps[step]
    asks = status.phase is Phase.PROGRESSING and spec.policy.approval == "before-promotion" and case.event is not Event.APPROVE
    return Phase.APPROVING if asks else Phase.PROMOTING, min(step, len(spec.steps) - 1), 100


def expected(case: Case) -> tuple[Phase, Phase | None, int, int, float]:
    """Return (phase, paused from, step, weight, when it began) of the outcome that is stated."""
    status, outcome = case.status, stated(case)
    same = (status.phase, status.paused_from, status.step, status.weight, status.step_started)
    changed = {
        "unchanged": same,
        "stay": same,
        "held": same,
        "start again": (Phase.STARTING, None, status.step, 0, case.now),
        "start again when resumed": (Phase.PAUSED, Phase.STARTING, status.step, 0, status.step_started),
        "pause": (Phase.PAUSED, status.phase, status.step, status.weight, case.now),
        "resume": (status.paused_from or Phase.PAUSED, None, status.step, status.weight, case.now - status.spent_seconds),
    }
    if outcome in changed:
        return changed[outcome]
    if outcome == "next":
        phase, step, weight = following(case)
        return phase, None, step, weight, case.now
    return Phase(outcome), None, status.step, 0, case.now


def reachable(spec: RolloutSpec) -> Iterator[RolloutStatus]:
    """Every status a rollout can have."""
    last = len(spec.steps) - 1
    base = RolloutStatus(
        stable=spec.stable,
        canary=spec.canary,
        phase=Phase.STARTING,
        step=0,
        weight=0,
        started=500.0,
        step_started=STARTED,
        reasons=("old",),
    )
    for step in range(last + 1):
        steps = [replace(base, step=step), replace(base, step=step, phase=Phase.PROGRESSING, weight=spec.steps[step])]
        if step == last and spec.policy.approval != "none":
            steps.append(replace(base, step=step, phase=Phase.APPROVING, weight=100))
        yield from steps
        yield from (replace(one, phase=Phase.PAUSED, paused_from=one.phase, spent_seconds=7.0) for one in steps)
        yield from (replace(base, step=step, phase=phase) for phase in ENDS)
    yield replace(base, step=last, phase=Phase.PROMOTING, weight=100)
    if spec.stable is not None and spec.policy.watch_seconds:
        yield replace(base, step=last, phase=Phase.WATCHING, weight=100)


def cases(spec: RolloutSpec) -> Iterator[Case]:
    for point in product(reachable(spec), Verdict, Event, (True, False), (True, False), (EARLY, LATE)):
        yield Case(spec, *point)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_pair_has_its_stated_outcome(spec: RolloutSpec) -> None:
    seen = set()
    for case in cases(spec):
        after = case.after()
        found = (after.phase, after.paused_from, after.step, after.weight, after.step_started)
        assert found == expected(case), (case, stated(case))
        seen.add(case.status.phase)
    assert len(seen) >= len(Phase) - 2, "all phases but those that this policy or a first release does not have"


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_holds_in_every_pair(spec: RolloutSpec) -> None:
    for case in cases(spec):
        before, after = case.status, case.after()
        traffic, was = desired_traffic(after), desired_traffic(before)
        if before.phase.is_final:
            assert after == before
            continue
        if traffic.canary_weight > was.canary_weight:
            assert case.verdict is PASS, "only a pass gives the canary more"
            assert case.canary_ready, "never weight on a version that is not ready"
            assert case.event not in (Event.PAUSE, Event.ABORT, Event.NEW_VERSION)
        if after.phase in (Phase.APPROVING, Phase.PROMOTING, Phase.WATCHING) and after.phase is not before.phase:
            assert case.verdict is PASS or (before.phase, case.event) == (Phase.PAUSED, Event.RESUME)
        if case.verdict is FAIL and case.way_back_answers:
            assert after.phase is Phase.FAILED, "the way back is armed in every phase"
        if before.weight and case.canary_ready and not case.way_back_answers and case.event is not Event.LEASE_LAPSED:
            answering = traffic.canary_weight or traffic.stable == spec.canary
            assert answering or (before.phase, case.verdict) == (Phase.PROMOTING, FAIL), "never traffic to nothing"
        if traffic.stable == spec.canary:
            assert before.phase in (Phase.PROMOTING, Phase.WATCHING), "only the store's word makes it stable"
        if after.phase.is_final and after.phase is not Phase.SUCCEEDED:
            assert traffic == Traffic(stable=spec.stable)
            assert after.reasons, "an end says why"


def test_passing_all_the_way_takes_every_weight_once_and_is_watched() -> None:
    # Given a rollout whose every look passes
    status, seen, now = begin(WITH_STABLE, 0.0), [], 0.0
    # When it is advanced until it ends
    while not status.phase.is_final:
        seen.append((status.phase.value, desired_traffic(status).canary_weight))
        now += 10
        status = advance(WITH_STABLE, status, PASS, now)
    # Then the canary was started without traffic, took every step, was watched for its time, and is stable
    steps = [("progressing", weight) for weight in (5, 25, 50, 100)]
    assert seen == [("starting", 0), *steps, ("promoting", 100), *[("watching", 0)] * 3]
    assert (status.phase, desired_traffic(status)) == (Phase.SUCCEEDED, Traffic(stable="2"))
    assert status.started == 0.0


def test_the_first_release_takes_everything_in_one_step() -> None:
    status = advance(FIRST_RELEASE, begin(FIRST_RELEASE, 0.0), PASS, 1.0)
    assert desired_traffic(status, baseline=True) == Traffic(stable=None, canary="2", canary_weight=100)
    assert advance(FIRST_RELEASE, status, PASS, 2.0).phase is Phase.PROMOTING
    assert desired_traffic(advance(FIRST_RELEASE, status, FAIL, 2.0)) == Traffic()


def test_a_baseline_stands_beside_the_canary_until_it_is_champion_or_gone() -> None:
    status = advance(WITH_STABLE, begin(WITH_STABLE, 0.0), PASS, 1.0)
    assert desired_traffic(status, baseline=True) == Traffic(stable="1", canary="2", canary_weight=5, baseline=True)
    assert desired_traffic(replace(status, phase=Phase.WATCHING), baseline=True) == Traffic(stable="2")
    assert desired_traffic(replace(status, phase=Phase.FAILED), baseline=True) == Traffic(stable="1")


def test_no_sequence_of_verdicts_without_a_full_set_of_passes_promotes() -> None:
    # 6 passes are needed; any run of 7 looks with fewer never moves the champion, and one fail ends it for good
    for verdicts in product(Verdict, repeat=7):
        status = begin(WITH_STABLE, 0.0)
        for second, verdict in enumerate(verdicts):
            status = advance(WITH_STABLE, status, verdict, float(second))
        before_fail = verdicts[: verdicts.index(FAIL)] if FAIL in verdicts else verdicts
        moved = before_fail.count(PASS) >= 6
        assert (status.phase is Phase.WATCHING) == (moved and FAIL not in verdicts)
        assert (status.phase is Phase.FAILED) == (FAIL in verdicts)


def test_each_step_has_its_own_deadline_and_a_pause_stops_it() -> None:
    status = advance(WITH_STABLE, begin(WITH_STABLE, 0.0), PASS, 59.0)
    assert advance(WITH_STABLE, status, CANNOT_TELL, 118.0).phase is Phase.PROGRESSING
    assert advance(WITH_STABLE, status, CANNOT_TELL, 119.0).phase is Phase.UNDECIDED
    # Given a pause after 20 of the 60 seconds, for a day
    paused = advance(WITH_STABLE, status, CANNOT_TELL, 79.0, event=Event.PAUSE)
    assert desired_traffic(paused).canary_weight == 5
    resumed = advance(WITH_STABLE, paused, CANNOT_TELL, 86479.0, event=Event.RESUME)
    assert advance(WITH_STABLE, resumed, CANNOT_TELL, 86518.0).phase is Phase.PROGRESSING
    assert advance(WITH_STABLE, resumed, CANNOT_TELL, 86519.0).phase is Phase.UNDECIDED


def test_a_person_may_take_their_time_and_the_way_back_stays_armed() -> None:
    spec = SPECS["asks a person"]
    status = begin(spec, 0.0)
    for second in range(5):
        status = advance(spec, status, PASS, float(second))
    assert (status.phase, desired_traffic(status).canary_weight) == (Phase.APPROVING, 100)
    week = 7 * 86400.0
    assert advance(spec, status, PASS, week).phase is Phase.APPROVING
    assert advance(spec, status, CANNOT_TELL, week, event=Event.APPROVE).phase is Phase.APPROVING
    assert advance(spec, status, FAIL, week, event=Event.APPROVE).phase is Phase.FAILED
    assert advance(spec, status, PASS, week, event=Event.APPROVE).phase is Phase.PROMOTING


def test_after_a_lapsed_lease_the_canary_starts_without_traffic_and_goes_on_at_its_step() -> None:
    status = begin(WITH_STABLE, 0.0)
    for second in range(3):
        status = advance(WITH_STABLE, status, PASS, float(second))
    lapsed = advance(WITH_STABLE, status, PASS, 100.0, event=Event.LEASE_LAPSED)
    assert desired_traffic(lapsed) == Traffic(stable="1", canary="2", canary_weight=0)
    assert desired_traffic(advance(WITH_STABLE, lapsed, PASS, 101.0)).canary_weight == 50


def test_a_way_back_that_does_not_answer_is_waited_for() -> None:
    status = advance(WITH_STABLE, begin(WITH_STABLE, 0.0), PASS, 1.0)
    held = advance(WITH_STABLE, status, FAIL, 2.0, reasons=("30 of 100 failed",), stable_ready=False)
    assert (held.phase, desired_traffic(held)) == (Phase.PROGRESSING, desired_traffic(status))
    assert held.reasons == ("going back (failed) waits until version 1 is ready: nothing would answer", "30 of 100 failed")
    assert advance(WITH_STABLE, held, FAIL, 3.0).phase is Phase.FAILED


@pytest.mark.parametrize("hour", [-3600.0, 3600.0])
def test_a_clock_that_jumps_an_hour_prolongs_a_step_by_at_most_one_deadline(hour: float) -> None:
    status = advance(WITH_STABLE, begin(WITH_STABLE, STARTED), PASS, STARTED)
    jumped = advance(WITH_STABLE, status, CANNOT_TELL, STARTED + 10 + hour)
    if hour > 0:
        assert jumped.phase is Phase.UNDECIDED
    else:
        assert jumped.phase is Phase.PROGRESSING
        assert advance(WITH_STABLE, jumped, CANNOT_TELL, STARTED + 70 + hour).phase is Phase.UNDECIDED


def test_of_several_events_the_one_that_ends_most_counts() -> None:
    assert foremost([]) is Event.NONE
    assert foremost([Event.APPROVE, Event.STABLE_SICK, Event.PAUSE]) is Event.STABLE_SICK
    for event in Event:
        assert foremost([event]) is event
        assert foremost([event, Event.ABORT]) is Event.ABORT


def test_the_status_of_another_rollout_is_refused() -> None:
    with pytest.raises(RolloutError, match="belongs to one rollout"):
        advance(WITH_STABLE, begin(FIRST_RELEASE, 0.0), PASS, 1.0)
