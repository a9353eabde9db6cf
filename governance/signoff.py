"""Have the right people said yes to exactly this? A pure decision over signed statements.

A statement that does not count is refused with the reason, and never stops the others from counting. One valid rejection stops the release.
Too few approvals is *cannot tell*: the release waits.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from firstlight.verdict import Verdict
from governance import sshsig
from governance.approvers import Approver, ApproverKey, Approvers, same_person_email, same_person_name
from governance.errors import SignatureError, SignOffError
from governance.policy import RiskPolicy
from governance.statement import Decision, Signed, Statement, moment, parse_moment, parse_statement
from governance.subject import Subject

__all__ = ["Accepted", "Decision", "SignOffDecision", "judge", "may_sign"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """One statement that counts."""

    name: str
    email: str
    role: str
    decision: str
    reason: str
    fingerprint: str
    """Of the key that signed."""
    signed_at: str
    expires_at: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SignOffDecision:
    """PASS: enough valid approvals. FAIL: a valid rejection. CANNOT_TELL: still waiting."""

    verdict: Verdict
    summary: str
    reasons: tuple[str, ...]
    accepted: tuple[Accepted, ...]
    refused: tuple[tuple[str, str], ...]
    """(who or which file, why it does not count)."""
    missing: Mapping[str, int]
    """Role -> how many people are still wanted."""
    decided_at: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for the evidence folder."""
        plain = asdict(self)
        refused = [{"who": who, "why": why} for who, why in self.refused]
        return {
            **plain,
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
            "accepted": list(plain["accepted"]),
            "refused": refused,
        }


