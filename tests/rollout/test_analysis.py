from dataclasses import replace
from typing import Any

import pytest

from firstlight.digest import canonical_json
from firstlight.verdict import Verdict
from rollout import analysis
from rollout.measurements import Measurement, VersionMeasurement, from_gateway
from rollout.spec import RolloutPolicy

PASS, CANNOT_TELL, FAIL = Verdict.PASS, Verdict.CANNOT_TELL, Verdict.FAIL
POLICY = RolloutPolicy()
NAN, INF = float("nan"), float("inf")


def version(name: str = "2", *, requests: int = 200, slow: float = 1.0, **changes: Any) -> VersionMeasurement:
    """A healthy version: no errors, answers in 10..20 ms, 90 % good, all as evaluated."""
    healthy = VersionMeasurement(
        version=name,
        requests=requests,
        latency_seconds=tuple(slow * (0.010 + 0.010 * i / max(requests, 1)) for i in range(requests)),
        quality_good=round(0.9 * requests),
        quality_total=requests,
        agreement_matches=requests,
        agreement_total=requests,
    )
    return replace(healthy, **changes)


STABLE = version("1", requests=2000)


def judged(canary: VersionMeasurement, stable: VersionMeasurement | None = STABLE, policy: RolloutPolicy = POLICY) -> dict[str, Verdict]:
    assessment = analysis.assess(policy, Measurement(canary=canary, stable=stable))
    return {check.name: check.verdict for check in assessment.checks}


@pytest.mark.parametrize("stable", [pytest.param(STABLE, id="beside stable"), pytest.param(None, id="first release")])
def test_a_healthy_canary_passes_everything(stable: VersionMeasurement | None) -> None:
    assessment = analysis.assess(POLICY, Measurement(canary=version(), stable=stable))
    assert assessment.verdict is PASS, assessment.reasons
    assert assessment.reasons == ()
    assert assessment.summary.startswith("4 of 4 checks passed")


def test_a_healthy_canary_passes_from_the_first_request_on_that_could_show_it() -> None:
    policy = RolloutPolicy(requests_per_step=1)
    assert judged(version(requests=71), policy=policy)["errors"] is CANNOT_TELL
    assert judged(version(requests=72), policy=policy)["errors"] is PASS
    assert judged(version(requests=71), policy=policy)["latency"] is CANNOT_TELL
    assert judged(version(requests=72), policy=policy)["latency"] is PASS


@pytest.mark.parametrize("requests", [0, 1, 20, 71])
def test_too_few_requests_are_no_success(requests: int) -> None:
    verdicts = judged(version(requests=requests))
    assert {verdicts["errors"], verdicts["latency"], verdicts["quality"]} == {CANNOT_TELL}
    assert verdicts["agreement"] is (PASS if requests >= 20 else CANNOT_TELL)


def test_a_stable_version_that_was_not_measured_is_no_success() -> None:
    verdicts = judged(version(), VersionMeasurement(version="1"))
    assert {verdicts["errors"], verdicts["latency"], verdicts["quality"]} == {CANNOT_TELL}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        pytest.param({"errors": NAN}, "errors", id="errors NaN"),
        pytest.param({"errors": None}, "errors", id="errors missing"),
        pytest.param({"errors": 201}, "errors", id="more errors than requests"),
        pytest.param({"requests": -1}, "errors", id="negative requests"),
        pytest.param({"requests": NAN}, "latency", id="requests NaN"),
        pytest.param({"latency_seconds": ()}, "latency", id="no latency"),
        pytest.param({"latency_seconds": (0.01,) * 199 + (NAN,)}, "latency", id="one latency NaN"),
        pytest.param({"latency_seconds": (0.01,) * 199 + (-1.0,)}, "latency", id="one latency negative"),
        pytest.param({"latency_seconds": (0.01,) * 199 + (INF,)}, "latency", id="one latency infinite"),
        pytest.param({"latency_seconds": (0.01,) * 199 + (None,)}, "latency", id="one latency missing"),
        pytest.param({"latency_seconds": ("0.01",) * 200}, "latency", id="latency text"),
        pytest.param({"quality_good": NAN}, "quality", id="quality NaN"),
        pytest.param({"quality_total": 0, "quality_good": 0}, "quality", id="quality missing"),
        pytest.param({"quality_good": 300}, "quality", id="more good than judged"),
        pytest.param({"agreement_matches": NAN}, "agreement", id="agreement NaN"),
        pytest.param({"agreement_total": 0, "agreement_matches": 0}, "agreement", id="agreement missing"),
        pytest.param({"agreement_matches": 300}, "agreement", id="more matches than compared"),
    ],
)
@pytest.mark.parametrize("of", ["canary", "stable", "canary alone"])
def test_what_is_missing_or_no_number_is_no_success_and_no_failure(changes: dict[str, Any], name: str, of: str) -> None:
    canary, stable = version(), STABLE
    if of == "stable":
        stable = replace(STABLE, **{key: 3000 if value in (201, 300) else value for key, value in changes.items()})
    else:
        canary = replace(canary, **changes)
    asked_of_the_canary_only = of == "stable" and name == "agreement"
    assert judged(canary, None if of == "canary alone" else stable)[name] is (PASS if asked_of_the_canary_only else CANNOT_TELL)


