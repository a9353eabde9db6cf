"""What a person signs: a short canonical JSON text that names the release, the bytes and the decision, and lies beside its signature.

signoffs/<e-mail>.json                     the statement, exactly the bytes that were signed
signoffs/<e-mail>.json.sig                 the SSH signature over them
signoffs/break-glass/<e-mail>.json(.sig)   the same, where somebody let the release go on before its quorum had signed
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from governance import signed, sshsig
from governance.approvers import Approver
from governance.errors import SignOffError
from governance.signed import SIZE_LIMIT, Moment, Signed, Unreadable, moment, parse_moment
from governance.subject import Subject

__all__ = [
    "FOLDER",
    "FORMAT",
    "SIZE_LIMIT",
    "Decision",
    "Signed",
    "Statement",
    "Unreadable",
    "collect",
    "collect_all",
    "draft",
    "moment",
    "parse_moment",
    "parse_statement",
    "sign_statement",
    "store",
]

FOLDER = "signoffs"
FORMAT = "firstlight/sign-off/v2"
FIRST_FORMAT = "firstlight/sign-off/v1"
"""Without conditions, decision id and change id; statements of that time still verify."""

MOST_CONDITIONS = 20

_NEW = ("conditions", "documents", "decision_id", "change_id")
_COMMAND = "firstlight sign-off"


_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Decision(StrEnum):
    """What a person decided."""

    APPROVE = "approve"
    REJECT = "reject"
    BREAK_GLASS = "break-glass"
    """Let the release go on now; the quorum signs afterwards. It never counts as an approval."""


class Statement(signed.Words):
    """The signed words; every field is part of the signed bytes."""

    format: Literal["firstlight/sign-off/v1", "firstlight/sign-off/v2"] = "firstlight/sign-off/v2"
    release: str
    model: str
    model_digest: str
    evidence_digest: str
    policy_digest: str
    decision: Decision
    role: str
    """The role in which the person decides."""
    signer: str
    """E-mail address; the principal of the signature."""
    name: str
    reason: str
    """In the person's own words."""
    conditions: tuple[str, ...] = Field(default=(), max_length=MOST_CONDITIONS)
    """What must be kept or done for the decision to stand, a sentence each; a date in one (2026-12-31) is the last day for it."""
    documents: dict[_Name, _Digest] = Field(default={}, max_length=20)
    """Name of a document the band asks for -> sha256 of the file in ``documents/`` that the person brought and answers for."""
    decision_id: str | None = None
    """``DEC-YYYY-NNN``, as the subject has it."""
    change_id: str | None = None
    """``CR-YYYY-NNN``, as the subject has it."""
    signed_at: Moment
    """UTC, ``2026-11-23T01:20:45Z``."""
    expires_at: Moment
    """UTC; from then on the decision may no longer be used."""

    @model_validator(mode="after")
    def _the_first_format_knows_less(self) -> "Statement":
        if self.format == FIRST_FORMAT and (any(getattr(self, name) for name in _NEW) or self.decision is Decision.BREAK_GLASS):
            raise ValueError(f"{FIRST_FORMAT} has no {', '.join(_NEW)} and no break-glass")
        return self

    def to_bytes(self) -> bytes:
        """The canonical JSON that is signed. Raises SignOffError on what is no text."""
        return signed.canonical(self.model_dump(mode="json", exclude=set(_NEW) if self.format == FIRST_FORMAT else None))


def draft(
    subject: Subject,
    *,
    approver: Approver,
    role: str,
    decision: Decision,
    reason: str,
    now: datetime,
    conditions: Sequence[str] = (),
    documents: Mapping[str, str] | None = None,
    valid: timedelta | None = None,
) -> Statement:
    """Return the statement that ``approver`` would sign about ``subject`` at ``now``. What it is worth is for ``judge`` to say.

    ``valid``: how long it may be used; what the subject's requirement says when left out. Raises SignOffError on too many conditions.
    """
    if len(conditions) > MOST_CONDITIONS:
        raise SignOffError(
            f"a statement may set at most {MOST_CONDITIONS} conditions, found {len(conditions)}: put them into fewer sentences"
        )
    return Statement(
        release=subject.release,
        model=subject.model,
        model_digest=subject.model_digest,
        evidence_digest=subject.evidence_digest,
        policy_digest=subject.policy_digest,
        decision=decision,
        role=role,
        signer=approver.email,
        name=approver.name,
        reason=reason,
        conditions=tuple(conditions),
        documents=dict(documents or {}),
        decision_id=subject.decision_id,
        change_id=subject.change_id,
        signed_at=moment(now),
        expires_at=moment(now + (valid or timedelta(days=subject.requirement.validity_days))),
    )


def sign_statement(statement: Statement, *, key_file: Path, source: str = "this statement") -> Signed:
    """Return ``statement`` with its signature by ``key_file``. Raises SignatureError."""
    data = statement.to_bytes()
    return Signed(source=source, statement=data, signature=sshsig.sign(data, key_file=key_file))


def parse_statement(data: bytes) -> Statement:
    """Return the statement in ``data``; raises SignOffError unless it is exactly the canonical form, so that two readers read the same words."""
    return signed.parse_words(data, Statement, what="a statement", expected=FORMAT, command=_COMMAND)


def store(folder: Path, signed_words: Signed, *, email: str) -> Path:
    """Put ``signed_words`` into the release folder and return the statement's path.

    A person has one file for deciding and one for breaking the glass: signing again replaces the earlier decision of that kind.
    """
    if not email or Path(email).name != email or email.startswith("."):
        raise SignOffError(f"a signer must be an e-mail address that can be a file name, found {email!r}")
    return signed.keep(folder / FOLDER / _place(signed_words.statement) / f"{email}.json", signed_words)


def _place(data: bytes) -> str:
    """Return the folder, below ``signoffs``, of a statement; one that cannot be read lies with the decisions, where it is refused."""
    try:
        return Decision.BREAK_GLASS.value if parse_statement(data).decision is Decision.BREAK_GLASS else ""
    except SignOffError:
        return ""


def collect_all(folder: Path) -> tuple[Sequence[Signed], Sequence[Unreadable]]:
    """Return every statement in the release folder, and what stands there and cannot be read; one bad file does not hide the others."""
    place = folder / FOLDER
    paths = [*sorted(place.glob("*.json")), *sorted((place / Decision.BREAK_GLASS.value).glob("*.json"))]
    return signed.collect_signed(place, paths, command=_COMMAND)


def collect(folder: Path) -> tuple[Sequence[Signed], Sequence[tuple[str, str]]]:
    """Return every statement in the release folder, and (file, reason) of what cannot be read."""
    found, unreadable = collect_all(folder)
    return found, [(one.source, one.why) for one in unreadable]
