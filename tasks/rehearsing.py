"""The way back, rehearsed: would the version we might return to verify, load, answer as it was judged, and take the traffic, and how soon?

Its papers are looked at here (signature, digests, compiled file); the rest is done by the supervisor, which starts the version afresh beside everything that
answers and lets it answer copies of requests. Each rehearsal is recorded in the store, whatever it showed. A release stage asks for a fresh one before its canary.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from firstlight import settings as settings_module
from firstlight.errors import FirstlightError, RefusedError
from firstlight.settings import Settings
from firstlight.verdict import Verdict, worst
from models import handoff
from models.backends import compiled
from rollout import rehearsal
from rollout.backends.drills import DrillStage, LocalDrills
from rollout.policy import DrillPolicy
from rollout.records import Drill
from rollout.rehearsal import Rehearsed
from rollout.spec import ServableVersion
from rollout.store import Store
from serving import control
from serving.client import InferenceClient
from tasks import doors, policy, vouching
from tasks.releases import OpenedRelease
from tasks.replay import REPLAY
from tasks.retries import retrying
from tasks.stages import artifact_key, stage

_AT_A_TIME = 4
"""Requests sent between two looks."""
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long is waited for a rehearsal, in seconds."""

    notice: float = 5.0
    """For the first report: a supervisor that lives looks five times a second."""
    beyond_limit: float = 45.0
    """Beyond the policy's limit: for servers that have to be ready first, and for the copies."""
    poll: float = 0.05


_PATIENCE = Patience()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsals:
    """What is known of the versions one could go back to."""

    model: str
    drills: tuple[Drill, ...]
    """Newest of each version; empty where there is no champion yet."""
    missing: str = ""
    """Why there is nothing to rehearse, where there is nothing."""

    @property
    def verdict(self) -> Verdict:
        """The worst; with nothing to rehearse, *cannot tell*."""
        return worst(Verdict(drill.verdict) for drill in self.drills)

    @property
    def summary(self) -> str:
        """One sentence."""
        return "; ".join(f"version {drill.version}: {drill.reason}" for drill in self.drills) or self.missing

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        reasons = [f"version {drill.version}: {drill.reason}" for drill in self.drills if drill.verdict != Verdict.PASS.value]
        return {"verdict": self.verdict.value, "summary": self.summary, "reasons": reasons, "drills": [row(drill) for drill in self.drills]}


