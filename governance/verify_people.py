"""The people of a release: whose statements count over exactly this, and whether that is what the release says they decided."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from firstlight.digest import sha256_bytes
from firstlight.verdict import Verdict
from governance import attachments, waiver
from governance.approvers import Approvers, parse_approvers
from governance.documents import read_bounded
from governance.errors import ApproversError, EvidenceError, GovernanceError
from governance.evidence import evidence_path, read_evidence
from governance.policy import RiskPolicy
from governance.signoff import SignOffDecision, judge
from governance.statement import FOLDER, Signed, collect, parse_moment, parse_statement
from governance.subject import ALLOWED_SIGNERS_FILE, APPROVERS_FILE, Subject
from governance.verification import Finding, Notes, shown

CANARY = "canary"
"""Evidence document of the canary: it exists only where traffic was moved."""
DECISION, RISK = "sign_off", "risk"
"""Evidence documents that hold the decision over the statements, and the risk it was about."""


def read_people(folder: Path, subject: Subject, notes: Notes) -> Approvers | None:
    """The approvers file is the one of then, and names nobody else to stock ssh-keygen; return it, or None where it cannot be used."""
    try:
        data = read_bounded(folder / APPROVERS_FILE, ApproversError)
        if sha256_bytes(data) != subject.approvers_digest:
            what = f"changed after people were asked: sha256 was {subject.approvers_digest[:16]}…, is {sha256_bytes(data)[:16]}…"
            notes.wrong(APPROVERS_FILE, what)
        then = parse_approvers(data, APPROVERS_FILE)
        _check_allowed_signers(folder, then, notes)
        return then
    except GovernanceError as problem:
        notes.wrong(APPROVERS_FILE, f"cannot be used: {problem}")
        return None


def _check_allowed_signers(folder: Path, people: Approvers, notes: Notes) -> None:
    """The file that stock ssh-keygen reads names the people and keys of the approvers file beside it and nobody else."""
    path = folder / ALLOWED_SIGNERS_FILE
    if not path.exists():
        return
    wrong = _keys_named(read_bounded(path, ApproversError)) ^ _keys_named(people.allowed_signers())
    for who, _, key in sorted(wrong):
        notes.wrong(
            ALLOWED_SIGNERS_FILE,
            f"must name the people of {APPROVERS_FILE} beside it, {shown(who)} with key {shown(key)} stands in one of the two",
        )


def _keys_named(lines: bytes) -> set[tuple[str, str, str]]:
    """Principal, key type and key of each line."""
    words = [line.split() for line in lines.decode("utf-8", "replace").splitlines() if line.strip() and not line.startswith("#")]
    return {(line[0], line[-2], line[-1]) for line in words if len(line) > 2}


def check_decision(
    folder: Path, subject: Subject, policy: RiskPolicy, *, then: Approvers | None, now: Approvers | None, at: datetime, notes: Notes
) -> None:
    """The signatures give the decision that the release claims.

    ``then``: the approvers when people were asked, by whom the whole record must follow; ``now``: whom the verifier believes, by whom those who were
    counted must still count; ``at``: the moment by which revocations and overdue ratifications are judged.
    """
    recorded = recorded_decision(folder)
    statements, unreadable = collect(folder)
    when = _moment_of(recorded, statements) or at
    findings = [Finding(where=f"{FOLDER}/{name}", what=why) for name, why in unreadable]
    findings += _without_documents(folder, recorded)
    if then is not None and recorded is not None:
        findings += _rewritten(recorded, judge(_of_then(recorded, statements), subject=subject, approvers=then, policy=policy, now=when))
    people = now or then
    if people is not None:
        decision = judge(statements, subject=subject, approvers=people, policy=policy, now=when)
        findings += _lost(recorded, decision)
        findings += _revoked(decision, people, at)
        findings += _contradicted(folder, recorded, decision)
        findings += _unratified(decision, at)
        notes.part(
            findings,
            f"the signatures hold: {decision.summary}"
            if decision.verdict is Verdict.PASS
            else f"no sign-off is claimed: {decision.summary}",
        )
    else:
        notes.findings += findings


def _without_documents(folder: Path, recorded: dict[str, Any] | None) -> Iterator[Finding]:
    """Yield the documents that an approval was given with and that are not there, or are others, now."""
    counted = [item.get("documents") for item in (recorded or {}).get("accepted", []) if isinstance(item, dict)]
    for name, digest in attachments.lost(folder, [item for item in counted if isinstance(item, dict)]):
        yield Finding(
            where=f"{attachments.FOLDER}/",
            what=f"must hold {shown(name)} of sha256 {shown(digest)[:16]}…, which was signed for; no file is it",
        )


def _of_then(recorded: dict[str, Any], statements: Sequence[Signed]) -> list[Signed]:
    """Leave out what was signed after the decision was recorded: it is no part of it."""
    try:
        decided = parse_moment(str(recorded.get("decided_at")))
    except ValueError:
        return list(statements)
    return [signed for signed in statements if not any(given > decided for given in _signed_at(signed))]


def _rewritten(recorded: dict[str, Any], follows: SignOffDecision) -> Iterator[Finding]:
    """Yield what the record says and the signatures do not; a record of the first form says less."""
    again = follows.to_dict()
    for key in sorted(recorded.keys() & again.keys() - {"verdict", "decided_at"}):
        if "conditions" in recorded and recorded[key] != again[key]:
            what = f"{key} does not follow from the signatures: says {shown(recorded[key])}, follows {shown(again[key])}"
            yield Finding(where=f"evidence/{DECISION}.json", what=what)


def _contradicted(folder: Path, recorded: dict[str, Any] | None, decision: SignOffDecision) -> Iterator[Finding]:
    if recorded is not None and recorded.get("verdict") != decision.verdict.value:
        what = f"says {recorded.get('verdict')!r}, the signatures say {decision.verdict.value!r}: {decision.summary}"
        yield Finding(where=f"evidence/{DECISION}.json", what=what)
    if decision.verdict != Verdict.PASS and evidence_path(folder, CANARY).exists():
        yield Finding(where=f"evidence/{CANARY}.json", what=f"traffic was moved without a valid sign-off: {decision.summary}")


def _unratified(decision: SignOffDecision, at: datetime) -> Iterator[Finding]:
    """Yield a break-glass that was to be ratified by now and is not."""
    glass = decision.break_glass
    if glass is not None and not glass.ratified and parse_moment(glass.ratify_by) < at:
        what = f"the break-glass of {glass.name} ({glass.role}) was to be ratified by {glass.ratify_by}, and in this copy it is not"
        yield Finding(where=f"{FOLDER}/{glass.source}", what=what)


def _lost(recorded: dict[str, Any] | None, decision: SignOffDecision) -> list[Finding]:
    """Statements the release counted and that no longer count, with the reason."""
    counted = [item for item in (recorded or {}).get("accepted", []) if isinstance(item, dict)]
    still = {item.email for item in decision.accepted}
    whys = dict(decision.refused)
    return [
        Finding(
            where=f"{FOLDER}/{item.get('source')}", what=f"no longer counts: {whys.get(str(item.get('email')), _why_source(item, whys))}"
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
            found.append(Finding(where=f"{FOLDER}/{item.source}", what=what))
    return found


def check_waivers(folder: Path, people: Approvers, at: datetime, notes: Notes) -> None:
    """Every waiver that was counted is by somebody, and by a key, that the verifier still believes ``at`` this moment."""
    try:
        counted = read_evidence(folder, RISK).get("waivers") or ()
    except EvidenceError:
        return  # said already
    for item in counted if isinstance(counted, list) else ():
        if not isinstance(item, dict):
            continue
        where = f"{waiver.FOLDER}/{item.get('id')}.json"
        person = people.by_email(str(item.get("email")))
        key = next((key for key in (person.keys if person else ()) if key.public.fingerprint == item.get("fingerprint")), None)
        if key is None:
            notes.wrong(
                where,
                f"must be by a person and a key in the approvers file that was given, found {shown(item.get('email'))}, {shown(item.get('fingerprint'))}",
            )
        elif key.revoked is not None and key.revoked <= at.date():
            notes.wrong(
                where, f"is signed with key {key.public.fingerprint}, revoked on {key.revoked}: the signature proves nothing any more"
            )


def recorded_decision(folder: Path) -> dict[str, Any] | None:
    """Return the decision the release recorded, or None where there is none that can be read."""
    try:
        return read_evidence(folder, DECISION)
    except EvidenceError:
        return None


def _moment_of(recorded: dict[str, Any] | None, statements: Sequence[Signed]) -> datetime | None:
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
