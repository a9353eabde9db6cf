"""A/B experiments for people: two versions side by side until a date, callers kept on their side, and a report with intervals.

An experiment is traffic like a canary's, on a lease that nobody renews: it ends by itself. Nothing is judged here and nothing promoted.
What the gateway counted between two looks is added up in a file of the experiment; ``look`` is whoever asks the gateway.
"""

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from firstlight.digest import write_atomic
from firstlight.errors import FirstlightError, RefusedError
from firstlight.settings import Settings
from rollout.comparison import Arm, Comparison, Share, compare
from rollout.evidence import Evidence, Stream
from rollout.meter import Meter, Reading
from rollout.records import Experiment, ReleaseStatus
from rollout.store import Store
from tasks import doors

Look = Callable[[], Mapping[str, Any]]
"""Returns the gateway's ``GET /evidence``. Raises FirstlightError when nobody answers."""
STICKY = re.compile(r"client|header:[a-z0-9-]{1,60}")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What somebody wants to compare."""

    name: str
    a: str
    """The champion."""
    b: str
    share: int
    """Percent of requests for ``b``, 1..99."""
    sticky: str | None
    """``client`` or ``header:<name>``: what keeps a caller on one side."""
    until: float
    """Unix seconds."""
    by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is known of an experiment so far; its file."""

    begun_at: float
    evidence: Evidence
    """The canary is ``b``, the control ``a``."""
    meter: Mapping[str, Any] | None = None
    looked_at: float | None = None
    """When the gateway was asked last, unix seconds."""
    restarts: int = 0
    """How often the gateway was found to be another process: what the old one counted after the last look is lost."""
    is_final: bool = False
    """Whether the last look was after the end: no other is taken."""

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        values = {name: getattr(self, name) for name in ("begun_at", "meter", "looked_at", "restarts", "is_final")}
        return json.dumps({**values, "evidence": self.evidence.to_dict()}, sort_keys=True).encode()

    @classmethod
    def read(cls, path: Path, experiment: Experiment) -> "Seen":
        """Return what is known of ``experiment``: nothing yet where there is no file of it. Raises RefusedError for a foreign one."""
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls(begun_at=experiment.begun_at, evidence=Evidence(control=Stream()))
        except ValueError as error:
            raise RefusedError(f"{path} must be what an experiment's looks wrote, it is not ({error}): move it away") from None
        seen = cls(**{**found, "evidence": Evidence.from_dict(found["evidence"])})
        return seen if seen.begun_at == experiment.begun_at else cls(begun_at=experiment.begun_at, evidence=Evidence(control=Stream()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """An experiment and what is known."""

    experiment: Experiment
    is_running: bool
    comparisons: tuple[Comparison, ...]
    requests: tuple[int, int]
    """Of ``a`` and of ``b``."""
    confidence: float
    quantile: float
    remarks: tuple[str, ...] = ()
    """Sentences on what the numbers do not tell."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "experiment": asdict(self.experiment),
            "is_running": self.is_running,
            "requests": {"a": self.requests[0], "b": self.requests[1]},
            "confidence": self.confidence,
            "quantile": self.quantile,
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "remarks": list(self.remarks),
        }


def start(settings: Settings, model: str, plan: Plan, *, look: Look, clock: Callable[[], float] = time.time) -> Experiment:
    """Begin an experiment. Raises RefusedError (a RolloutError among them) that says what stands in the way; nothing is changed then."""
    _check(plan)
    path = _file(settings, model, plan.name)
    if path.exists():
        raise RefusedError(f"an experiment's name must be new, {plan.name!r} was used before ({path}): give another with --name")
    with doors.store(settings) as records:
        for version in (plan.a, plan.b):
            check_may_take_part(records, settings.environment, model, version)
        # What the gateway has counted until now is not the experiment's.
        first = Seen(begun_at=clock(), evidence=Evidence(control=Stream()))
        first = taken(first, look(), a=plan.a, b=plan.b, now=clock(), is_over=False)
        begun = records.begin_experiment(
            settings.environment,
            model,
            name=plan.name,
            a=plan.a,
            b=plan.b,
            share=plan.share,
            sticky=plan.sticky,
            until=plan.until,
            by=plan.by,
        )
    write_atomic(path, replace(first, begun_at=begun.begun_at).to_bytes())
    return begun


def report(
    settings: Settings,
    model: str,
    *,
    look: Look,
    confidence: float = 0.95,
    quantile: float = 0.95,
    clock: Callable[[], float] = time.time,
) -> Report:
    """Take a look at the experiment begun last and say what is known. Raises RefusedError when there has been none."""
    with doors.store(settings) as records:
        found = records.experiment(settings.environment, model)
        if found is None:
            raise RefusedError(f"an experiment of {model!r} must have begun in {settings.environment!r}, none has: begin one")
        now = clock()
        seen, remarks = _look(settings, found, look, now=now)
        flagged = _anomalies(settings, records, found, remarks)
    control = seen.evidence.control or Stream()
    arms = (
        Arm(version=found.a, stream=control, flagged=flagged[found.a]),
        Arm(version=found.b, stream=seen.evidence.canary, flagged=flagged[found.b]),
    )
    return Report(
        experiment=found,
        is_running=found.is_running(now),
        comparisons=tuple(compare(*arms, confidence=confidence, quantile=quantile)),
        requests=(control.requests, seen.evidence.canary.requests),
        confidence=confidence,
        quantile=quantile,
        remarks=tuple(remarks),
    )


def stop(settings: Settings, model: str, *, by: str, reason: str, look: Look, clock: Callable[[], float] = time.time) -> Experiment:
    """End the running experiment: one last look, then all traffic to the champion. Raises NoExperiment when none runs."""
    with doors.store(settings) as records:
        found = records.experiment(settings.environment, model)
        if found is not None and found.is_running(clock()):
            _look(settings, found, look, now=clock())
        return records.end_experiment(settings.environment, model, by=by, reason=reason)


def taken(seen: Seen, document: Mapping[str, Any], *, a: str, b: str, now: float, is_over: bool) -> Seen:
    """Return ``seen`` and what the gateway's ``document`` shows beyond it; nothing of the past at the first look. Raises BadEvidence."""
    meter = Meter(Reading(canary=b, stable=a), state=seen.meter)
    is_new_process = seen.meter is not None and seen.meter["epoch"] != document.get("epoch")
    return replace(
        seen,
        evidence=seen.evidence.plus(meter.streams(document, in_step=False)),
        meter=meter.state(),
        looked_at=now,
        restarts=seen.restarts + is_new_process,
        is_final=is_over,
    )


def check_may_take_part(records: Store, environment: str, model: str, version: str) -> None:
    """Raise RefusedError unless ``version`` was champion, or its latest release passed every gate and reached its canary without failing there.

    Also raises UnknownVersion.
    """
    digest = records.version(model, version).model_digest
    if any(line.version == version and line.digest == digest for line in records.history(environment, model)):
        return
    releases = [release for release in records.releases(environment, model) if release.model_digest == digest]
    latest = releases[-1] if releases else None
    if latest is None:
        found = "no release has looked at it"
    elif latest.status is ReleaseStatus.FAILED:
        found = f"release {latest.id} failed: {latest.summary}"
    elif not records.points(latest.id):  # the timeline begins with the canary, behind gates and signatures
        found = f"release {latest.id} has not passed its gates ({latest.status.value})"
    else:
        return
    raise RefusedError(
        f"version {version!r} of {model!r} must have been champion in {environment!r} or have passed its gates to be given callers, {found}: "
        "carry it through its gates with `firstlight release`"
    )


def _check(plan: Plan) -> None:
    if not NAME.fullmatch(plan.name):
        raise RefusedError(
            f"an experiment's name must be lower-case letters, digits, . _ and -, at most 64, got {plan.name!r}: give another"
        )
    if plan.sticky is not None and not STICKY.fullmatch(plan.sticky):
        raise RefusedError(f"callers are kept on their side by 'client' or 'header:<name>', got {plan.sticky!r}: give one of them")
    if plan.a == plan.b:
        raise RefusedError(f"an experiment must compare two versions, got {plan.a!r} twice: give another one as --b")
    if not math.isfinite(plan.until):
        raise RefusedError("an experiment must have an end: give a date as --until")


def _file(settings: Settings, model: str, name: str) -> Path:
    return settings.folder("experiments", settings.environment, model) / f"{name}.json"


def _look(settings: Settings, found: Experiment, look: Look, *, now: float) -> tuple[Seen, list[str]]:
    """Return what is known by now, written down, and what is to be said of it."""
    path = _file(settings, found.model, found.name)
    seen, remarks, ended = Seen.read(path, found), list[str](), min(found.until, found.ended_at or math.inf)
    if not seen.is_final and (found.ended_at is None or seen.looked_at is None or seen.looked_at < found.ended_at):
        try:
            seen = taken(seen, look(), a=found.a, b=found.b, now=now, is_over=now >= ended)
            write_atomic(path, seen.to_bytes())
        except FirstlightError as error:
            remarks.append(f"the gateway could not be asked, so this is what was known {_ago(seen.looked_at, now)}: {error}")
    if seen.restarts:
        remarks.append(f"the gateway was started anew {seen.restarts} times; what it had counted since the look before is missing")
    if seen.is_final and seen.looked_at is not None and seen.looked_at > ended + 60:
        remarks.append(
            f"the last look was taken {_span(seen.looked_at - ended)} after the end; what both versions answered since then is counted too"
        )
    if found.sticky is not None:
        remarks.append("one caller's requests are counted as if each were another caller's: with few callers the intervals are too narrow")
    return seen, remarks


def _anomalies(settings: Settings, records: Store, found: Experiment, remarks: list[str]) -> Mapping[str, Share | None]:
    try:
        return {version: _flagged(settings, records, found, version) for version in (found.a, found.b)}
    except FirstlightError as error:
        remarks.append(f"the share of anomalies is not known: {error}")
        return {found.a: None, found.b: None}


def _flagged(settings: Settings, records: Store, found: Experiment, version: str) -> Share | None:
    """Return (anomalies, answers) of a version in the inference log while the experiment ran; None where its hand-off has no threshold, or
    nothing is logged."""
    from tasks import vouching
    from tasks.replay import REPLAY

    papers = vouching.load(settings, records.version(found.model, version).folder)
    score, threshold = papers.role("score"), papers.model.score_threshold
    rows = doors.logged(settings, model=found.model, version=version, since=datetime.fromtimestamp(found.begun_at, UTC))
    if score is None or threshold is None or score not in rows:
        return None
    end = datetime.fromtimestamp(min(found.until, found.ended_at or math.inf), UTC)
    scores = rows.loc[(rows["time"] <= end) & (rows["client"] != REPLAY), score].dropna()
    return int((scores >= threshold).sum()), len(scores)


def _ago(moment: float | None, now: float) -> str:
    return "at no time" if moment is None else f"{_span(now - moment)} ago"


def _span(seconds: float) -> str:
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
