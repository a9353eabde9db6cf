"""The canary: put the candidate into live traffic step by step, measure, decide, and go back at the first doubt.

The decisions are ``rollout.controller`` and ``rollout.analysis`` (pure), the loop is ``rollout.driver``. Here it is given its
world: the gateway, held-out spectra to send, and what the outputs of this model mean. Nothing has to be undone when this process dies:
the canary's lease runs out and traffic is back on stable; run again, the driver goes on with what was seen.

Where the policy asks for a person before the promotion, this stage stays alive while it waits: it renews the lease and judges on, so
that a canary that turns bad goes back by itself. It holds one process, which sleeps.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import get_run_logger

from firstlight import settings as settings_module
from firstlight.errors import FirstlightError, RefusedError, TransientError
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from models.handoff import HandOff
from rollout.backends.local import LocalBackend
from rollout.driver import ChampionMove, Driver, Ended, Errand
from rollout.errors import Fenced
from rollout.evidence import Reference
from rollout.judge import Answered
from rollout.meter import Reading
from rollout.records import Champion
from rollout.spec import Phase, RolloutPolicy, RolloutSpec, RolloutStatus
from rollout.store import Store
from serving import control
from serving.control import Control
from tasks import checking, doors, journal, policy, registering, vouching
from tasks import replay as replaying
from tasks.releases import OpenedRelease
from tasks.replay import Replay
from tasks.stages import stage

_POLL_SECONDS = 0.25
_BURST = 40
"""Replayed requests between two looks."""
_FEW, _FEW_SECONDS = 4, 15.0
"""While a rollout waits for a person so few are sent, and so seldom: enough to see that it still answers."""
_SUPERVISOR_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryReport:
    """How a canary ended, with every look at it that was kept."""

    ended: Ended
    unanswered: dict[str, int]
    """Requests of the replay that got no good answer, by reason. Not part of the verdict: the gateway's own count is."""

    @property
    def verdict(self) -> Verdict:
        """Pass when every step passed."""
        phase = self.ended.status.phase
        if phase in (Phase.PROMOTING, Phase.WATCHING, Phase.SUCCEEDED):
            return Verdict.PASS
        return Verdict.FAIL if phase is Phase.FAILED else Verdict.CANNOT_TELL

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        status, seen = self.ended.status, self.ended.evidence
        weights = list(dict.fromkeys(point["weight"] for point in self.ended.points if point["phase"] == Phase.PROGRESSING.value))
        steps = " → ".join(f"{weight} %" for weight in weights)
        against = f"against version {status.stable}" if status.stable else "against absolute limits, being the first"
        pairs = f", {seen.pairs.total} pairs of answers" if seen.pairs.total else ""
        assessed = self.ended.assessment.to_dict()
        found = [check["reason"] for check in assessed["checks"] if check["verdict"] == Verdict.FAIL.value]
        worse = f"; shown to be worse: {'; '.join(found)}" if found and self.verdict is Verdict.FAIL else ""
        return {
            "verdict": self.verdict.value,
            "summary": f"{steps or 'no step'}: {seen.canary.requests} requests, {seen.canary.errors} failed{pairs}, {against}{worse}",
            "reasons": list(status.reasons),
            "answered": seen.canary.requests - seen.canary.errors,
            "phase": status.phase.value,
            "checks": assessed["checks"],
            "budget": assessed.get("budget"),
            "evidence": seen.to_dict(),
            "timeline": self.ended.points,
            "unanswered": self.unanswered,
            "rollout": status.to_dict(),
        }


@stage("canary", "Canary in live traffic")
def run(release: OpenedRelease) -> CanaryReport:
    """Drive the candidate's canary until it may be promoted or traffic is back on stable."""
    settings = settings_module.current()
    with doors.store(settings) as records, driving(release, settings, records) as (driver, world):
        ended = driver.run(until={Phase.PROMOTING, Phase.WATCHING})
        return CanaryReport(ended=ended, unanswered=dict(world.replay.unanswered) if world.replay else {})


