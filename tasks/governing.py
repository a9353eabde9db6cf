"""Risk and sign-off: score the release on its own evidence, say who must answer for it, and see whether they did."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from firstlight import settings as settings_module
from firstlight.digest import finite, write_atomic, write_json
from firstlight.errors import RefusedError
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from governance import approvers as approvers_room
from governance import risk, signoff, statement, subject
from governance.evidence import evidence_path
from governance.policy import RiskPolicy
from governance.signoff import SignOffDecision
from governance.subject import Person, Requirement, Subject
from rollout.store import Store
from tasks import breaking_glass, change_control, doors, drills, noticing, policy, waiving
from tasks.releases import OpenedRelease
from tasks.stages import StageResult, publish, stage

JUDGED = (
    *("hand-off", "golden", "registration", "data", "evaluation", "bias", "backend", "benchmark", "serving", "environment"),
    *("previous_drift", "risk"),
)
"""Evidence that people are asked to judge: its digests are what they sign."""

REFUSED = "refused-sign-off"
"""What the ledger calls a statement that does not count."""


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
    waivers = waiving.for_release(settings_module.current(), release)
    return risk.assess(documents, scenarios=risk.load_scenarios(), policy=policy.current().risk, waivers=waivers)


def sign_off(release: OpenedRelease) -> StageResult:
    """Judge the signatures that are there now. Never answered from an earlier result: every change must be able to void them."""
    settings = settings_module.current()
    started = time.monotonic()
    unacceptable = _again_without_ended_waivers(settings, release)
    with doors.store(settings) as records:
        noticing.approvers(settings, records, model=release.model, folder=Path(release.folder))
        asked = put_forward(release, decision_id=records.decision_id(release.id, year=datetime.now(UTC).year))
        decision = look(settings, records, asked, Path(release.folder))
    digest = write_json(release.evidence("sign-off"), finite(decision.to_dict()))
    verdict, summary = (Verdict.FAIL, unacceptable) if unacceptable else (decision.verdict, decision.summary)
    return StageResult(stage="sign-off", verdict=verdict, summary=summary, seconds=round(time.monotonic() - started, 3), sha256=digest)


def _again_without_ended_waivers(settings: Settings, release: OpenedRelease) -> str | None:
    """Assess the risk again where a waiver it was accepted by does not count any more; return why people need not be asked then, or None."""
    ended = waiving.no_longer_in_force(settings, release)
    if not ended:
        return None
    release.evidence("risk").unlink()
    found = assess_risk(release)
    if found.verdict is Verdict.PASS:
        return None
    reasons = json.loads(release.evidence("risk").read_bytes())["reasons"]
    return f"the risk is not acceptable any more: {'; '.join([*ended, *reasons])}"


def put_forward(release: OpenedRelease, *, decision_id: str | None = None) -> Subject:
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
        requirement=Requirement(
            band=assessment["band"],
            roles=assessment["required_roles"],
            validity_days=assessment["validity_days"],
            documents=_rules().documents_to_attach(assessment.get("documents", ())),
        ),
        approvers=approvers,
        names=[name.replace("-", "_") for name in JUDGED if release.evidence(name).is_file()],
        environment=release.environment,
        decision_id=decision_id,
        change_id=change_control.read(Path(release.folder)),
    )


def decide(settings: Settings, asked: Subject, folder: Path, *, now: datetime | None = None) -> SignOffDecision:
    """Judge every statement in a release folder, by the approvers in force ``now`` (by this machine's clock when left out)."""
    known, _ = approvers_room.read_approvers(settings.approvers_path)
    statements, unreadable = statement.collect(folder)
    decision = signoff.judge(statements, subject=asked, approvers=known, policy=_rules(), now=now or datetime.now(UTC))
    if unreadable:
        get_logger().warning("unreadable statements: %s", unreadable)
    return decision


def look(settings: Settings, records: Store, asked: Subject, folder: Path) -> SignOffDecision:
    """Judge every statement in a release folder, and let the ledger say of each, once, that it counted or why it did not."""
    decision = decide(settings, asked, folder, now=noticing.moment(settings, records, model=asked.model))
    number = f"{asked.decision_id or asked.release}, release {asked.release}"
    for given in decision.accepted:
        detail = f"{number}: {given.decision} by {given.name} as {given.role}, key {given.fingerprint}: {given.reason}"
        records.record(settings.environment, asked.model, what="sign-off", digest=given.digest, detail=detail, by=given.email, once=True)
    bad = [(one.source, one.why, one.digest) for one in statement.collect_all(folder)[1]]
    for who, why, digest in [*((one.who, one.why, one.digest) for one in decision.turned_down), *bad]:
        refuse(settings, records, asked.model, digest=digest, why=f"{number}: {why}", who=who)
    breaking_glass.settle(settings, records, asked, decision)
    _keep_ratification(folder, decision)
    return decision


def _keep_ratification(folder: Path, decision: SignOffDecision) -> None:
    """Let the recorded decision be the quorum's, once it has signed what went on by break-glass; nobody judges the release again for that."""
    file = evidence_path(folder, "sign_off")
    recorded = json.loads(file.read_bytes()).get("break_glass") if file.is_file() else None
    if recorded and not recorded["ratified"] and decision.break_glass is not None and decision.break_glass.ratified:
        write_json(file, finite(decision.to_dict()))


def refuse(settings: Settings, records: Store, model: str, *, digest: str, why: str, who: str) -> None:
    """Write a statement that does not count into the ledger, once; who it says it is from is a claim."""
    records.record(settings.environment, model, what=REFUSED, digest=digest, detail=why, by=f"claims {who}", once=True)


def get_logger() -> Any:
    """Return the run's logger, or a plain one outside a run."""
    import logging

    try:
        return get_run_logger()
    except Exception:
        return logging.getLogger(__name__)


def _rules() -> RiskPolicy:
    return policy.current().risk


def signed(release: OpenedRelease, result: StageResult) -> StageResult:
    """Show that the decision is there, and loudly where it was made without its quorum."""
    found = json.loads(release.evidence("sign-off").read_bytes())
    if found.get("break_glass") and not found["break_glass"]["ratified"]:
        get_logger().error("%s", result.summary)
    publish(release, result, [*found["reasons"], *found.get("conditions", [])])
    return result


def name_change(release: OpenedRelease, change: str | None) -> None:
    """Write down the change a release belongs to, where this run was given one."""
    if change:
        change_control.name(settings_module.current(), release.id, model=release.model, change_id=change, by="firstlight release")
