from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from firstlight.digest import canonical_json
from firstlight.verdict import Verdict
from rollout import analysis, judging
from rollout.evidence import Evidence, Pairs, Reference, Stream, step
from rollout.policy import Measure, RolloutPolicy

PASS, CANNOT_TELL, FAIL = Verdict.PASS, Verdict.CANNOT_TELL, Verdict.FAIL
POLICY = RolloutPolicy()
LIVE = Reference()
WHOLE = Reference(pairs=True, scales={"anomaly_score": 2.0}, flags=True, labels=("GALAXY", "QSO"), strata=("snr<2",))
ALONE = Reference(control=False)


def stream(requests: int, *, slow: float = 1.0, **changes: Any) -> Stream:
    """A healthy version: no errors, answers in 10..20 ms, 90 % good."""
    healthy = Stream.of(
        [slow * (0.010 + 0.010 * i / max(requests, 1)) for i in range(requests)], good=round(0.9 * requests), judged=requests
    )
    return replace(healthy, **changes)


def answers(pairs: int, *, moved: float = 0.0, spread: float = 0.5) -> dict[int, int]:
    """Differences of a score whose standard deviation is 2, evenly spread around ``moved`` standard deviations."""
    found: dict[int, int] = {}
    for share in (np.arange(pairs) + 0.5) / max(pairs, 1):
        at = step(2.0 * (moved + spread * 3.46 * (share - 0.5)))
        found[at] = found.get(at, 0) + 1
    return found