def row(drill: Drill) -> dict[str, Any]:
    """Return a rehearsal as a row of a table."""
    return {
        "version": drill.version,
        "verdict": drill.verdict,
        "seconds": drill.seconds,
        "answered": drill.answered,
        "failed": drill.failed,
        "at": datetime.fromtimestamp(drill.at, UTC).isoformat(timespec="seconds"),
        "reason": drill.reason,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class WayBack:
    """Evidence of a release: the version it would go back to, and its rehearsal."""

    found: Rehearsals
    rules: DrillPolicy
    is_first: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. Where nothing is required, what is known is said and nothing is stopped."""
        document = self.found.to_dict()
        if self.is_first:
            return {**document, "verdict": Verdict.PASS.value, "summary": "a first release has no version to go back to", "reasons": []}
        if not self.rules.required:
            said = f"not required in this environment; {document['summary']}"
            return {**document, "verdict": Verdict.PASS.value, "summary": said, "reasons": []}
        return {**document, "required_within_hours": self.rules.valid_hours, "limit_seconds": self.rules.limit_seconds}


@stage("rehearsal", "Rehearse the way back")
def rehearse_way_back(release: OpenedRelease) -> WayBack:
    """Make sure that the present champion, to which a failing canary's callers return, was rehearsed lately: by now if not before."""
    settings = settings_module.current()
    with doors.store(settings) as records:
        return way_back(records, settings, release.model, rules=policy.current().rollout.drill, by=f"release {release.id}")


def way_back(records: Store, settings: Settings, model: str, *, rules: DrillPolicy, by: str, patience: Patience = _PATIENCE) -> WayBack:
    """Return what is known of going back to the present champion, having rehearsed it where the policy asks for that and nobody has."""
    champion = records.champion(settings.environment, model)
    if champion is None:
        return WayBack(found=Rehearsals(model=model, drills=()), rules=rules, is_first=True)
    known = fresh(records, settings, model, champion.version, rules=rules)
    if known is None and not rules.required:
        missing = f"version {champion.version} was not rehearsed in the last {rules.valid_hours:g} h"
        return WayBack(found=Rehearsals(model=model, drills=(), missing=missing), rules=rules)
    drill = known or rehearse(records, settings, model, champion.version, rules=rules, by=by, patience=patience)
    return WayBack(found=Rehearsals(model=model, drills=(drill,)), rules=rules)


@task(name="rehearse", task_run_name="Rehearse the way back of {model}", **retrying())
def rehearse_targets(model: str, version: str | None = None, *, by: str) -> Rehearsals:
    """Rehearse ``version``, or every version one could go back to, as a step of a flow."""
    return rehearse_versions(settings_module.current(), model, version, by=by)


def rehearse_versions(settings: Settings, model: str, version: str | None = None, *, by: str) -> Rehearsals:
    """Rehearse ``version``, or every version one could go back to now: the previous champion, and the present one for the next canary."""
    rules = policy.read(settings.policy_path).rollout.drill
    with doors.store(settings) as records:
        wanted = (version,) if version else targets(records, settings.environment, model)
        drills = tuple(rehearse(records, settings, model, one, rules=rules, by=by) for one in wanted)
    missing = f"{model} has no champion in {settings.environment} yet, so there is no way back to rehearse: release a version first"
    return Rehearsals(model=model, drills=drills, missing=missing)


def targets(records: Store, environment: str, model: str) -> tuple[str, ...]:
    """Return the versions one could go back to: the previous champion, if there is one, then the present one."""
    champion = records.champion(environment, model)
    return () if champion is None else tuple(version for version in (champion.previous, champion.version) if version is not None)


def fresh(records: Store, settings: Settings, model: str, version: str, *, rules: DrillPolicy) -> Drill | None:
    """Return the latest rehearsal of these very bytes within the policy's hours, when it succeeded; else None."""
    found = records.fresh_drill(settings.environment, model, version, not_before=time.time() - rules.valid_hours * 3600)
    known = records.version(model, version)
    return found if found is not None and found.verdict == Verdict.PASS.value and found.digest == known.model_digest else None


def rehearse(
    records: Store, settings: Settings, model: str, version: str, *, rules: DrillPolicy, by: str, patience: Patience = _PATIENCE
) -> Drill:
    """Rehearse one version now, record how it went, and return the record. Raises UnknownVersion and the store's errors."""
    known = records.version(model, version)
    refused = refusal(settings, known)
    if refused:
        ended = Rehearsed(verdict=Verdict.FAIL, reason=refused)
    else:
        with Caller(records, settings, model) as caller:
            drills = LocalDrills(records, settings.environment, model, by=by)
            ended = carry_out(drills, version, ask=caller.ask, limit_seconds=rules.limit_seconds, patience=patience)
    drill = Drill(
        environment=settings.environment,
        model=model,
        version=version,
        digest=known.model_digest,
        verdict=ended.verdict.value,
        seconds=ended.seconds,
        answered=ended.answered,
        failed=ended.failed,
        reason=ended.reason,
        at=time.time(),
    )
    records.record_drill(drill, by=by)
    return drill


def refusal(settings: Settings, version: ServableVersion) -> str:
    """Return why a version's papers or files would not be accepted by a model server, or "": known before anything is started."""
    try:
        papers = vouching.open_version(settings, version)
        if version.backend_digest is not None:
            compiled.read(settings.compiled, version.backend_digest, handoff=papers, backend=version.backend)
    except RefusedError as error:
        return str(error)
    return ""


def carry_out(
    drills: DrillStage, version: str, *, ask: Callable[[], None], limit_seconds: float, patience: Patience = _PATIENCE
) -> Rehearsed:
    """Order a rehearsal, keep asking while it can be asked, and return how it ended. ``ask`` sends a few requests that can be copied."""
    asked, began = drills.order(version), time.monotonic()
    noticed, report, heard = None, None, began
    while True:
        seen = drills.report()
        waited = time.monotonic() - began
        if seen is not None:
            heard = time.monotonic()
            if seen.get("asked") == asked:
                report, noticed = seen, waited if noticed is None else noticed
            elif noticed is not None:
                return rehearsal.interrupted(f"another one was ordered meanwhile, {seen.get('asked')}: wait for it, then ask again")
        if noticed is not None and time.monotonic() - heard > patience.notice:
            return rehearsal.interrupted("the supervisor stopped reporting: look at `firstlight status`")
        overdue = waited > (patience.notice if noticed is None else limit_seconds + patience.beyond_limit)
        if overdue or rehearsal.is_over(report, asked=asked):
            return rehearsal.judge(report, asked=asked, limit_seconds=limit_seconds, noticed_seconds=noticed, waited_seconds=waited)
        if report is not None and report.get("state") == rehearsal.ANSWERING:
            ask()
        time.sleep(patience.poll)


class Caller:
    """Asks the live model, so that there is something to copy where nobody else asks: golden inputs, through the gateway, as a replay."""

    def __init__(self, records: Store, settings: Settings, model: str) -> None:
        """Nothing is sent before :meth:`ask`."""
        self._records, self._settings, self._model = records, settings, model
        self._client: InferenceClient | None = None
        self._inputs: dict[str, np.ndarray] = {}
        self._turn = 0

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def ask(self) -> None:
        """Send a few requests, one row each. One without an answer is no verdict: the drill's own count of its copies is."""
        with suppress(FirstlightError):
            client = self._client or self._find()
            for _ in range(_AT_A_TIME):
                place = self._turn % len(next(iter(self._inputs.values())))
                self._turn += 1
                client.infer({name: values[place : place + 1] for name, values in self._inputs.items()}, request_id=f"drill-{self._turn}")

    def _find(self) -> InferenceClient:
        """Raises FirstlightError while there is no gateway, or nobody who answers."""
        desired = self._records.desired(self._settings.environment, self._model)
        live = desired.traffic.stable if desired else None
        if live is None:
            raise RefusedError(f"{self._model} must have a version that answers, it has none: release one first")
        self._inputs = dict(handoff.load(self._records.version(self._model, live).folder).golden()[0])
        url, key = control.entrance(self._settings.state, environment=self._settings.environment, model=self._model)
        self._client = InferenceClient(url, self._model, client=REPLAY, key=key, timeout=_ANSWER_SECONDS)
        return self._client


def publish(found: Rehearsals) -> None:
    """Show the rehearsals on the run."""
    rows = "\n".join(
        f"| {drill.version} | {drill.verdict} | {'–' if drill.seconds is None else f'{drill.seconds:.1f}'} | {drill.answered} | {drill.failed} | {drill.reason} |"
        for drill in found.drills
    )
    head = "| version | verdict | seconds until it could take the traffic | copies answered | failed | found |\n|---|---|---|---|---|---|"
    markdown = f"**{found.verdict}**: {found.summary}\n\n{head}\n{rows}\n"
    create_markdown_artifact(
        key=artifact_key(f"{found.model}-drill"), markdown=markdown, description=f"Rehearsed ways back of {found.model}"
    )


def state(found: Rehearsals) -> State[Any]:
    """Return the run's final state: green only when every way back was shown."""
    title = {Verdict.PASS: "Rehearsed", Verdict.FAIL: "No way back", Verdict.CANNOT_TELL: "Cannot tell"}[found.verdict]
    if found.verdict is not Verdict.PASS:  # without data, as in publishing.state
        return Failed(name=title, message=found.summary)
    return Completed(name=title, message=found.summary, data=found.to_dict())