@contextmanager
def driving(
    release: OpenedRelease, settings: Settings, records: Store, *, champion: ChampionMove | None = None
) -> Iterator[tuple[Driver, "World"]]:
    """Claim the rollout of a release and give its driver; an error takes traffic back to stable at once, as far as we still may say so."""
    spec = _spec(release, records)
    papers, evaluated = vouching.load(settings, release.handoff), checking.evaluated(release)
    reading, reference = _meaning(release, settings, records, spec, papers=papers, evaluated=evaluated)
    with World(release, settings, spec, papers, evaluated) as world:
        _wait_for_supervisor(_backend(records, release, spec.policy, token=None))
        driver = Driver(
            Errand(
                environment=release.environment,
                model=release.model,
                release_id=release.id,
                holder=f"release {release.id}",
                spec=spec,
                reading=reading,
                reference=reference,
            ),
            store=records,
            backend=lambda token: _backend(records, release, spec.policy, token=token),
            world=world,
            champion=champion,
            tell=partial(_tell, settings, release, spec),
        )
        with _traffic_back_on_error(driver, records, release, spec):
            yield driver, world


def _spec(release: OpenedRelease, records: Store) -> RolloutSpec:
    """Return what is rolled out against what; a rollout whose champion has moved already is still against the one before."""
    canary, champion = registering.version_of(release), records.champion(release.environment, release.model)
    stable = champion.version if champion else None
    if champion is not None and champion.version == canary:
        stable = champion.previous
    return RolloutSpec(canary=canary, stable=stable, policy=policy.current().rollout)


def _backend(records: Store, release: OpenedRelease, rules: RolloutPolicy, *, token: int | None) -> LocalBackend:
    return LocalBackend(
        records,
        release.environment,
        release.model,
        lease_seconds=rules.lease_seconds,
        by=f"release {release.id}",
        token=token,
        shadow_percent=rules.shadow_percent,
    )


def _wait_for_supervisor(backend: LocalBackend) -> None:
    deadline = time.monotonic() + _SUPERVISOR_SECONDS
    while backend.gateway_url is None:
        if time.monotonic() > deadline:
            raise TransientError(f"somebody must make traffic true, nobody does: {'; '.join(backend.problems)}")
        time.sleep(_POLL_SECONDS)


@contextmanager
def _traffic_back_on_error(driver: Driver, records: Store, release: OpenedRelease, spec: RolloutSpec) -> Iterator[None]:
    """Do not wait for the lease when we still can say so. Who was fenced off touches nothing: somebody else drives."""
    try:
        yield
    except Fenced:
        raise
    except BaseException:
        with suppress(FirstlightError):  # the lease does it
            driver.retreat()
        raise


def _tell(settings: Settings, release: OpenedRelease, spec: RolloutSpec, status: RolloutStatus, said: str) -> None:
    get_run_logger().info("%s at %s %%: %s", status.phase.value, status.weight, said)
    share = (status.step + (status.phase not in (Phase.STARTING, Phase.PROGRESSING))) / len(spec.steps)
    phase = f"{status.phase.value} at {status.weight} %: {said}"
    journal.note(settings, about=release.id, stage="canary", event="progress", fraction=min(1.0, share), phase=phase)


class World:
    """What the driver can measure here: the gateway on this machine, and held-out spectra where the policy replays them."""

    def __init__(self, release: OpenedRelease, settings: Settings, spec: RolloutSpec, papers: HandOff, evaluated: pd.DataFrame) -> None:
        """Nothing is connected before it is needed; a gateway that was started anew is found again."""
        self._patience = spec.policy.lease_seconds / 4
        self._find = partial(control.find, settings.state, environment=release.environment, model=release.model)
        self._way_in = partial(control.entrance, settings.state, environment=release.environment, model=release.model)
        self._control: Control | None = None
        self._replay: Replay | None = None
        self._make = partial(Replay, self._way_in, papers, evaluated, candidate=spec.canary, timeout=self._patience)
        self._wanted, self._state, self._sent_at = spec.policy.replay, dict[str, Any](), -1e9

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        if self._control is not None:
            self._control.close()
        if self._replay is not None:
            self._replay.__exit__()

    @property
    def replay(self) -> Replay | None:
        """Who sends held-out spectra; None where nobody does."""
        if self._replay is None and self._wanted:
            self._replay = self._make()
            if self._state:
                self._replay.restore(self._state)
        return self._replay

    def evidence(self) -> Mapping[str, Any]:
        """Return the gateway's totals."""
        with self._asking() as gateway:
            return gateway.evidence()

    def pairs(self, after: int) -> Mapping[str, Any]:
        """Return a page of the gateway's pairs."""
        with self._asking() as gateway:
            return gateway.pairs(after=after)

    def stir(self, status: RolloutStatus) -> None:
        """Send held-out spectra, where the policy wants that: many while a step is decided, few afterwards, and seldom while a person is waited for."""
        replay = self.replay
        if replay is None:
            return
        is_waiting = status.phase in (Phase.PAUSED, Phase.APPROVING)
        if is_waiting and time.monotonic() - self._sent_at < _FEW_SECONDS:
            return
        self._sent_at = time.monotonic()
        replay.send(_BURST if status.phase is Phase.PROGRESSING else _FEW, seconds=self._patience)

    def answered(self) -> Mapping[str, Answered]:
        """Return what came back to us since the last time, by version."""
        return self.replay.take() if self.replay else {}

    def state(self) -> dict[str, Any]:
        """Return what another process needs to go on."""
        return self._replay.state() if self._replay else self._state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self._state = dict(state)
        if self._replay is not None and state:
            self._replay.restore(state)

    @contextmanager
    def _asking(self) -> Iterator[Control]:
        if self._control is None:
            self._control = self._find()
        try:
            yield self._control
        except FirstlightError:
            self._control.close()
            self._control = None
            raise


