"""Break-glass: a release that goes on before its quorum has signed does so loudly, and its incident stays open until the quorum has.

Everything here may be done again: the store keeps one open incident a cause and one ledger entry a statement.
"""

import logging

from firstlight.settings import Settings
from governance.signoff import BrokenGlass, SignOffDecision
from governance.subject import Subject
from rollout.records import Incident
from rollout.store import Store
from tasks import incidents, journal

BROKEN, RATIFIED = "break-glass", "ratified"
"""What the ledger calls the two."""
_BY = "firstlight"
_LOG = logging.getLogger(__name__)


def cause(release_id: str) -> str:
    """Return the cause of the incident that a break-glass of a release opens."""
    return f"{BROKEN}:{release_id}"


def settle(settings: Settings, records: Store, asked: Subject, decision: SignOffDecision) -> Incident | None:
    """Make ledger and incident say what the signatures say; return the incident, or None where the glass was never broken."""
    glass = decision.break_glass
    if glass is None:
        return None
    environment, model = settings.environment, asked.model
    said = f"{asked.release}: {glass.name} ({glass.role}) let it go on before its quorum had signed: {glass.reason}"
    records.record(environment, model, what=BROKEN, digest=glass.digest, detail=said, by=glass.email, once=True)
    known = [one for one in records.incidents(environment, model) if one.cause == cause(asked.release)]
    if not known or (known[-1].resolved_at is not None and not glass.ratified):
        known.append(_open(settings, records, asked, glass))
    if not glass.ratified or known[-1].resolved_at is not None:
        return known[-1]
    records.record(environment, model, what=RATIFIED, digest=glass.digest, detail=f"{asked.release}: {decision.summary}", by=_BY, once=True)
    return records.resolve_incident(known[-1].id, reason=decision.summary, by=", ".join(item.email for item in decision.accepted))


def _open(settings: Settings, records: Store, asked: Subject, glass: BrokenGlass) -> Incident:
    wanted = " and ".join(f"{count} {role}" for role, count in sorted(asked.requirement.roles.items()))
    summary = (
        f"release {asked.release} goes on by break-glass of {glass.name} ({glass.role}) and must be ratified by {wanted} until {glass.ratify_by}: "
        f"read its dossier, then `firstlight sign-off {asked.release}`, or go back with `firstlight rollback`; reason given: {glass.reason}"
    )
    journal.note(settings, about=asked.release, stage="sign-off", event="failed", summary=f"BREAK-GLASS: {summary}")
    _LOG.error("BREAK-GLASS: %s", summary)
    return incidents.open_incident(
        settings,
        records,
        asked.model,
        cause=cause(asked.release),
        severity="critical",
        summary=summary,
        evidence_digest=asked.evidence_digest,
        owner=glass.email,
        by=glass.email,
        release_id=asked.release,
    )
