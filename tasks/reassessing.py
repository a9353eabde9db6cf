"""The scheduled look at what people answered for: is it due again, did what they relied on change, did a promise run out?

What was signed is read from the folder of the release whose model answers; what holds now from the settings, the policy, the approvers file and the store.
``governance.reassessment`` decides; here incidents are opened and resolved by it. Any number of lookers at once, and any clock, leave the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from firstlight import settings as settings_module
from firstlight.digest import sha256_json
from firstlight.errors import RefusedError
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from governance import approvers as approvers_room
from governance import incident_plan, reassessment, resolution, risk, waiver
from governance.evidence import read_evidence
from governance.incident_plan import Known
from governance.reassessment import Approval, Emergency, Kind, Obligation, Present, SignedOff, Waived
from governance.resolution import Asked
from governance.signed import parse_moment
from governance.signoff import Decision
from governance.subject import Subject, read_subject
from rollout.records import Champion, Incident
from rollout.store import Store
from tasks import doors, incidents, policy
from tasks.retries import retrying
from tasks.stages import artifact_key

BY = "scheduled look"
"""Who opens and resolves incidents here, in the ledger."""
ANSWERS = "incidents"
"""Folder, in the state folder, of signed answers to incidents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """What answers in an environment, and the release it came from."""

    champion: Champion
    release: str | None
    """None where no release on record promoted this model."""
    folder: Path | None
    """Its release folder; None where it is not on this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """One look at one model."""

    model: str
    live: Live | None
    """None before the first champion."""
    next_due: datetime | None
    """When the release is next to be put before its approvers by the calendar."""
    opened: tuple[Incident, ...]
    resolved: tuple[Incident, ...]
    still_open: tuple[Incident, ...]
    """Every open incident of the model after the look, whoever opened it."""

    @property
    def verdict(self) -> Verdict:
        """Pass: nothing is open."""
        return Verdict.FAIL if self.still_open else Verdict.PASS

    @property
    def summary(self) -> str:
        """One sentence."""
        if self.live is None:
            return f"{self.model} has no champion yet, so nothing is due"
        about = self.live.release or f"version {self.live.champion.version}"
        when = f"; to be looked at again on {self.next_due:%Y-%m-%d}" if self.next_due else ""
        if not self.still_open:
            return f"nothing is due about {about}{when}"
        worst = next((one for one in self.still_open if one.severity.value == "critical"), self.still_open[0])
        return f"{_counted(len(self.still_open))} open about {about}, {worst.id} ({worst.severity.value}): {worst.summary}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "verdict": self.verdict.value,
            "summary": self.summary,
            "next_due": self.next_due and self.next_due.isoformat(),
            "opened": [one.id for one in self.opened],
            "resolved": [one.id for one in self.resolved],
            "open": [one.id for one in self.still_open],
        }


@task(name="look-again", task_run_name="Is {model} due?", **retrying())
def look_again(model: str) -> Looked:
    """Look once, as a step of a flow."""
    settings = settings_module.current()
    with doors.store(settings) as records:
        found = look(settings, records, model)
    for one in found.opened:
        get_run_logger().warning("opened %s (%s): %s", one.id, one.severity.value, one.summary)
    return found


def look(settings: Settings, records: Store, model: str, *, now: datetime | None = None) -> Looked:
    """Open an incident for everything that is due about the champion of ``model``, resolve those whose cause is gone, and return how it stands."""
    at = now or datetime.now(UTC)
    live = live_release(settings, records, model)
    if live is None:
        return Looked(model=model, live=None, next_due=None, opened=(), resolved=(), still_open=_open_ones(settings, records, model))
    known = [known_of(settings, one, live, now=at) for one in records.incidents(settings.environment, model)]
    found = due(settings, live, known, now=at)
    decided = incident_plan.plan(found, known, live=live.release or "", now=at)
    resolved = tuple(records.resolve_incident(number, reason=why, by=BY) for number, why in decided.resolve)
    opened = tuple(_open(settings, records, model, live, one) for one in decided.open)
    return Looked(
        model=model,
        live=live,
        next_due=reassessment.next_interval(found),
        opened=opened,
        resolved=resolved,
        still_open=_open_ones(settings, records, model),
    )


def live_release(settings: Settings, records: Store, model: str) -> Live | None:
    """Return what answers and the release it came from: after a rollback, the one that promoted that model before."""
    champion = records.champion(settings.environment, model)
    if champion is None:
        return None
    lines = records.history(settings.environment, model)
    released = [line.release_id for line in lines if line.digest == champion.digest and line.release_id is not None]
    folder = settings.state / "releases" / released[-1] if released else None
    is_here = folder is not None and folder.is_dir()
    return Live(champion=champion, release=released[-1] if released else None, folder=folder if is_here else None)


def due(settings: Settings, live: Live, known: Sequence[Known], *, now: datetime) -> tuple[Obligation, ...]:
    """Return everything that is or will be due about what answers; ``now`` (aware) decides only which renewed waivers count."""
    if live.release is None or live.folder is None:
        return (reassessment.unsigned(live.champion.version, live.champion.digest),)
    try:
        asked = read_subject(live.folder)
        ratified = any(one.cause == f"{incident_plan.BREAK_GLASS}:{live.release}" and not one.is_open for one in known)
        signed = signed_off(live.folder, asked, version=live.champion.version, is_ratified=ratified)
        if not signed.approvals and signed.emergency is None:
            return (reassessment.unsigned(live.champion.version, live.champion.digest),)
        return reassessment.obligations(
            signed, _present(settings, live, known, now=now), policy.read(settings.policy_path).risk.reassessment
        )
    except (RefusedError, OSError, KeyError, TypeError, ValueError) as error:
        return (reassessment.unreadable(live.release, str(error)),)


def signed_off(folder: Path, asked: Subject, *, version: str, is_ratified: bool) -> SignedOff:
    """Return what stands signed in a release folder. Raises GovernanceError, KeyError or ValueError where it cannot be read.

    ``is_ratified``: a break-glass was ratified after the release had ended, and its folder with it.
    """
    decision, scored = read_evidence(folder, "sign_off"), read_evidence(folder, "risk")
    approvals = tuple(
        Approval(
            name=one["name"],
            email=one["email"],
            role=one["role"],
            fingerprint=one["fingerprint"],
            signed_at=parse_moment(one["signed_at"]),
            conditions=tuple(one.get("conditions", ())),
        )
        for one in decision["accepted"]
        if one["decision"] == Decision.APPROVE.value
    )
    return SignedOff(
        release=asked.release,
        version=version,
        band=asked.requirement.band,
        model_digest=asked.model_digest,
        policy_digest=asked.policy_digest,
        scenarios_digest=str(scored["scenarios_digest"]),
        approvals=approvals,
        waivers=tuple(_waived(one) for one in scored.get("waivers", ()) if one["used"]),
        emergency=_emergency(decision.get("break_glass"), is_ratified=is_ratified),
    )


def _waived(found: dict[str, Any]) -> Waived:
    """``until`` is the last day on which a waiver counts."""
    ends = datetime.combine(date.fromisoformat(found["until"]) + timedelta(days=1), time(), tzinfo=UTC)
    return Waived(id=found["id"], scenario=found["scenario"], until=ends)


def _emergency(found: dict[str, Any] | None, *, is_ratified: bool) -> Emergency | None:
    if not found:
        return None
    return Emergency(
        at=parse_moment(found["signed_at"]),
        ratify_until=parse_moment(found["ratify_by"]),
        ratified=bool(found["ratified"]) or is_ratified,
    )


def _present(settings: Settings, live: Live, known: Sequence[Known], *, now: datetime) -> Present:
    listed, _ = approvers_room.read_approvers(settings.approvers_path)
    rules = policy.read(settings.policy_path)
    model = live.champion.model
    waivers, _ = waiver.collect(settings.state)
    counted = waiver.judge_waivers(waivers, environment=settings.environment, model=model, approvers=listed, policy=rules.risk, now=now)
    interval = f"{Kind.INTERVAL}:{live.release}:"
    return Present(
        model_digest=live.champion.digest,
        policy_digest=rules.digest,
        scenarios_digest=scenarios_digest(),
        approvers=listed,
        waived_until={one.scenario: one.ends_at for one in sorted(counted.in_force, key=lambda one: one.ends_at)},
        reassessed=tuple(one.answered_at for one in known if one.answered_at is not None and one.cause.startswith(interval)),
    )


def scenarios_digest() -> str:
    """Return the digest of the risk scenarios shipped now, as ``governance.risk`` writes it into a release's evidence."""
    return sha256_json([one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in risk.load_scenarios()])


