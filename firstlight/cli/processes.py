"""Child processes that never outlive us: started in their own session, watched, and stopped as a group, newest first.

On Linux a child also gets SIGTERM from the kernel when the process that started it dies (prctl PR_SET_PDEATHSIG, man 2 prctl), so
nothing is left running even after kill -9.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

from firstlight.errors import RefusedError, TransientError

_PR_SET_PDEATHSIG = 1
_STOP_SECONDS = 15.0
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Children:
    """The processes one command started. Use as a context manager: leaving it stops them all."""

    environment: Mapping[str, str]
    """Environment variables every child gets."""
    logs: Path
    """Folder of one log file a child."""
    running: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)

    def start(self, name: str, arguments: Sequence[str], *, extra: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start one child whose output goes to ``logs/<name>.log``."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with open(self.logs / f"{name}.log", "ab") as log:
            child = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self.environment, **(extra or {})},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.running.append((name, child))
        return child

    def wait_for(self, name: str, is_ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until ``is_ready``. Raises TransientError when the child ends or the time is over, with the end of its log."""
        child = next(process for title, process in reversed(self.running) if title == name)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if is_ready():
                return
            if child.poll() is not None:
                raise TransientError(f"{name} must keep running, it ended with code {child.returncode}: {self.tail(name)}")
            time.sleep(0.2)
        raise TransientError(f"{name} must be ready within {seconds:.0f} s, it is not: read {self.logs / f'{name}.log'}")

    def tail(self, name: str) -> str:
        """Return the last telling line of a child's log."""
        lines = (self.logs / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it printed nothing"

    def ended(self, *, keep: Collection[str] = ()) -> list[str]:
        """Return the names of children that have ended, but for those in ``keep``, which are meant to."""
        return [name for name, child in self.running if name not in keep and child.poll() is not None]

    def stop(self) -> None:
        """Stop every child and what it started, newest first; kill what does not end in time."""
        for _, child in reversed(self.running):
            _signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for _, child in reversed(self.running):
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, deadline - time.monotonic()))
            _signal_group(child, signal.SIGKILL)
            child.wait()
        self.running.clear()

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    if child.returncode is not None and psutil.pid_exists(child.pid):
        return  # ours was reaped, so this is a stranger's number by now; the system gives none anew whose group still lives
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def choose_port(wanted: int, *, what: str, setting: str) -> int:
    """Return ``wanted`` when it is free on loopback, or any free port for 0. Raises RefusedError when it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            raise RefusedError(
                f"{what} needs port {wanted}, which is in use: stop what uses it, or set {setting} to another port (0 takes a free one)"
            ) from None
        return int(probe.getsockname()[1])
