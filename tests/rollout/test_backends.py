"""One contract for every ServingBackend; then what is particular to the local one."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from rollout.backends.base import ServingBackend
from rollout.backends.in_memory import InMemoryBackend
from rollout.backends.local import HEARTBEAT_SECONDS, Heartbeat, LocalBackend
from rollout.errors import Fenced, StaleChampion, StaleGeneration
from rollout.policy import RolloutPolicy
from rollout.reconciler import effective_traffic
from rollout.spec import Observed, RolloutSpec, Traffic
from rollout.store import Store
from tests.rollout.stores import ENVIRONMENT, MODEL, promote

HERE = (ENVIRONMENT, MODEL)
STABLE = Traffic(stable="1")
CANARY = Traffic(stable="1", canary="2", canary_weight=25)
BESIDE = Traffic(stable="1", canary="2", canary_weight=25, baseline=True)


class CopyingSupervisor:
    """Makes the world match the store at once, as the real supervisor does in its own time: desired in, observed out."""

    def __init__(self, store: Store) -> None:
        self.applied: list[Traffic] = []
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            wanted = self._store.desired(*HERE)
            if wanted is None:
                continue
            traffic = effective_traffic(wanted, time.time())
            if not self.applied or self.applied[-1] != traffic:
                self.applied.append(traffic)
            self._store.observe(
                Observed(
                    environment=ENVIRONMENT, model=MODEL, generation=wanted.generation, traffic=traffic, ready=traffic.versions,
                    gateway_url="http://127.0.0.1:1", heartbeat=time.time(), problems=(), baseline_ready=traffic.baseline,
                )
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A backend and what really happened behind it."""

    backend: ServingBackend
    changes: Callable[[], list[Traffic]]


@pytest.fixture(params=["in memory", "local"])
def world(request: pytest.FixtureRequest, sqlite_store: Store) -> Iterator[World]:
    if request.param == "in memory":
        memory = InMemoryBackend()
        yield World(backend=memory, changes=lambda: memory.history)
        return
    supervisor = CopyingSupervisor(sqlite_store)
    yield World(backend=LocalBackend(sqlite_store, *HERE, lease_seconds=30, by="test"), changes=lambda: supervisor.applied)
    supervisor.stop()


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def settle(world: World, traffic: Traffic) -> None:
    world.backend.apply(traffic)
    assert eventually(lambda: world.backend.current() == traffic), world.backend.current()


def test_before_anything_is_applied_nobody_can_tell_what_is_true(world: World) -> None:
    assert world.backend.current() is None
    assert not world.backend.is_ready("1")


@pytest.mark.parametrize("traffic", [STABLE, CANARY, BESIDE, Traffic(), Traffic(canary="2", canary_weight=100)])
def test_current_becomes_what_was_applied(world: World, traffic: Traffic) -> None:
    settle(world, traffic)
    assert all(world.backend.is_ready(version) for version in traffic.versions)
    assert not world.backend.is_ready("9")
    assert world.backend.is_baseline_ready() == traffic.baseline


def test_applying_twice_is_applying_once(world: World) -> None:
    settle(world, STABLE)
    settle(world, CANARY)
    settle(world, CANARY)
    assert world.changes() == [STABLE, CANARY]


def test_going_back_restores_stable(world: World) -> None:
    for traffic in (STABLE, CANARY, STABLE):
        settle(world, traffic)
    assert not world.backend.is_ready("2")
    assert world.changes() == [STABLE, CANARY, STABLE]


def test_in_memory_a_version_can_stay_unready() -> None:
    backend = InMemoryBackend(unready={"2"})
    backend.apply(CANARY)
    assert (backend.is_ready("1"), backend.is_ready("2")) == (True, False)


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_canary_goes_out_on_a_lease_that_applying_and_renewing_prolong(sqlite_store: Store) -> None:
    clock = Clock()
    backend = LocalBackend(sqlite_store, *HERE, lease_seconds=30, by="test", clock=clock)
    backend.apply(CANARY)
    for act in (backend.renew, lambda: backend.apply(CANARY)):
        clock.now += 10
        act()
        wanted = sqlite_store.desired(*HERE)
        assert wanted is not None
        assert (wanted.lease_until, wanted.lease_seconds, wanted.generation) == (clock.now + 30, 30, 1)