def compared(pairs: int, **changes: Any) -> Pairs:
    """Healthy pairs: nothing failed, one in fifty flags and classes moved each way."""
    move, stay = pairs // 50, pairs // 2
    healthy = Pairs(
        total=pairs,
        copied=pairs,
        control_total=pairs,
        answers={"anomaly_score": answers(pairs)},
        flags=(pairs // 20, move, move, pairs - pairs // 20 - 2 * move),
        classes={"GALAXY": (stay, stay, move, move), "QSO": (pairs - stay, pairs - stay, move, move)},
        class_total=pairs,
    )
    low = Pairs(total=pairs // 2, copied=pairs // 2, control_total=pairs // 2, answers={"anomaly_score": answers(pairs // 2)})
    return replace(healthy, **{"strata": {"snr<2": low}, **changes})


def evidence(requests: int = 400, *, control: Stream | None = None, pairs: Pairs | None = None, **changes: Any) -> Evidence:
    """A canary with so many requests beside a control with the same number."""
    return Evidence(
        canary=stream(requests, **changes),
        control=stream(requests) if control is None else control,
        pairs=pairs or Pairs(),
        agreement_matches=requests,
        agreement_total=requests,
        step_requests=requests,
    )


def judged(seen: Evidence, reference: Reference = LIVE, policy: RolloutPolicy = POLICY, leniency: float = 1.0) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in analysis.assess(policy, seen, reference=reference, leniency=leniency).checks}


def test_a_healthy_canary_passes_everything() -> None:
    assessment = analysis.assess(POLICY, evidence(1000, pairs=compared(1000)), reference=WHOLE)
    assert assessment.verdict is PASS, assessment.reasons
    assert assessment.reasons == ()
    names = "errors latency quality|answers: anomaly_score|answers: anomaly_score, snr<2|flags|classes: GALAXY|classes: QSO|agreement"
    assert [check.name for check in assessment.checks] == names.replace(" ", "|", 2).split("|")
    assert assessment.summary.startswith("9 of 9 checks passed")


def test_a_first_release_is_judged_by_absolute_limits() -> None:
    alone = replace(evidence(400), control=None)
    assert set(judged(alone, ALONE).values()) == {PASS}
    for changes, name in (({"errors": 60}, "errors"), ({"slow": 200.0}, "latency"), ({"quality_good": 260}, "quality")):
        worse = replace(alone, canary=stream(400, **changes))
        assert judged(worse, ALONE)[name] is FAIL


@pytest.mark.parametrize("requests", [0, 1, 5, 20])
def test_too_few_requests_are_no_success_and_no_failure(requests: int) -> None:
    verdicts = judged(evidence(requests, pairs=compared(requests)), WHOLE)
    assert verdicts.pop("agreement") is (PASS if requests >= 20 else CANNOT_TELL)
    assert set(verdicts.values()) == {CANNOT_TELL}


@pytest.mark.parametrize("reference", [LIVE, ALONE, WHOLE], ids=["live", "alone", "whole"])
def test_every_measurement_there_should_be_is_asked_for_when_nothing_came(reference: Reference) -> None:
    assessment = analysis.assess(POLICY, Evidence(), reference=reference)
    assert {check.verdict for check in assessment.checks} == {CANNOT_TELL}
    assert len(assessment.checks) == (9 if reference is WHOLE else 4)


@pytest.mark.parametrize(
    ("canary", "control", "verdict"),
    [
        pytest.param(0, 0, PASS, id="none fails"),
        pytest.param(10, 10, PASS, id="half a percent each"),
        pytest.param(20, 10, CANNOT_TELL, id="twice as many may be luck"),
        pytest.param(40, 10, FAIL, id="four times as many"),
        pytest.param(2, 30, PASS, id="better"),
    ],
)
def test_errors_are_compared_with_the_controls(canary: int, control: int, verdict: Verdict) -> None:
    seen = evidence(2000, errors=canary, control=stream(2000, errors=control))
    assert judged(seen)["errors"] is verdict


def test_a_few_requests_are_enough_for_what_is_obvious() -> None:
    assert judged(evidence(10, errors=10, control=stream(60)))["errors"] is FAIL


def test_copies_count_as_the_canarys_requests_and_neither_hides_behind_the_other() -> None:
    quiet = replace(evidence(60), canary=stream(60), control=stream(60))
    pairs = compared(1000)
    assert judged(replace(quiet, stable=stream(1000), pairs=pairs), WHOLE)["errors"] is PASS
    assert judged(quiet)["errors"] is CANNOT_TELL
    no_numbers = replace(pairs, failed=30, copied_failed=30)
    assert judged(replace(quiet, pairs=no_numbers), WHOLE)["errors"] is FAIL
    only_live = replace(quiet, canary=stream(60, errors=12), stable=stream(3000), pairs=compared(3000))
    assert judged(only_live, WHOLE)["errors"] is FAIL


def test_a_step_needs_requests_of_its_own_to_pass_and_none_to_fail() -> None:
    healthy = replace(evidence(1000), step_requests=19)
    check = next(one for one in analysis.assess(POLICY, healthy, reference=LIVE).checks if one.name == "errors")
    assert (check.verdict, check.requests_needed) == (CANNOT_TELL, 1001)
    assert "19 of 20 requests that a step needs" in check.reason
    assert judged(replace(healthy, canary=stream(1000, errors=90)))["errors"] is FAIL


@pytest.mark.parametrize(("slow", "verdict"), [(0.5, PASS), (1.5, PASS), (2.0, CANNOT_TELL), (3.0, FAIL)])
def test_latency_is_judged_as_a_ratio(slow: float, verdict: Verdict) -> None:
    assert judged(evidence(400, slow=slow))["latency"] is verdict


@pytest.mark.parametrize(("good", "verdict"), [(380, PASS), (360, PASS), (325, CANNOT_TELL), (260, FAIL)])
def test_quality_is_judged_against_the_controls(good: int, verdict: Verdict) -> None:
    assert judged(evidence(400, quality_good=good))["quality"] is verdict


@pytest.mark.parametrize(("moved", "verdict"), [(0.0, PASS), (0.12, CANNOT_TELL), (0.3, FAIL), (-0.3, FAIL)])
def test_answers_to_the_same_requests_may_not_move(moved: float, verdict: Verdict) -> None:
    pairs = compared(150, answers={"anomaly_score": answers(150, moved=moved)})
    assert judged(evidence(150, pairs=pairs), WHOLE)["answers: anomaly_score"] is verdict


def test_a_stratum_is_judged_by_itself() -> None:
    low = Pairs(total=150, copied=150, control_total=150, answers={"anomaly_score": answers(150, moved=0.5)})
    verdicts = judged(evidence(1000, pairs=compared(1000, strata={"snr<2": low})), WHOLE)
    assert (verdicts["answers: anomaly_score"], verdicts["answers: anomaly_score, snr<2"]) == (PASS, FAIL)


def test_flags_and_classes_may_not_move() -> None:
    flags = compared(600, flags=(20, 70, 5, 505))
    assert judged(evidence(600, pairs=flags), WHOLE)["flags"] is FAIL
    classes = compared(600, classes={"GALAXY": (300, 240, 5, 65), "QSO": (300, 360, 65, 5)})
    verdicts = judged(evidence(600, pairs=classes), WHOLE)
    assert (verdicts["classes: GALAXY"], verdicts["classes: QSO"]) == (FAIL, FAIL)


def test_the_next_step_asks_for_less_than_the_promotion_but_what_is_worse_fails_at_both() -> None:
    healthy, worse = evidence(200), evidence(2000, errors=60, control=stream(2000, errors=10))
    assert [judged(healthy, leniency=factor)["errors"] for factor in (1.0, 4.0)] == [CANNOT_TELL, PASS]
    assert [judged(worse, leniency=factor)["errors"] for factor in (1.0, 20.0)] == [FAIL, FAIL]


def test_before_a_small_step_more_of_the_canarys_answers_may_be_slow_because_callers_meet_fewer_of_them() -> None:
    # Given 40 healthy answers: a p95 cannot be bounded yet, but that no fifth of them is slow is shown
    few = evidence(40, control=stream(200))
    assert [judged(few, leniency=factor)["latency"] for factor in (1.0, 2.0, 4.0)] == [CANNOT_TELL, CANNOT_TELL, PASS]
    # and a canary of which a quarter is slow is let to no step of a quarter, however many answers there are, and found in the end
    fast, slow = stream(300), stream(100, slow=10.0)
    worse = evidence(400, latency=fast.plus(slow).latency, control=stream(400))
    assert [judged(worse, leniency=factor)["latency"] for factor in (1.0, 4.0)] == [FAIL, FAIL]
    mixed = evidence(80, latency=stream(60).plus(stream(20, slow=10.0)).latency, control=stream(400))
    assert PASS not in [judged(mixed, leniency=factor)["latency"] for factor in (1.0, 2.0, 4.0)]


def test_one_answer_that_differs_from_the_evaluated_one_fails_at_any_number() -> None:
    assert judged(replace(evidence(1), agreement_matches=0))["agreement"] is FAIL
    assert judged(replace(evidence(200), agreement_matches=199))["agreement"] is FAIL
    assert judged(replace(evidence(200), agreement_matches=199), policy=RolloutPolicy(disagreement_limit=1))["agreement"] is PASS


@pytest.mark.parametrize("reference", [LIVE, ALONE, WHOLE], ids=["live", "alone", "whole"])
def test_the_budget_is_split_over_what_there_is_and_spent_whole(reference: Reference) -> None:
    split = judging.levels(POLICY, reference)
    assert sum(split.healthy_turned_back.values()) == pytest.approx(POLICY.budget.healthy_turned_back)
    asked = judging.questions(POLICY, Evidence(), reference)
    for measure, level in split.healthy_turned_back.items():
        spent = [(2 if one.is_two_sided else 1) * one.alpha_fail for one in asked if one.measure is measure]
        assert sum(spent) == pytest.approx(level), measure
    assert {one.alpha_pass for one in asked} == {POLICY.budget.worse_promoted}
    document = analysis.assess(POLICY, Evidence(), reference=reference).to_dict()
    assert document["budget"]["shares"] == {measure.value: level for measure, level in split.healthy_turned_back.items()}


def test_evidence_does_not_change_the_split() -> None:
    before, after = (judging.questions(POLICY, seen, WHOLE) for seen in (Evidence(), evidence(500, pairs=compared(500))))
    assert [(one.name, one.alpha_pass, one.alpha_fail) for one in before] == [(one.name, one.alpha_pass, one.alpha_fail) for one in after]


def test_intervals_agree_with_verdicts() -> None:
    for errors in (0, 6, 20, 60):
        seen = evidence(2000, errors=errors, control=stream(2000, errors=6))
        check = analysis.assess(POLICY, seen, reference=LIVE).checks[0]
        assert check.low is not None
        assert check.high is not None
        assert check.low < (errors - 6) / 2000 < check.high
        assert (check.verdict is PASS) == (check.high < POLICY.error_margin)
        assert (check.verdict is FAIL) == (check.low > 0 and check.high >= POLICY.error_margin)


def test_the_worst_check_decides_and_says_why() -> None:
    worse = evidence(400, errors=40, quality_total=0, quality_good=0)
    assessment = analysis.assess(POLICY, worse, reference=LIVE)
    assert assessment.verdict is FAIL
    assert assessment.summary.startswith("40 of 400 requests failed, the control's 0 of 400 (+")
    assert len(assessment.reasons) == 2


def test_it_says_how_long() -> None:
    seen = evidence(1000, pairs=compared(200, copied=200))
    slow = analysis.assess(POLICY, replace(seen, canary=stream(200), control=stream(200), step_requests=200), reference=WHOLE)
    assert slow.verdict is CANNOT_TELL
    check = max((one for one in slow.checks if one.verdict is CANNOT_TELL), key=lambda one: (one.requests_needed or 0) - one.requests)
    hours = ((check.requests_needed or 0) - check.requests) / 20
    told = slow.outlook(20 / 3600)
    assert told.startswith(
        f"healthy so far, {check.requests} of about {check.requests_needed} requests needed ({check.name}); at this rate"
    )
    assert f"{int(hours)} h" in told
    assert slow.outlook(0.0).endswith("nothing is arriving now")


def test_what_it_foresees_is_about_what_it_takes() -> None:
    check = analysis.assess(POLICY, evidence(100), reference=LIVE).checks[0]
    needed = check.requests_needed
    assert needed is not None
    assert judged(evidence(needed))["errors"] is PASS
    assert judged(evidence(needed // 2))["errors"] is CANNOT_TELL


def test_nobody_can_say_how_long_a_canary_near_the_margin_takes() -> None:
    assessment = analysis.assess(POLICY, evidence(400, slow=2.0), reference=LIVE)
    assert assessment.outlook(1.0).startswith("not clear yet: p95 of 400 answers")


def test_no_check_at_all_is_no_success() -> None:
    assert analysis.Assessment(checks=()).verdict is CANNOT_TELL
    assert analysis.Assessment(checks=()).summary == "nothing was measured"


@pytest.mark.parametrize("requests", [0, 5, 200])
def test_an_assessment_travels_as_json_whatever_it_holds(requests: int) -> None:
    document = analysis.assess(POLICY, evidence(requests, pairs=compared(requests)), reference=WHOLE).to_dict()
    assert list(document)[:3] == ["verdict", "summary", "reasons"]
    canonical_json(document)  # refuses NaN and infinity


def test_every_measurement_of_the_policy_has_a_question() -> None:
    assert {question.measure for question in judging.questions(POLICY, Evidence(), WHOLE)} == set(Measure)


def test_readiness_is_pass_or_not_yet() -> None:
    assert analysis.readiness("2", ready=True).verdict is PASS
    not_yet = analysis.readiness("2", ready=False, problems=["golden vector 3 differs"])
    assert (not_yet.verdict, not_yet.summary) == (CANNOT_TELL, "version 2 is not ready yet; golden vector 3 differs")
