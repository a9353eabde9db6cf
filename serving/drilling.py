"""The rehearsal of a version's cold start, while others answer: started anew, its golden vectors replayed, asked copies of live requests, stopped.

It is somebody's question, named ``version#number`` in the desired state; the report stands in the observed one, under the same name. A drill gets no
request of any caller, waits until everything that should answer does, and its process yields the processor to everybody else.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from rollout.spec import ServableVersion
from serving.fleet import Fleet
from serving.planning import ServerState
from serving.routes import Shadow, Target

_NICENESS = 10
_ALL = 100


class Stage(StrEnum):
    """How far a drill is. The last two are ends."""

    WAITING = "waiting"
    """Something that should answer does not yet: that comes first."""
    STARTING = "starting"
    """Its process loads the model and replays the golden vectors."""
    ANSWERING = "answering"
    """It is ready and gets copies of live requests."""
    DONE = "done"
    """It was ready; ``answered`` and ``failed`` say how the copies ended."""
    FAILED = "failed"
    """It did not become ready, or did not stay so; ``reason`` says why."""

    @property
    def is_final(self) -> bool:
        """Whether the drill is over."""
        return self in (Stage.DONE, Stage.FAILED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One drill: ``Observed.drill``."""

    asked: str
    """The question as it stands in the desired state: version, #, number."""
    version: str
    state: Stage = Stage.WAITING
    seconds: float | None = None
    """From the start of the process to ready."""
    reason: str = ""
    answered: int = 0
    """Copies of live requests that got a good answer, or a refusal that is the caller's fault."""
    failed: int = 0
    """Copies that got no answer, or one of 500 and above."""
    at: float = 0.0
    """Unix seconds at which this state began."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "state": self.state.value}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any] | None) -> "Report | None":
        """Return what :meth:`to_dict` gave, or None for anything else."""
        with suppress(TypeError, ValueError, KeyError):
            return cls(**{**document, "state": Stage(document["state"])}) if document else None
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is to be known of a drill's server in order to go on."""

    server: ServerState
    settled: bool
    """Everything that should answer does."""
    start_seconds: float | None = None
    reason: str = ""
    answered: int = 0
    failed: int = 0
    stage_seconds: float = 0.0
    """Elapsed time since the present stage began."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """When a drill's server has been asked enough: after that long, or that many copies."""

    seconds: float
    copies: int


def begin(asked: str, *, now: float) -> Report:
    """Return the report of a drill that was asked for and has not begun; ``now`` in unix seconds."""
    return Report(asked=asked, version=asked.rpartition("#")[0] or asked, at=now)


def advance(report: Report, seen: Seen, *, now: float, length: Length) -> Report:
    """Return the report after a look at the server. Pure; ``now`` in unix seconds. An end is never left."""
    if report.state.is_final:
        return report
    if report.state is Stage.WAITING:
        return replace(report, state=Stage.STARTING, at=now) if seen.settled else report
    if seen.reason or seen.server in (ServerState.DEAD, ServerState.REFUSED, ServerState.SILENT):
        return replace(report, state=Stage.FAILED, reason=seen.reason or f"its server is {seen.server}", at=now)
    if report.state is Stage.STARTING:
        is_ready = seen.server is ServerState.READY
        return replace(report, state=Stage.ANSWERING, seconds=seen.start_seconds, at=now) if is_ready else report
    counted = replace(report, answered=seen.answered, failed=seen.failed)
    is_enough = seen.stage_seconds >= length.seconds or seen.answered + seen.failed >= length.copies
    return replace(counted, state=Stage.DONE, at=now) if is_enough else counted


class Drills:
    """The drills of one model, one at a time: the report, the server, and the copies it should get."""

    def __init__(self, fleet: Fleet, *, length: Length, last: Report | None = None) -> None:
        """``fleet`` is for drills alone; ``last`` is the report of an earlier supervisor, so that what is over is not done again."""
        self.fleet, self._length = fleet, length
        self.report = last if last is not None and last.state.is_final else None
        self._stage_since = 0.0
        self._totals = ("", "", 0, 0)
        """Of which gateway and drill, and how many copies and failures there had been before."""
        self._counted = (0, 0)

    def tick(self, asked: str | None, *, settled: bool, find: Callable[[str], ServableVersion], now: float) -> None:
        """One round. ``asked`` is what the desired state asks for."""
        self.fleet.drop(())
        if asked is None or (self.report is not None and self.report.asked != asked):
            self._stop()
        if asked is None:
            if self.report is not None and not self.report.state.is_final:
                self.report = None
            return
        before = self.report if self.report is not None and self.report.asked == asked else begin(asked, now=now)
        self.report = advance(before, self._seen(before, settled=settled), now=now, length=self._length)
        if self.report.state is not before.state:
            self._stage_since = time.monotonic()
            self._counted = (0, 0)
        if self.report.state.is_final:
            self._stop()
        elif self.report.state is not Stage.WAITING and not self.fleet.states():
            self._start(self.report.version, find)

    def shadow(self) -> Shadow | None:
        """Return who gets copies of live requests for the drill's sake, or None."""
        urls = self.fleet.urls().get(self.report.version) if self.report is not None else None
        if urls is None or self.report is None or self.report.state is not Stage.ANSWERING:
            return None
        return Shadow(target=Target(version=self.report.version, url=urls[0]), percent=_ALL)

    def count(self, evidence: Mapping[str, Any]) -> None:
        """Take the copies from the gateway's totals (``Control.evidence``): those since the first look at this drill in the life of this gateway."""
        assert self.report is not None, "only a drill that goes on is counted"
        epoch, version = str(evidence["epoch"]), self.report.version
        tracks = [track for track in evidence["tracks"] if (track["track"], track["version"]) == ("drill", version)]
        total = (sum(track["requests"] for track in tracks), sum(track["errors"] for track in tracks))
        if self._totals[:2] != (epoch, self.report.asked):
            self._totals = (epoch, self.report.asked, *total)
        _, _, requests, failed = self._totals
        self._counted = (total[0] - requests - (total[1] - failed), total[1] - failed)

    def _seen(self, report: Report, *, settled: bool) -> Seen:
        version = report.version
        self.fleet.keep((version,) if self.fleet.states() else (), find=_nobody)
        return Seen(
            server=self.fleet.states().get(version, ServerState.ABSENT),
            settled=settled,
            start_seconds=self.fleet.start_seconds(version),
            reason=self.fleet.reason(version),
            answered=self._counted[0],
            failed=self._counted[1],
            stage_seconds=time.monotonic() - self._stage_since,
        )

    def _start(self, version: str, find: Callable[[str], ServableVersion]) -> None:
        self.fleet.keep((version,), find=find)
        for pid in self.fleet.pids():
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)

    def _stop(self) -> None:
        self.fleet.drop(tuple(self.fleet.states()))


def _nobody(version: str) -> ServableVersion:
    raise LookupError(f"a drill of version {version} is started once")
