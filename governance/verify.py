"""Recompute everything a release claims, offline, from a copy of its folder: file digests, evidence digest, signatures, decision, model.

Without an approvers file from outside, the folder's own copy says who the people are: that finds accidents and careless changes, not
a forger who rewrites the whole folder. Give the lab's approvers file to be sure of the people too.
"""

from datetime import UTC, datetime
from pathlib import Path

from governance.approvers import Approvers
from governance.errors import GovernanceError
from governance.evidence import evidence_path
from governance.subject import SUBJECT_FILE, read_subject
from governance.verification import Finding, Notes, Verification
from governance.verify_evidence import check_evidence, check_manifest, check_model_file, check_policy, check_risk
from governance.verify_people import DECISION, check_decision, read_people

__all__ = ["Finding", "Verification", "examine", "verify"]


def verify(
    folder: Path, *, approvers: Approvers | None = None, model_file: Path | None = None, now: datetime | None = None
) -> list[Finding]:
    """Return what differs in the release ``folder`` from what it claims; an empty list means that it verifies. See :func:`examine`."""
    return list(examine(folder, approvers=approvers, model_file=model_file, now=now).findings)


def examine(
    folder: Path, *, approvers: Approvers | None = None, model_file: Path | None = None, now: datetime | None = None
) -> Verification:
    """Recompute the release in ``folder``. Never raises on what is in the folder.

    ``approvers``: whom you trust (default: the folder's copy). ``model_file``: the model.pt2 the release is about, when you have it.
    ``now``: the moment by which revocations are judged (default: the present).
    """
    notes = Notes()
    check_manifest(folder, notes)
    if not (folder / SUBJECT_FILE).exists():
        if evidence_path(folder, DECISION).exists():
            what = f"missing although evidence/{DECISION}.json claims a decision: nothing says what was signed"
            notes.wrong(SUBJECT_FILE, what)
        return notes.closed()
    try:
        subject = read_subject(folder)
    except GovernanceError as problem:
        notes.wrong(SUBJECT_FILE, str(problem))
        return notes.closed()
    check_evidence(folder, subject, notes)
    policy = check_policy(folder, subject, notes)
    then = read_people(folder, subject, notes)
    check_risk(folder, subject, policy, then, notes)
    if model_file is not None:
        check_model_file(model_file, subject, notes)
    check_decision(folder, subject, policy, then=then, now=approvers, at=now or datetime.now(UTC), notes=notes)
    return notes.closed()
