"""Every request is counted once, in what the gateway shows as much as in what it has forgotten; pairs are read whoever was live."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from rollout.backends.simulated import Behaviour, Reply, SimulatedGateway
from rollout.errors import BadEvidence
from rollout.evidence import Evidence, Pairs, Stream, bucket
from rollout.meter import Meter, Reading
from rollout.spec import Traffic

READING = Reading(
    canary="2",
    stable="1",
    numbers={"score": "score"},
    score="score",
    thresholds=(0.9, 0.9),
    probabilities="class",
    labels=(("GALAXY", "STAR"), ("GALAXY", "STAR")),
    replayed="replay-2-",
    strata={0: ("snr<2",)},
)


def answering(score: float = 0.5, kind: int = 0, *, status: int = 200, seconds: float = 0.01) -> Behaviour:
    """Return a version that always answers so."""
    outputs: Mapping[str, Any] = {"score": score, "class": [1.0 - kind, float(kind)]} if status == 200 else {}
    return lambda number, row: Reply(status=status, seconds=seconds, outputs=outputs)


def world(weight: int, *, baseline: bool = False, **versions: Behaviour) -> SimulatedGateway:
    """Return a gateway that sends ``weight`` percent to canary 2."""
    traffic = Traffic(stable="1", canary="2", canary_weight=weight, baseline=baseline)
    return SimulatedGateway(lambda: traffic, {"1": versions.get("stable", answering()), "2": versions.get("canary", answering())})


def look(meter: Meter, gateway: SimulatedGateway, *, in_step: bool = True) -> Evidence:
    """Return all that is new."""
    seen = meter.streams(gateway.evidence(), in_step=in_step)
    while True:
        before = meter.place
        seen = seen.plus(meter.pairs(gateway.pairs(meter.after)))
        if before == meter.place:
            return seen


def begun(gateway: SimulatedGateway, reading: Reading = READING) -> Meter:
    """Return a meter that has had its first look."""
    meter = Meter(reading)
    look(meter, gateway)
    return meter


def test_what_was_counted_before_the_rollout_began_is_no_evidence() -> None:
    gateway = world(50)
    gateway.ask(100)
    meter = begun(gateway)
    assert look(meter, gateway) == Evidence(control=Stream(), stable=Stream())
    gateway.ask(10)
    seen = look(meter, gateway)
    assert (seen.canary.requests, seen.control.requests, seen.step_requests, seen.pairs.total) == (5, 5, 5, 10)  # type: ignore[union-attr]
    assert seen.canary.latency == {bucket(0.01): 5}
    # failures are compared with everything stable was asked: its own requests, and the copies of the canary's
    assert seen.stable.requests == 10  # type: ignore[union-attr]


def test_every_request_is_counted_once_however_often_one_looks() -> None:
    gateway = world(50)
    meter, total = begun(gateway), Evidence()
    for _ in range(7):
        gateway.ask(6)
        total = total.plus(look(meter, gateway)).plus(look(meter, gateway))
    assert (total.canary.requests, total.control.requests, total.pairs.total) == (21, 21, 42)  # type: ignore[union-attr]


def test_a_gateway_that_was_started_anew_counts_from_zero_and_nothing_is_counted_twice() -> None:
    gateway = world(50)
    meter = begun(gateway)
    gateway.ask(10)
    total = look(meter, gateway)
    # Given a second process that has counted more than the first
    gateway.restart()
    gateway.ask(40)
    total = total.plus(look(meter, gateway))
    assert (total.canary.requests, total.pairs.total) == (25, 50)


def test_a_process_that_takes_over_goes_on_from_what_was_saved() -> None:
    gateway = world(50)
    meter = begun(gateway)
    gateway.ask(10)
    saved = look(meter, gateway).to_dict(), json.loads(json.dumps(meter.state()))
    gateway.ask(10)  # seen by the first process after it saved, or by nobody
    look(meter, gateway)
    total = Evidence.from_dict(saved[0]).plus(look(Meter(READING, state=saved[1]), gateway))
    assert (total.canary.requests, total.pairs.total) == (10, 20)


def test_only_the_baseline_is_the_control_where_there_is_one() -> None:
    gateway = world(5, baseline=True)
    meter = begun(gateway, Reading(canary="2", stable="1", baseline=True))
    gateway.ask(100)
    seen = look(meter, gateway)
    assert (seen.canary.requests, seen.control.requests) == (5, 5)  # type: ignore[union-attr]


def test_a_first_release_has_no_control() -> None:
    gateway = SimulatedGateway(lambda: Traffic(canary="2", canary_weight=100), {"2": answering()})
    meter = begun(gateway, Reading(canary="2"))
    gateway.ask(3)
    seen = look(meter, gateway)
    assert (seen.canary.requests, seen.control, seen.pairs.total) == (3, None, 0)


def test_requests_before_the_gateway_routes_as_the_step_wants_are_evidence_but_not_the_steps() -> None:
    gateway = world(50)
    meter = begun(gateway)
    gateway.ask(10)
    seen = look(meter, gateway, in_step=False)
    assert (seen.canary.requests, seen.step_requests) == (5, 0)


@pytest.mark.parametrize("weight", [0, 100])
def test_a_pair_is_the_same_whoever_answered_the_caller(weight: int) -> None:
    gateway = world(weight, stable=answering(0.5, 0), canary=answering(1.5, 1))
    meter = begun(gateway)
    gateway.ask(4)
    pairs = look(meter, gateway).pairs
    one = Pairs.of(live="canary" if weight else "control", answers={"score": (0.5, 1.5)}, flags=(False, True), classes=("GALAXY", "STAR"))
    assert pairs == one.plus(one).plus(one).plus(one)


@pytest.mark.parametrize(
    ("canary", "weight", "failed"),
    [
        pytest.param(answering(math.nan), 0, 4, id="NaN"),
        pytest.param(answering(math.nan), 100, 4, id="NaN to callers"),
        pytest.param(answering(status=503), 0, 4, id="errors"),
        pytest.param(answering(status=0), 0, 4, id="no answer"),
        pytest.param(answering(), 0, 0, id="good"),
    ],
)
def test_a_canary_without_a_number_has_failed_the_pair(canary: Behaviour, weight: int, failed: int) -> None:
    gateway = world(weight, canary=canary)
    meter = begun(gateway)
    gateway.ask(4)
    pairs = look(meter, gateway).pairs
    assert (pairs.total, pairs.failed) == (4, failed)


def test_what_the_control_cannot_answer_counts_as_the_controls_and_what_the_caller_did_wrong_as_nobodys() -> None:
    gateway = world(0, stable=answering(status=503))
    meter = begun(gateway)
    gateway.ask(4)
    assert look(meter, gateway).pairs == Pairs(control_total=4, control_failed=4)
    gateway = world(0, stable=answering(status=400), canary=answering(status=400))
    meter = begun(gateway)
    gateway.ask(4)
    assert look(meter, gateway).pairs == Pairs()


def test_a_held_out_row_has_one_answer_however_often_it_is_sent_and_faint_ones_are_a_part_of_their_own() -> None:
    gateway = world(0, canary=answering(0.7))
    meter = begun(gateway)
    gateway.ask(20, rows=(0, 1), named="replay-2")
    pairs = look(meter, gateway).pairs
    assert (pairs.total, sum(pairs.answers["score"].values()), pairs.strata["snr<2"].total) == (20, 2, 1)
    # and after a restart of us it is still known
    again = Meter(READING, state=json.loads(json.dumps(meter.state())))
    gateway.ask(2, rows=(0, 1), named="replay-2")
    assert look(again, gateway).pairs == Pairs(total=2, copied=2, control_total=2)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"epoch": "1"}, id="no tracks"),
        pytest.param({"epoch": "1", "tracks": [{"track": "stable"}]}, id="no version"),
        pytest.param(
            {"epoch": "1", "tracks": [{"track": "canary", "version": "2", "requests": -1, "errors": 0, "latency": {}}]}, id="shrunk"
        ),
        pytest.param({"epoch": "1", "tracks": [{"track": "canary", "version": "2", "requests": "a"}]}, id="no counts"),
    ],
)
def test_a_document_that_is_none_is_refused_in_a_sentence(document: dict[str, Any]) -> None:
    with pytest.raises(BadEvidence, match="; "):
        begun(world(50)).streams(document, in_step=True)


def test_a_score_at_its_threshold_is_flagged_as_everywhere_else() -> None:
    gateway = world(0, stable=answering(0.9), canary=answering(math.nextafter(0.9, 0)))
    meter = begun(gateway)
    gateway.ask(10)
    assert look(meter, gateway).pairs.flags == (0, 0, 10, 0), "the control's are anomalies, the canary's just not"
