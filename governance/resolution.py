"""The signed word by which a person with authority answers an incident of the scheduled look: the release may go on, for this reason.

incidents/<INC>.json        canonical JSON, exactly the bytes that were signed
incidents/<INC>.json.sig    the SSH signature over them, for the purpose ``firstlight-incident``

It counts by the same rules as a sign-off (listed person, key in force, not the trainer, a role that the release's band asks for), every time it is looked
at: when its key is revoked, it counts no more and the incident opens again.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from governance import signed as words
from governance import sshsig
from governance.approvers import Approver, Approvers
from governance.credentials import Refusal, check_in_force, check_key, check_listed, check_person, check_words
from governance.errors import SignatureError, SignOffError
from governance.policy import RiskPolicy
from governance.signed import Moment, Signed, moment, parse_moment
from governance.subject import Person

NAMESPACE = sshsig.INCIDENT_NAMESPACE
"""A sign-off or a waiver never counts as an answer to an incident, nor the other way round."""
FORMAT = "firstlight/incident-resolution/v1"
COMMAND = "firstlight incidents resolve"


class Resolution(words.Words):
    """The signed words."""

    format: Literal["firstlight/incident-resolution/v1"] = "firstlight/incident-resolution/v1"
    incident: str = Field(pattern=r"^INC-[0-9]{4}-[0-9]{3,}$")
    cause: str
    """What it is about, as the store has it; the answer holds for nothing else."""
    environment: str
    model: str
    release: str
    """The release that is live."""
    evidence_digest: str
    """sha256 over the reports of that release, as in its subject.json."""
    role: str
    """The role in which the person answers."""
    signer: str
    """E-mail address; the principal of the signature."""
    name: str
    reason: str
    """In the person's own words: why the release may go on."""
    signed_at: Moment


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What an answer must be about, and who may give it."""

    incident: str
    cause: str
    environment: str
    model: str
    release: str
    evidence_digest: str
    roles: Collection[str]
    """Any one of these suffices."""
    trainer: Person


def draft(asked: Asked, *, approver: Approver, role: str, reason: str, now: datetime) -> Resolution:
    """Return the words that ``approver`` would sign at ``now``. What they are worth is for :func:`judge` to say."""
    return Resolution(
        incident=asked.incident,
        cause=asked.cause,
        environment=asked.environment,
        model=asked.model,
        release=asked.release,
        evidence_digest=asked.evidence_digest,
        role=role,
        signer=approver.email,
        name=approver.name,
        reason=reason,
        signed_at=moment(now),
    )


def sign(resolution: Resolution, *, key_file: Path) -> Signed:
    """Return ``resolution`` with its signature by ``key_file``. Raises SignatureError."""
    data = resolution.to_bytes()
    return Signed(source=f"{resolution.incident}.json", statement=data, signature=sshsig.sign(data, key_file=key_file, namespace=NAMESPACE))


def store(folder: Path, signed: Signed) -> Path:
    """Keep an answer in ``folder``; a later one to the same incident replaces it."""
    return words.keep(folder / f"{parse(signed.statement).incident}.json", signed)


def find(folder: Path, incident: str) -> Signed | None:
    """Return the answer to ``incident`` as it lies in ``folder``, or None when there is none that can be read."""
    found, _ = words.collect_signed(folder, [path for path in (folder / f"{incident}.json",) if path.exists()], command=COMMAND)
    return found[0] if found else None


def parse(data: bytes) -> Resolution:
    """Return the words in ``data``. Raises SignOffError unless they are exactly the canonical form."""
    return words.parse_words(data, Resolution, what="an answer to an incident", expected=FORMAT, command=COMMAND)


def sentence(resolution: Resolution) -> str:
    """Return who answered, as what, and why."""
    return f"answered by {resolution.name} ({resolution.signer}) as {resolution.role}: {resolution.reason}"


def judge(signed: Signed, *, asked: Asked, approvers: Approvers, policy: RiskPolicy, now: datetime) -> str | None:
    """Say why an answer does not count at ``now``, or None when it does. Pure; never raises on what a stranger can write."""
    try:
        resolution = parse(signed.statement)
        person = check_listed(approvers, resolution.signer)
        key = check_key(signed, person, namespace=NAMESPACE)
        _check_words(resolution, person, asked, policy)
        at = parse_moment(resolution.signed_at)
        if at > now + timedelta(minutes=policy.clock_skew_minutes):
            raise Refusal(f"an answer must not be dated in the future, found {resolution.signed_at}: set the clock and sign again")
        check_in_force(key, signed=at.date(), today=now.date())
    except (Refusal, SignOffError, SignatureError) as problem:
        return str(problem)
    return None


def may_answer(resolution: Resolution, *, asked: Asked, approver: Approver, policy: RiskPolicy) -> str | None:
    """Say why signing ``resolution`` would be in vain, or None: the rules that need no key, for use before a key is touched."""
    try:
        _check_words(resolution, approver, asked, policy)
    except Refusal as problem:
        return str(problem)
    return None


def _check_words(resolution: Resolution, person: Approver, asked: Asked, policy: RiskPolicy) -> None:
    for what in ("incident", "cause", "environment", "model", "release", "evidence_digest"):
        if getattr(resolution, what) != getattr(asked, what):
            raise Refusal(f"the answer must be about {what} {getattr(asked, what)!r}, found {getattr(resolution, what)[:120]!r}")
    check_person(person, resolution.name, trainer=asked.trainer, policy=policy)
    if resolution.role not in person.roles:
        raise Refusal(f"{person.name} must answer in a role they hold ({', '.join(person.roles)}), found {resolution.role[:80]!r}")
    if resolution.role not in asked.roles:
        raise Refusal(f"{asked.incident} must be answered by one of: {', '.join(sorted(asked.roles))}; found {resolution.role!r}")
    check_words(resolution.reason, what="a reason", policy=policy)