@pytest.mark.parametrize(
    ("errors", "requests", "verdict"),
    [
        pytest.param(0, 72, PASS, id="none of 72 shows less than 5 %"),
        pytest.param(1, 72, CANNOT_TELL, id="one of 72 could be 7.5 %"),
        pytest.param(1, 110, PASS, id="one of 110 shows less than 5 %"),
        pytest.param(3, 4, FAIL, id="three of four is enough to see"),
        pytest.param(1, 1, CANNOT_TELL, id="one of one could be bad luck"),
        pytest.param(200, 200, FAIL, id="all"),
    ],
)
def test_errors_are_judged_by_their_exact_interval(errors: int, requests: int, verdict: Verdict) -> None:
    assert judged(version(requests=requests, errors=errors), stable=None)["errors"] is verdict
    assert judged(version(requests=requests, errors=errors), stable=replace(STABLE, errors=40))["errors"] is verdict


def test_a_canary_within_the_limit_that_is_shown_to_be_worse_than_stable_fails() -> None:
    # Given a canary with 3 % errors: within the limit of 5 %
    canary = version(requests=2000, errors=60)
    assert judged(canary, stable=None)["errors"] is PASS
    # When stable has none, then it is worse; with a margin of 3 points it is allowed to be
    assert judged(canary, stable=STABLE)["errors"] is FAIL
    assert judged(canary, stable=STABLE, policy=RolloutPolicy(error_margin=0.03))["errors"] is PASS


@pytest.mark.parametrize(
    ("slow", "verdict"),
    [
        pytest.param(0.5, PASS, id="faster"),
        pytest.param(1.5, PASS, id="1.5 x"),
        pytest.param(2.0, CANNOT_TELL, id="at the limit"),
        pytest.param(3.0, FAIL, id="3 x"),
    ],
)
def test_latency_is_judged_as_a_ratio_to_stable(slow: float, verdict: Verdict) -> None:
    assert judged(version(requests=400, slow=slow))["latency"] is verdict


@pytest.mark.parametrize(("slow", "verdict"), [(1.0, PASS), (102.0, CANNOT_TELL), (200.0, FAIL)])
def test_without_a_stable_version_latency_is_judged_in_seconds(slow: float, verdict: Verdict) -> None:
    assert judged(version(requests=400, slow=slow), stable=None)["latency"] is verdict


def test_a_stable_version_that_answers_in_no_time_bounds_no_ratio() -> None:
    instant = replace(STABLE, latency_seconds=(0.0,) * 2000)
    assert judged(version(), stable=instant)["latency"] is CANNOT_TELL
    assert judged(version(slow=0.0), stable=instant)["latency"] is CANNOT_TELL
    assert judged(version(slow=0.0), stable=STABLE)["latency"] is PASS


@pytest.mark.parametrize(
    ("good", "verdict"),
    [
        pytest.param(188, PASS, id="better"),
        pytest.param(180, PASS, id="equal"),
        pytest.param(160, CANNOT_TELL, id="at the margin"),
        pytest.param(130, FAIL, id="worse"),
    ],
)
def test_quality_is_judged_against_stable_less_the_margin(good: int, verdict: Verdict) -> None:
    assert judged(version(quality_good=good))["quality"] is verdict


@pytest.mark.parametrize(("good", "verdict"), [(180, PASS), (164, CANNOT_TELL), (140, FAIL)])
def test_without_a_stable_version_quality_has_to_reach_the_minimum(good: int, verdict: Verdict) -> None:
    assert judged(version(quality_good=good), stable=None)["quality"] is verdict


def test_one_answer_that_differs_from_the_evaluated_one_fails_at_any_number() -> None:
    assert judged(version(agreement_matches=0, agreement_total=1))["agreement"] is FAIL
    assert judged(version(agreement_matches=199))["agreement"] is FAIL
    assert judged(version(agreement_matches=199), policy=RolloutPolicy(disagreement_limit=1))["agreement"] is PASS


def test_the_worst_check_decides_and_says_why() -> None:
    assessment = analysis.assess(POLICY, Measurement(canary=version(errors=100, quality_total=0, quality_good=0), stable=STABLE))
    assert assessment.verdict is FAIL
    assert assessment.summary == "100 of 200 requests failed (42.9% to 57.1%, limit 5.0%)"
    assert len(assessment.reasons) == 2


def test_no_check_at_all_is_no_success() -> None:
    assert analysis.Assessment(checks=()).verdict is CANNOT_TELL
    assert analysis.Assessment(checks=()).summary == "nothing was measured"


@pytest.mark.parametrize("requests", [0, 5, 200])
def test_an_assessment_travels_as_json_whatever_it_holds(requests: int) -> None:
    document = analysis.assess(POLICY, Measurement(canary=version(requests=requests), stable=STABLE)).to_dict()
    assert list(document)[:3] == ["verdict", "summary", "reasons"]
    canonical_json(document)  # refuses NaN and infinity


def test_readiness_is_pass_or_not_yet() -> None:
    assert analysis.readiness("2", ready=True).verdict is PASS
    not_yet = analysis.readiness("2", ready=False, problems=["golden vector 3 differs"])
    assert (not_yet.verdict, not_yet.summary) == (CANNOT_TELL, "version 2 is not ready yet; golden vector 3 differs")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"versions": None},
        {"versions": []},
        {"versions": {"2": None}},
        {"versions": {"2": {"requests": "7", "errors": -1, "seconds": "fast"}}},
    ],
)
def test_a_gateway_that_says_nothing_usable_measures_nothing(document: dict[str, Any]) -> None:
    assert from_gateway(document, "2") == VersionMeasurement(version="2")


def test_the_gateways_document_becomes_a_measurement() -> None:
    document = {"versions": {"2": {"requests": 3, "errors": 1, "seconds": [0.1, 0.2]}}}
    measured = from_gateway(document, "2", quality=(1, 2), agreement=(2, 2))
    assert (measured.requests, measured.errors, measured.latency_seconds) == (3, 1, (0.1, 0.2))
    assert (measured.quality, measured.latency_ms_p99, measured.agreement_matches) == (0.5, 200.0, 2)
