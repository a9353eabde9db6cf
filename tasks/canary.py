"""The canary: put the candidate into live traffic step by step, measure, decide, and go back at the first doubt.

The decisions are ``rollout.controller`` and ``rollout.analysis`` (pure). Here is only the loop around them: say what should be
true, wait until it is, measure, ask for the verdict, record. Nothing has to be undone when this process dies: the canary's lease
runs out and traffic is back on stable; run again, the canary starts from the beginning.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from firstlight import settings as settings_module
from firstlight.errors import FirstlightError, TransientError
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from models import handoff
from rollout import analysis, controller, measurements, timeline
from rollout.analysis import Assessment
from rollout.backends.local import LocalBackend
from rollout.measurements import Measurement
from rollout.spec import Phase, RolloutSpec, RolloutStatus, Traffic
from rollout.store import Store
from serving import control
from tasks import checking, doors, journal, policy, registering
from tasks.releases import OpenedRelease
from tasks.replay import Replay
from tasks.stages import stage

_POLL_SECONDS = 0.25
_BURST = 20
"""Requests between two looks."""
_SUPERVISOR_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryReport:
    """How a canary ended, with every look at it."""

    status: RolloutStatus
    last: Assessment
    points: list[dict[str, Any]]
    unanswered: dict[str, int]
    """Requests of the replay that got no good answer, by reason. Not part of the verdict: the gateway's own count is."""

    @property
    def verdict(self) -> Verdict:
        """Pass when every step passed."""
        return {Phase.PROMOTING: Verdict.PASS, Phase.FAILED: Verdict.FAIL}.get(self.status.phase, Verdict.CANNOT_TELL)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        answered = sum(point["requests"] for point in _last_of_each_step(self.points))
        errors = sum(point["errors"] for point in _last_of_each_step(self.points))
        steps = " → ".join(f"{point['weight']} %" for point in _last_of_each_step(self.points))
        against = f"against version {self.status.stable}" if self.status.stable else "against absolute limits, being the first"
        return {
            "verdict": self.verdict.value,
            "summary": f"{steps or 'no step'}: {answered} requests, {errors} failed, {against}",
            "reasons": list(self.status.reasons),
            "answered": answered,
            "checks": [{"name": check.name, "verdict": check.verdict.value, "reason": check.reason} for check in self.last.checks],
            "timeline": self.points,
            "unanswered": self.unanswered,
            "rollout": self.status.to_dict(),
        }


