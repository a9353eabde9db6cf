"""How tests start a flow's process, kill it with -9 at a stage, and see what the next run does again."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil

from firstlight.cli import releasing
from firstlight.cli.plane import Plane
from firstlight.settings import environment_for_children
from tasks.journal import Reader
from tests.whole.house import House, until

STAGES = (
    *("hand-off", "golden", "registration", "data", "evaluation", "bias", "backend", "benchmark", "serving", "environment"),
    *("risk", "rehearsal", "canary", "promotion", "drift"),
)
_KILLED = -signal.SIGKILL

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


@contextmanager
def by_hand(house: House) -> Iterator[Start]:
    """Start runs by hand, each in a process of its own that has everything imported; it is ready when the first run is asked for."""
    parent = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py")), str(house.handoff(1.0))],
        env={**environment_for_children(house.settings), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None

    def start(pool: ThreadPoolExecutor) -> tuple[Future[int], Callable[[], None], int]:
        # the slash: another parameter, so that the command does not take the run for its own
        parent.stdin.write(f"{os.environ['PREFECT_API_URL']} {house.handoff(1.0)}/\n")
        said = parent.stdout.readline()
        child = int(parent.stdout.readline() if said == "ready\n" else said)
        return pool.submit(lambda: int(parent.stdout.readline())), lambda: os.kill(child, signal.SIGKILL), _KILLED

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


def run_by_hand(start: Start) -> int:
    """Start a run, let it end, and return the exit code of its process."""
    with ThreadPoolExecutor(1) as pool:
        return start(pool)[0].result(120)


def kill_plane(plane: Plane) -> None:
    for name, child in plane.children.running:
        if name != "deploy":
            os.killpg(child.pid, signal.SIGKILL)


def left_behind(house: House) -> list[str]:
    """Return the command lines of benchmark processes of this house that live on."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if "models.benchmark_worker" in line and str(house.settings.state) in line]