def test_a_supervisor_that_is_silent_is_not_believed(sqlite_store: Store) -> None:
    clock = Clock()
    backend = LocalBackend(sqlite_store, *HERE, lease_seconds=30, by="test", clock=clock, steady=clock)
    assert "start one with firstlight serve" in backend.problems[0]
    sqlite_store.observe(
        Observed(
            environment=ENVIRONMENT, model=MODEL, generation=1, traffic=CANARY, ready=("1",), gateway_url="http://x",
            heartbeat=1000.0, problems=("version 2: digest differs",),
        )
    )  # fmt: skip
    clock.now = 1004.9
    assert (backend.current(), backend.is_ready("1"), backend.gateway_url) == (CANARY, True, "http://x")
    assert backend.problems == ("version 2: digest differs",)
    clock.now = 1005.0
    assert (backend.current(), backend.is_ready("1"), backend.gateway_url) == (None, False, None)
    assert "has reported for 5 s" in backend.problems[0]


@pytest.mark.parametrize("hour", [-3600.0, 3600.0])
def test_a_clock_that_jumps_an_hour_hides_no_living_supervisor_and_revives_no_dead_one(hour: float) -> None:
    # Given a supervisor whose time is written every second, and a reader that looks as often
    wall, steady = Clock(), Clock()
    heart = Heartbeat(clock=wall, steady=steady)
    assert heart.is_alive(wall.now)
    # When the wall clock of both jumps, then the supervisor is alive through it
    wall.now += hour
    for _ in range(10):
        wall.now, steady.now = wall.now + 1, steady.now + 1
        assert heart.is_alive(wall.now)
    # and when it dies and the clock jumps after, it is dead after HEARTBEAT_SECONDS of elapsed time
    last = wall.now
    wall.now += hour
    for elapsed in range(1, 10):
        steady.now += 1
        assert heart.is_alive(last) == (elapsed < HEARTBEAT_SECONDS)
    # while who looks for the first time believes neither the past nor the future
    assert not Heartbeat(clock=wall, steady=steady).is_alive(last)


def test_a_new_heartbeat_after_a_long_silence_of_the_reader_is_judged_by_the_clock() -> None:
    wall, steady = Clock(), Clock()
    heart = Heartbeat(clock=wall, steady=steady)
    assert heart.is_alive(1000.0)
    wall.now, steady.now = 2000.0, 2000.0
    assert not heart.is_alive(1500.0)
    assert heart.is_alive(2000.0)


def test_a_backend_of_a_run_thought_dead_can_do_nothing(sqlite_store: Store) -> None:
    spec = RolloutSpec(canary="2", stable=None, policy=RolloutPolicy())
    tokens = [sqlite_store.claim_rollout(*HERE, release_id="r", holder=who, spec=spec).token for who in ("first", "second")]
    old, new = (LocalBackend(sqlite_store, *HERE, lease_seconds=30, by="run", token=token, shadow_percent=50) for token in tokens)
    new.apply(CANARY)
    for act in (lambda: old.apply(STABLE), old.renew, lambda: old.apply(CANARY)):
        with pytest.raises(Fenced, match="token 1 was followed by 2"):
            act()
    new.renew()
    wanted = sqlite_store.desired(*HERE)
    assert wanted is not None
    assert (wanted.traffic, wanted.shadow_percent, wanted.generation) == (CANARY, 50, 1)


def test_a_backend_does_not_undo_what_somebody_else_decided(sqlite_store: Store) -> None:
    mine = LocalBackend(sqlite_store, *HERE, lease_seconds=30, by="old run")
    mine.apply(CANARY)
    LocalBackend(sqlite_store, *HERE, lease_seconds=30, by="operator").apply(STABLE)
    with pytest.raises(StaleGeneration):
        mine.apply(CANARY)
    with pytest.raises(StaleGeneration):
        mine.renew()
    wanted = sqlite_store.desired(*HERE)
    assert wanted is not None
    assert wanted.traffic == STABLE


def test_after_the_promotion_the_backend_goes_on_with_the_new_stable(sqlite_store: Store) -> None:
    promote(sqlite_store, "1", expected=None)
    backend = LocalBackend(sqlite_store, *HERE, lease_seconds=30, by="test")
    backend.apply(CANARY)
    promote(sqlite_store, "2", expected="1")
    backend.apply(Traffic(stable="2"))
    backend.apply(Traffic(stable="2", canary="3", canary_weight=5))
    # and going back to the old stable is refused by now
    with pytest.raises(StaleChampion):
        backend.apply(STABLE)
