"""When a release that people answered for must be put before them again, and why. Pure: what was signed against what holds now.

The lab's rule (AI risk standard 02, section 7): yearly, quarterly at High, and on material change. To that come promises that run out: a waiver,
a condition with a date in it, a break-glass that nobody ratified, a key that was revoked after it signed.

Everything here is an *obligation*: a cause, and the moment from which it is due. The scheduled look opens one incident for each that is due, and
resolves those whose cause is gone. Obligations do not depend on the clock, only whether they are due does: whatever a clock showed in between, a look
by the right one leaves exactly the right incidents open.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from firstlight.digest import sha256_bytes
from governance.approvers import Approvers

_DATE = re.compile(r"(?<![\d-])\d{4}-\d{2}-\d{2}(?![\d-])")
_SHORT = 12


class ReassessmentPolicy(BaseModel):
    """The ``reassessment`` rules of the risk policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every_days: int = Field(default=365, ge=1, le=366)
    """Days after which a release is put before its approvers again; the lab's year."""
    every_days_by_band: dict[str, int] = {"High": 91}
    """Band of residual risk -> its own number of days; the lab looks quarterly at High."""

    def days(self, band: str) -> int:
        """Return the number of days between two looks at ``band``."""
        return min(self.every_days, self.every_days_by_band.get(band, self.every_days))


class Kind(StrEnum):
    """Why a release must be looked at again; the first word of an incident's cause."""

    INTERVAL = "reassessment"
    POLICY = "policy-changed"
    SCENARIOS = "scenarios-changed"
    MODEL = "model-changed"
    SIGNER = "signer-changed"
    KEY = "key-revoked"
    WAIVER = "waiver-ended"
    CONDITION = "condition-due"
    RATIFICATION = "not-ratified"
    UNSIGNED = "no-sign-off"
    UNREADABLE = "cannot-be-judged"


ANSWERABLE = frozenset({Kind.INTERVAL, Kind.POLICY, Kind.SCENARIOS, Kind.SIGNER, Kind.KEY, Kind.CONDITION})
"""What one person with authority may answer by a signed reason. The others end only when their cause does: a quorum, a waiver, a release, a mended file."""

CRITICAL = frozenset({Kind.MODEL, Kind.KEY, Kind.WAIVER, Kind.RATIFICATION, Kind.UNSIGNED})
"""What nobody answers for at present; the others are *warning*: somebody does, but must look again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """One approval that counted when the release went live."""

    name: str
    email: str
    role: str
    fingerprint: str
    """Of the key that signed."""
    signed_at: datetime
    conditions: tuple[str, ...] = ()
    """Sentences. One that names a day asks for something by then; one without is for people to remember."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waived:
    """One waiver the release relied on."""

    id: str
    scenario: str
    until: datetime
    """From then on it waives nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Emergency:
    """A break-glass."""

    at: datetime
    ratify_until: datetime
    """By then the people who would have had to sign must have."""
    ratified: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedOff:
    """What stands signed about the release whose model answers."""

    release: str
    version: str
    band: str
    model_digest: str
    policy_digest: str
    scenarios_digest: str
    approvals: tuple[Approval, ...]
    waivers: tuple[Waived, ...] = ()
    emergency: Emergency | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Present:
    """What holds now."""

    model_digest: str
    policy_digest: str
    scenarios_digest: str
    approvers: Approvers
    waived_until: Mapping[str, datetime]
    """Scenario -> end of the waiver in force for it now, where there is one: a renewed waiver has not ended."""
    reassessed: tuple[datetime, ...] = ()
    """When people answered that the release may go on, by signatures that count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Obligation:
    """Something that must be looked at from a moment on."""

    kind: Kind
    cause: str
    """``<kind>:<release>`` and what tells two of a kind apart; one incident is open for a cause at a time."""
    due_at: datetime | None
    """None: at once."""
    summary: str
    """One sentence: what must hold, what was found, what to do."""

    @property
    def severity(self) -> str:
        """``critical`` or ``warning``."""
        return "critical" if self.kind in CRITICAL else "warning"

    def is_due(self, now: datetime) -> bool:
        """Return whether it must be looked at by ``now`` (aware)."""
        return self.due_at is None or self.due_at <= now


def obligations(signed: SignedOff, present: Present, rules: ReassessmentPolicy) -> tuple[Obligation, ...]:
    """Return everything that is or will be due about the release that is live, sorted by cause."""
    found = [*_changes(signed, present), *_signers(signed, present), *_promises(signed, present)]
    if (interval := _interval(signed, present, rules)) is not None:
        found.append(interval)
    return tuple(sorted(found, key=lambda one: one.cause))


def unsigned(version: str, model_digest: str) -> Obligation:
    """Return what is due where a model answers and no release folder says who approved it."""
    return Obligation(
        kind=Kind.UNSIGNED,
        cause=f"{Kind.UNSIGNED}:{model_digest[:_SHORT]}",
        due_at=None,
        summary=f"version {version} must have a release that people signed, none is on record here: release it, or go back to one that has",
    )


def unreadable(release: str, why: str) -> Obligation:
    """Return what is due where the papers of the live release cannot be read: nothing else can be judged then, and nothing is resolved."""
    return Obligation(
        kind=Kind.UNREADABLE,
        cause=f"{Kind.UNREADABLE}:{release}",
        due_at=None,
        summary=f"the papers of release {release} must be readable to say whether it is due, they are not: {why}",
    )


def next_interval(found: Iterable[Obligation]) -> datetime | None:
    """Return when the release is next to be put before its approvers by the calendar."""
    return next((one.due_at for one in found if one.kind is Kind.INTERVAL), None)


