"""One contract for every ServingBackend; then what is particular to the local one."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from rollout.backends.base import ServingBackend
from rollout.backends.in_memory import InMemoryBackend
from rollout.backends.local import LocalBackend
from rollout.errors import StaleChampion, StaleGeneration
from rollout.reconciler import effective_traffic
from rollout.spec import Observed, Traffic
from rollout.store import Store
from tests.rollout.stores import ENVIRONMENT, MODEL, promote

HERE = (ENVIRONMENT, MODEL)
STABLE = Traffic(stable="1")
CANARY = Traffic(stable="1", canary="2", canary_weight=25)


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
                    gateway_url="http://127.0.0.1:1", heartbeat=time.time(), problems=(),
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


@pytest.mark.parametrize("traffic", [STABLE, CANARY, Traffic(), Traffic(canary="2", canary_weight=100)])
def test_current_becomes_what_was_applied(world: World, traffic: Traffic) -> None:
    settle(world, traffic)
    assert all(world.backend.is_ready(version) for version in traffic.versions)
    assert not world.backend.is_ready("9")


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
        assert (wanted.lease_until, wanted.generation) == (clock.now + 30, 1)


def test_a_supervisor_that_is_silent_is_not_believed(sqlite_store: Store) -> None:
    clock = Clock()
    backend = LocalBackend(sqlite_store, *HERE, lease_seconds=30, by="test", clock=clock)
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
