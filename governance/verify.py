"""Recompute everything a release claims, offline, from a copy of its folder: file digests, evidence digest, signatures, decision, model.

Without an approvers file from outside, the folder's own copy says who the people are: that finds accidents and careless changes, not
a forger who rewrites the whole folder. Give the lab's approvers file to be sure of the people too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from firstlight.digest import sha256_bytes, sha256_file
from firstlight.verdict import Verdict
from governance.approvers import Approvers, parse_approvers
from governance.documents import read_bounded
from governance.errors import EvidenceError, GovernanceError, PolicyError
from governance.evidence import digest_of, evidence_path, read_evidence
from governance.manifest import MANIFEST_FILE, files_of, read_manifest
from governance.policy import RiskPolicy, parse_risk_policy
from governance.risk import assess
from governance.scenario import Scenario
from governance.signoff import SignOffDecision, judge
from governance.statement import Signed, collect, parse_moment, parse_statement
from governance.subject import APPROVERS_FILE, POLICY_FILE, SUBJECT_FILE, Subject, read_subject

CANARY = "canary"
"""Evidence document of the canary: it exists only where traffic was moved."""
DECISION = "sign_off"
"""Evidence document that holds the decision over the statements."""
RISK = "risk"
"""Evidence document that holds the risk assessment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is not as claimed."""

    where: str
    what: str

    def __str__(self) -> str:
        """One sentence."""
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was recomputed, and what differs."""

    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    """What was looked at and found as claimed, in sentences."""

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return not self.findings


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
    findings: list[Finding] = []
    checked: list[str] = []
    moment = now or datetime.now(UTC)
    findings += _check_manifest(folder, checked)
    if not (folder / SUBJECT_FILE).exists():
        return Verification(findings=(*findings, *_unasked(folder)), checked=tuple(checked))
    try:
        subject = read_subject(folder)
    except GovernanceError as problem:
        return Verification(findings=(*findings, Finding(where=SUBJECT_FILE, what=str(problem))), checked=tuple(checked))
    findings += _check_evidence(folder, subject, checked)
    policy, differing = _check_policy(folder, subject, checked)
    findings += differing
    findings += _check_risk(folder, subject, policy, checked)
    findings += _check_model(model_file, subject, checked)
    findings += _check_people(folder, subject, policy, approvers, moment, checked)
    return Verification(findings=tuple(findings), checked=tuple(checked))


def _unasked(folder: Path) -> Iterator[Finding]:
    if evidence_path(folder, DECISION).exists():
        yield Finding(where=SUBJECT_FILE, what=f"missing although evidence/{DECISION}.json claims a decision: nothing says what was signed")


def _check_manifest(folder: Path, checked: list[str]) -> list[Finding]:
    try:
        listed: dict[str, Any] = read_manifest(folder)["files"]
    except GovernanceError as problem:
        return [Finding(where=MANIFEST_FILE, what=str(problem))]
    present = dict(files_of(folder))
    findings = [Finding(where=name, what="missing: the manifest lists it") for name in sorted(listed.keys() - present.keys())]
    findings += [Finding(where=name, what="added: the manifest does not list it") for name in sorted(present.keys() - listed.keys())]
    for name in sorted(listed.keys() & present.keys()):
        findings += _check_file(name, present[name], str(listed[name].get("sha256")))
    if not findings:
        checked.append(f"{len(listed)} files have the digests in {MANIFEST_FILE}")
    return findings


def _check_file(name: str, path: Path, listed: str) -> list[Finding]:
    if path.is_symlink():
        return [Finding(where=name, what="is a symbolic link: a release folder holds files of its own")]
    try:
        found = sha256_file(path)
    except OSError as problem:
        return [Finding(where=name, what=f"cannot be read: {problem.strerror}")]
    return (
        []
        if found == listed
        else [Finding(where=name, what=f"changed: the manifest says sha256 {listed[:16]}…, the file has {found[:16]}…")]
    )


