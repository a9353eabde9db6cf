"""The gates a hand-off passes before people are asked: data, evaluation, bias by slices, the choice of a backend, benchmark."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import expectations
from firstlight import settings as settings_module
from firstlight.settings import Settings
from firstlight.verdict import worst
from models import backend_choice, evaluation
from models import benchmark as benchmarking
from models.contestant import Contender
from rollout.spec import ServableVersion
from tasks import doors, journal, policy, registering, vouching
from tasks.releases import OpenedRelease
from tasks.stages import stage

EVALUATED = "evaluation.parquet"
"""Table in the release folder: one row per held-out spectrum with what the model answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReports:
    """The reference and the held-out table, judged by the same suite."""

    reference: expectations.DataReport
    holdout: expectations.DataReport
    division: expectations.Division | None = None
    """How held-out and training rows were kept apart, where the tables say it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the worse of the two decides."""
        both = {"reference": self.reference.to_dict(), "held-out": self.holdout.to_dict()}
        return {
            "verdict": worst([self.reference.verdict, self.holdout.verdict]).value,
            "summary": "; ".join(report["summary"].replace("reference:", f"{name}:") for name, report in both.items()),
            "reasons": [f"{name}: {reason}" for name, report in both.items() for reason in report["reasons"]],
            "expectations": [{"table": name, **row} for name, report in both.items() for row in report["expectations"]],
            **({} if self.division is None else {"division": self.division.to_dict()}),
        }


@stage("data", "Validate the data")
def validate_data(release: OpenedRelease) -> DataReports:
    """Hold the reference and held-out tables against the expectation suite."""
    rules = policy.current().data
    papers = vouching.load(settings_module.current(), release.handoff)
    reference, holdout = papers.reference_table(), papers.holdout_table()
    return DataReports(
        reference=expectations.validate_reference(reference, rules),
        holdout=expectations.validate_reference(holdout, rules),
        division=expectations.division(reference, holdout),
    )


@stage("evaluation", "Evaluate on held-out spectra")
def evaluate(release: OpenedRelease) -> evaluation.Evaluation:
    """Run the exported model over the held-out spectra, keep the table of answers, and hold the claims against it."""
    vouching.require(settings_module.current(), release.handoff)
    found = evaluation.evaluate(Path(release.handoff), policy.current().evaluation)
    table = Path(release.folder) / EVALUATED
    scratch = table.with_suffix(".tmp")
    found.table.to_parquet(scratch, index=False)
    scratch.replace(table)
    return found


@stage("bias", "Compare slices of the sky")
def check_slices(release: OpenedRelease) -> expectations.BiasReport:
    """Compare every slice with the rest, at matched S/N."""
    return expectations.assess_bias(evaluated(release), policy.current().bias)


@stage("backend", "Choose how it is run")
def choose_backend(release: OpenedRelease) -> backend_choice.BackendReport:
    """Try every backend of the policy on this machine, and record the fastest whose answers are the model's."""
    settings = settings_module.current()
    vouching.require(settings, release.handoff)
    found = backend_choice.choose_backend(
        Path(release.handoff),
        policy.current().benchmark,
        compiled=settings.compiled,
        progress=lambda fraction: journal.note(
            settings, about=release.id, stage="backend", event="progress", fraction=fraction, phase="in turns"
        ),
    )
    registering.record_backend(release, backend=found.backend, digest=found.digest)
    return found


@stage("benchmark", "Benchmark against the champion")
def benchmark(release: OpenedRelease) -> benchmarking.BenchmarkReport:
    """Measure candidate and champion in turns on this machine, each as it is served."""
    settings = settings_module.current()
    with doors.store(settings) as records:
        champion = records.champion(release.environment, release.model)
        rival = records.version(release.model, champion.version) if champion else None
        candidate = records.version(release.model, registering.version_of(release))
    return benchmarking.benchmark(
        _contender(settings, candidate),
        _contender(settings, rival) if rival else None,
        policy.current().benchmark,
        progress=lambda fraction: journal.note(
            settings, about=release.id, stage="benchmark", event="progress", fraction=fraction, phase="in turns"
        ),
    )


def _contender(settings: Settings, version: ServableVersion) -> Contender:
    vouching.require_version(settings, version)
    return Contender(folder=Path(version.folder), backend=version.backend, compiled=settings.compiled, digest=version.backend_digest)


def evaluated(release: OpenedRelease) -> pd.DataFrame:
    """Return the table the evaluation left."""
    return pd.read_parquet(Path(release.folder) / EVALUATED)
