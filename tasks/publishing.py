"""The end of a release run: pictures, the dossier, the store's record, and a state of the run that says how it went."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from firstlight import settings as settings_module
from firstlight.digest import finite, write_atomic, write_json
from firstlight.errors import RefusedError
from firstlight.settings import Settings
from firstlight.verdict import Verdict, worst
from governance.dossier import charts
from governance.dossier import page as dossier
from governance.dossier.index import IndexRow, render_index
from governance.dossier.rollout_picture import Ending, rollout_picture
from governance.evidence import read_evidence
from governance.manifest import lists
from governance.register import filling as register
from models import evaluation, handoff
from rollout.errors import ReleaseClosed
from rollout.records import ReleaseStatus
from rollout.store import Store
from tasks import anchoring, checking, doors, papers
from tasks.outcomes import STATUS, TITLE, Outcome
from tasks.releases import OpenedRelease
from tasks.stages import StageResult, artifact_key, seconds_of
from tasks.watching import Look

EVIDENCE = (
    "hand-off",
    "golden",
    "registration",
    "data",
    "evaluation",
    "bias",
    "backend",
    "benchmark",
    "serving",
    "environment",
    "risk",
    "sign-off",
    "rehearsal",
    "canary",
    "promotion",
    "drift",
)
"""Every stage that may have left evidence, in the order of the story."""

_METRICS = ("anomaly_recall", "false_alarm_rate", "class_accuracy")


def finish(release: OpenedRelease, stages: Sequence[StageResult]) -> Outcome:
    """Close a release by the worst of its gates, write its dossier, and return how it ended."""
    verdict = worst(result.verdict for result in stages)
    reasons = [f"{result.stage}: {result.summary}" for result in stages if result.verdict is not Verdict.PASS]
    summary = (
        next((result.summary for result in stages if result.stage == "promotion"), "") if verdict is Verdict.PASS else "; ".join(reasons)
    )
    settings = settings_module.current()
    with doors.store(settings) as records:
        try:
            records.close_release(release.id, _end(records, release, verdict), summary)
        except ReleaseClosed as error:
            get_run_logger().warning("%s", error)
        anchoring.anchor_at_the_end(settings, records)
    page = write_dossier(release)
    if verdict is not Verdict.PASS:
        _withdraw(settings, release)
    return Outcome(release_id=release.id, verdict=verdict, summary=f"{release.id}: {summary}", dossier=str(page))


def _end(records: Store, release: OpenedRelease, verdict: Verdict) -> str:
    """Return how a release ended for the store, where one that moved the champion is *promoted* even when it went back while it was watched."""
    moved = any(line.release_id == release.id for line in records.history(release.environment, release.model))
    return ReleaseStatus.PROMOTED.value if moved else STATUS[verdict]


def settled(release: OpenedRelease) -> Outcome:
    """Return the end of a run that found its model champion already; a dossier that its own run could not write any more is written now."""
    if release.evidence("promotion").is_file() and not lists(Path(release.folder), "evidence/promotion.json"):
        write_dossier(release)
    return Outcome(
        release_id=release.id,
        verdict=Verdict.PASS,
        summary=f"{release.id}: this model is the champion of {release.model} already; nothing was to be done",
        dossier=str(Path(release.folder) / dossier.PAGE_FILE),
    )


def _withdraw(settings: Settings, release: OpenedRelease) -> None:
    """A candidate that was turned back is no candidate any more; its version and evidence stay."""
    known = doors.registry(settings)
    version = known.version_by_digest(release.model, release.model_digest)
    if version is not None and known.aliases(release.model).get("candidate") == version.version:
        known.point(release.model, "candidate", None)


def state(outcome: Outcome) -> State[Any]:
    """Return the run's final state: green only when promoted."""
    if outcome.verdict is not Verdict.PASS:  # without data: Prefect takes a failed state's for an exception, and logs a traceback over it
        return Failed(name=TITLE[outcome.verdict], message=outcome.summary)
    return Completed(name=TITLE[outcome.verdict], message=outcome.summary, data=outcome.model_dump(mode="json"))