def _check_evidence(folder: Path, subject: Subject, checked: list[str]) -> list[Finding]:
    findings = []
    for name, signed in subject.evidence.items():
        where = f"evidence/{name}.json"
        try:
            found = sha256_file(evidence_path(folder, name))
        except OSError as problem:
            findings.append(Finding(where=where, what=f"cannot be read ({problem.strerror}): people signed over it"))
            continue
        if found != signed:
            findings.append(Finding(where=where, what=f"changed after it was put forward: sha256 was {signed[:16]}…, is {found[:16]}…"))
    whole = digest_of(subject.evidence)
    if whole != subject.evidence_digest:
        what = f"its evidence digest must follow from the documents, says {subject.evidence_digest[:16]}…, follows {whole[:16]}…"
        findings.append(Finding(where=SUBJECT_FILE, what=what))
    if not findings:
        checked.append(f"{len(subject.evidence)} evidence documents give the evidence digest {whole[:16]}…")
    return findings


def _check_policy(folder: Path, subject: Subject, checked: list[str]) -> tuple[RiskPolicy, list[Finding]]:
    try:
        data = read_bounded(folder / POLICY_FILE, PolicyError)
        policy = parse_risk_policy(data, POLICY_FILE)
    except GovernanceError as problem:
        return RiskPolicy(), [Finding(where=POLICY_FILE, what=f"cannot be used: {problem}")]
    found = sha256_bytes(data)
    if found != subject.policy_digest:
        what = f"changed after people were asked: sha256 was {subject.policy_digest[:16]}…, is {found[:16]}…"
        return policy, [Finding(where=POLICY_FILE, what=what)]
    checked.append(f"the policy has the signed digest {found[:16]}…")
    return policy, []


def _check_risk(folder: Path, subject: Subject, policy: RiskPolicy, checked: list[str]) -> list[Finding]:
    where = f"evidence/{RISK}.json"
    if RISK not in subject.evidence:
        return [
            Finding(where=SUBJECT_FILE, what=f"the evidence must hold the risk assessment ({RISK!r}), found {sorted(subject.evidence)}")
        ]
    try:
        claimed = read_evidence(folder, RISK)
        documents = {name: read_evidence(folder, name) for name in subject.evidence if name != RISK}
        scenarios = [Scenario.model_validate(item) for item in claimed.get("definitions", ())]
        again = assess(documents, scenarios=scenarios, policy=policy).to_dict()
    except (GovernanceError, ValueError, TypeError) as problem:
        return [Finding(where=where, what=f"cannot be computed again: {str(problem).splitlines()[0]}")]
    findings = [_differs(where, key, claimed.get(key), again[key]) for key in again if claimed.get(key) != again[key]]
    for key, asked in (("required_roles", subject.requirement.roles), ("band", subject.requirement.band)):
        if asked != again[key]:
            findings.append(_differs(SUBJECT_FILE, key, asked, again[key]))
    if not findings:
        checked.append(f"the risk follows again from the evidence: {again['summary']}")
    return findings


def _differs(where: str, key: str, claimed: Any, follows: Any) -> Finding:
    said, computed = (text if len(text := str(value)) <= 60 else text[:59] + "…" for value in (claimed, follows))
    return Finding(where=where, what=f"{key} does not follow from the evidence: says {said}, follows {computed}")


def _check_model(model_file: Path | None, subject: Subject, checked: list[str]) -> list[Finding]:
    if model_file is None:
        return []
    try:
        found = sha256_file(model_file)
    except OSError as problem:
        return [Finding(where=str(model_file), what=f"cannot be read: {problem.strerror}")]
    if found != subject.model_digest:
        return [
            Finding(
                where=str(model_file), what=f"is not the model that was signed: sha256 was {subject.model_digest[:16]}…, is {found[:16]}…"
            )
        ]
    checked.append(f"the model file has the signed digest {found[:16]}…")
    return []


