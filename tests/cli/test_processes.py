"""Children of a command: started, watched, stopped with everything they started, and gone when we are."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from firstlight.cli.processes import Children, choose_port
from firstlight.errors import RefusedError, TransientError

SLEEPER = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('up', flush=True); time.sleep(60)"


def until(holds: Callable[[], bool], *, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_stopping_stops_grandchildren_too(tmp_path: Path) -> None:
    with Children(environment=dict(os.environ), logs=tmp_path) as children:
        child = children.start("sleeper", [sys.executable, "-c", SLEEPER])
        children.wait_for("sleeper", lambda: "up" in (tmp_path / "sleeper.log").read_text(), seconds=20)
        family = [child.pid, *(process.pid for process in psutil.Process(child.pid).children(recursive=True))]
        assert len(family) == 2
    assert until(lambda: not any(is_alive(pid) for pid in family))


def test_a_child_that_ends_is_reported_with_what_it_said(tmp_path: Path) -> None:
    with Children(environment=dict(os.environ), logs=tmp_path) as children:
        children.start("broken", [sys.executable, "-c", "import sys; sys.exit('no such database')"])
        with pytest.raises(TransientError, match="no such database"):
            children.wait_for("broken", lambda: False, seconds=20)
        assert children.ended() == ["broken"]
        assert children.ended(keep=("broken",)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_killed_command_leaves_no_child(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from firstlight.cli.processes import Children\n"
        f"children = Children(environment=dict(os.environ), logs=Path({str(tmp_path)!r}))\n"
        "child = children.start('sleeper', [sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert until(lambda: not is_alive(child))


def test_a_port_in_use_is_a_sentence_that_names_the_setting() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RefusedError, match="FIRSTLIGHT_GATEWAY_PORT"):
            choose_port(port, what="the gateway", setting="FIRSTLIGHT_GATEWAY_PORT")
    assert choose_port(0, what="the gateway", setting="FIRSTLIGHT_GATEWAY_PORT") > 0


def test_a_number_that_was_given_to_somebody_else_is_left_alone(tmp_path: Path) -> None:
    # Given a child that ended and was reaped, whose number the system has given to a stranger since
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        with Children(environment=dict(os.environ), logs=tmp_path) as children:
            child = children.start("done", [sys.executable, "-c", "pass"])
            child.wait()
            child.pid = stranger.pid
        # When our children were stopped, then the stranger lives on
        assert not until(lambda: stranger.poll() is not None, seconds=0.5)
    finally:
        stranger.kill()
        stranger.wait()