def write_dossier(release: OpenedRelease) -> Path:
    """Write a release folder from the evidence that is there: pictures, register, papers, ledger, bundle, page, manifest. Again replaces it."""
    folder = Path(release.folder)
    evidence = {name: json.loads(release.evidence(name).read_bytes()) for name in EVIDENCE if release.evidence(name).is_file()}
    pictures = _pictures(release, evidence)
    for name, picture in pictures.items():
        write_atomic(folder / "pictures" / f"{name}.{_suffix(picture)}", picture)
    papers.write_all(settings_module.current(), release)
    seconds = seconds_of(release)
    page = dossier.render(
        folder,
        facts=_facts(release, evidence),
        stages=[_row(name, evidence.get(name), seconds.get(name)) for name in EVIDENCE],
        pictures=pictures,
        evidence=_shown(folder, evidence),
    )
    papers.seal(settings_module.current(), folder, release=release.id)
    _write_index(release)
    _link(release, page)
    return page


def _shown(folder: Path, evidence: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the documents of the page by the names of their files: those of the stages, and the register."""
    documents = {name.replace("-", "_"): document for name, document in evidence.items()}
    return {**documents, register.OWN_NAME: read_evidence(folder, register.OWN_NAME)}


def _suffix(picture: bytes) -> str:
    return "png" if picture.startswith(b"\x89PNG") else "svg"


def _row(name: str, document: dict[str, Any] | None, seconds: float | None) -> dossier.StageRow:
    found = document or {"verdict": "", "summary": ""}
    return dossier.StageRow(name=name, verdict=str(found["verdict"]), key_figure=str(found["summary"]), seconds=seconds)


def _facts(release: OpenedRelease, evidence: dict[str, dict[str, Any]]) -> dossier.Facts:
    settings = settings_module.current()
    handed = handoff.load(release.handoff)
    links = {"Prefect run": f"{settings.prefect_ui_url}/runs/flow-run/{flow_run.id}"} if flow_run.id else {}
    links |= {f"MLflow {kind}": url for kind, url in evidence.get("registration", {}).get("links", {}).items()}
    with doors.store(settings) as records:
        record = records.release(release.id)
    return dossier.Facts(
        release=release.id,
        model=release.model,
        version=str(evidence.get("registration", {}).get("version", "not registered")),
        environment=release.environment,
        verdict=papers.verdict_of(record).value,
        headline=record.summary or _headline(evidence),
        trainer=f"{release.trainer_name} <{release.trainer_email}>",
        purpose=handed.purpose,
        not_for=handed.not_for,
        data=handed.data.description or f"{handed.data.spectra} spectra, {handed.data.uri}",
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        digests={
            "model": release.model_digest,
            "hand-off": release.handoff_digest,
            "policy": release.policy_digest,
            "data": handed.data.sha256,
        },
        commands={
            "go back to the previous version": "firstlight rollback --reason '...' --by you@lab",
            "check every digest and signature": f"firstlight verify {release.folder}",
            "see what is live": "firstlight status",
        },
        links=links,
    )


def _headline(evidence: dict[str, dict[str, Any]]) -> str:
    if "sign-off" in evidence:
        return str(evidence["sign-off"]["summary"])
    return "under way"


def _write_index(release: OpenedRelease) -> None:
    """Write the list of all releases of a model, newest first."""
    settings = settings_module.current()
    with doors.store(settings) as records:
        known = records.releases(release.environment, release.model)
        champion = records.champion(release.environment, release.model)
        versions = {one.model_digest: records.version_by_digest(release.model, one.model_digest) for one in known}
    rows = [
        IndexRow(
            release=one.id,
            model=one.model,
            version=found.version if (found := versions[one.model_digest]) else "",
            environment=one.environment,
            verdict=papers.verdict_of(one).value,
            headline=one.summary or one.status.value,
            when=datetime.fromtimestamp(one.opened_at, UTC).isoformat(timespec="seconds"),
            live=champion is not None and champion.release_id == one.id,
        )
        for one in reversed(known)
        if (settings.state / "releases" / one.id / dossier.PAGE_FILE).is_file()
    ]
    render_index(settings.folder("releases"), rows)


def _pictures(release: OpenedRelease, evidence: dict[str, dict[str, Any]]) -> dict[str, bytes]:
    """Draw whatever the evidence can show."""
    pictures: dict[str, bytes] = {}
    if "evaluation" in evidence:
        for kind, examples in _examples(release).items():
            pictures["strangest" if kind == "strange" else "spectra"] = charts.spectra_panel(examples)
    if rows := evidence.get("bias", {}).get("slices"):
        pictures |= {f"slice-{metric}": charts.slice_chart(rows, metric) for metric in _METRICS}
    if points := evidence.get("benchmark", {}).get("points"):
        pictures["benchmark"] = charts.benchmark_chart(points)
    if points := evidence.get("backend", {}).get("points"):
        pictures["benchmark-backends"] = charts.benchmark_chart(points)
    if "canary" in evidence:
        pictures["rollout"] = _rollout(release, evidence)
    if columns := evidence.get("drift", {}).get("columns"):
        pictures["drift"] = charts.drift_chart(_most_moved(columns))
    return pictures


def _rollout(release: OpenedRelease, evidence: dict[str, dict[str, Any]]) -> bytes:
    """Draw the rollout from what the store keeps of it: every look, every order, and how it ended."""
    canary, promotion = evidence["canary"], evidence.get("promotion", {})
    last = promotion if promotion.get("watched") else canary
    phase = promotion.get("watched") or canary.get("rollout", {}).get("phase", "")
    with doors.store(settings_module.current()) as records:
        points = records.points(release.id)
    is_clear = last["verdict"] != Verdict.CANNOT_TELL.value or not last.get("reasons")
    return rollout_picture(
        points or canary.get("timeline", []),
        ending=Ending(
            verdict=str(last["verdict"]), phase=str(phase), sentence=str(last["summary"]) if is_clear else "; ".join(last["reasons"])
        ),
        budget=canary.get("budget"),
    )


def _most_moved(columns: Sequence[dict[str, Any]], *, most: int = 9) -> list[dict[str, Any]]:
    """Return the columns that can be drawn, those that moved most first."""
    drawn = [column for column in columns if column.get("histogram")]
    return sorted(drawn, key=lambda column: -float(column.get("effect") or 0.0))[:most]


def _examples(release: OpenedRelease) -> dict[str, list[dict[str, Any]]]:
    """Return spectra to show, typical and strange ones; none for a model whose inputs are no spectra."""
    try:
        found = evaluation.examples(Path(release.handoff), checking.evaluated(release))
    except RefusedError:
        return {}
    shown: dict[str, list[dict[str, Any]]] = {}
    with np.errstate(divide="ignore"):
        sigma = np.where(found["ivar"] > 0, 1 / np.sqrt(found["ivar"]), np.nan)
    for place, kind in enumerate(found["kind"]):
        rebuilt = found["reconstruction"][place] if "reconstruction" in found else None
        title, _, caption = str(found["caption"][place]).partition(" · ")
        spectrum = {"wavelength": found["x"], "flux": found["flux"][place], "sigma": sigma[place], "reconstruction": rebuilt}
        shown.setdefault(str(kind), []).append({**spectrum, "title": title, "caption": caption})
    return shown


def _link(release: OpenedRelease, page: Path) -> None:
    """Show the page on the run, where there is one."""
    if not flow_run.id:
        return
    create_link_artifact(
        key=artifact_key(f"{release.model}-dossier"),
        link=page.as_uri(),
        link_text=f"dossier of {release.id}",
        description="Verdicts, pictures, signatures and digests",
    )


def publish_drift(model: str, found: Look) -> None:
    """Keep the last drift report, which the next release is judged with, and show it on the run."""
    settings = settings_module.current()
    document = finite(found.to_dict())
    write_json(settings.folder("drift", model) / "latest.json", document)
    if columns := document.get("columns"):
        write_atomic(settings.folder("drift", model) / "latest.svg", charts.drift_chart(_most_moved(columns)))
    rows = "\n".join(
        f"| {column['column']} | {column['verdict']} | {_number(column.get('effect'))} |" for column in document.get("columns", [])
    )
    reasons = "\n".join(f"- {reason}" for reason in document["reasons"])
    markdown = f"**{document['verdict']}**: {document['summary']}\n\n{reasons}\n\n| column | verdict | effect |\n|---|---|---|\n{rows}\n"
    create_markdown_artifact(key=artifact_key(f"{model}-drift"), markdown=markdown, description=f"Drift of {model}")


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) and np.isfinite(value) else "–"


def drift_state(found: Look) -> State[Any]:
    """Return the run's final state: completed whatever was found, because looking worked; its name is the verdict."""
    title = {Verdict.PASS: "Steady", Verdict.FAIL: "Drifted", Verdict.CANNOT_TELL: "Cannot tell"}[found.verdict]
    return Completed(name=title, message=found.summary)
