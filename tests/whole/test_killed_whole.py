"""The flow's process is killed with -9 at every stage of one release, and the release is run again each time."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from firstlight.cli import releasing
from firstlight.cli.plane import Plane
from tasks.journal import Reader
from tests.whole import toy
from tests.whole.house import House, until

pytestmark = pytest.mark.whole

BEFORE_SIGN_OFF = ("hand-off", "golden", "registration", "data", "evaluation", "bias", "benchmark", "serving", "risk")
AFTER_SIGN_OFF = ("canary", "promotion", "drift")
STAGES = (*BEFORE_SIGN_OFF, *AFTER_SIGN_OFF)


@pytest.fixture(scope="module")
def supervised(house: House) -> Iterator[None]:
    with Plane(house.settings) as plane:
        plane.supervisor()
        yield


@pytest.mark.timeout(420)
@pytest.mark.usefixtures("supervised")
def test_a_release_killed_at_every_stage_ends_with_exactly_one_champion(house: House) -> None:
    # Given a Prefect server, a worker and a hand-off
    with Plane(house.settings) as plane:
        plane.orchestration()
        # When the flow is killed at every stage before the sign-off, and the release is run again each time
        for stage in BEFORE_SIGN_OFF:
            kill_at(house, stage)
        # Then the next run goes on from there and waits for people
        assert release(house) == releasing.WAITING
        until(lambda: not house.flow_processes(), what="the waiting run holds no process")
        # When server and worker are killed while it waits
        kill_all(plane)
    with Plane(house.settings) as plane:
        plane.orchestration()
        # Then a new server finds it waiting still, and nothing was measured twice
        assert release(house) == releasing.WAITING
        assert house.times("risk", "finished") == 1
        # When it is signed, and the flow is killed at every stage that follows
        assert house.sign(house.open_release()).returncode == 0
        for stage in AFTER_SIGN_OFF:
            kill_at(house, stage)
        # Then the last run ends well, whoever starts it, and one more changes nothing
        done = house.run("release", house.handoff(1.0))
        assert done.returncode == releasing.PROMOTED, done.stdout
        assert release(house) == releasing.PROMOTED
    assert_exactly_one_champion(house)


def release(house: House) -> int:
    """Do what ``firstlight release`` does, in this process: it saves the start of an interpreter."""
    return releasing.release(house.settings, str(house.handoff(1.0)))


def kill_at(house: House, stage: str) -> None:
    """Run the release until ``stage`` has started, kill the flow's process, and see that no finished stage was started again."""
    lines, started = Reader.from_now(house.settings), list[str]()

    def has_started() -> bool:
        started.extend(line["stage"] for line in lines.new() if line["event"] == "started")
        return stage in started or running.done()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(release, house)
        until(has_started, every=0.01, seconds=90, what=f"{stage} has started")
        assert stage in started, running.result()
        assert house.kill_flow() == 1
        assert running.result(60) == releasing.ERROR
    again = [name for name in started if STAGES.index(name) < STAGES.index(stage) - 1]
    assert again == [], f"stages that had finished before the flow was killed ran again on the way to {stage}"


def kill_all(plane: Plane) -> None:
    for name, child in plane.children.running:
        if name != "deploy":
            os.killpg(child.pid, signal.SIGKILL)


def assert_exactly_one_champion(house: House) -> None:
    known = house.registry()
    with house.store() as records:
        champion = records.champion("local", toy.NAME)
        history, releases = records.history("local", toy.NAME), records.releases("local", toy.NAME)
    assert champion is not None
    assert [line.version for line in history] == [champion.version]
    assert [one.status.value for one in releases] == ["promoted"]
    assert known.aliases(toy.NAME) == {"champion": champion.version}
    assert house.registered() == [(champion.version, champion.digest)]
    finished = [line["stage"] for line in house.journal() if line["event"] == "finished"]
    assert set(finished) == {*STAGES, "sign-off"}
