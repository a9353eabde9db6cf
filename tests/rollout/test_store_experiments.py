"""Rehearsals of the way back and experiments in the store, and both against a clock that jumps."""

import threading
from typing import Any

import pytest

from rollout.errors import BadTraffic, ExperimentRunning, NoExperiment, RolloutError, RolloutRunning, StaleChampion, UnknownVersion
from rollout.policy import RolloutPolicy
from rollout.reconciler import effective_traffic
from rollout.records import Drill, Experiment
from rollout.spec import RolloutSpec, Traffic
from rollout.store import Store
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_release, open_store, promote

HERE = (ENVIRONMENT, MODEL)
CANARY = Traffic(stable="1", canary="2", canary_weight=5)


class Clock:
    """A time that tests set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def served(store: Any, store_url: str, clock: Clock) -> Any:
    """A store on that clock, with champion 1."""
    promote(store, "1", expected=None)
    opened = open_store(store_url, clock=clock)
    yield opened
    opened.close()


def drill(version: str = "1", *, at: float = 1000.0, verdict: str = "pass") -> Drill:
    return Drill(
        environment=ENVIRONMENT, model=MODEL, version=version, digest=DIGESTS[version], verdict=verdict, seconds=3.25, answered=40,
        failed=0, reason="answered its golden vectors", at=at,
    )  # fmt: skip


def experiment(store: Store, *, until: float = 2000.0, share: int = 10, b: str = "2", name: str = "night") -> Experiment:
    return store.begin_experiment(*HERE, name=name, a="1", b=b, share=share, sticky="client", until=until, by="ada")


def kinds(store: Store) -> list[str]:
    return [decision.what for decision in store.decisions(*HERE)]


def test_a_rehearsal_is_asked_for_beside_the_traffic_and_each_time_anew(served: Store) -> None:
    served.propose(*HERE, CANARY, lease_until=1060.0, expected_generation=None, by="flow")
    asked = [served.request_drill(*HERE, "1", by="ada") for _ in range(2)]
    assert asked == ["1#1", "1#2"]
    desired = served.desired(*HERE)
    assert desired is not None
    assert (desired.drill, desired.traffic, desired.generation, desired.lease_until) == ("1#2", CANARY, 2, 1060.0)
    # a rollout goes on beside it
    served.renew_lease(*HERE, 2, 1090.0)
    assert served.propose(*HERE, Traffic(stable="1"), lease_until=None, expected_generation=2, by="flow").drill == "1#2"


def test_a_rehearsal_of_nothing_is_refused(store: Any) -> None:
    with pytest.raises(RolloutError, match="release a version first"):
        store.request_drill(*HERE, "1", by="ada")
    with pytest.raises(UnknownVersion):
        store.request_drill(*HERE, "9", by="ada")


def test_a_rehearsal_is_written_down_once_and_for_good(served: Store) -> None:
    served.request_drill(*HERE, "1", by="ada")
    before = kinds(served)
    for _ in range(2):
        served.record_drill(drill())
    assert served.drills(*HERE) == [drill()]
    assert kinds(served)[len(before) :] == ["drill"]
    assert served.decisions(*HERE)[-1].detail == "version 1 was rehearsed in 3.2 s: pass: answered its golden vectors"
    assert served.desired(*HERE).drill is None  # type: ignore[union-attr]
    # one of another version takes no request back
    served.request_drill(*HERE, "1", by="ada")
    served.record_drill(drill("2", at=1001.0))
    assert served.desired(*HERE).drill == "1#2"  # type: ignore[union-attr]


def test_only_the_last_rehearsal_in_time_counts_whatever_it_said(served: Store, clock: Clock) -> None:
    served.record_drill(drill(at=1000.0))
    served.record_drill(drill(at=1500.0, verdict="fail"))
    served.record_drill(drill("2", at=1600.0))
    clock.now = 1700.0
    fresh = served.fresh_drill(*HERE, "1", not_before=900.0)
    assert fresh is not None
    assert (fresh.at, fresh.verdict) == (1500.0, "fail")
    assert served.fresh_drill(*HERE, "1", not_before=1500.1) is None
    # one that lies an hour ahead, for a clock was turned back since, tells nothing
    clock.now = 1500.0 - 3600
    assert served.fresh_drill(*HERE, "1", not_before=0.0) is None


def test_an_experiment_has_its_share_until_its_end_and_nobody_has_to_be_there(served: Store, clock: Clock) -> None:
    begun = experiment(served)
    assert served.experiment(*HERE) == begun
    desired = served.desired(*HERE)
    assert desired is not None
    assert (desired.traffic, desired.lease_until, desired.sticky) == (Traffic(stable="1", canary="2", canary_weight=10), 2000.0, "client")
    assert effective_traffic(desired, 1999.0, held=1e6) == desired.traffic, "days without a renewal are what it is for"
    assert effective_traffic(desired, 2000.0) == Traffic(stable="1")
    # When its end has come, then whoever writes next writes that down, once
    clock.now = 2000.0
    assert not begun.is_running(clock.now)
    served.propose(*HERE, Traffic(stable="1"), lease_until=None, expected_generation=None, by="flow")
    ended = served.experiment(*HERE)
    assert ended is not None
    assert (ended.ended_at, ended.ended_by, ended.ended_because) == (2000.0, "firstlight", "its end had come")
    assert [what for what in kinds(served) if "experiment" in what] == ["begin-experiment", "end-experiment"]


def test_an_experiment_is_ended_by_a_person_once(served: Store, clock: Clock) -> None:
    experiment(served)
    clock.now = 1100.0
    ended = served.end_experiment(*HERE, by="bob", reason="enough seen")
    assert (ended.ended_at, ended.ended_by, ended.ended_because) == (1100.0, "bob", "enough seen")
    assert served.desired(*HERE).traffic == Traffic(stable="1")  # type: ignore[union-attr]
    with pytest.raises(NoExperiment, match="'night' ended already"):
        served.end_experiment(*HERE, by="bob")
    assert kinds(served)[-2:] == ["end-experiment", "traffic"]
    assert experiment(served, name="day").name == "day"


@pytest.mark.parametrize(
    ("wish", "error", "said"),
    [
        pytest.param({"share": 0}, BadTraffic, "from 1 to 99, got 0", id="no share"),
        pytest.param({"share": 100}, BadTraffic, "from 1 to 99, got 100", id="everything"),
        pytest.param({"until": 1000.0}, BadTraffic, "end after it begins", id="over at once"),
        pytest.param({"until": float("inf")}, BadTraffic, "end after it begins", id="never over"),
        pytest.param({"name": ""}, BadTraffic, "a name", id="nameless"),
        pytest.param({"b": "9"}, UnknownVersion, "'9'", id="unknown version"),
        pytest.param({"b": "1"}, BadTraffic, "must differ", id="against itself"),
    ],
)
def test_an_experiment_that_cannot_be_meant_changes_nothing(served: Store, wish: Any, error: type[Exception], said: str) -> None:
    before = (served.desired(*HERE), served.decisions(*HERE))
    with pytest.raises(error, match=said):
        experiment(served, **wish)
    assert (served.desired(*HERE), served.decisions(*HERE), served.experiment(*HERE)) == (*before, None)


def test_an_experiment_is_beside_the_champion_and_alone(served: Store) -> None:
    with pytest.raises(StaleChampion):
        served.begin_experiment(*HERE, name="x", a="3", b="2", share=10, sticky=None, until=2000.0, by="ada")
    served.propose(*HERE, CANARY, lease_until=1060.0, expected_generation=None, by="somebody without a claim")
    with pytest.raises(RolloutRunning, match="version 2 is out as a canary"):
        experiment(served)
    served.propose(*HERE, Traffic(stable="1"), lease_until=None, expected_generation=None, by="somebody without a claim")
    experiment(served)
    with pytest.raises(ExperimentRunning):
        experiment(served)


def test_a_new_champion_ends_the_experiment(served: Store) -> None:
    experiment(served, b="3")
    promote(served, "2", expected="1")
    ended = served.experiment(*HERE)
    assert ended is not None
    assert ended.ended_because == "version 2 became champion"
    assert served.desired(*HERE).traffic == Traffic(stable="2")  # type: ignore[union-attr]


def test_a_rollout_told_to_end_whose_holder_is_silent_keeps_no_experiment_out(served: Store, clock: Clock) -> None:
    release = open_release(served, "2").id
    spec = RolloutSpec(canary="2", stable="1", policy=RolloutPolicy())
    served.claim_rollout(*HERE, release_id=release, holder="dead", spec=spec)
    served.order(*HERE, "abort", by="ada")
    with pytest.raises(RolloutRunning):
        experiment(served)
    clock.now += 61
    assert experiment(served).name == "night"


def test_a_rollout_whose_release_ended_keeps_no_experiment_out(served: Store) -> None:
    release = open_release(served, "2").id
    served.claim_rollout(
        *HERE, release_id=release, holder="dead", spec=RolloutSpec(canary="2", stable="1", policy=RolloutPolicy())
    )  # fmt: skip
    served.close_release(release, "error", "the disk was full")
    assert experiment(served).name == "night"


def test_of_a_claim_and_an_experiment_at_once_one_wins(served: Store, store_url: str) -> None:
    release = open_release(served, "2").id
    spec = RolloutSpec(canary="2", stable="1", policy=RolloutPolicy())
    barrier, said = threading.Barrier(2), []

    def attempt(act: Any) -> None:
        barrier.wait()
        try:
            said.append(type(act()).__name__)
        except RolloutError as error:
            said.append(type(error).__name__)

    acts = (lambda: served.claim_rollout(*HERE, release_id=release, holder="flow", spec=spec), lambda: experiment(served))
    threads = [threading.Thread(target=attempt, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) in (["RolloutRecord", "RolloutRunning"], ["Experiment", "ExperimentRunning"])