def known_of(settings: Settings, incident: Incident, live: Live, *, now: datetime) -> Known:
    """Return an incident as the decision wants it: with the answer that somebody signed, where there is one that counts now."""
    plain = Known(id=incident.id, cause=incident.cause, is_open=incident.is_open)
    found = resolution.find(settings.state / ANSWERS, incident.id) if incident_plan.is_ours(incident.cause) else None
    if found is None or live.folder is None or incident.release_id != live.release:
        return plain
    try:
        listed, _ = approvers_room.read_approvers(settings.approvers_path)
        asked, rules = asked_about(incident, read_subject(live.folder)), policy.read(settings.policy_path).risk
    except RefusedError:
        return plain
    if resolution.judge(found, asked=asked, approvers=listed, policy=rules, now=now) is not None:
        return plain
    words = resolution.parse(found.statement)
    return Known(
        id=incident.id,
        cause=incident.cause,
        is_open=incident.is_open,
        answered_at=parse_moment(words.signed_at),
        answer=resolution.sentence(words),
    )


def asked_about(incident: Incident, subject: Subject) -> Asked:
    """Return what an answer to ``incident`` about the release of ``subject`` must say, and who may give it: any role its band asks for."""
    return Asked(
        incident=incident.id,
        cause=incident.cause,
        environment=incident.environment,
        model=incident.model,
        release=subject.release,
        evidence_digest=subject.evidence_digest,
        roles=tuple(subject.requirement.roles),
        trainer=subject.trainer,
    )


