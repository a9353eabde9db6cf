"""Which incidents a look opens and which it resolves, by what is due and by what people answered. Pure.

An obligation (``governance.reassessment``) is open as an incident exactly when it is due and nobody with authority answered it since.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from governance.reassessment import ANSWERABLE, Kind, Obligation

BREAK_GLASS = "break-glass"
"""First word of the cause of the incident that a break-glass opens at once; it is resolved when the quorum has ratified it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """An incident as the store has it."""

    id: str
    cause: str
    is_open: bool
    answered_at: datetime | None = None
    """When a person with authority answered it, by a signature that counts; an answer holds for the cause it was given to."""
    answer: str = ""
    """Who, as what, and why: one sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What one look changes."""

    open: tuple[Obligation, ...]
    resolve: tuple[tuple[str, str], ...]
    """(incident, why)."""


def plan(found: Sequence[Obligation], known: Sequence[Known], *, live: str, now: datetime) -> Plan:
    """Return which incidents to open and which to resolve, by the obligations ``found`` about release ``live`` at ``now`` (aware).

    An obligation is open exactly when it is due and nobody answered it since. Where the papers could not be read, nothing is said about any other cause.
    """
    by_cause = {one.cause: one for one in found}
    is_blind = any(one.kind is Kind.UNREADABLE for one in found)
    answers = _answers(known)
    opened = {incident.cause for incident in known if incident.is_open}
    to_open = tuple(one for one in found if one.is_due(now) and one.cause not in opened and not _is_answered(one, answers.get(one.cause)))
    to_resolve = []
    for incident in known:
        if not incident.is_open or not is_ours(incident.cause):
            continue
        why = _over(incident.cause, by_cause.get(incident.cause), answers.get(incident.cause), live=live, now=now, is_blind=is_blind)
        if why is not None:
            to_resolve.append((incident.id, why))
    return Plan(open=to_open, resolve=tuple(to_resolve))


def kind_of(cause: str) -> Kind | None:
    """Return the kind of a cause that a look opened an incident for; None for one of somebody else's."""
    word = cause.partition(":")[0]
    return Kind(word) if word in tuple(Kind) else None


def ends_by_itself(cause: str) -> bool:
    """Return whether an incident ends only when its cause does, whatever anybody says about it."""
    kind = kind_of(cause)
    return cause.partition(":")[0] == BREAK_GLASS or (kind is not None and kind not in ANSWERABLE)


def is_ours(cause: str) -> bool:
    """Return whether an incident of ``cause`` was opened by the scheduled look, so that a look may resolve it."""
    return kind_of(cause) is not None


def _answers(known: Sequence[Known]) -> dict[str, Known]:
    """Cause -> the last incident of that cause that was answered."""
    answered = [incident for incident in known if incident.answered_at is not None]
    return {incident.cause: incident for incident in sorted(answered, key=lambda one: one.answered_at or datetime.min)}


def _is_answered(one: Obligation, last: Known | None) -> bool:
    """An answer given before the day counts for nothing: a clock that was ahead must not silence the real date."""
    if one.kind not in ANSWERABLE or last is None or last.answered_at is None:
        return False
    return one.due_at is None or last.answered_at >= one.due_at


def _over(cause: str, one: Obligation | None, last: Known | None, *, live: str, now: datetime, is_blind: bool) -> str | None:
    """Return why an open incident is over, or None."""
    if one is None:
        if is_blind:
            return None
        about = cause.split(":")[1]
        return "its cause is gone" if about in (live, "") else f"its cause is gone: release {live} is live now"
    if last is not None and _is_answered(one, last):
        return last.answer or "a person with authority answered it"
    if not one.is_due(now):
        return f"it is not due before {one.due_at:%Y-%m-%d}"
    return None