def _check_people(
    folder: Path, subject: Subject, policy: RiskPolicy, trusted: Approvers | None, now: datetime, checked: list[str]
) -> list[Finding]:
    findings: list[Finding] = []
    people = trusted
    try:
        data = (folder / APPROVERS_FILE).read_bytes()
        if sha256_bytes(data) != subject.approvers_digest:
            what = f"changed after people were asked: sha256 was {subject.approvers_digest[:16]}…, is {sha256_bytes(data)[:16]}…"
            findings.append(Finding(where=APPROVERS_FILE, what=what))
        people = people or parse_approvers(data, APPROVERS_FILE)
    except (OSError, GovernanceError) as problem:
        findings.append(Finding(where=APPROVERS_FILE, what=f"cannot be used: {problem}"))
    if people is None:
        return findings
    return [*findings, *_check_decision(folder, subject, policy, people, now, checked)]


def _check_decision(
    folder: Path, subject: Subject, policy: RiskPolicy, people: Approvers, now: datetime, checked: list[str]
) -> list[Finding]:
    recorded = _recorded(folder)
    statements, unreadable = collect(folder)
    when = _moment_of(recorded, statements) or now
    decision = judge(statements, subject=subject, approvers=people, policy=policy, now=when)
    findings = [Finding(where=f"signoffs/{name}", what=why) for name, why in unreadable]
    findings += _lost(recorded, decision)
    findings += _revoked(decision, people, now)
    if recorded is not None and recorded.get("verdict") != decision.verdict.value:
        what = f"says {recorded.get('verdict')!r}, the signatures say {decision.verdict.value!r}: {decision.summary}"
        findings.append(Finding(where=f"evidence/{DECISION}.json", what=what))
    if decision.verdict != Verdict.PASS and evidence_path(folder, CANARY).exists():
        findings.append(Finding(where=f"evidence/{CANARY}.json", what=f"traffic was moved without a valid sign-off: {decision.summary}"))
    if not findings and decision.verdict == Verdict.PASS:
        checked.append(f"the signatures hold: {decision.summary}")
    return findings


def _lost(recorded: dict[str, Any] | None, decision: SignOffDecision) -> list[Finding]:
    """Statements the release counted and that no longer count, with the reason."""
    counted = [item for item in (recorded or {}).get("accepted", []) if isinstance(item, dict)]
    still = {item.email for item in decision.accepted}
    whys = dict(decision.refused)
    return [
        Finding(
            where=f"signoffs/{item.get('source')}", what=f"no longer counts: {whys.get(str(item.get('email')), _why_source(item, whys))}"
        )
        for item in counted
        if item.get("email") not in still
    ]


def _why_source(item: dict[str, Any], whys: dict[str, str]) -> str:
    return whys.get(str(item.get("source")), "it is not there any more")


def _revoked(decision: SignOffDecision, people: Approvers, now: datetime) -> list[Finding]:
    keys = {key.public.fingerprint: key for person in people.approvers for key in person.keys}
    found = []
    for item in decision.accepted:
        key = keys[item.fingerprint]
        if key.revoked is not None and key.revoked <= now.date():
            what = f"signed {item.signed_at} with key {item.fingerprint}, revoked on {key.revoked}: the signature proves nothing any more"
            found.append(Finding(where=f"signoffs/{item.source}", what=what))
    return found


def _recorded(folder: Path) -> dict[str, Any] | None:
    try:
        return read_evidence(folder, DECISION)
    except EvidenceError:
        return None


def _moment_of(recorded: dict[str, Any] | None, statements: Any) -> datetime | None:
    """When the release decided: a sign-off that has expired since was still good then."""
    try:
        return parse_moment(str((recorded or {}).get("decided_at")))
    except ValueError:
        pass
    moments = []
    for signed in statements:
        moments += _signed_at(signed)
    return max(moments, default=None)


def _signed_at(signed: Signed) -> list[datetime]:
    try:
        return [parse_moment(parse_statement(signed.statement).signed_at)]
    except GovernanceError:
        return []
