import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from rollout.errors import BadTraffic, RolloutError
from rollout.policy import RolloutPolicy
from rollout.reconciler import effective_traffic
from rollout.spec import Desired, Phase, RolloutSpec, RolloutStatus, Traffic


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"stable": "1", "canary": "2", "canary_weight": 101}, "from 0 to 100", id="more than everything"),
        pytest.param({"stable": "1", "canary": "2", "canary_weight": -1}, "from 0 to 100", id="less than nothing"),
        pytest.param({"stable": "1", "canary": "2", "canary_weight": 5.5}, "whole percent", id="half a percent"),
        pytest.param({"stable": "1", "canary": "2", "canary_weight": True}, "whole percent", id="a boolean"),
        pytest.param({"stable": "1", "canary": "2", "canary_weight": float("nan")}, "whole percent", id="not a number"),
        pytest.param({"stable": "1", "canary_weight": 5}, "needs a canary", id="weight for nobody"),
        pytest.param({"stable": "1", "canary": "1", "canary_weight": 5}, "must differ", id="a version against itself"),
        pytest.param({"canary": "2", "canary_weight": 5}, "go nowhere", id="the rest to nobody"),
        pytest.param({"stable": ""}, "non-empty", id="a version without a name"),
        pytest.param({"stable": 3}, "non-empty strings", id="a version that is a number"),
        pytest.param({"stable": "1", "baseline": True}, "stands beside a canary", id="a baseline beside nobody"),
        pytest.param({"canary": "2", "canary_weight": 100, "baseline": True}, "is of stable's version", id="a baseline of nobody"),
    ],
)
def test_traffic_that_means_nothing_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadTraffic, match=said):
        Traffic(**fields)


def test_the_shares_of_traffic_add_up_to_everything() -> None:
    for weight in (0, 5, 25, 50, 100):
        traffic = Traffic(stable="1", canary="2", canary_weight=weight)
        assert sum(traffic.share(version) for version in traffic.versions) == pytest.approx(1)
        assert traffic.share("2") == weight / 100
        assert traffic.share("3") == 0


def test_a_canary_always_holds_a_lease_and_nothing_else_does() -> None:
    with pytest.raises(BadTraffic, match="holds a lease"):
        Desired(environment="e", model="m", generation=1, traffic=Traffic(stable="1", canary="2"), lease_until=None)
    with pytest.raises(BadTraffic, match="holds a lease"):
        Desired(environment="e", model="m", generation=1, traffic=Traffic(stable="1"), lease_until=5.0)


@pytest.mark.parametrize(
    ("now", "held", "lapsed"),
    [
        pytest.param(1009.9, 9.9, False, id="in time"),
        pytest.param(1010.0, 0.0, True, id="over by the clock"),
        pytest.param(1005.0, 10.0, True, id="over by elapsed time"),
        pytest.param(1005.0 - 3600, 5.0, False, id="an hour back, in time"),
        pytest.param(1010.0 - 3600, 10.0, True, id="an hour back, over"),
        pytest.param(1005.0 + 3600, 5.0, True, id="an hour on: over until it is renewed"),
    ],
)
def test_a_lapsed_lease_means_the_canary_is_gone_whatever_the_clock_does(now: float, held: float, lapsed: bool) -> None:
    traffic = Traffic(stable="1", canary="2", canary_weight=25)
    wanted = Desired(environment="e", model="m", generation=1, traffic=traffic, lease_until=1010.0, lease_seconds=10.0)
    assert effective_traffic(wanted, now, held=held) == (Traffic(stable="1") if lapsed else traffic)


@pytest.mark.parametrize(
    "fields",
    [
        {"lease_seconds": 5.0},
        {"traffic": Traffic(stable="1", canary="2"), "lease_until": 9.0, "lease_seconds": 0.0},
        {"traffic": Traffic(stable="1", canary="2"), "lease_until": 9.0, "lease_seconds": float("inf")},
        {"shadow_percent": 101},
        {"shadow_percent": 0.5},
    ],
)
def test_a_wish_that_cannot_be_meant_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadTraffic, match=r"lease_seconds must be|shadow_percent must be"):
        Desired(**{"environment": "e", "model": "m", "generation": 1, "traffic": Traffic(stable="1"), **fields})


def test_a_status_travels_as_json() -> None:
    status = RolloutStatus(stable="1", canary="2", phase=Phase.STARTING, step=0, weight=0, started=3.0, step_started=3.0)
    assert status.to_dict() == {
        "phase": "starting", "stable": "1", "canary": "2", "step": 0, "weight": 0, "started": 3.0, "step_started": 3.0, "reasons": [],
    }  # fmt: skip
    paused = replace(status, phase=Phase.PAUSED, paused_from=Phase.PROGRESSING, spent_seconds=4.5, reasons=("a", "b"))
    for one in (status, paused):
        assert RolloutStatus.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    for form in ({}, {**status.to_dict(), "phase": "dancing"}, {**status.to_dict(), "temperature": 4}):
        with pytest.raises(RolloutError, match="one that this firstlight knows"):
            RolloutStatus.from_dict(form)


def test_stable_alone_needs_no_lease() -> None:
    wanted = Desired(environment="e", model="m", generation=1, traffic=Traffic(stable="1"))
    assert effective_traffic(wanted, 1e12) == Traffic(stable="1")


@pytest.mark.parametrize("steps", [[], [5, 25], [25, 5, 100], [0, 100], [5, 5, 100], [5, 100, 120]])
def test_steps_that_do_not_rise_to_100_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValidationError, match="rise from at least 1 to exactly 100"):
        RolloutPolicy.model_validate({"steps": steps})


@pytest.mark.parametrize(
    "fields",
    [
        {"unknown": 1},
        {"error_margin": 1.0},
        {"error_margin": float("nan")},
        {"budget": {"worse_promoted": 0}},
        {"budget": {"shares": {"errors": 1}}},
        {"answers": {"score": {"margin": 0.1, "tolerance": 0.2}}},
        {"lease_seconds": 0},
        {"step_deadline_seconds": float("inf")},
        {"error_limit": 0},
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RolloutPolicy.model_validate(fields)


def test_every_policy_field_says_what_it_means() -> None:
    for name, field in RolloutPolicy.model_fields.items():
        assert len(field.description or "") > 40, name


def test_without_a_stable_version_there_is_one_step() -> None:
    assert RolloutSpec(canary="1", stable=None, policy=RolloutPolicy()).steps == (100,)
    assert RolloutSpec(canary="2", stable="1", policy=RolloutPolicy()).steps == (5, 25, 50, 100)


def test_a_version_is_not_released_against_itself() -> None:
    with pytest.raises(BadTraffic):
        RolloutSpec(canary="1", stable="1", policy=RolloutPolicy())
