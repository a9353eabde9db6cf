"""Have the right people said yes to exactly this? A pure decision over signed statements.

A statement that does not count is refused with the reason, and never stops the others from counting. One valid rejection stops the release.
Too few approvals is *cannot tell*: the release waits, unless somebody who may has broken the glass. Then it goes on, and stays unratified until
the people who would have had to sign have signed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from firstlight.verdict import Verdict
from governance import credentials, sshsig
from governance.approvers import Approver, ApproverKey, Approvers, same_person_email, same_person_name
from governance.credentials import Refusal
from governance.decision import Accepted, BrokenGlass, MaySign, SignOffDecision, TurnedDown
from governance.errors import SignatureError, SignOffError
from governance.policy import RiskPolicy
from governance.statement import Decision, Signed, Statement, moment, parse_moment, parse_statement
from governance.subject import Subject

__all__ = ["Accepted", "BrokenGlass", "Decision", "MaySign", "SignOffDecision", "TurnedDown", "judge", "may_sign", "who_may_sign"]


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
    refused: list[TurnedDown] = []
    for signed in statements:
        try:
            valid.append(_examine(signed, bench))
        except (Refusal, SignOffError, SignatureError) as problem:
            refused.append(TurnedDown(who=_who(signed), why=str(problem), source=signed.source, digest=signed.digest))
    accepted = _one_each([item for item in valid if item.decision != Decision.BREAK_GLASS], refused)
    glass = _one_glass([item for item in valid if item.decision == Decision.BREAK_GLASS], refused)
    return _decide(accepted, glass, refused, bench)


def who_may_sign(
    decision: SignOffDecision, *, subject: Subject, approvers: Approvers, policy: RiskPolicy, now: datetime
) -> tuple[MaySign, ...]:
    """Return who could still give what ``decision`` misses: listed, with a key in force at ``now``, not the trainer, not counted already."""
    counted = {same_person_email(item.email) for item in decision.accepted}
    found = []
    for person in approvers.approvers:
        in_force = any(key.refusal(signed=now.date(), today=now.date()) is None for key in person.keys)
        if not in_force or same_person_email(person.email) in counted or _why_not(person, subject, policy):
            continue
        found += [MaySign(name=person.name, email=person.email, role=role) for role in person.roles if role in decision.missing]
    return tuple(sorted(found, key=lambda one: (one.role, one.name)))


def _why_not(person: Approver, subject: Subject, policy: RiskPolicy) -> str | None:
    try:
        credentials.check_person(person, person.name, trainer=subject.trainer, policy=policy)
    except Refusal as problem:
        return str(problem)
    return None


def may_sign(statement: Statement, *, subject: Subject, approver: Approver, policy: RiskPolicy) -> str | None:
    """Say why signing ``statement`` would be in vain, or None: the rules of ``judge`` that need no key, for use before a key is touched."""
    try:
        if policy.change_id_required and subject.change_id is None:
            raise Refusal(_NO_CHANGE)
        _check_subject(statement, subject)
        credentials.check_person(approver, statement.name, trainer=subject.trainer, policy=policy)
        _check_role(statement, approver, subject, policy)
        _check_words(statement, policy)
    except Refusal as problem:
        return str(problem)
    return None


_NO_CHANGE = (
    "this environment wants a change id before anybody signs, none is given: run `firstlight release` again with --change CR-YYYY-NNN"
)


def _examine(signed: Signed, bench: _Bench) -> Accepted:
    statement = parse_statement(signed.statement)
    _check_subject(statement, bench.subject)
    person = credentials.check_listed(bench.approvers, statement.signer)
    key = credentials.check_key(signed, person, namespace=sshsig.NAMESPACE)
    credentials.check_person(person, statement.name, trainer=bench.subject.trainer, policy=bench.policy)
    _check_role(statement, person, bench.subject, bench.policy)
    _check_words(statement, bench.policy)
    _check_times(statement, key, bench)
    return Accepted(
        name=person.name,
        email=person.email,
        role=statement.role,
        decision=statement.decision.value,
        reason=statement.reason,
        conditions=statement.conditions,
        documents=statement.documents,
        fingerprint=key.public.fingerprint,
        signed_at=statement.signed_at,
        expires_at=statement.expires_at,
        source=signed.source,
        digest=signed.digest,
    )


def _check_subject(statement: Statement, subject: Subject) -> None:
    if (statement.release, statement.model) != (subject.release, subject.model):
        raise Refusal(
            f"the statement must be about release {subject.release!r}, found one about {statement.release[:120]!r} of {statement.model[:120]!r}"
        )
    for what, signed, now in (
        ("model", statement.model_digest, subject.model_digest),
        ("evidence", statement.evidence_digest, subject.evidence_digest),
        ("policy", statement.policy_digest, subject.policy_digest),
    ):
        if signed != now:
            raise Refusal(
                f"the {what} changed after the signature (signed {signed[:12]!r}, now {now[:12]!r}): the sign-off is void; look again, sign again"
            )
    for what, named, asked in (
        ("decision", statement.decision_id, subject.decision_id),
        ("change", statement.change_id, subject.change_id),
    ):
        if named != asked:
            said = "none" if named is None else repr(named[:40])
            raise Refusal(f"the statement must name the {what} it is about, {asked or 'none'}, found {said}: look again, sign again")


def _check_role(statement: Statement, person: Approver, subject: Subject, policy: RiskPolicy) -> None:
    role, requirement = statement.role, subject.requirement
    if role not in person.roles:
        raise Refusal(f"{person.name} must sign in a role they hold ({', '.join(person.roles)}), found {role[:80]!r}")
    if statement.decision is Decision.APPROVE and role not in requirement.roles:
        raise Refusal(f"residual risk {requirement.band} must be approved by {policy.asked(requirement.roles)}, found {role!r}")
    if statement.decision is Decision.BREAK_GLASS and role not in policy.break_glass.roles:
        may = " or ".join(policy.break_glass.roles) or "nobody in this environment"
        raise Refusal(f"the glass may be broken by {may}, found {role!r}: ask the people who must approve")


def _check_words(statement: Statement, policy: RiskPolicy) -> None:
    credentials.check_words(statement.reason, what="a reason", policy=policy)
    for condition in statement.conditions:
        credentials.check_words(condition, what="a condition", policy=policy)


def _check_times(statement: Statement, key: ApproverKey, bench: _Bench) -> None:
    signed, expires, now = parse_moment(statement.signed_at), parse_moment(statement.expires_at), bench.now
    is_glass = statement.decision is Decision.BREAK_GLASS
    days, hours = bench.subject.requirement.validity_days, bench.policy.break_glass.valid_hours
    longest, words = (timedelta(hours=hours), f"{hours} hours") if is_glass else (timedelta(days=days), f"{days} days")
    if signed > now + timedelta(minutes=bench.policy.clock_skew_minutes):
        raise Refusal(f"a statement must not be dated in the future, found {statement.signed_at}: set the clock and sign again")
    if not signed < expires <= signed + longest:
        raise Refusal(f"a sign-off must expire within {words} of its date, found {statement.signed_at} to {statement.expires_at}")
    if expires <= now and not is_glass:
        raise Refusal(f"the sign-off expired on {statement.expires_at}: look again, sign again")
    credentials.check_in_force(key, signed=signed.date(), today=now.date())


def _one_each(valid: Sequence[Accepted], refused: list[TurnedDown]) -> list[Accepted]:
    """Keep one statement per person, a rejection before an approval; the others go to ``refused``."""
    kept: list[Accepted] = []
    for item in sorted(valid, key=lambda item: (item.decision != Decision.REJECT, item.signed_at, item.source)):
        twin = next((other for other in kept if _same_person(other, item)), None)
        if twin is None:
            kept.append(item)
        else:
            refused.append(_turned_down(item, f"{item.name} already decided ({twin.decision} as {twin.role}): one person counts once"))
    return kept


def _one_glass(valid: Sequence[Accepted], refused: list[TurnedDown]) -> Accepted | None:
    """Keep the break-glass that lasts longest: it is broken once; the others go to ``refused``."""
    ordered = sorted(valid, key=lambda item: (item.expires_at, item.source), reverse=True)
    if not ordered:
        return None
    kept = ordered[0]
    refused += [_turned_down(item, f"{kept.name} broke the glass at {kept.signed_at} already: it is broken once") for item in ordered[1:]]
    return kept


def _turned_down(item: Accepted, why: str) -> TurnedDown:
    return TurnedDown(who=item.email, why=why, source=item.source, digest=item.digest)


def _same_person(one: Accepted, other: Accepted) -> bool:
    same_name = same_person_name(one.name) == same_person_name(other.name)
    return same_name or same_person_email(one.email) == same_person_email(other.email) or one.fingerprint == other.fingerprint


def _decide(accepted: Sequence[Accepted], glass: Accepted | None, refused: Sequence[TurnedDown], bench: _Bench) -> SignOffDecision:
    approvals = [item for item in accepted if item.decision == Decision.APPROVE]
    given = Counter(item.role for item in approvals)
    asked = bench.subject.requirement.roles
    missing = {role: count - given[role] for role, count in asked.items() if given[role] < count}
    brought = {name for item in approvals for name in item.documents}
    lacking = tuple(name for name in bench.subject.requirement.documents if name not in brought)
    turned_down, broken = list(refused), None
    if glass is not None and (missing or lacking) and parse_moment(glass.expires_at) <= bench.now:
        turned_down.append(
            _turned_down(glass, f"the break-glass expired on {glass.expires_at} and nobody ratified it: sign off, or break it again")
        )
    elif glass is not None:
        broken = _broken(glass, ratified=not missing and not lacking, bench=bench)
    verdict, summary, reasons = _verdict(accepted, broken, missing, lacking, bench)
    if verdict is Verdict.CANNOT_TELL:
        reasons += [f"{item.who}: {item.why}" for item in turned_down]
    return SignOffDecision(
        verdict=verdict,
        summary=summary,
        reasons=tuple(reasons),
        accepted=tuple(accepted),
        turned_down=tuple(turned_down),
        missing=missing,
        decided_at=moment(bench.now),
        missing_documents=lacking,
        conditions=tuple(f"{item.name} ({item.role}): {condition}" for item in approvals for condition in item.conditions),
        break_glass=broken,
        decision_id=bench.subject.decision_id,
        change_id=bench.subject.change_id,
    )


def _broken(glass: Accepted, *, ratified: bool, bench: _Bench) -> BrokenGlass:
    until = parse_moment(glass.signed_at) + timedelta(hours=bench.policy.break_glass.ratify_hours)
    return BrokenGlass(
        name=glass.name,
        email=glass.email,
        role=glass.role,
        reason=glass.reason,
        fingerprint=glass.fingerprint,
        signed_at=glass.signed_at,
        expires_at=glass.expires_at,
        ratify_by=moment(until),
        ratified=ratified,
        source=glass.source,
        digest=glass.digest,
    )


def _verdict(
    accepted: Sequence[Accepted], broken: BrokenGlass | None, missing: Mapping[str, int], lacking: Sequence[str], bench: _Bench
) -> tuple[Verdict, str, list[str]]:
    """Return verdict, summary and reasons: a rejection first, then what is missing."""
    rejections = [item for item in accepted if item.decision == Decision.REJECT]
    if rejections:
        summary = f"rejected by {' and '.join(f'{item.name} ({item.role})' for item in rejections)}"
        return Verdict.FAIL, summary, [f"{item.name} ({item.role}) rejected: {item.reason}" for item in rejections]
    if bench.policy.change_id_required and bench.subject.change_id is None:
        return Verdict.CANNOT_TELL, "waiting for a change id (CR-YYYY-NNN)", [_NO_CHANGE]
    if missing or lacking:
        asked = bench.subject.requirement.roles
        people = f"{bench.policy.asked(missing)}; {len(accepted)} of {sum(asked.values())} given" if missing else ""
        papers = f"{', '.join(lacking)} (`firstlight sign-off --document`)" if lacking else ""
        waiting = f"waiting for {'; and for '.join(part for part in (people, papers) if part)}"
        if broken is None:
            return Verdict.CANNOT_TELL, waiting, [waiting]
        said = f"BREAK-GLASS by {broken.name} ({broken.role}), to be ratified by {broken.ratify_by}: {waiting}"
        return Verdict.PASS, said, [f"{broken.name} ({broken.role}) broke the glass: {broken.reason}"]
    summary = "approved by " + " and ".join(f"{item.name} ({item.role})" for item in accepted)
    if broken is not None:
        summary += f"; this ratifies the break-glass of {broken.name} ({broken.role})"
    return Verdict.PASS, summary, []


def _who(signed: Signed) -> str:
    """The address the statement claims, else its file; shortened, because strangers wrote it."""
    try:
        return parse_statement(signed.statement).signer[:200]
    except SignOffError:
        return signed.source
