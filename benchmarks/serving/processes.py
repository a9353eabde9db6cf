"""Processes that are measured: started in a session of their own, stopped in time while another has its turn, weighed, and ended."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import psutil

_PR_SET_PDEATHSIG = 1


class Tree:
    """A process and everything it started. Paused, it and its children use no processor at all."""

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path | None = None) -> None:
        """Start ``command``; what it prints goes to ``log``."""
        self.log = log
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_die_with_us,
            )
        self.started = time.monotonic()
        self._known: dict[int, psutil.Process] = {}

    @property
    def alive(self) -> bool:
        """Whether the first process still runs."""
        return self._process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Return all that run now."""
        try:
            root = psutil.Process(self._process.pid)
            for found in (root, *root.children(recursive=True)):
                self._known.setdefault(found.pid, found)
        except psutil.NoSuchProcess:
            pass
        self._known = {pid: found for pid, found in self._known.items() if found.is_running() and _state(found) != psutil.STATUS_ZOMBIE}
        return list(self._known.values())

    def pause(self) -> None:
        """Stop all of them in time, parents first: none finds a child that does not answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let all of them go on, children first."""
        self._signal(signal.SIGCONT, backwards=True)

    def cpu_seconds(self) -> float:
        """Return the processor seconds used so far, of those that run and of their children that ended."""
        total = 0.0
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory(self) -> dict[str, Any]:
        """Return megabytes: PSS (shared pages divided among those who share them), RSS summed, and how many processes."""
        pss = rss = count = 0
        for process in self.processes():
            try:
                full = process.memory_full_info()
            except psutil.Error:
                continue
            pss, rss, count = pss + full.pss, rss + full.rss, count + 1
        return {"pss_mb": round(pss / 1e6), "rss_mb": round(rss / 1e6), "processes": count}

    def terminate(self) -> None:
        """Ask the first process to end, as an orchestrator does."""
        self.processes()
        self._process.terminate()

    def wait_gone(self, seconds: float) -> float | None:
        """Return the seconds until every process was gone, or None when some are left after ``seconds``."""
        began = time.monotonic()
        while self.processes():
            self._process.poll()
            if time.monotonic() - began > seconds:
                return None
            time.sleep(0.02)
        return time.monotonic() - began

    def kill(self) -> None:
        """End all of them now."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int, *, backwards: bool = False) -> None:
        found = self.processes()
        for process in reversed(found) if backwards else found:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue


class Helper:
    """A process of ours that is given jobs and answers in JSON lines: the load generator, a worker of the in-process limit."""

    def __init__(self, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Start ``python -m module arguments``."""
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            preexec_fn=_die_with_us,
        )

    def ask(self, job: Mapping[str, Any]) -> None:
        """Send one job."""
        _pipe(self._process.stdin).write(json.dumps(job) + "\n")
        _pipe(self._process.stdin).flush()

    def hear(self) -> dict[str, Any]:
        """Return the next line. Raises RuntimeError when there is none."""
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"{self._module} must answer, it ended with {self._process.wait()}")
        value: dict[str, Any] = json.loads(line)
        return value

    def cpu_seconds(self) -> float:
        """Return the processor seconds used so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def close(self) -> None:
        """End it."""
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Busy:
    """Processor seconds of the whole machine, to know what others used."""

    def __init__(self) -> None:
        self._began, self._at = _machine(), time.monotonic()

    def cores(self) -> float:
        """Return the cores that were busy since this object was made, whoever used them."""
        return (_machine() - self._began) / self.seconds()

    def seconds(self) -> float:
        """Return the seconds since this object was made."""
        return max(1e-6, time.monotonic() - self._at)


def _machine() -> float:
    times = psutil.cpu_times()
    # interrupts are left out: the kernel's part of our own loopback traffic is counted there. Stolen time belongs to other machines.
    return times.user + times.nice + times.system + getattr(times, "steal", 0.0)


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _state(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_ZOMBIE


def _die_with_us() -> None:
    # killed, not asked: a process that is stopped in time hears nothing else
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
