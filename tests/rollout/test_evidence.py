"""Evidence: sums that survive a restart, and pairs as they are counted."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.errors import BadEvidence
from rollout.evidence import GROWTH, Evidence, Pairs, Reference, Stream, bucket, step, step_edges

NAN = float("nan")


def seen(number: int) -> Evidence:
    """Some evidence, different for every number."""
    pairs = Pairs.of(answers={"score": (1.0, 1.0 + number)}, flags=(number % 2 == 0, True), classes=("GALAXY", "QSO"), strata=["snr<2"])
    return Evidence(
        canary=Stream.of([0.01 * (number + 1), 0.2], errors=number, good=1, judged=2),
        control=Stream.of([0.01], errors=1),
        pairs=pairs.plus(Pairs.of(live="canary", control_failed=True)),
        agreement_matches=number,
        agreement_total=number + 1,
        step_requests=2,
    )


def test_evidence_adds_up_in_any_order_and_grouping() -> None:
    one, two, three = seen(0), seen(1), seen(5)
    assert one.plus(two).plus(three) == one.plus(two.plus(three)) == three.plus(one).plus(two)
    assert one.plus(Evidence()) == one == Evidence().plus(one)
    together = one.plus(two)
    assert (together.canary.requests, together.canary.errors, together.pairs.total, together.pairs.control_total) == (5, 1, 2, 4)
    assert together.pairs.strata["snr<2"].total == 2


def test_evidence_survives_a_restart_as_json() -> None:
    evidence = seen(3).plus(seen(4))
    assert Evidence.from_dict(json.loads(json.dumps(evidence.to_dict()))) == evidence
    assert Evidence.from_dict(json.loads(json.dumps(Evidence().to_dict()))) == Evidence()
    reference = Reference(pairs=True, scales={"score": 2.0}, labels=("GALAXY",), strata=("snr<2",))
    assert Reference.from_dict(json.loads(json.dumps(reference.to_dict()))) == reference


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"canary": None}, id="no stream"),
        pytest.param({"canary": {"requests": 3, "errors": 4}}, id="more errors than requests"),
        pytest.param({"canary": {"requests": NAN}}, id="NaN"),
        pytest.param({"canary": {"latency": {"fast": 1}}}, id="bucket that is no number"),
        pytest.param({"pairs": {"failed": 1}}, id="more failed than pairs"),
        pytest.param({"pairs": {"flags": [1, 2]}}, id="half of the flags"),
        pytest.param({"pairs": {"strata": {"a": {"strata": {"b": {}}}}}}, id="stratum of a stratum"),
        pytest.param({"step_requests": 1}, id="step beyond the whole"),
        pytest.param({"invented": 1}, id="unknown field"),
    ],
)
def test_evidence_that_contradicts_itself_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(BadEvidence):
        Evidence.from_dict(document)


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_a_time_lies_in_its_bucket(seconds: float) -> None:
    at = bucket(seconds)
    assert GROWTH ** (at - 1) * (1 - 1e-6) <= seconds <= GROWTH**at * (1 + 1e-6)


@given(st.floats(min_value=-1e6, max_value=1e6))
def test_a_difference_lies_in_its_bucket_and_a_buckets_edges_are_close(difference: float) -> None:
    low, high = step_edges(step(difference))
    slack = 1e-6 * abs(difference) + 1e-12
    assert low - slack <= difference <= high + slack
    assert high - low <= 0.005 * abs(difference) + 3e-12
    assert step(-difference) == -step(difference)


@pytest.mark.parametrize("value", [NAN, math.inf, -0.1, None])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(BadEvidence, match="leave out what was not timed"):
        bucket(value)


def test_a_number_the_canary_lacks_makes_a_failed_pair_and_one_the_control_lacks_is_left_out() -> None:
    lacking = Pairs.of(answers={"score": (1.0, NAN)}, flags=(True, False))
    assert (lacking.total, lacking.failed, lacking.copied_failed, lacking.answers, lacking.flags) == (1, 1, 1, {}, (0, 0, 0, 0))
    unknown = Pairs.of(answers={"score": (NAN, 1.0), "other": (2.0, 2.0)})
    assert (unknown.total, unknown.failed, unknown.answers) == (1, 0, {"other": {0: 1}})


def test_who_answered_the_caller_decides_whose_request_a_pair_is() -> None:
    to_canary, back = Pairs.of(canary_failed=True), Pairs.of(live="canary", answers={"score": (1.0, NAN)})
    assert (to_canary.total, to_canary.copied, to_canary.copied_failed, to_canary.control_total) == (1, 1, 1, 1)
    assert (back.total, back.copied, back.failed, back.copied_failed, back.control_total) == (1, 0, 1, 0, 1)
    lost = Pairs.of(control_failed=True)
    assert (lost.total, lost.control_total, lost.control_failed) == (0, 1, 1)


def test_classes_are_counted_as_moves() -> None:
    moved = Pairs.of(classes=("GALAXY", "QSO")).plus(Pairs.of(classes=("QSO", "QSO")))
    assert moved.classes == {"GALAXY": (1, 0, 0, 1), "QSO": (1, 2, 1, 0)}
    assert moved.class_total == 2


def test_a_new_step_forgets_only_its_own_requests() -> None:
    evidence = seen(2)
    assert evidence.at_new_step() == replace(evidence, step_requests=0)


@pytest.mark.parametrize("scale", [0.0, -1.0, NAN])
def test_a_scale_that_divides_by_nothing_is_refused(scale: float) -> None:
    with pytest.raises(BadEvidence, match="leave the output out"):
        Reference(scales={"score": scale})
