"""Model servers of one model: so many per version as the options say, restarted with growing patience, stopped when told.

A keeper has three fleets, which know nothing of each other: the servers that answer, those of the baseline, and the one whose start is rehearsed.
"""

import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rollout.spec import ServableVersion
from serving import adoption, planning
from serving.adoption import Record
from serving.child import Child, Standby
from serving.options import Options
from serving.planning import STEADY_SECONDS, ServerState
from serving.process import GRACE_SECONDS

_LOG = logging.getLogger(__name__)
_SILENT_SECONDS = 10.0
_READY_PATH = "/v2/health/ready"


@dataclass(slots=True)
class _Seat:
    """What is remembered of a version from one process to the next."""

    child: Child | None = None
    fit: str = ""
    """What the process was started with."""
    is_checked: bool = True
    """Whether it is known to be what would be started now."""
    former: Child | None = None
    """A process that was taken over and would not be started like that any more: it answers until its successor does."""
    failures: int = 0
    not_before: float = 0.0
    reason: str = ""

    @property
    def state(self) -> ServerState:
        """What is known of the process now."""
        return self.child.state if self.child else ServerState.DEAD

    @property
    def answering(self) -> Child | None:
        """Return the process to send requests to, or None."""
        if self.child is not None and self.state is ServerState.READY:
            return self.child
        return self.former if self.former is not None and self.former.state is ServerState.READY else None


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
    role: str = "model"
    """What its servers are for: ``model``, ``baseline`` or ``drill``."""
    restarts: bool = True
    """Start a server that failed again."""
    replicas: int | None = None
    """Servers of each version; None: as many as the options say."""
    _seats: dict[tuple[str, int], _Seat] = field(default_factory=dict)
    """By version and number of the replica."""
    _spare: Standby | None = None
    _leaving: list[tuple[Child, float]] = field(default_factory=list)

    def states(self) -> dict[str, ServerState]:
        """Return the state of every version that has, or had, a server: that of its best replica."""
        found: dict[str, ServerState] = {}
        for (version, _), seat in self._seats.items():
            state = ServerState.READY if seat.answering else seat.state
            found[version] = min(found.get(version, state), state, key=_BEST.index)
        return found

    def urls(self) -> dict[str, tuple[str, ...]]:
        """Return the addresses of every version that is ready, one for each replica that is."""
        found: dict[str, tuple[str, ...]] = {}
        for (version, _), seat in sorted(self._seats.items(), key=lambda item: item[0]):
            if (answering := seat.answering) is not None:
                found[version] = (*found.get(version, ()), _url(answering))
        return found

    def addresses(self) -> list[str]:
        """Return the addresses of all servers that listen, ready or not: whoever watches wants to see why one is not."""
        return [_url(child) for child in self._children() if child.port is not None]

    def pids(self) -> list[int]:
        """Return the process ids of all servers."""
        return [child.pid for child in self._children()]

    def problems(self) -> list[str]:
        """Return one sentence for every server that should answer and does not."""
        who = "replica {1} of version {0}" if self._count > 1 else "version {0}"
        who = who if self.role == "model" else f"the {self.role}'s server of {who}"
        return [f"{who.format(*key)} does not answer: {seat.reason}" for key, seat in self._seats.items() if seat.reason]

    def refused(self) -> dict[str, str]:
        """Return why each version whose server cannot vouch for it is not served."""
        return {version: seat.reason for (version, _), seat in self._seats.items() if seat.state is ServerState.REFUSED}

    def reason(self, version: str) -> str:
        """Return why ``version`` does not answer; empty when nothing is known to be wrong."""
        return next((seat.reason for (known, _), seat in self._seats.items() if known == version and seat.reason), "")

    def start_seconds(self, version: str) -> float | None:
        """Return how long the first server of ``version`` took from its start to ready; None while it is not."""
        seat = self._seats.get((version, 0))
        child = seat.child if seat else None
        return None if child is None or child.ready_since is None else child.ready_since - child.started

    def adopt(self, records: Collection[Record]) -> None:
        """Take over what another supervisor has started for this fleet and still runs."""
        for record in records:
            wanted = record.role == self.role and record.number < self._count
            child = Child.adopt(record, ready_path=_READY_PATH) if wanted else None
            if child is not None:
                self._seats[record.version, record.number] = _Seat(child=child, fit=record.fit, is_checked=False)
                _LOG.info("server taken over", extra={"version": record.version, "server_pid": child.pid})

    def settle(self, seconds: float) -> None:
        """Wait, ``seconds`` at most for each, until every server that was taken over has been asked how it is."""
        for child in self._children():
            if child.is_adopted:
                child.settle(seconds)

    def records(self) -> list[Record]:
        """Return what the next supervisor could take over."""
        found = []
        for (version, number), seat in self._seats.items():
            child = seat.answering or seat.child
            being = child.being if child is not None else None
            if child is None or being is None or child.port is None:
                continue
            fit, ready = seat.fit if child is seat.child else "", child.state is ServerState.READY
            found.append(Record(role=self.role, being=being, fit=fit, port=child.port, version=version, number=number, ready=ready))
        return found

    def keep(self, versions: Collection[str], *, find: Callable[[str], ServableVersion]) -> list[str]:
        """Make sure each of ``versions`` has its servers, or will; return sentences for those that cannot be started at all."""
        problems = []
        for version in versions:
            for number in range(self._count):
                seat = self._seats.setdefault((version, number), _Seat())
                self._check(seat, version, find=find)
                self._look_after(seat, version)
                if number and self._seats[version, number - 1].state is ServerState.STARTING:
                    break  # one replica of a version after the other: together both would be late
                if seat.child is None and time.monotonic() >= seat.not_before and (self.restarts or not seat.failures):
                    problems += self._start(seat, version, number, find=find)
        return problems

    def drop_former(self, *, routed: Collection[str]) -> None:
        """Stop every server whose successor answers and to whose address nothing is routed any more; one whose successor is refused, too.

        Such a version cannot be vouched for by the rules that hold now, so the old process must not go on either.
        """
        for (version, _), seat in self._seats.items():
            former = seat.former
            if former is None:
                continue
            replaced = seat.state is ServerState.READY and _url(former) not in routed
            if replaced or seat.state is ServerState.REFUSED or former.ending is not None:
                _LOG.info("server replaced", extra={"version": version, "server_pid": former.pid})
                self._leave(former)
                seat.former = None

    def drop(self, versions: Collection[str]) -> None:
        """Stop the servers of ``versions``: they drain and end."""
        for key in [key for key in self._seats if key[0] in versions]:
            seat = self._seats.pop(key)
            for child in filter(None, (seat.child, seat.former)):
                _LOG.info("server stops", extra={"version": key[0], "server_pid": child.pid})
                self._leave(child)
        self._reap()

    @property
    def is_starting(self) -> bool:
        """Whether a server has not been ready yet."""
        return any(seat.child is not None and seat.child.state is ServerState.STARTING for seat in self._seats.values())

    def keep_spare(self) -> None:
        """Have a process on standby, unless a server is starting: that one needs the processor more."""
        if self._spare is not None and not self._spare.is_alive:
            self._spare = None
        if self.standby and self._spare is None and self._seats and not self.is_starting:
            self._spare = Standby(log=self.folder / "standby.log")

    def begin_close(self) -> None:
        """Tell every server to stop."""
        if self._spare is not None:
            self._spare.kill()
            self._spare = None
        self.drop([version for version, _ in self._seats])

    def close(self) -> None:
        """Stop every server and wait until they are gone."""
        self.begin_close()
        for child, _ in self._leaving:
            if not child.wait(GRACE_SECONDS + 2):
                child.kill()
                child.wait(2)

    @property
    def _count(self) -> int:
        return self.options.model.replicas if self.replicas is None else self.replicas

    def _children(self) -> Iterator[Child]:
        for seat in self._seats.values():
            yield from filter(None, (seat.child, seat.former))

    def _leave(self, child: Child) -> None:
        child.terminate()
        self._leaving.append((child, time.monotonic()))

    def _check(self, seat: _Seat, version: str, *, find: Callable[[str], ServableVersion]) -> None:
        """See whether a process that was taken over is what would be started now; if not, begin to replace it."""
        if seat.is_checked or seat.child is None:
            return
        try:
            fit = self._fit(find(version))
        except Exception as error:  # the store is away: the process goes on, and is looked at again
            _LOG.warning("a server that was taken over cannot be compared yet", extra={"version": version, "why": str(error)})
            return
        seat.is_checked = True
        if fit != seat.fit:
            _LOG.info("server no longer fits and is replaced", extra={"version": version, "server_pid": seat.child.pid})
            seat.former, seat.child = seat.child, None

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
            self._fail(seat, version, why=child.reason or child.ending or "")
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
            log, spare = self.folder / f"{self.role}-{version}{f'-{number}' if number else ''}.log", self._take_spare()
            arguments = [*self._arguments(servable), "--options", self.options.model_dump_json(), "--parent", str(os.getpid())]
            arguments += ["--children", str(self.folder), "--orphan-seconds", f"{self.options.orphan_seconds:g}"]
            seat.child = Child(arguments, log=log, ready_path=_READY_PATH, standby=spare)
            seat.fit, seat.is_checked = self._fit(servable), True
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
        arguments = ["model", servable.folder, "--name", servable.model, "--version", servable.version]
        arguments += ["--model-digest", servable.model_digest, "--handoff-digest", servable.handoff_digest, "--backend", servable.backend]
        arguments += [] if servable.backend_digest is None else ["--backend-digest", servable.backend_digest]
        return arguments if servable.signature is None else [*arguments, "--signature", servable.signature]

    def _fit(self, servable: ServableVersion) -> str:
        """Return the digest of all that a server is started with: the gateway's options do not concern it, but which keys count does."""
        words = [*self._arguments(servable), self.options.model_dump_json(exclude={"gateway"})]
        return adoption.fitness([*words, *adoption.trusted(self.options.model.model_keys)])

    def _reap(self) -> None:
        remaining = []
        for child, since in self._leaving:
            if child.ending is not None:
                continue
            if time.monotonic() - since > GRACE_SECONDS + 2:
                child.kill()
            remaining.append((child, since))
        self._leaving = remaining


def _url(child: Child) -> str:
    return f"http://127.0.0.1:{child.port}"
