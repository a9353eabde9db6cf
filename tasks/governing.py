"""Risk and sign-off: score the release on its own evidence, say who must answer for it, and see whether they did."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from firstlight import settings as settings_module
from firstlight.digest import finite, write_atomic, write_json
from firstlight.errors import FirstlightError, RefusedError
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from governance import approvers as approvers_room
from governance import risk, signoff, statement, subject
from governance.policy import RiskPolicy
from governance.signoff import SignOffDecision
from governance.subject import Person, Requirement, Subject
from tasks import doors, drills, journal, policy
from tasks.releases import OpenedRelease
from tasks.stages import StageResult, artifact_key, publish, stage

JUDGED = ("hand-off", "golden", "registration", "data", "evaluation", "bias", "backend", "benchmark", "serving", "previous_drift", "risk")
"""Evidence that people are asked to judge: its digests are what they sign."""


@stage("serving", "Try the platform")
def try_platform(release: OpenedRelease) -> "_Document":
    """Find out by trying what this platform does with changed bytes and wrong answers, and what serves here."""
    settings = settings_module.current()
    with doors.store(settings) as records:
        rules = policy.current().rollout
        return _Document(drills.platform_facts(settings, records, model=release.model, folder=Path(release.handoff), rollout=rules))


class _Document:
    """A report that is a document already."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content

    def to_dict(self) -> dict[str, Any]:
        """The document."""
        return self._content


@stage("risk", "Assess the risk")
def assess_risk(release: OpenedRelease) -> risk.RiskAssessment:
    """Score every scenario on the evidence of this release, and on nothing else: what is scored is stored beside it."""
    latest = settings_module.current().state / "drift" / release.model / "latest.json"
    if latest.is_file() and not release.evidence("previous_drift").is_file():
        write_atomic(release.evidence("previous_drift"), latest.read_bytes())
    names = [name.replace("-", "_") for name in JUDGED if name != "risk" and release.evidence(name).is_file()]
    documents = {name: json.loads(release.evidence(name).read_bytes()) for name in names}
    return risk.assess(documents, scenarios=risk.load_scenarios(), policy=policy.current().risk)


def sign_off(release: OpenedRelease) -> StageResult:
    """Judge the signatures that are there now. Never answered from an earlier result: every change must be able to void them."""
    settings = settings_module.current()
    started = time.monotonic()
    decision = decide(settings, put_forward(release), Path(release.folder))
    digest = write_json(release.evidence("sign-off"), finite(decision.to_dict()))
    return StageResult(
        stage="sign-off", verdict=decision.verdict, summary=decision.summary, seconds=round(time.monotonic() - started, 3), sha256=digest
    )


def put_forward(release: OpenedRelease) -> Subject:
    """Write down what is to be signed, by the evidence as it is now. Raises ApproversError when the approvers file cannot be used."""
    settings = settings_module.current()
    assessment = json.loads(release.evidence("risk").read_bytes())
    try:
        approvers = settings.approvers_path.read_bytes()
    except OSError as error:
        raise RefusedError(
            f"an approvers file must say who may sign, {settings.approvers_path} cannot be read ({error.strerror}): "
            "write it as docs/sign-off.md shows, or set FIRSTLIGHT_APPROVERS_FILE, then run the release again"
        ) from None
    return subject.open_for_sign_off(
        Path(release.folder),
        release=release.id,
        model=release.model,
        model_digest=release.model_digest,
        policy=policy.current().to_bytes(),
        trainer=Person(name=release.trainer_name, email=release.trainer_email),
        requirement=Requirement(band=assessment["band"], roles=assessment["required_roles"], validity_days=assessment["validity_days"]),
        approvers=approvers,
        names=[name.replace("-", "_") for name in JUDGED if release.evidence(name).is_file()],
    )


def decide(settings: Settings, asked: Subject, folder: Path) -> SignOffDecision:
    """Judge every statement in a release folder, by the approvers in force now."""
    known, _ = approvers_room.read_approvers(settings.approvers_path)
    statements, unreadable = statement.collect(folder)
    decision = signoff.judge(statements, subject=asked, approvers=known, policy=_rules(), now=datetime.now(UTC))
    if unreadable:
        get_logger().warning("unreadable statements: %s", unreadable)
    return decision


def get_logger() -> Any:
    """Return the run's logger, or a plain one outside a run."""
    import logging

    try:
        return get_run_logger()
    except Exception:
        return logging.getLogger(__name__)


def _rules() -> RiskPolicy:
    return policy.current().risk


def ask(release: OpenedRelease, result: StageResult) -> None:
    """Show what is asked where people look: the journal, the run's log and a page on the run."""
    settings = settings_module.current()
    journal.note(settings, about=release.id, stage="sign-off", event="waiting", summary=result.summary)
    write_json(_waiting_file(settings, release.id), {"flow_run_id": str(flow_run.id)})
    get_run_logger().info("sign-off: %s", result.summary)
    create_markdown_artifact(
        key=artifact_key(f"{release.model}-sign-off-asked"),
        markdown=question(release, result),
        description=f"Release {release.id} waits for people",
    )


def waiting_run(settings: Settings, release_id: str) -> str | None:
    """Return the id of the flow run that waits (or waited) for the signatures of a release, or None."""
    try:
        return str(json.loads(_waiting_file(settings, release_id).read_bytes())["flow_run_id"])
    except (OSError, ValueError, KeyError):
        return None


def _waiting_file(settings: Settings, release_id: str) -> Path:
    return settings.folder("running") / f"{release_id}.waiting.json"


def signed(release: OpenedRelease, result: StageResult) -> StageResult:
    """Show that the decision is there."""
    publish(release, result, [])
    return result


def question(release: OpenedRelease, result: StageResult) -> str:
    """Return what the UI says to whoever looks at the waiting run (markdown)."""
    return (
        f"**Release {release.id} waits for people**: {result.summary}.\n\n"
        f"Read the dossier: `{release.folder}/dossier.html`. Then sign, on any machine that has your SSH key and this state folder:\n\n"
        f"```\nfirstlight sign-off {release.id} --key ~/.ssh/id_ed25519 --as you@lab --reason '...'\n```\n\n"
        "Signing continues the run by itself. Resuming it here only makes it look again: without the signatures it waits again."
    )


def is_decided(settings: Settings, model: str) -> bool:
    """Return whether the open release of ``model`` has the signatures it waits for, or a rejection."""
    try:
        return _open_decision(settings, model)[1].verdict is not Verdict.CANNOT_TELL
    except FirstlightError:
        return False


def what_is_missing(settings: Settings, model: str) -> str:
    """Return one sentence on what the open release of ``model`` waits for, with the command to give it."""
    release_id, decision = _open_decision(settings, model)
    page = settings.state / "releases" / release_id / "dossier.html"
    return f"{release_id}: {decision.summary}; read {page}, then `firstlight sign-off {release_id} --key KEY --as MAIL --reason TEXT`"


def _open_decision(settings: Settings, model: str) -> tuple[str, SignOffDecision]:
    with doors.store(settings) as records:
        opened = records.open_one(settings.environment, model)
    if opened is None:
        raise RefusedError(
            f"a release of {model} must be open in {settings.environment} to be signed, none is: look at `firstlight status`"
        )
    folder = settings.folder("releases", opened.id)
    return opened.id, decide(settings, subject.read_subject(folder), folder)