class _Refusal(Exception):
    """The statement does not count; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bench:
    """Everything a statement is held against."""

    subject: Subject
    approvers: Approvers
    policy: RiskPolicy
    now: datetime


def judge(statements: Sequence[Signed], *, subject: Subject, approvers: Approvers, policy: RiskPolicy, now: datetime) -> SignOffDecision:
    """Decide over ``statements`` about ``subject`` at ``now`` (aware). Pure; never raises on what a stranger can write."""
    bench = _Bench(subject=subject, approvers=approvers, policy=policy, now=now)
    valid: list[Accepted] = []
    refused: list[tuple[str, str]] = []
    for signed in statements:
        try:
            valid.append(_examine(signed, bench))
        except (_Refusal, SignOffError, SignatureError) as problem:
            refused.append((_who(signed), str(problem)))
    accepted = _one_each(valid, refused)
    return _decide(accepted, refused, bench)


def may_sign(statement: Statement, *, subject: Subject, approver: Approver, policy: RiskPolicy) -> str | None:
    """Say why signing ``statement`` would be in vain, or None: the rules of ``judge`` that need no key, for use before a key is touched."""
    try:
        _check_subject(statement, subject)
        _check_person(approver, statement.name, subject, policy)
        _check_role(statement, approver, subject, policy)
        _check_reason(statement.reason, policy)
    except _Refusal as problem:
        return str(problem)
    return None


def _examine(signed: Signed, bench: _Bench) -> Accepted:
    statement = parse_statement(signed.statement)
    _check_subject(statement, bench.subject)
    person = bench.approvers.by_email(statement.signer)
    if person is None:
        raise _Refusal(f"{statement.signer!r} must be in the approvers file, found nobody of that address: only listed people may sign")
    key = _check_key(signed, person)
    _check_person(person, statement.name, bench.subject, bench.policy)
    _check_role(statement, person, bench.subject, bench.policy)
    _check_reason(statement.reason, bench.policy)
    _check_times(statement, key, bench)
    return Accepted(
        name=person.name,
        email=person.email,
        role=statement.role,
        decision=statement.decision.value,
        reason=statement.reason,
        fingerprint=key.public.fingerprint,
        signed_at=statement.signed_at,
        expires_at=statement.expires_at,
        source=signed.source,
    )


def _check_subject(statement: Statement, subject: Subject) -> None:
    if (statement.release, statement.model) != (subject.release, subject.model):
        raise _Refusal(
            f"the statement must be about release {subject.release!r}, found one about {statement.release[:120]!r} of {statement.model[:120]!r}"
        )
    for what, signed, now in (
        ("model", statement.model_digest, subject.model_digest),
        ("evidence", statement.evidence_digest, subject.evidence_digest),
        ("policy", statement.policy_digest, subject.policy_digest),
    ):
        if signed != now:
            raise _Refusal(
                f"the {what} changed after the signature (signed {signed[:12]!r}, now {now[:12]!r}): the sign-off is void; look again, sign again"
            )


def _check_key(signed: Signed, person: Approver) -> ApproverKey:
    used = sshsig.parse(signed.signature).key
    key = next((key for key in person.keys if key.public == used), None)
    if key is None:
        listed = ", ".join(key.public.fingerprint for key in person.keys)
        raise _Refusal(f"{person.email} must sign with a key listed for them ({listed}), found {used.fingerprint}")
    sshsig.verify(signed.statement, signed.signature, key=key.public)
    return key


def _check_person(person: Approver, name: str, subject: Subject, policy: RiskPolicy) -> None:
    local = person.email.split("@")[0]
    nobody = [given for given in (person.name, name) if policy.is_placeholder(given)] + [local] * policy.is_placeholder_word(local)
    if nobody:
        raise _Refusal(
            f"an approver must be a named person, found {nobody[0][:80]!r}: put the person's own name and address into the approvers file"
        )
    if same_person_name(name) != same_person_name(person.name):
        raise _Refusal(f"the statement must bear the name in the approvers file ({person.name!r}), found {name[:80]!r}")
    trainer = subject.trainer
    same_key = any(key.public.fingerprint in trainer.fingerprints for key in person.keys)
    same_email = same_person_email(person.email) == same_person_email(trainer.email)
    if same_key or same_email or same_person_name(person.name) == same_person_name(trainer.name):
        raise _Refusal(f"{person.name} trained this model and must not approve it: ask somebody else")


def _check_role(statement: Statement, person: Approver, subject: Subject, policy: RiskPolicy) -> None:
    role, requirement = statement.role, subject.requirement
    if role not in person.roles:
        raise _Refusal(f"{person.name} must sign in a role they hold ({', '.join(person.roles)}), found {role[:80]!r}")
    if statement.decision == Decision.APPROVE and role not in requirement.roles:
        raise _Refusal(f"residual risk {requirement.band} must be approved by {policy.asked(requirement.roles)}, found {role!r}")


def _check_reason(reason: str, policy: RiskPolicy) -> None:
    if not reason.strip():
        raise _Refusal("a reason must be given, found none: say in a sentence why")
    if len(reason) > policy.longest_reason:
        raise _Refusal(f"a reason must have at most {policy.longest_reason} characters, found {len(reason)}: shorten it")


def _check_times(statement: Statement, key: ApproverKey, bench: _Bench) -> None:
    signed, expires, now = parse_moment(statement.signed_at), parse_moment(statement.expires_at), bench.now
    days = bench.subject.requirement.validity_days
    if signed > now + timedelta(minutes=bench.policy.clock_skew_minutes):
        raise _Refusal(f"a statement must not be dated in the future, found {statement.signed_at}: set the clock and sign again")
    if not signed < expires <= signed + timedelta(days=days):
        raise _Refusal(f"a sign-off must expire within {days} days of its date, found {statement.signed_at} to {statement.expires_at}")
    if expires <= now:
        raise _Refusal(f"the sign-off expired on {statement.expires_at}: look again, sign again")
    why = key.refusal(signed=signed.date(), today=now.date())
    if why is not None:
        raise _Refusal(why)


def _one_each(valid: Sequence[Accepted], refused: list[tuple[str, str]]) -> list[Accepted]:
    """Keep one statement per person, a rejection before an approval; the others go to ``refused``."""
    kept: list[Accepted] = []
    for item in sorted(valid, key=lambda item: (item.decision != Decision.REJECT, item.signed_at, item.source)):
        twin = next((other for other in kept if _same_person(other, item)), None)
        if twin is None:
            kept.append(item)
        else:
            refused.append((item.email, f"{item.name} already decided ({twin.decision} as {twin.role}): one person counts once"))
    return kept


def _same_person(one: Accepted, other: Accepted) -> bool:
    same_name = same_person_name(one.name) == same_person_name(other.name)
    return same_name or same_person_email(one.email) == same_person_email(other.email) or one.fingerprint == other.fingerprint


def _decide(accepted: Sequence[Accepted], refused: Sequence[tuple[str, str]], bench: _Bench) -> SignOffDecision:
    rejections = [item for item in accepted if item.decision == Decision.REJECT]
    given = Counter(item.role for item in accepted if item.decision == Decision.APPROVE)
    asked = bench.subject.requirement.roles
    missing = {role: count - given[role] for role, count in asked.items() if given[role] < count}
    reasons = [f"{item.name} ({item.role}) rejected: {item.reason}" for item in rejections]
    if rejections:
        verdict, summary = Verdict.FAIL, f"rejected by {' and '.join(f'{item.name} ({item.role})' for item in rejections)}"
    elif missing:
        verdict, summary = (
            Verdict.CANNOT_TELL,
            f"waiting for {bench.policy.asked(missing)}; {sum(given.values())} of {sum(asked.values())} given",
        )
        reasons = [summary, *(f"{who}: {why}" for who, why in refused)]
    else:
        verdict, summary = Verdict.PASS, "approved by " + " and ".join(f"{item.name} ({item.role})" for item in accepted)
    return SignOffDecision(
        verdict=verdict,
        summary=summary,
        reasons=tuple(reasons),
        accepted=tuple(accepted),
        refused=tuple(refused),
        missing=missing,
        decided_at=moment(bench.now),
    )


def _who(signed: Signed) -> str:
    """The address the statement claims, else its file; shortened, because strangers wrote it."""
    try:
        return parse_statement(signed.statement).signer[:200]
    except SignOffError:
        return signed.source
