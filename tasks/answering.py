"""A person's signed answer to an incident: judged before the key is touched and after, kept beside the state, and written into the ledger."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from firstlight.errors import RefusedError
from firstlight.settings import Settings
from governance import approvers, resolution
from governance.approvers import Approver
from governance.policy import RiskPolicy
from governance.resolution import Asked, Resolution
from governance.subject import read_subject
from rollout.records import Incident
from tasks import doors, policy, reassessing

REFUSED = "refused-answer"
"""What the ledger calls an answer that does not count."""


def draft(settings: Settings, incident: Incident, *, signer: str, role: str | None, reason: str) -> tuple[Resolution, str]:
    """Return what ``signer`` would sign, and their name. Raises RefusedError, which the ledger keeps, where it would be in vain."""
    with _refusals_kept(settings, incident, by=signer):
        asked = _asked(settings, incident)
        person = _listed(settings, signer)
        words = resolution.draft(asked, approver=person, role=role or _only_role(person, asked), reason=reason, now=datetime.now(UTC))
        why_not = resolution.may_answer(words, asked=asked, approver=person, policy=_rules(settings))
        if why_not:
            raise RefusedError(why_not)
        return words, person.name


def answer(settings: Settings, incident: Incident, words: Resolution, *, key: Path) -> Incident:
    """Sign ``words`` with ``key``, keep them, and resolve the incident by them. Raises RefusedError, which the ledger keeps, where they do not count."""
    with _refusals_kept(settings, incident, by=words.signer):
        signed = resolution.sign(words, key_file=key)
        known, _ = approvers.read_approvers(settings.approvers_path)
        asked = _asked(settings, incident)
        why_not = resolution.judge(signed, asked=asked, approvers=known, policy=_rules(settings), now=datetime.now(UTC))
        if why_not:
            raise RefusedError(f"the signature does not count: {why_not}")
    resolution.store(settings.folder(reassessing.ANSWERS), signed)
    with doors.store(settings) as records:
        return records.resolve_incident(incident.id, reason=resolution.sentence(words), by=words.signer)


@contextmanager
def _refusals_kept(settings: Settings, incident: Incident, *, by: str) -> Iterator[None]:
    """Let a refusal of the block pass on, having written it into the ledger."""
    try:
        yield
    except RefusedError as error:
        said, digest = f"{incident.id}: {error}", incident.evidence_digest
        with doors.store(settings) as records:
            records.record(incident.environment, incident.model, what=REFUSED, digest=digest, detail=said, by=by)
        raise


def _asked(settings: Settings, incident: Incident) -> Asked:
    if incident.release_id is None:
        raise RefusedError(f"{incident.id} must be about a release to be answered, it is about none: it ends with its cause")
    return reassessing.asked_about(incident, read_subject(settings.state / "releases" / incident.release_id))


def _listed(settings: Settings, signer: str) -> Approver:
    known, _ = approvers.read_approvers(settings.approvers_path)
    person = known.by_email(signer)
    if person is None:
        raise RefusedError(f"an approver must stand in {settings.approvers_path}, {signer!r} does not: ask an administrator to add you")
    return person


def _only_role(person: Approver, asked: Asked) -> str:
    useful = [role for role in person.roles if role in asked.roles] or list(person.roles)
    if len(useful) != 1:
        raise RefusedError(f"you hold several roles that could answer ({', '.join(useful)}): say which one with --role")
    return useful[0]


def _rules(settings: Settings) -> RiskPolicy:
    return policy.read(settings.policy_path).risk
