"""Recompute everything a release claims, offline, from a copy of its folder; or an exported ledger. See docs/auditors.md.

What is not given from outside (who the people are, which keys are the pipeline's) is taken on the folder's word, and said so: that finds
accidents and careless changes, not a forger who rewrites the whole folder and signs it with keys of his own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from firstlight.chain import ChainKey
from governance import ledger, papers
from governance.approvers import Approvers
from governance.errors import GovernanceError
from governance.evidence import EVIDENCE_FOLDER, evidence_path
from governance.intoto import BUNDLE_FILE, PUBLIC_KEY_FILE
from governance.manifest import MANIFEST_FILE, SIGNATURE_FILE
from governance.model_keys import ModelKeys
from governance.sshsig import PublicKey
from governance.subject import FORMATS, SUBJECT_FILE, Subject, read_subject
from governance.verification import Finding, Notes, Verification
from governance.verify_evidence import check_evidence, check_manifest, check_policy, check_risk
from governance.verify_ledger import FOLDER as PART
from governance.verify_ledger import check_export, check_part
from governance.verify_model import check_model_file, check_model_folder
from governance.verify_papers import check_bundle, check_papers, check_register, check_signed, own_keys, release_facts
from governance.verify_people import DECISION, check_decision, check_waivers, read_people, recorded_decision

_RELEASE = (MANIFEST_FILE, SUBJECT_FILE, EVIDENCE_FOLDER)
"""What only a release folder has."""
_MADE = (BUNDLE_FILE, SIGNATURE_FILE, papers.FOLDER, PART)
"""What the pipeline adds to a release folder; where one is there, all must be."""

__all__ = ["Finding", "Trust", "Verification", "examine", "verify"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """What the verifier brings along: each None or empty is taken from the folder, or not checked."""

    approvers: Approvers | None = None
    """The lab's own approvers file."""
    pipeline: Sequence[PublicKey] | None = None
    """The pipeline keys whose bundles and anchors count."""
    ledger: Sequence[ChainKey] = ()
    """The keys that seal the ledger; without them the seals are not checked."""
    model: ModelKeys | None = None
    """The keys whose model signatures count."""


def verify(
    folder: Path, *, approvers: Approvers | None = None, model_file: Path | None = None, now: datetime | None = None
) -> list[Finding]:
    """Return what differs in the release ``folder`` from what it claims; an empty list means that it verifies. See :func:`examine`."""
    return list(examine(folder, trust=Trust(approvers=approvers), model_file=model_file, now=now).findings)


def examine(
    folder: Path,
    *,
    trust: Trust | None = None,
    model_file: Path | None = None,
    model_folder: Path | None = None,
    now: datetime | None = None,
) -> Verification:
    """Recompute the release, or the exported ledger, in ``folder``. Never raises on what is in the folder, and writes nothing.

    ``trust``: whom and which keys you believe (default: the folder's copies). ``model_file``: the model.pt2 the release is about, ``model_folder`` the
    folder it was registered from, when you have them. ``now``: the moment by which revocations and overdue ratifications are judged (default: the present).
    """
    notes, given = Notes(), trust or Trust()
    if (folder / ledger.ENTRIES_FILE).exists() and not any((folder / name).exists() for name in _RELEASE):
        check_export(folder, trusted=given.pipeline, keys=given.ledger, notes=notes)
        return notes.closed()
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
    at = now or datetime.now(UTC)
    _check_judged(folder, subject, given, at, notes)
    if subject.format != FORMATS[0] or any(
        (folder / name).exists() for name in _MADE
    ):  # a release of the first format's time had none of it
        _check_made(folder, subject, given, notes)
    if model_file is not None:
        check_model_file(model_file, subject, notes)
    if model_folder is not None:
        check_model_folder(folder, model_folder, subject, keys=given.model, today=at.date(), notes=notes)
    return notes.closed()


def _check_judged(folder: Path, subject: Subject, trust: Trust, at: datetime, notes: Notes) -> None:
    """What people were shown, and what they decided."""
    check_evidence(folder, subject, notes)
    policy = check_policy(folder, subject, notes)
    then = read_people(folder, subject, notes)
    if trust.approvers is None:
        notes.believe("the approvers file in the folder; give the lab's own with --approvers")
    check_risk(folder, subject, policy, then, notes)
    if trust.approvers is not None:
        check_waivers(folder, trust.approvers, at, notes)
    check_decision(folder, subject, policy, then=then, now=trust.approvers, at=at, notes=notes)


def _check_made(folder: Path, subject: Subject, trust: Trust, notes: Notes) -> None:
    """What the pipeline made of it, and signed."""
    if release_facts(folder).get("status") == "open":
        notes.believe(
            "that this release was still under way (evidence/release.json says open): what came since is not listed; verify it again when it has ended"
        )
    check_register(folder, notes)
    check_papers(folder, notes)
    pipeline = trust.pipeline
    if pipeline is None:
        pipeline = own_keys(folder)
        notes.believe(f"{PUBLIC_KEY_FILE} in the folder; give the lab's own with --pipeline-keys")
    check_signed(folder, pipeline, notes)
    check_bundle(folder, pipeline, notes)
    check_part(folder, subject, recorded_decision(folder) or {}, trusted=pipeline, keys=trust.ledger, notes=notes)
