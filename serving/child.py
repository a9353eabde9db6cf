"""One process under the supervisor: started, heard, probed from a thread of its own, stopped. A slow probe delays no other child."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import httpx

from serving.planning import ServerState

_LOG = logging.getLogger(__name__)
_PROBE_SECONDS = 0.2
_PROBE_TIMEOUT_SECONDS = 2.0
_SILENT_PROBES = 2
_LOG_BYTES = 10 << 20


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
        self.started = time.monotonic()
        self.ready_since: float | None = None
        self.port: int | None = None
        self.control_port: int | None = None
        self.reason = ""
        self._ready_path, self._state = ready_path, ServerState.STARTING
        self._probe_failures, self._answered = 0, self.started
        arguments = [*arguments, "--log", str(log)]
        self._process = standby.become(arguments) if standby else _spawn(arguments, log=log, keep_fds=keep_fds)
        threading.Thread(target=self._watch, name=f"watch-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def state(self) -> ServerState:
        """What is known now; DEAD as soon as the process has ended."""
        return self._state if self._process.poll() is None else ServerState.DEAD

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def silent_for(self) -> float:
        """Return the seconds since it last answered a probe."""
        return time.monotonic() - self._answered

    def terminate(self) -> None:
        """Ask it to drain and end."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended within ``seconds``."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _watch(self) -> None:
        assert self._process.stdout is not None
        if not self._hear(self._process.stdout):
            return
        # A gateway is asked on its control socket: the public one may want TLS, a client certificate, or another address.
        port = self.control_port or self.port
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_PROBE_TIMEOUT_SECONDS, trust_env=False) as client:
            while self._process.poll() is None:
                self._probe(client)
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
