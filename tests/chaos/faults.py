"""What a test does to a world, by name. Each fault is done, lasts its time, and is over when it returns; what a service manager would have started
again is started again. Whether the world heals is asked by the campaign.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from firstlight.errors import FirstlightError
from rollout.errors import ReleaseRunning
from tests.chaos import clocks
from tests.chaos.databases import PostgresCluster
from tests.chaos.driving import FENCED
from tests.chaos.world import ENVIRONMENT, MODEL, World, until

JUMP_SECONDS = 3600.0
_BRIEFLY = 0.5
_PATIENCE = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The release that is under way while something is broken."""

    release_id: str
    version: str
    lease_seconds: float
    drive: Callable[[], object]
    """Starts a driver of it."""


Fault = Callable[[World, Run], bool]
"""Does it; returns whether there was anything to do it to."""


def _kill(role: str) -> Fault:
    def fault(world: World, run: Run) -> bool:
        until(lambda: world.pid(role) is not None or not world.is_wanted(role), _PATIENCE, f"there is a {role}")
        return world.kill(role) is not None

    return fault


def kill_driver(world: World, run: Run) -> bool:
    """The flow dies; its next attempt comes soon."""
    found = world.kill("driver") is not None
    time.sleep(_BRIEFLY)
    run.drive()
    return found


def lose_driver(world: World, run: Run) -> bool:
    """The flow dies and nobody comes for longer than a lease: all requests are stable's by then. Its next attempt comes after that."""
    found = world.kill("driver") is not None
    if found:
        until(lambda: world.shares() == ("stable",), run.lease_seconds + _PATIENCE, "stable has all requests")
    run.drive()
    return found


def freeze_driver(world: World, run: Run) -> bool:
    """The flow sleeps for longer than a lease, is thought dead, another attempt takes over, and it wakes up: it must find itself shut out."""
    sleeper = world.pid("driver")
    if sleeper is None:
        return False
    os.kill(sleeper, signal.SIGSTOP)
    while (
        not world.database.is_writable()
    ):  # in the middle of writing it would hold an SQLite file for as long as it sleeps, as it says it does
        os.kill(sleeper, signal.SIGCONT)
        time.sleep(_BRIEFLY)
        os.kill(sleeper, signal.SIGSTOP)
    time.sleep(run.lease_seconds + 1)
    before = _token(world)
    run.drive()
    until(lambda: _token(world) > before, _PATIENCE, "another driver takes over", every=0.02)
    os.kill(sleeper, signal.SIGCONT)
    until(lambda: world.exit_code(sleeper) is not None, _PATIENCE, "the driver that slept stops")
    assert world.exit_code(sleeper) == FENCED, f"a driver that slept must be shut out, it ended with {world.exit_code(sleeper)}"
    return True


def second_driver(world: World, run: Run) -> bool:
    """The same release is driven by two: the first must stop."""
    first = world.pid("driver")
    if first is None:
        return False
    run.drive()
    until(lambda: world.exit_code(first) is not None, _PATIENCE, "the first of two drivers stops")
    if world.exit_code(first) == 0:
        return False  # it ended its release before the second one came
    assert world.exit_code(first) == FENCED, f"the first of two drivers must be shut out, it ended with {world.exit_code(first)}"
    return True


def second_release(world: World, run: Run) -> bool:
    """Somebody wants to release another model meanwhile: refused, in a sentence that names the one that runs."""
    other = "f" * 64
    try:
        world.store.open_release(ENVIRONMENT, MODEL, handoff_digest=other, model_digest=other, policy_digest="p", by="somebody else")
    except ReleaseRunning as refused:
        named = refused.release_id
    else:
        named = "nothing"
    assert named == run.release_id, f"a second release must be refused for the sake of {run.release_id}, it was for {named}"
    return True


def kill_supervisor(world: World, run: Run) -> bool:
    """The reconciler dies and is started again."""
    found = world.kill("supervisor") is not None
    time.sleep(_BRIEFLY)
    world.start()
    return found


def second_supervisor(world: World, run: Run) -> bool:
    """Somebody starts a second reconciler beside the first: refused, and the first goes on."""
    assert world.refuses_another_supervisor()
    return True


def kill_database(world: World, run: Run) -> bool:
    """It dies in the middle, and is back a second later."""
    world.database.kill()
    time.sleep(1.0)
    world.database.mend()
    return True


def lose_database(world: World, run: Run) -> bool:
    """It answers nothing for longer than a lease."""
    world.database.stop()
    time.sleep(run.lease_seconds + 2)
    world.database.mend()
    return True


def slow_database(world: World, run: Run) -> bool:
    """It works a quarter of the time."""
    world.database.slow()
    time.sleep(4.0)
    world.database.mend()
    return True


def read_only_database(world: World, run: Run) -> bool:
    """It changes nothing, as after a failover to a standby."""
    if not isinstance(world.database, PostgresCluster):
        return False  # whoever has a file open for writing goes on writing
    world.database.read_only()
    time.sleep(2.0)
    world.database.mend()
    return True


def _jump(seconds: float) -> Fault:
    def fault(world: World, run: Run) -> bool:
        clocks.put(world.clock_file, clocks.offset(world.clock_file) + seconds)
        return True

    return fault


def _token(world: World) -> int:
    try:
        record = world.store.rollout(ENVIRONMENT, MODEL)
    except FirstlightError:
        return -1
    return record.token if record else 0


FAULTS: dict[str, Fault] = {
    "kill driver": kill_driver,
    "lose driver": lose_driver,
    "freeze driver": freeze_driver,
    "second driver": second_driver,
    "second release": second_release,
    "kill supervisor": kill_supervisor,
    "second supervisor": second_supervisor,
    "kill gateway": _kill("gateway"),
    "kill canary": _kill("canary"),
    "kill baseline": _kill("baseline"),
    "kill stable": _kill("stable"),
    "kill database": kill_database,
    "lose database": lose_database,
    "slow database": slow_database,
    "read-only database": read_only_database,
    "jump forward": _jump(JUMP_SECONDS),
    "jump back": _jump(-JUMP_SECONDS),
}
