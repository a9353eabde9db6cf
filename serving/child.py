"""One process under the supervisor: started or taken over, heard, probed from a thread of its own, stopped. A slow probe delays no other child."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import httpx

from serving import adoption
from serving.adoption import Adopted, Being, Record
from serving.planning import ServerState

_LOG = logging.getLogger(__name__)
_PROBE_SECONDS = 0.2
_PROBE_TIMEOUT_SECONDS = 2.0
_SILENT_PROBES = 2
_LOG_BYTES = 10 << 20


class Running(Protocol):
    """A process that can be watched and signalled, whoever started it."""

    pid: int

    def ending(self) -> str | None:
        """Return how it ended, None while it runs."""
        ...

    def send(self, number: int) -> None:
        """Send a signal; one that has ended gets none."""
        ...

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended within ``seconds``."""
        ...


class _Spawned:
    """A child of this process."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.pid, self.process = process.pid, process

    def ending(self) -> str | None:
        code = self.process.poll()
        return None if code is None else f"its process ended with {code}"

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


class Standby:
    """A process that has imported all that a model server needs and waits to be told which one to be."""

    def __init__(self, *, log: Path) -> None:
        """Start it."""
        self._process = _spawn(["standby", "--parent", str(os.getpid())], log=log, stdin=subprocess.PIPE)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def become(self, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Give it its arguments, which it takes up once it is warm, and return the process. Raises OSError when it is gone."""
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(json.dumps(list(arguments)).encode() + b"\n")
        return self._process

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(5)


class Child:
    """A running (or ended) process that announces its port as one JSON line and answers a readiness path."""

    def __init__(
        self, arguments: Sequence[str], *, log: Path, ready_path: str, keep_fds: Sequence[int] = (), standby: Standby | None = None
    ) -> None:
        """Start ``python -m serving <arguments>``, or let ``standby`` become it; its log goes to the end of ``log``."""
        arguments = [*arguments, "--log", str(log)]
        spawned = standby.become(arguments) if standby else _spawn(arguments, log=log, keep_fds=keep_fds)
        self._begin(_Spawned(spawned), ready_path=ready_path, stdout=spawned.stdout)

    @classmethod
    def adopt(cls, record: Record, *, ready_path: str) -> "Child | None":
        """Take over a process that another supervisor started; None when it is gone.

        One that was ready is taken for ready until it is asked, which is at once (:meth:`settle`).
        """
        running = Adopted.of(record.being)
        if running is None:
            return None
        child = cls.__new__(cls)
        child._begin(running, ready_path=ready_path, record=record)
        return child

    def _begin(self, running: Running, *, ready_path: str, record: Record | None = None, stdout: IO[bytes] | None = None) -> None:
        self.started = time.monotonic()
        self.is_adopted = record is not None
        self.ready_since = self.started if record and record.ready else None
        self.port = record.port if record else None
        self.control_port = record.control_port if record else None
        self.reason = ""
        self._ready_path, self._state = ready_path, ServerState.READY if record and record.ready else ServerState.STARTING
        self._probe_failures, self._answered, self._was_asked = 0, self.started, threading.Event()
        self._running = running
        # Now, not later: once it was found ended, the kernel may give its number to somebody else.
        self.being = record.being if record else _being(running.pid)
        """The process for the list of children; None when that cannot be told."""
        threading.Thread(target=self._watch, args=(stdout,), name=f"watch-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._running.pid

    @property
    def state(self) -> ServerState:
        """What is known now; DEAD as soon as the process has ended."""
        return self._state if self.ending is None else ServerState.DEAD

    @property
    def ending(self) -> str | None:
        """How it ended, None while it runs."""
        return self._running.ending()

    def silent_for(self) -> float:
        """Return the seconds since it last answered a probe."""
        return time.monotonic() - self._answered

    def settle(self, seconds: float) -> None:
        """Wait until it was asked once, ``seconds`` at most."""
        self._was_asked.wait(seconds)

    def terminate(self) -> None:
        """Ask it to drain and end."""
        self._running.send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._running.send(signal.SIGKILL)

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended within ``seconds``."""
        return self._running.wait(seconds)

    def _watch(self, stdout: IO[bytes] | None) -> None:
        if stdout is not None and not self._hear(stdout):
            return
        # A gateway is asked on its control socket: the public one may want TLS, a client certificate, or another address.
        port = self.control_port or self.port
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_PROBE_TIMEOUT_SECONDS, trust_env=False) as client:
            while self.ending is None:
                self._probe(client)
                self._was_asked.set()
                time.sleep(_PROBE_SECONDS)

    def _hear(self, stdout: IO[bytes]) -> bool:
        """Read what it announces up to its port, or its end; a process that was a standby says first that it is warm."""
        with stdout:
            while line := stdout.readline():
                said = _parsed(line)
                self.control_port, self.port = said.get("control_port"), said.get("port")
                self.reason = said.get("reason", "")
                if self.port is not None:
                    return True
        return False

    def _probe(self, client: httpx.Client) -> None:
        try:
            answer = client.get(self._ready_path)
            body = {} if answer.status_code == 200 else answer.json()
        except (httpx.HTTPError, ValueError):
            self._unanswered()
            return
        self._probe_failures, self._answered = 0, time.monotonic()
        if answer.status_code == 200:
            self.ready_since = self.ready_since or time.monotonic()
            self._state, self.reason = ServerState.READY, ""
        elif body.get("state") == "refused":
            self._state, self.reason = ServerState.REFUSED, str(body.get("error"))

    def _unanswered(self) -> None:
        self._probe_failures += 1
        if self._state is ServerState.READY and self._probe_failures >= _SILENT_PROBES:
            self._state, self.reason = ServerState.SILENT, "it does not answer its readiness probe"


def _being(pid: int) -> Being | None:
    moment = adoption.born(pid)
    return None if moment is None else Being(pid=pid, born=moment)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    return said if isinstance(said, dict) else {"reason": f"it said {line[:200]!r} instead of its port"}


def _spawn(
    arguments: Sequence[str], *, log: Path, keep_fds: Sequence[int] = (), stdin: int = subprocess.DEVNULL
) -> "subprocess.Popen[bytes]":
    _turn_over(log)
    command = [sys.executable, "-m", "serving", *arguments]
    with log.open("ab") as stderr:
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, pass_fds=tuple(keep_fds))


def _turn_over(log: Path) -> None:
    """Start a new log file when the old one has grown: the last one is kept."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".1.log"))
