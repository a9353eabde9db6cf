"""Drills and leases as decisions: every stage against everything that can be seen, and clocks that jump."""

import itertools

import pytest

from rollout.clock import Clock
from rollout.reconciler import effective_traffic, lease_left
from rollout.spec import Desired, Traffic
from serving import drilling
from serving.drilling import Length, Report, Seen, Stage
from serving.leases import Lease
from serving.planning import ServerState

LENGTH = Length(seconds=5.0, copies=20)
SICK = (ServerState.DEAD, ServerState.REFUSED, ServerState.SILENT)


@pytest.mark.parametrize("stage", Stage)
def test_every_stage_of_a_drill_has_one_next_for_everything_that_can_be_seen(stage):
    report = Report(asked="3#7", version="3", state=stage, at=100.0, seconds=1.5 if stage is Stage.ANSWERING else None)
    seen = itertools.product(ServerState, (True, False), ("", "the digest is another one"), (0, 19, 20), (0.0, 5.0))
    for server, settled, reason, copies, spent in seen:
        look = Seen(server=server, settled=settled, start_seconds=1.5, reason=reason, answered=copies, failed=0, stage_seconds=spent)
        after = drilling.advance(report, look, now=200.0, length=LENGTH)
        assert (after.asked, after.version) == ("3#7", "3")
        assert after.at == (100.0 if after.state is stage else 200.0)
        if stage.is_final:
            assert after == report
        elif stage is Stage.WAITING:
            assert after.state is (Stage.STARTING if settled else Stage.WAITING)
        elif server in SICK or reason:
            assert (after.state, bool(after.reason)) == (Stage.FAILED, True)
        elif stage is Stage.STARTING:
            assert (after.state, after.seconds) == ((Stage.ANSWERING, 1.5) if server is ServerState.READY else (Stage.STARTING, None))
        else:
            assert after.state is (Stage.DONE if copies >= 20 or spent >= 5.0 else Stage.ANSWERING)
            assert (after.answered, after.seconds) == (copies, 1.5)


def test_a_report_comes_back_from_the_store_as_it_was_and_anything_else_is_none():
    report = Report(asked="3#7", version="3", state=Stage.DONE, seconds=1.5, answered=19, failed=1, at=5.0)
    assert Report.from_dict(report.to_dict()) == report
    for strange in (None, {}, {"state": "done"}, {**report.to_dict(), "state": "lost"}, {**report.to_dict(), "more": 1}):
        assert Report.from_dict(strange) is None
    assert [drilling.begin(asked, now=1.0).version for asked in ("3#7", "a#b#1")] == ["3", "a#b"]


class Hands:
    """Two clocks that a test turns."""

    def __init__(self):
        self.wall, self.steady = 1e9, 50.0
        self.clock = Clock(wall=lambda: self.wall, steady=lambda: self.steady)

    def wait(self, seconds):
        self.wall, self.steady = self.wall + seconds, self.steady + seconds


OUT = Traffic(stable="1", canary="2", canary_weight=50)


def wanted(until, *, seconds=60.0, generation=4):
    return Desired(environment="e", model="m", generation=generation, traffic=OUT, lease_until=until, lease_seconds=seconds)


@pytest.mark.parametrize("jump", [-3600.0, 0.0, 3600.0])
def test_a_lease_that_nobody_renews_is_over_in_time_whatever_the_wall_clock_does(jump):
    hands = Hands()
    lease, desired = Lease(hands.clock), wanted(hands.wall + 60)
    assert effective_traffic(desired, hands.wall, held=lease.held(desired)) == OUT
    hands.wait(30)
    hands.wall += jump
    # whoever takes over in the middle knows since when
    heir = Lease(hands.clock)
    heir.remember(lease.to_dict())
    hands.wait(29)
    assert effective_traffic(desired, hands.wall, held=heir.held(desired)) == (OUT if jump <= 0 else Traffic(stable="1"))
    hands.wait(2)
    assert lease_left(desired, hands.wall, held=heir.held(desired)) <= 0
    assert effective_traffic(desired, hands.wall, held=heir.held(desired)) == Traffic(stable="1")
    # renewed by a flow on the same machine, it is good again, for its length
    renewed = wanted(hands.wall + 60)
    assert effective_traffic(renewed, hands.wall, held=heir.held(renewed)) == OUT
    hands.wait(61)
    assert effective_traffic(renewed, hands.wall, held=heir.held(renewed)) == Traffic(stable="1")


def test_a_lease_is_remembered_for_what_it_was_and_nothing_strange_is():
    hands = Hands()
    desired = wanted(hands.wall + 60)
    for strange in ({}, {"generation": 4}, {"generation": 4, "until": "soon", "since": 0}, {"generation": 4, "until": 1.0, "since": 1e9}):
        lease = Lease(hands.clock)
        lease.remember(strange)
        assert (lease.held(desired), lease.to_dict()["since"]) == (0.0, 50.0)
    assert lease.held(Desired(environment="e", model="m", generation=5, traffic=Traffic(stable="1"))) == 0.0
    assert lease.to_dict() == {}