def _open(settings: Settings, records: Store, model: str, live: Live, one: Obligation) -> Incident:
    owner, digest = "approvers of the environment", live.champion.digest
    try:
        if live.folder is not None:
            asked = read_subject(live.folder)
            owner, digest = ", ".join(sorted(asked.requirement.roles)), asked.evidence_digest
    except RefusedError:
        pass  # the incident is just that: its papers cannot be read
    return incidents.open_incident(
        settings,
        records,
        model,
        cause=one.cause,
        severity=one.severity,
        summary=one.summary,
        evidence_digest=digest,
        owner=owner,
        by=BY,
        release_id=live.release,
    )


def _open_ones(settings: Settings, records: Store, model: str) -> tuple[Incident, ...]:
    return tuple(records.incidents(settings.environment, model, open_only=True))


def publish(found: Looked) -> None:
    """Show what is open on the run."""
    rows = "\n".join(f"| {one.id} | {one.severity.value} | {one.state.value} | {one.summary} |" for one in found.still_open)
    table = f"\n\n| incident | severity | state | what |\n|---|---|---|---|\n{rows}\n" if rows else "\n"
    said = f"**{found.summary}**{table}\n`firstlight incidents show INC-…` says what to do about one."
    create_markdown_artifact(key=artifact_key(f"{found.model}-incidents"), markdown=said, description=f"What is open about {found.model}")


def state(found: Looked) -> State[Any]:
    """Return the run's final state: green only when nothing is open."""
    if found.still_open:  # without data: Prefect takes a failed state's for an exception, and logs a traceback over it
        return Failed(name="Incidents open", message=found.summary)
    return Completed(name="Nothing due", message=found.summary, data=found.to_dict())


def _counted(incidents_open: int) -> str:
    return "one incident is" if incidents_open == 1 else f"{incidents_open} incidents are"
