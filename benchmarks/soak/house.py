"""A gateway in front of a model server, as the processes that serve in production, seen from outside: addresses, memory, metrics."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from serving.control import Control
from serving.routes import Routes, Target

_READY_SECONDS = 180


class House:
    """A context in which both processes run."""

    def __init__(self, handoff: Path, *, name: str, folder: Path, options: dict[str, Any]) -> None:
        """``handoff`` is served under its own ``name``; ``folder`` is for logs; ``options`` are those of serving/options.py."""
        self._folder, self._name = folder, name
        self._given = ["--options", json.dumps(options), "--parent", str(os.getpid())]
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._stack = contextlib.ExitStack()
        self._arguments = {"model": [str(handoff), "--name", name, "--version", "1"]}
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Start both, and wait until the model server is ready and routed to."""
        self._folder.mkdir(parents=True, exist_ok=True)
        token = self._folder / "token"
        token.write_text("secret")
        self._arguments["gateway"] = ["--model", self._name, "--token-file", str(token)]
        try:
            self.ports["model"] = self._start("model")["port"]
            bound = self._start("gateway")
            self.ports["gateway"] = bound["port"]
            self._wait_until_ready()
            target = Target(version="1", url=f"http://127.0.0.1:{self.ports['model']}")
            with Control(f"http://127.0.0.1:{bound['control_port']}", token="secret", model=self._name) as control:
                control.put_routes(Routes(generation=1, stable=target))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop both."""
        self._stop()

    @property
    def path(self) -> str:
        """Where inference is asked for."""
        return f"/v2/models/{self._name}/infer"

    def url(self, door: str) -> str:
        """Address of ``gateway`` or ``model``."""
        return f"http://127.0.0.1:{self.ports[door]}"

    def connect(self, door: str, *, timeout: float = 30.0) -> socket.socket:
        """Return a connection of one's own."""
        made = socket.create_connection(("127.0.0.1", self.ports[door]), timeout=timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def alive(self) -> dict[str, bool]:
        """Say which of the two processes are the ones that were started."""
        return {role: process.poll() is None for role, process in self._processes.items()}

    def memory(self) -> dict[str, float]:
        """Return resident MiB of the gateway, of the model server's HTTP process, and of each process that computes for it."""
        found = {}
        for role, process in self._processes.items():
            top = psutil.Process(process.pid)
            found[role] = top.memory_info().rss / 2**20
            for place, child in enumerate(sorted(top.children(recursive=True), key=lambda one: one.pid)):
                with contextlib.suppress(psutil.Error):
                    found[f"{role} {'nursery' if place == 0 else f'worker {place}'}"] = child.memory_info().rss / 2**20
        return found

    def processor_seconds(self, role: str) -> float:
        """Return the processor time that a process, without its children, has used."""
        times = psutil.Process(self._processes[role].pid).cpu_times()
        return float(times.user + times.system)

    def metric(self, door: str, name: str) -> float:
        """Return the sum of a metric over its labels; 0 when it is not there."""
        text = httpx.get(f"{self.url(door)}/metrics", trust_env=False, timeout=30).text
        lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def log(self, role: str) -> list[dict[str, Any]]:
        """Return what a process logged."""
        lines = (self._folder / f"{role}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def _start(self, role: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "serving", role, *self._arguments[role], *self._given, "--log", str(self._folder / f"{role}.log")]
        with open(self._folder / f"{role}.err", "ab") as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        self._processes[role] = process
        assert process.stdout is not None
        bound: dict[str, Any] = json.loads(process.stdout.readline())
        return bound

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url('model')}/v2/health/ready", trust_env=False).status_code == 200:
                    return
            if time.monotonic() > deadline or self._processes["model"].poll() is not None:
                raise RuntimeError(f"the model server must become ready, see {self._folder}")
            time.sleep(0.1)

    def _stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            if process.stdout is not None:
                process.stdout.close()
