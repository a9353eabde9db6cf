"""Waivers: somebody who may accepts a risk above its limit, or evidence that is not there, for one scenario of one model, until a day. Pure but for files.

waivers/<scenario>-<12 digits>.json        the words, exactly the bytes that were signed; the digits begin the sha256 of these bytes
waivers/<scenario>-<12 digits>.json.sig    the SSH signature over them, in the namespace ``firstlight-waiver``

They lie in the state folder, and the release that counts one keeps a copy. A waiver lowers no residual: who must approve stays as it was, and
the waiver is named wherever its scenario is. The lab's acceptance (AI risk standard 02, section 6) asks for what one holds: justification,
compensating controls, a time limit and a signature.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from governance import credentials, signed, sshsig
from governance.approvers import Approver, Approvers
from governance.credentials import Refusal
from governance.errors import SignatureError, SignOffError
from governance.policy import RiskPolicy
from governance.signed import Moment, Signed, Unreadable, moment, parse_moment
from governance.subject import Person, Subject

FOLDER = "waivers"
FORMAT = "firstlight/waiver/v1"
_COMMAND = "firstlight waive"


class Waiver(signed.Words):
    """The signed words."""

    format: Literal["firstlight/waiver/v1"] = "firstlight/waiver/v1"
    environment: str = Field(min_length=1, max_length=60)
    model: str = Field(min_length=1, max_length=200)
    scenario: str = Field(pattern=r"^[A-Z]{1,3}[0-9]{2}$")
    reason: str
    """Why the risk is accepted, in the person's own words."""
    controls: tuple[str, ...] = Field(min_length=1, max_length=20)
    """What is done instead, a sentence each."""
    until: date
    """The last day (UTC) on which it counts."""
    role: str
    signer: str
    """E-mail address; the principal of the signature."""
    name: str
    signed_at: Moment


@dataclass(frozen=True, kw_only=True, slots=True)
class WaiverInForce:
    """One waiver that counts."""

    id: str
    scenario: str
    name: str
    email: str
    role: str
    reason: str
    controls: tuple[str, ...]
    until: str
    """The last day on which it counts, ``2026-12-31``."""
    fingerprint: str
    """Of the key that signed."""
    signed_at: str
    digest: str
    """sha256 of the signed words."""
    counted_at: str
    """When it was found to be in force; the moment for which ``again`` judges it."""

    @property
    def ends_at(self) -> datetime:
        """From then on it waives nothing."""
        return datetime.combine(date.fromisoformat(self.until) + timedelta(days=1), time(), tzinfo=UTC)

    @property
    def said(self) -> str:
        """Who waived until when, in a few words."""
        return f"waiver {self.id} by {self.name} ({self.role}) until {self.until}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "controls": list(self.controls)}