def _last_of_each_step(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = {point["weight"]: point for point in points if point["phase"] == Phase.PROGRESSING.value}
    return list(last.values())


@stage("canary", "Canary in live traffic")
def run(release: OpenedRelease) -> CanaryReport:
    """Run the candidate's canary until it may be promoted or traffic is back on stable."""
    settings = settings_module.current()
    with doors.store(settings) as records:
        champion = records.champion(release.environment, release.model)
        spec = RolloutSpec(
            canary=registering.version_of(release), stable=champion.version if champion else None, policy=policy.current().rollout
        )
        backend = LocalBackend(
            records, release.environment, release.model, lease_seconds=spec.policy.lease_seconds, by=f"release {release.id}"
        )
        _wait_for_supervisor(backend)
        with _traffic_back_on_error(backend, spec), _replay(release, settings, spec) as replay:
            return _Rollout(release, settings, records, spec, backend, replay).run()


def _wait_for_supervisor(backend: LocalBackend) -> None:
    deadline = time.monotonic() + _SUPERVISOR_SECONDS
    while backend.gateway_url is None:
        if time.monotonic() > deadline:
            raise TransientError(f"somebody must make traffic true, nobody does: {'; '.join(backend.problems)}")
        time.sleep(_POLL_SECONDS)


def _replay(release: OpenedRelease, settings: Settings, spec: RolloutSpec) -> Replay:
    way_in = partial(control.entrance, settings.state, environment=release.environment, model=release.model)
    return Replay(way_in, handoff.load(release.handoff), checking.evaluated(release), candidate=spec.canary)


@contextmanager
def _traffic_back_on_error(backend: LocalBackend, spec: RolloutSpec) -> Iterator[None]:
    """Do not wait for the lease when we still can say so: an error here means traffic back on stable now."""
    try:
        yield
    except BaseException:
        with suppress(FirstlightError):  # the lease does it
            backend.apply(Traffic(stable=spec.stable))
        raise


class _Rollout:
    """One rollout in progress: the loop around the pure decisions."""

    def __init__(
        self, release: OpenedRelease, settings: Settings, records: Store, spec: RolloutSpec, backend: LocalBackend, replay: Replay
    ) -> None:
        self.release, self.settings, self.spec, self.backend, self.replay = release, settings, spec, backend, replay
        self.timeline = timeline.Timeline(records, release.id)
        self.began = len(self.timeline.to_rows())
        self.step_true_since: float | None = None

    def run(self) -> CanaryReport:
        """Look, decide and act until the rollout may be promoted or has ended."""
        status = controller.begin(self.spec, time.time())
        assessment = Assessment(checks=())
        while not status.phase.is_final and status.phase is not Phase.PROMOTING:
            self.backend.apply(controller.desired_traffic(status))
            assessment, measured = self._look(status)
            self.timeline.append(timeline.point(status, measured, assessment, now=time.time()))
            after = controller.advance(self.spec, status, assessment.verdict, time.time(), reasons=assessment.reasons)
            self._tell(status, after, assessment)
            status = after
        self.backend.apply(controller.desired_traffic(status))
        points = self.timeline.to_rows()[self.began :]
        return CanaryReport(status=status, last=assessment, points=points, unanswered=dict(self.replay.unanswered))

    def _look(self, status: RolloutStatus) -> tuple[Assessment, Measurement | None]:
        if status.phase is Phase.STARTING:
            time.sleep(_POLL_SECONDS)
            ready = self.backend.is_ready(self.spec.canary)
            return analysis.readiness(self.spec.canary, ready=ready, problems=self.backend.problems), None
        if not self._is_true(status):
            time.sleep(_POLL_SECONDS)
            return analysis.readiness(self.spec.canary, ready=False, problems=self.backend.problems), None
        self.replay.send(_BURST)
        measured = self._measure(status)
        return analysis.assess(self.spec.policy, measured), measured

    def _is_true(self, status: RolloutStatus) -> bool:
        """Return whether the gateway routes as this step wants; the step is measured from the first time it does."""
        if self.backend.current() != controller.desired_traffic(status):
            return False
        if self.step_true_since is None:
            self.step_true_since = time.time()
            self.replay.restart()
        return True

    def _measure(self, status: RolloutStatus) -> Measurement:
        gateway = control.find(self.settings.state, environment=self.release.environment, model=self.release.model)
        try:
            step = gateway.measurements(since=self.step_true_since or status.step_started)
            whole = gateway.measurements(since=status.started)
        finally:
            gateway.close()
        return Measurement(
            canary=self._version(step, self.spec.canary), stable=self._version(whole, self.spec.stable) if self.spec.stable else None
        )

    def _version(self, document: dict[str, Any], version: str) -> measurements.VersionMeasurement:
        quality, agreement = self.replay.counts(version)
        return measurements.from_gateway(document, version, quality=quality, agreement=agreement)

    def _tell(self, before: RolloutStatus, after: RolloutStatus, assessment: Assessment) -> None:
        if (before.phase, before.step) == (after.phase, after.step):
            return
        self.step_true_since = None
        share = (before.step + (after.phase is Phase.PROMOTING)) / len(self.spec.steps)
        journal.note(
            self.settings,
            about=self.release.id,
            stage="canary",
            event="progress",
            fraction=share,
            phase=f"{after.phase.value} at {after.weight} %: {assessment.summary}",
        )
