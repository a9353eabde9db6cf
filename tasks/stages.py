"""What every stage of a release has in common: retries, a persisted result, evidence on disk, an artifact in the UI, the journal.

A stage is a function of the release that returns a report (``to_dict()`` with ``verdict``, ``summary``, ``reasons`` first). The
decorator writes the report as canonical JSON to ``evidence/<name>.json`` and returns a small reference to it; the reference is
persisted under (release, stage, policy), so a run that died and is run again repeats no finished stage. A reference whose
evidence is no longer there, or no longer the same bytes, is not believed: the stage runs again.
"""

import functools
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.context import TaskRunContext
from pydantic import BaseModel, ConfigDict

from firstlight import settings as settings_module
from firstlight.digest import finite, sha256_file, write_json
from firstlight.verdict import Verdict
from governance.errors import SignatureError
from tasks import journal, refusals
from tasks.releases import OpenedRelease
from tasks.retries import retrying


class Report(Protocol):
    """What a room returns."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: verdict, summary, reasons, then details."""
        ...


class StageResult(BaseModel):
    """Reference to one stage's evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    """Name of the stage and of its evidence file."""
    verdict: Verdict
    summary: str
    """One sentence with the key figure."""
    seconds: float
    """Time the stage took when it really ran."""
    sha256: str
    """Digest of ``evidence/<stage>.json``."""


def stage(name: str, title: str) -> Callable[[Callable[[OpenedRelease], Report]], Callable[[OpenedRelease], StageResult]]:
    """Make a stage named ``name`` of a function of the release; ``title`` is what people read in the UI."""

    def decorate(work: Callable[[OpenedRelease], Report]) -> Callable[[OpenedRelease], StageResult]:
        @task(
            name=name,
            task_run_name=title,
            persist_result=True,
            result_serializer="json",
            cache_key_fn=functools.partial(_cache_key, name),
            **retrying(),
        )
        def run(release: OpenedRelease) -> StageResult:
            return _run(name, work, release)

        @functools.wraps(work)
        def call(release: OpenedRelease) -> StageResult:
            result: StageResult = run(release)
            if not _is_intact(release, result):
                result = run.with_options(refresh_cache=True)(release)
            return result

        return call

    return decorate


def _cache_key(name: str, context: TaskRunContext, parameters: Mapping[str, Any]) -> str:
    release: OpenedRelease = parameters["release"]
    return f"{release.id}-{release.policy_digest[:16]}-{name}"


def _run(name: str, work: Callable[[OpenedRelease], Report], release: OpenedRelease) -> StageResult:
    settings = settings_module.current()
    journal.note(settings, about=release.id, stage=name, event="started")
    started = time.monotonic()
    try:
        document = finite(work(release).to_dict())
    except Exception as error:
        journal.note(settings, about=release.id, stage=name, event="failed", summary=str(error))
        if isinstance(error, SignatureError):
            refusals.record(settings, refusals.MODEL, str(error), model=release.model, digest=release.model_digest)
        raise
    seconds = round(time.monotonic() - started, 3)
    digest = write_json(release.evidence(name), document)
    _remember_seconds(release, name, seconds)
    result = StageResult(stage=name, verdict=Verdict(document["verdict"]), summary=str(document["summary"]), seconds=seconds, sha256=digest)
    publish(release, result, document.get("reasons", []))
    return result


def _remember_seconds(release: OpenedRelease, name: str, seconds: float) -> None:
    """Keep how long a stage took beside the evidence, not in it: it is no part of what people judge."""
    write_json(seconds_file(release), {**seconds_of(release), name: seconds})


def seconds_of(release: OpenedRelease) -> dict[str, float]:
    """Return how long every finished stage of a release took when it really ran."""
    path = seconds_file(release)
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}


def seconds_file(release: OpenedRelease) -> Path:
    """Path of the stage times in a release folder."""
    return Path(release.folder) / "seconds.json"


def publish(release: OpenedRelease, result: StageResult, reasons: list[str]) -> None:
    """Show a stage's outcome where people look: journal, run log, and a table artifact on the run."""
    journal.note(
        settings_module.current(),
        about=release.id,
        stage=result.stage,
        event="finished",
        verdict=result.verdict.value,
        summary=result.summary,
        seconds=result.seconds,
    )
    get_run_logger().info("%s: %s. %s", result.stage, result.verdict, result.summary)
    rows = [{"stage": result.stage, "verdict": result.verdict.value, "seconds": result.seconds, "summary": result.summary}]
    rows += [{"stage": "", "verdict": "", "seconds": "", "summary": reason} for reason in reasons[:20]]
    create_table_artifact(
        key=artifact_key(f"{release.model}-{result.stage}"), table=rows, description=f"Release {release.id}, stage {result.stage}"
    )


def artifact_key(text: str) -> str:
    """Return ``text`` as an artifact key: Prefect takes lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _is_intact(release: OpenedRelease, result: StageResult) -> bool:
    path = release.evidence(result.stage)
    return path.is_file() and sha256_file(path) == result.sha256
