"""Drift: what the champion was asked, against the reference it was handed over with."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import task

from firstlight import settings as settings_module
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from monitoring import drift
from monitoring.drift_report import DriftReport
from rollout.records import Champion
from tasks import doors, policy, registering, vouching
from tasks.releases import OpenedRelease
from tasks.replay import REPLAY
from tasks.retries import retrying
from tasks.stages import stage

_LOG_SECONDS = 20.0
"""The log is written every few seconds; longer than this, what is missing was dropped."""
_SURELY = 0.8
"""Part of the sampled share that is waited for: a coin may fall short of its mean."""


@stage("drift", "Compare live requests with the reference")
def first_look(release: OpenedRelease) -> DriftReport:
    """Compare what the version answered during its canary with the held-out rows it was evaluated on; a first look, not a gate.

    The canary was asked held-out spectra, so the sky is the same: what differs here is the doing of the serving path.
    """
    settings = settings_module.current()
    version = registering.version_of(release)
    answered = int(json.loads(release.evidence("canary").read_bytes())["answered"])
    live = _logged(settings, release.model, version, rows=answered)
    return drift.drift(live, _held_out(vouching.load(settings, release.handoff).reference_table()), policy.current().drift)


def _logged(settings: Settings, model: str, version: str, *, rows: int) -> pd.DataFrame:
    """Return a version's logged requests, once the log's writer has had the time to write as many as were answered and are sampled."""
    deadline = time.monotonic() + _LOG_SECONDS
    sampled = rows if settings.inference_log_sample == 1 else int(rows * settings.inference_log_sample * _SURELY)
    while True:
        found = doors.logged(settings, model=model, version=version)
        if len(found) >= sampled or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def _held_out(reference: pd.DataFrame) -> pd.DataFrame:
    """Return the reference rows nothing was learned from, where the trainer says which they are."""
    rows = reference[reference["part"] == "heldout"] if "part" in reference else reference
    return rows if len(rows) else reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One scheduled look at a live model."""

    champion: Champion | None
    report: DriftReport | None
    folder: Path | None

    @property
    def verdict(self) -> Verdict:
        """Of the report; cannot tell where there is nothing to look at."""
        return self.report.verdict if self.report else Verdict.CANNOT_TELL

    @property
    def summary(self) -> str:
        """One sentence."""
        return self.report.summary if self.report else "no champion answers yet, so there is nothing to compare"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        if self.report is None or self.champion is None:
            return {"verdict": self.verdict.value, "summary": self.summary, "reasons": []}
        return {**self.report.to_dict(), "version": self.champion.version, "model_digest": self.champion.digest}


@task(name="look", task_run_name="Look at {model}", **retrying())
def look(model: str, hours: float) -> Look:
    """Compare the last ``hours`` of the champion's requests with its reference."""
    settings = settings_module.current()
    with doors.store(settings) as records:
        champion = records.champion(settings.environment, model)
        folder = Path(records.version(model, champion.version).folder) if champion else None
    if champion is None or folder is None:
        return Look(champion=None, report=None, folder=None)
    since = datetime.now(UTC) - timedelta(hours=hours)
    logged = doors.logged(settings, model=model, version=champion.version, since=since)
    live = logged[logged["client"] != REPLAY] if "client" in logged else logged
    report = drift.drift(live, vouching.load(settings, folder).reference_table(), policy.current().drift)
    return Look(champion=champion, report=report, folder=folder)