def _meaning(
    release: OpenedRelease, settings: Settings, records: Store, spec: RolloutSpec, *, papers: HandOff, evaluated: pd.DataFrame
) -> tuple[Reading, Reference]:
    """Return how answers are read, and what there is to measure: what both versions answer, in the words of their hand-offs."""
    rules, parts = spec.policy, replaying.strata(evaluated)
    names = tuple(dict.fromkeys(name for row in parts.values() for name in row))
    has_labels = papers.role("class_probabilities") is None or "label_class" in evaluated
    alone = Reference(control=False, quality=rules.replay and has_labels, agreement=rules.replay)
    if spec.stable is None:
        return Reading(canary=spec.canary), alone
    other = vouching.load(settings, records.version(release.model, spec.stable).folder)
    scales, score = scales_of(rules, papers, other, _answers_of_stable(settings, release, records, spec, other)), papers.role("score")
    thresholds = None
    if score is not None and score == other.role("score") and papers.model.score_threshold is not None:
        thresholds = None if other.model.score_threshold is None else (other.model.score_threshold, papers.model.score_threshold)
    vector, classes = papers.role("class_probabilities"), (tuple(other.model.classes), tuple(papers.model.classes))
    comparable = vector is not None and vector == other.role("class_probabilities") and set(classes[0]) == set(classes[1])
    reading = Reading(
        canary=spec.canary,
        stable=spec.stable,
        baseline=rules.baseline,
        numbers={name: known for known, (name, _) in scales.items()},
        score=score,
        thresholds=thresholds,
        probabilities=vector,
        labels=classes if comparable else None,
        replayed=replaying.named(spec.canary),
        strata=parts if rules.replay else {},
    )
    reference = Reference(
        control=True,
        quality=alone.quality,
        agreement=alone.agreement,
        pairs=rules.shadow_percent > 0,
        scales={known: scale for known, (_, scale) in scales.items()},
        flags=thresholds is not None,
        labels=classes[1] if comparable else (),
        strata=names if rules.replay and scales else (),
    )
    return reading, reference


def _answers_of_stable(settings: Settings, release: OpenedRelease, records: Store, spec: RolloutSpec, other: HandOff) -> pd.DataFrame:
    """Return a table of stable's own answers: on held-out rows, where its release is still here, else on the reference rows it was handed over with.

    Never the candidate's: one whose answers spread widely would make its own margin.
    """
    lines: list[Champion] = [line for line in records.history(release.environment, release.model) if line.version == spec.stable]
    for line in reversed(lines):
        table = settings.folder("releases", line.release_id) / checking.EVALUATED if line.release_id else Path()
        if table.is_file():
            return pd.read_parquet(table)
    return other.reference_table()


def scales_of(rules: RolloutPolicy, papers: HandOff, other: HandOff, evaluated: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """Return name in the policy -> (output, standard deviation of stable's answers): scalars that both answer and that vary.

    Raises RefusedError where nobody knows how stable's answers spread.
    """
    mine, theirs = ({output.name for output in one.model.outputs} for one in (papers, other))
    found: dict[str, tuple[str, float]] = {}
    for name in rules.answers:
        output = papers.role(name) or name
        if output not in mine & theirs:
            continue
        if output not in evaluated:
            raise RefusedError(
                f"how widely {output!r} of the stable version spreads must be known to judge by it, neither its evaluation nor its reference "
                f"table has it: hand over a reference table with the model's answers, or leave {name!r} out of rollout.answers"
            )
        scale = float(np.nanstd(evaluated[output].to_numpy(dtype=np.float64)))
        if np.isfinite(scale) and scale > 0:
            found[name] = (output, scale)
    return found