@dataclass(frozen=True, kw_only=True, slots=True)
class NotInForce:
    """One waiver that does not count."""

    id: str
    """Its id where its words can be read, else its file."""
    who: str
    """The address it claims, else its file."""
    why: str
    digest: str
    ended: bool = False
    """Whether it counted and its last day has passed, which is no offence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WaiverDecision:
    """Which waivers of one model in one environment count."""

    in_force: tuple[WaiverInForce, ...]
    turned_down: tuple[NotInForce, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bench:
    """Everything a waiver is held against."""

    approvers: Approvers
    policy: RiskPolicy
    trainer: Person | None
    now: datetime


def judge_waivers(
    found: Sequence[Signed],
    *,
    environment: str,
    model: str,
    approvers: Approvers,
    policy: RiskPolicy,
    now: datetime,
    trainer: Person | None = None,
) -> WaiverDecision:
    """Say which of ``found`` count for ``model`` in ``environment`` at ``now`` (aware); those about others are left out.

    ``trainer``: who may not waive risks of a model of their own; None where it is not known yet. Never raises on what a stranger can write.
    """
    bench = _Bench(approvers=approvers, policy=policy, trainer=trainer, now=now)
    in_force: list[WaiverInForce] = []
    turned_down: list[NotInForce] = []
    for one in found:
        words = _words(one)
        if words is not None and (words.environment, words.model) != (environment, model):
            continue
        try:
            in_force.append(_examine(one, bench))
        except (Refusal, SignOffError, SignatureError) as problem:
            name = one.source if words is None else identify(words.scenario, one.digest)
            who = one.source if words is None else words.signer[:200]
            ended = isinstance(problem, _Ended)
            turned_down.append(NotInForce(id=name, who=who, why=str(problem), digest=one.digest, ended=ended))
    return WaiverDecision(in_force=tuple(sorted(in_force, key=lambda one: (one.scenario, one.id))), turned_down=tuple(turned_down))


def may_waive(words: Waiver, *, approver: Approver, policy: RiskPolicy, trainer: Person | None = None) -> str | None:
    """Say why signing ``words`` would be in vain, or None: the rules of ``judge_waivers`` that need no key."""
    try:
        _check(words, approver, policy, trainer)
        _check_end(words, policy)
    except Refusal as problem:
        return str(problem)
    return None


def sign_waiver(words: Waiver, *, key_file: Path) -> Signed:
    """Return ``words`` with their signature by ``key_file``. Raises SignatureError."""
    data = words.to_bytes()
    made = sshsig.sign(data, key_file=key_file, namespace=sshsig.WAIVER_NAMESPACE)
    return Signed(source="this waiver", statement=data, signature=made)


def parse_waiver(data: bytes) -> Waiver:
    """Return the waiver in ``data``; raises SignOffError unless it is exactly the canonical form."""
    return signed.parse_words(data, Waiver, what="a waiver", expected=FORMAT, command=_COMMAND)


def identify(scenario: str, digest: str) -> str:
    """Return the name by which a waiver of ``scenario`` whose words have this sha256 is known."""
    return f"{scenario}-{digest[:12]}"


def store(folder: Path, one: Signed) -> Path:
    """Put a waiver into ``folder``/waivers under its id and return its path. Raises SignOffError on what is none."""
    name = identify(parse_waiver(one.statement).scenario, one.digest)
    return signed.keep(folder / FOLDER / f"{name}.json", one)


def collect(folder: Path) -> tuple[Sequence[Signed], Sequence[Unreadable]]:
    """Return every waiver in ``folder``/waivers, and what stands there and cannot be read."""
    place = folder / FOLDER
    return signed.collect_signed(place, sorted(place.glob("*.json")), command=_COMMAND)


def again(
    folder: Path, claimed: Sequence[Mapping[str, Any]], *, subject: Subject, approvers: Approvers, policy: RiskPolicy
) -> tuple[WaiverInForce, ...]:
    """Return the waivers in the release ``folder`` that counted at the moment its risk assessment says it counted those it ``claimed``.

    Raises SignOffError where the assessment does not say when.
    """
    if not claimed:
        return ()
    moments = {str(item.get("counted_at")) for item in claimed if isinstance(item, Mapping)}
    try:
        now = parse_moment(moments.pop())
    except (KeyError, ValueError) as problem:
        raise SignOffError("a risk assessment must say when it counted its waivers, found that it does not: it was changed") from problem
    found, _ = collect(folder)
    decision = judge_waivers(
        found,
        environment=subject.environment or "",
        model=subject.model,
        approvers=approvers,
        policy=policy,
        now=now,
        trainer=subject.trainer,
    )
    return decision.in_force


class _Ended(Refusal):
    """The last day has passed."""


def _words(one: Signed) -> Waiver | None:
    try:
        return parse_waiver(one.statement)
    except SignOffError:
        return None


def _examine(one: Signed, bench: _Bench) -> WaiverInForce:
    words = parse_waiver(one.statement)
    person = credentials.check_listed(bench.approvers, words.signer)
    key = credentials.check_key(one, person, namespace=sshsig.WAIVER_NAMESPACE)
    _check(words, person, bench.policy, bench.trainer)
    _check_end(words, bench.policy)
    signed_at = parse_moment(words.signed_at)
    if signed_at > bench.now + timedelta(minutes=bench.policy.clock_skew_minutes):
        raise Refusal(f"a waiver must not be dated in the future, found {words.signed_at}: set the clock and sign again")
    credentials.check_in_force(key, signed=signed_at.date(), today=bench.now.date())
    if words.until < bench.now.date():
        raise _Ended(f"the waiver ended on {words.until}: mend the cause, or have it waived anew")
    return WaiverInForce(
        id=identify(words.scenario, one.digest),
        scenario=words.scenario,
        name=person.name,
        email=person.email,
        role=words.role,
        reason=words.reason,
        controls=words.controls,
        until=words.until.isoformat(),
        fingerprint=key.public.fingerprint,
        signed_at=words.signed_at,
        digest=one.digest,
        counted_at=moment(bench.now),
    )


def _check(words: Waiver, person: Approver, policy: RiskPolicy, trainer: Person | None) -> None:
    credentials.check_person(person, words.name, trainer=trainer, policy=policy)
    rule = policy.waiver_rule(words.scenario)
    if words.role not in person.roles:
        raise Refusal(f"{person.name} must sign in a role they hold ({', '.join(person.roles)}), found {words.role[:80]!r}")
    if rule is None or words.role not in rule.roles:
        may = " or ".join(rule.roles) if rule is not None and rule.roles else "nobody in this environment"
        raise Refusal(f"{words.scenario} may be waived by {may}, found {words.role[:80]!r}: mend the cause, or ask them")
    credentials.check_words(words.reason, what="a reason", policy=policy)
    for control in words.controls:
        credentials.check_words(control, what="a compensating control", policy=policy)


def _check_end(words: Waiver, policy: RiskPolicy) -> None:
    rule, first = policy.waiver_rule(words.scenario), parse_moment(words.signed_at).date()
    longest = first + timedelta(days=rule.longest_days if rule is not None else 0)
    if not first <= words.until <= longest:
        raise Refusal(
            f"a waiver of {words.scenario} signed on {first} must end between then and {longest}, found {words.until}: name another day"
        )
