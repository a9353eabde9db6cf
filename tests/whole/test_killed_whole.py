"""The flow's process is killed with -9 at every stage of one release, and the release is run again each time."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from firstlight.cli import releasing
from firstlight.cli.plane import Plane
from firstlight.settings import environment_for_children
from tasks.journal import Reader
from tests.whole import toy
from tests.whole.house import House, until

pytestmark = pytest.mark.whole

STAGES = (
    *("hand-off", "golden", "registration", "data", "evaluation", "bias", "benchmark", "serving", "risk"),
    *("canary", "promotion", "drift"),
)
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def supervised(house: House) -> Iterator[None]:
    with Plane(house.settings) as plane:
        plane.supervisor()
        yield


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("supervised")
def test_a_release_killed_at_every_stage_ends_with_exactly_one_champion(house: House, by_hand: "Start") -> None:
    # Given a Prefect server, a worker and a hand-off
    with Plane(house.settings) as plane:
        plane.orchestration()
        # When the flow is killed at every stage before the sign-off, and the release is run again each time
        kill_at(house, "hand-off", by_command(house))
        for stage in STAGES[1 : STAGES.index("canary")]:
            kill_at(house, stage, by_hand)
        # Then the next run goes on from there and waits for people, without a process
        lines = Reader.from_now(house.settings)
        assert release(house) == releasing.WAITING
        assert [line["stage"] for line in lines.new() if line["event"] == "started"] == ["risk"]
        until(lambda: not house.flow_processes(), what="the waiting run holds no process")
        # When server and worker are killed while it waits
        kill_plane(plane)
    with Plane(house.settings) as plane:
        plane.orchestration()
        # Then a new server finds it waiting still, and nothing was measured again
        assert release(house) == releasing.WAITING
        assert house.times("risk", "finished") == 1
        # When it is signed, and the flow is killed at every stage that follows
        assert house.sign(house.open_release()).returncode == 0
        kill_at(house, "canary", by_command(house))
        for stage in ("promotion", "drift"):
            kill_at(house, stage, by_hand)
        # Then the last run ends well, and one more changes nothing
        done = house.run("release", house.handoff(1.0))
        assert done.returncode == releasing.PROMOTED, done.stdout
        assert release(house) == releasing.PROMOTED
    assert_exactly_one_champion(house)
    until(lambda: not left_behind(house), what="no process that measured is left")


Start = Callable[[ThreadPoolExecutor], tuple[Future[int], Callable[[], None], int]]
"""Starts a run and returns its end (an exit code), how to kill its flow, and the exit code of a run that was killed."""


def release(house: House) -> int:
    """Do what ``firstlight release`` does, in this process: it saves the start of an interpreter."""
    return releasing.release(house.settings, str(house.handoff(1.0)))


def by_command(house: House) -> Start:
    """Start runs as the command does, through the worker."""

    def start(pool: ThreadPoolExecutor) -> tuple[Future[int], Callable[[], None], int]:
        def kill() -> None:
            assert house.kill_flow() == 1

        return pool.submit(release, house), kill, releasing.ERROR

    return start


@pytest.fixture(scope="module")
def by_hand(house: House) -> Iterator[Start]:
    """Start runs by hand, each in a process of its own that has everything imported."""
    parent = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
        env={**environment_for_children(house.settings), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"

    def start(pool: ThreadPoolExecutor) -> tuple[Future[int], Callable[[], None], int]:
        # the slash: another parameter, so that the command does not take the run for its own
        parent.stdin.write(f"{os.environ['PREFECT_API_URL']} {house.handoff(1.0)}/\n")
        child = int(parent.stdout.readline())
        return pool.submit(lambda: int(parent.stdout.readline())), lambda: os.kill(child, signal.SIGKILL), KILLED

    try:
        yield start
    finally:
        parent.stdin.close()
        parent.stdout.close()
        parent.kill()
        parent.wait()


def kill_at(house: House, stage: str, start: Start) -> None:
    """Run the release until ``stage`` has started, kill the flow's process, and see that no finished stage was started again."""
    lines, started = Reader.from_now(house.settings), list[str]()

    def has_started() -> bool:
        started.extend(line["stage"] for line in lines.new() if line["event"] == "started")
        return stage in started or running.done()

    with ThreadPoolExecutor(1) as pool:
        running, kill, code = start(pool)
        until(has_started, every=0.005, seconds=90, what=f"{stage} has started")
        assert stage in started, running.result()
        kill()
        assert running.result(60) == code
    again = [name for name in started if STAGES.index(name) < STAGES.index(stage) - 1]
    assert again == [], f"stages that had finished before the flow was killed ran again on the way to {stage}"


def kill_plane(plane: Plane) -> None:
    for name, child in plane.children.running:
        if name != "deploy":
            os.killpg(child.pid, signal.SIGKILL)


def left_behind(house: House) -> list[str]:
    """Return the command lines of benchmark processes of this house that live on."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if "models.benchmark_worker" in line and str(house.settings.state) in line]


def assert_exactly_one_champion(house: House) -> None:
    with house.store() as records:
        champion = records.champion("local", toy.NAME)
        history, releases = records.history("local", toy.NAME), records.releases("local", toy.NAME)
    assert champion is not None
    assert [line.version for line in history] == [champion.version]
    assert [one.status.value for one in releases] == ["promoted"]
    assert house.registry().aliases(toy.NAME) == {"champion": champion.version}
    assert house.registered() == [(champion.version, champion.digest)]
    finished = [line["stage"] for line in house.journal() if line["event"] == "finished"]
    assert set(finished) == {*STAGES, "sign-off"}
