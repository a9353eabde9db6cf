"""The bytes of a release folder: its list of files, the evidence people signed over, the policy, the risk computed again, the model."""

from pathlib import Path
from typing import Any

from firstlight.digest import sha256_bytes, sha256_file
from governance import waiver
from governance.approvers import Approvers
from governance.documents import read_bounded
from governance.errors import GovernanceError, PolicyError
from governance.evidence import digest_of, evidence_path, read_evidence
from governance.manifest import MANIFEST_FILE, files_of, read_manifest
from governance.policy import RiskPolicy, parse_risk_policy, section_digest
from governance.risk import assess
from governance.scenario import Scenario
from governance.subject import FORMATS, POLICY_FILE, SUBJECT_FILE, Subject
from governance.verification import Finding, Notes, differs, shown

RISK = "risk"
"""Evidence document that holds the risk assessment."""


def check_manifest(folder: Path, notes: Notes) -> None:
    """Every file has the digest in the manifest, and no other file is there."""
    try:
        listed: dict[str, Any] = read_manifest(folder)["files"]
    except GovernanceError as problem:
        notes.wrong(MANIFEST_FILE, str(problem))
        return
    present = dict(files_of(folder))
    findings = [Finding(where=name, what="missing: the manifest lists it") for name in sorted(listed.keys() - present.keys())]
    findings += [Finding(where=name, what="added: the manifest does not list it") for name in sorted(present.keys() - listed.keys())]
    for name in sorted(listed.keys() & present.keys()):
        findings += _check_file(name, present[name], str(listed[name].get("sha256")))
    notes.part(findings, f"{len(listed)} files have the digests in {MANIFEST_FILE}")


def _check_file(name: str, path: Path, listed: str) -> list[Finding]:
    if path.is_symlink():
        return [Finding(where=name, what="is a symbolic link: a release folder holds files of its own")]
    try:
        found = sha256_file(path)
    except OSError as problem:
        return [Finding(where=name, what=f"cannot be read: {problem.strerror}")]
    what = f"changed: the manifest says sha256 {listed[:16]}…, the file has {found[:16]}…"
    return [] if found == listed else [Finding(where=name, what=what)]


def check_evidence(folder: Path, subject: Subject, notes: Notes) -> None:
    """Every document people signed over is still the same, and their digest follows from them."""
    findings = []
    for name, signed in subject.evidence.items():
        where = f"evidence/{name}.json"
        try:
            found = sha256_file(evidence_path(folder, name))
        except (OSError, ValueError) as problem:
            why = getattr(problem, "strerror", None) or problem
            findings.append(Finding(where=where, what=f"cannot be read ({why}): people signed over it"))
            continue
        if found != signed:
            findings.append(Finding(where=where, what=f"changed after it was put forward: sha256 was {signed[:16]}…, is {found[:16]}…"))
    whole = digest_of(subject.evidence)
    if whole != subject.evidence_digest:
        what = f"its evidence digest must follow from the documents, says {subject.evidence_digest[:16]}…, follows {whole[:16]}…"
        findings.append(Finding(where=SUBJECT_FILE, what=what))
    notes.part(findings, f"{len(subject.evidence)} evidence documents give the evidence digest {whole[:16]}…")


def check_policy(folder: Path, subject: Subject, notes: Notes) -> RiskPolicy:
    """The policy file is the one people were asked under; return it, or the defaults where it cannot be read."""
    try:
        data = read_bounded(folder / POLICY_FILE, PolicyError)
        policy = parse_risk_policy(data, POLICY_FILE)
    except GovernanceError as problem:
        notes.wrong(POLICY_FILE, f"cannot be used: {problem}")
        return RiskPolicy()
    found = sha256_bytes(data)
    what = f"changed after people were asked: sha256 was {subject.policy_digest[:16]}…, is {found[:16]}…"
    differing = [] if found == subject.policy_digest else [Finding(where=POLICY_FILE, what=what)]
    notes.part(differing, f"the policy has the signed digest {found[:16]}…")
    return policy


def check_risk(folder: Path, subject: Subject, policy: RiskPolicy, people: Approvers | None, notes: Notes) -> None:
    """The risk follows again from the evidence, the scenarios stored with it and the waivers beside it, and asks for the people the subject names.

    ``people``: whose waivers count; without them none does.
    """
    where = f"evidence/{RISK}.json"
    if RISK not in subject.evidence:
        notes.wrong(SUBJECT_FILE, f"the evidence must hold the risk assessment ({RISK!r}), found {sorted(subject.evidence)}")
        return
    try:
        claimed = read_evidence(folder, RISK)
        documents = {name: read_evidence(folder, name) for name in subject.evidence if name != RISK}
        scenarios = [Scenario.model_validate(item) for item in claimed.get("definitions", ())]
        waivers = (
            () if people is None else waiver.again(folder, claimed.get("waivers") or (), subject=subject, approvers=people, policy=policy)
        )
        again = assess(documents, scenarios=scenarios, policy=policy, waivers=waivers).to_dict()
        if claimed.get("risk_policy_digest") == section_digest(read_bounded(folder / POLICY_FILE, PolicyError)):
            again["risk_policy_digest"] = claimed["risk_policy_digest"]  # the policy of then had fewer rules than a policy has today
    except (GovernanceError, ValueError, TypeError, AttributeError) as problem:
        notes.wrong(where, f"cannot be computed again: {shown(problem)}")
        return
    findings = [Finding(where=f"{waiver.FOLDER}/{one.source}", what=one.why) for one in waiver.collect(folder)[1]]
    findings += [differs(where, key, claimed.get(key), again[key]) for key in again if claimed.get(key) != again[key]]
    findings += [differs(where, key, claimed[key], "nothing") for key in ("waivers", "waived") if claimed.get(key) and key not in again]
    for key, asked in (("required_roles", subject.requirement.roles), ("band", subject.requirement.band)):
        if asked != again[key]:
            findings.append(differs(SUBJECT_FILE, key, asked, again[key]))
    brought = policy.documents_to_attach(again["documents"])
    if subject.format != FORMATS[0] and subject.requirement.documents != brought:
        findings.append(differs(SUBJECT_FILE, "documents", subject.requirement.documents, brought))
    notes.part(findings, f"the risk follows again from the evidence: {again['summary']}")