def last_day(condition: str) -> date | None:
    """Return the latest day a condition names (``2027-01-31``), or None; what only looks like a date is none.

    >>> last_day("Measure recall again by 2027-01-31, at the latest.")
    datetime.date(2027, 1, 31)
    >>> last_day("Never on 2027-13-45.") is None
    True
    """
    days = []
    for text in _DATE.findall(condition):
        try:
            days.append(date.fromisoformat(text))
        except ValueError:
            continue
    return max(days, default=None)


def _interval(signed: SignedOff, present: Present, rules: ReassessmentPolicy) -> Obligation | None:
    looks = [one.signed_at for one in signed.approvals] + list(present.reassessed)
    if signed.emergency is not None:
        looks.append(signed.emergency.at)
    if not looks:
        return None
    last, days = max(looks), rules.days(signed.band)
    due = last + timedelta(days=days)
    return Obligation(
        kind=Kind.INTERVAL,
        cause=f"{Kind.INTERVAL}:{signed.release}:{due.date()}",
        due_at=due,
        summary=(
            f"release {signed.release} ({signed.band}) must be looked at every {days} days, it was last on {last.date()} and due on {due.date()}: "
            "read its dossier again and say whether it may go on"
        ),
    )


def _changes(signed: SignedOff, present: Present) -> list[Obligation]:
    pairs = (
        (Kind.POLICY, "policy", signed.policy_digest, present.policy_digest),
        (Kind.SCENARIOS, "set of risk scenarios", signed.scenarios_digest, present.scenarios_digest),
        (Kind.MODEL, "champion's model", signed.model_digest, present.model_digest),
    )
    return [
        Obligation(
            kind=kind,
            cause=f"{kind}:{signed.release}:{now[:_SHORT]}",
            due_at=None,
            summary=(
                f"the {what} must be the one release {signed.release} was signed under ({was[:_SHORT]}), found {now[:_SHORT]}: "
                "a material change; say why the sign-off holds all the same, or release a model under it"
            ),
        )
        for kind, what, was, now in pairs
        if was != now
    ]


def _signers(signed: SignedOff, present: Present) -> list[Obligation]:
    return [found for approval in signed.approvals if (found := _signer(signed.release, approval, present.approvers)) is not None]


def _signer(release: str, approval: Approval, approvers: Approvers) -> Obligation | None:
    person = approvers.by_email(approval.email)
    key = next((key for key in person.keys if key.public.fingerprint == approval.fingerprint), None) if person else None
    who = f"{approval.name}, who approved release {release} as {approval.role},"
    if key is not None and key.revoked is not None:
        return Obligation(
            kind=Kind.KEY,
            cause=f"{Kind.KEY}:{release}:{_short(approval.fingerprint)}",
            due_at=_midnight(key.revoked),
            summary=f"{who} must have signed with a key in force, {approval.fingerprint} was revoked on {key.revoked}: somebody else must look, and say whether it may go on",
        )
    if person is not None and key is not None and approval.role in person.roles:
        return None
    lost = "is in it no more" if person is None else "does not hold the role now" if key is not None else "has another key there now"
    return Obligation(
        kind=Kind.SIGNER,
        cause=f"{Kind.SIGNER}:{release}:{_short(approval.email)}",
        due_at=None,
        summary=f"{who} must be in the approvers file with that role and key, but {lost}: somebody who is must look, and say whether it may go on",
    )


def _promises(signed: SignedOff, present: Present) -> list[Obligation]:
    found = [_waiver(signed.release, waiver, present.waived_until.get(waiver.scenario)) for waiver in signed.waivers]
    for approval in signed.approvals:
        dated = [(sentence, day) for sentence in approval.conditions if (day := last_day(sentence)) is not None]
        found += [_condition(signed.release, approval, sentence, day) for sentence, day in dated]
    if signed.emergency is not None and not signed.emergency.ratified:
        found.append(
            Obligation(
                kind=Kind.RATIFICATION,
                cause=f"{Kind.RATIFICATION}:{signed.release}",
                due_at=signed.emergency.ratify_until,
                summary=(
                    f"release {signed.release} went live by break-glass on {signed.emergency.at:%Y-%m-%d} and must be ratified by "
                    f"{signed.emergency.ratify_until:%Y-%m-%d %H:%M} UTC, it was not: sign it off, or go back with `firstlight rollback`"
                ),
            )
        )
    return found


def _waiver(release: str, waiver: Waived, renewed: datetime | None) -> Obligation:
    until = waiver.until if renewed is None else max(waiver.until, renewed)
    return Obligation(
        kind=Kind.WAIVER,
        cause=f"{Kind.WAIVER}:{release}:{waiver.id}",
        due_at=until,
        summary=(
            f"release {release} relies on waiver {waiver.id} for {waiver.scenario}, which ended on {until:%Y-%m-%d}: "
            "mend the cause and release a model that needs none, or have the risk waived anew with `firstlight waive`"
        ),
    )


def _condition(release: str, approval: Approval, sentence: str, day: date) -> Obligation:
    shown = sentence if len(sentence) <= 200 else sentence[:199] + "…"
    return Obligation(
        kind=Kind.CONDITION,
        cause=f"{Kind.CONDITION}:{release}:{_short(f'{approval.email} {sentence}')}",
        due_at=_midnight(day + timedelta(days=1)),
        summary=f"{approval.name} approved release {release} on a condition whose day has passed ({day}): {shown!r}; show that it is met",
    )


def _short(text: str) -> str:
    return sha256_bytes(text.encode())[:_SHORT]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
