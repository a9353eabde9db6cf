"""The model servers of one model: so many per version as the options say, restarted with growing patience, stopped when told."""

import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from rollout.spec import ServableVersion
from serving import planning
from serving.child import Child, Standby
from serving.options import Options
from serving.planning import STEADY_SECONDS, ServerState
from serving.process import GRACE_SECONDS

_LOG = logging.getLogger(__name__)
_SILENT_SECONDS = 10.0


@dataclass(slots=True)
class _Seat:
    """What is remembered of a version from one process to the next."""

    child: Child | None = None
    failures: int = 0
    not_before: float = 0.0
    reason: str = ""

    @property
    def state(self) -> ServerState:
        """What is known of the process now."""
        return self.child.state if self.child else ServerState.DEAD


_BEST = (ServerState.READY, ServerState.STARTING, ServerState.SILENT, ServerState.REFUSED, ServerState.DEAD, ServerState.ABSENT)


@dataclass(slots=True)
class Fleet:
    """Starts and stops model servers; knows nothing of traffic."""

    folder: Path
    """For the logs."""
    options: Options = field(default_factory=Options)
    """How the model servers behave."""
    ready_seconds: float = 60.0
    """A server that is not ready by then is replaced."""
    standby: bool = True
    """Keep one process that has everything imported: the next version is ready in a second instead of several."""
    _seats: dict[tuple[str, int], _Seat] = field(default_factory=dict)
    """By version and number of the replica."""
    _spare: Standby | None = None
    _leaving: list[tuple[Child, float]] = field(default_factory=list)

    def states(self) -> dict[str, ServerState]:
        """Return the state of every version that has, or had, a server: that of its best replica."""
        found: dict[str, ServerState] = {}
        for (version, _), seat in self._seats.items():
            found[version] = min(found.get(version, seat.state), seat.state, key=_BEST.index)
        return found

    def urls(self) -> dict[str, tuple[str, ...]]:
        """Return the addresses of every version that is ready, one for each replica that is."""
        found: dict[str, tuple[str, ...]] = {}
        for (version, _), seat in sorted(self._seats.items()):
            if seat.child is not None and seat.state is ServerState.READY:
                found[version] = (*found.get(version, ()), f"http://127.0.0.1:{seat.child.port}")
        return found

    def addresses(self) -> list[str]:
        """Return the addresses of all servers that listen, ready or not: whoever watches wants to see why one is not."""
        children = [seat.child for seat in self._seats.values() if seat.child is not None]
        return [f"http://127.0.0.1:{child.port}" for child in children if child.port is not None]

    def problems(self) -> list[str]:
        """Return one sentence for every server that should answer and does not."""
        who = "replica {1} of version {0}" if self.options.model.replicas > 1 else "version {0}"
        return [f"{who.format(*key)} does not answer: {seat.reason}" for key, seat in self._seats.items() if seat.reason]

    def keep(self, versions: Collection[str], *, find: Callable[[str], ServableVersion]) -> list[str]:
        """Make sure each of ``versions`` has its servers, or will; return sentences for those that cannot be started at all."""
        problems = []
        for version in versions:
            for number in range(self.options.model.replicas):
                seat = self._seats.setdefault((version, number), _Seat())
                self._look_after(seat, version)
                if number and self._seats[version, number - 1].state is ServerState.STARTING:
                    break  # one replica of a version after the other: together both would be late
                if seat.child is None and time.monotonic() >= seat.not_before:
                    problems += self._start(seat, version, number, find=find)
        return problems

    def drop(self, versions: Collection[str]) -> None:
        """Stop the servers of ``versions``: they drain and end."""
        for key in [key for key in self._seats if key[0] in versions]:
            seat = self._seats.pop(key)
            if seat.child is not None:
                _LOG.info("server stops", extra={"version": key[0], "server_pid": seat.child.pid})
                seat.child.terminate()
                self._leaving.append((seat.child, time.monotonic()))
        self._reap()

    def keep_spare(self) -> None:
        """Have a process on standby, unless a server is starting: that one needs the processor more."""
        if self._spare is not None and not self._spare.is_alive:
            self._spare = None
        starting = any(seat.child and seat.child.state is ServerState.STARTING for seat in self._seats.values())
        if self.standby and self._spare is None and self._seats and not starting:
            self._spare = Standby(log=self.folder / "standby.log")

    def close(self) -> None:
        """Stop every server and wait until they are gone."""
        if self._spare is not None:
            self._spare.kill()
        self.drop([version for version, _ in self._seats])
        for child, _ in self._leaving:
            if not child.wait(GRACE_SECONDS + 2):
                child.kill()
                child.wait(2)

    def _look_after(self, seat: _Seat, version: str) -> None:
        child = seat.child
        if child is None:
            return
        state, age = child.state, time.monotonic() - (child.ready_since or child.started)
        if state is ServerState.READY:
            seat.reason = ""
            seat.failures = 0 if age > STEADY_SECONDS else seat.failures
        elif state is ServerState.REFUSED:
            seat.reason = child.reason
            if time.monotonic() - child.started > planning.BACKOFF_SECONDS[-1]:
                self._fail(seat, version, why=child.reason)
        elif state is ServerState.DEAD:
            self._fail(seat, version, why=child.reason or f"its process ended with {child.exit_code}")
        elif state is ServerState.STARTING and age > self.ready_seconds:
            self._fail(seat, version, why=f"it must be ready within {self.ready_seconds:g} s and was not")
        elif state is ServerState.SILENT:
            seat.reason = child.reason
            if child.silent_for() > _SILENT_SECONDS:
                self._fail(seat, version, why=child.reason)

    def _fail(self, seat: _Seat, version: str, *, why: str) -> None:
        assert seat.child is not None
        seat.child.kill()
        seat.child.wait(1)
        wait = planning.backoff(seat.failures)
        seat.child, seat.failures, seat.reason, seat.not_before = None, seat.failures + 1, why, time.monotonic() + wait
        _LOG.warning("server failed", extra={"version": version, "why": why, "restart_in": wait})

    def _start(self, seat: _Seat, version: str, number: int, *, find: Callable[[str], ServableVersion]) -> list[str]:
        try:
            servable = find(version)
            log, spare = self.folder / f"model-{version}{f'-{number}' if number else ''}.log", self._take_spare()
            seat.child = Child(self._arguments(servable), log=log, ready_path="/v2/health/ready", standby=spare)
        except Exception as error:
            seat.failures += 1
            seat.not_before = time.monotonic() + planning.backoff(seat.failures)
            seat.reason = f"it cannot be started: {error}"
            return [f"version {version} {seat.reason}"]
        _LOG.info("server starts", extra={"version": version, "server_pid": seat.child.pid})
        return []

    def _take_spare(self) -> Standby | None:
        spare, self._spare = self._spare, None
        return spare if spare is not None and spare.is_alive else None

    def _arguments(self, servable: ServableVersion) -> list[str]:
        arguments = ["model", servable.folder, "--name", servable.model, "--version", servable.version, "--parent", str(os.getpid())]
        arguments += ["--model-digest", servable.model_digest, "--handoff-digest", servable.handoff_digest, "--backend", servable.backend]
        arguments += [] if servable.backend_digest is None else ["--backend-digest", servable.backend_digest]
        arguments += [] if servable.signature is None else ["--signature", servable.signature]
        return [*arguments, "--options", self.options.model_dump_json()]

    def _reap(self) -> None:
        remaining = []
        for child, since in self._leaving:
            if child.exit_code is not None:
                continue
            if time.monotonic() - since > GRACE_SECONDS + 2:
                child.kill()
            remaining.append((child, since))
        self._leaving = remaining
