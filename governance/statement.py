"""What a person signs: a short canonical JSON text that names the release, the bytes and the decision, and lies beside its signature.

signoffs/<e-mail>.json        the statement, exactly the bytes that were signed
signoffs/<e-mail>.json.sig    the SSH signature over them
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from firstlight.digest import canonical_json, write_atomic
from governance import sshsig
from governance.approvers import Approver
from governance.documents import parse_json, read_bounded
from governance.errors import SignOffError
from governance.subject import Subject

FOLDER = "signoffs"
FORMAT = "firstlight/sign-off/v1"
SIZE_LIMIT = 64 << 10
"""Bytes of one statement; a longer one is not read."""


class Decision(StrEnum):
    """What a person decided."""

    APPROVE = "approve"
    REJECT = "reject"


def _is_utc(value: str) -> str:
    datetime.strptime(value, _TIME).replace(tzinfo=UTC)
    return value


_TIME = "%Y-%m-%dT%H:%M:%SZ"
_Moment = Annotated[str, AfterValidator(_is_utc)]


class Statement(BaseModel):
    """The signed words; every field is part of the signed bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["firstlight/sign-off/v1"] = "firstlight/sign-off/v1"
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
    signed_at: _Moment
    """UTC, ``2026-11-23T01:20:45Z``."""
    expires_at: _Moment
    """UTC; from then on the decision may no longer be used."""

    def to_bytes(self) -> bytes:
        """The canonical JSON that is signed."""
        return canonical_json(self.model_dump(mode="json"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """A statement as found, not yet believed."""

    source: str
    """Where it was found, for messages."""
    statement: bytes
    signature: bytes


def moment(value: datetime) -> str:
    """Return the aware ``value`` as statements write it."""
    return value.astimezone(UTC).strftime(_TIME)


def parse_moment(value: str) -> datetime:
    """Return the UTC datetime of a statement's time. Raises ValueError on another form."""
    return datetime.strptime(value, _TIME).replace(tzinfo=UTC)


def draft(subject: Subject, *, approver: Approver, role: str, decision: Decision, reason: str, now: datetime) -> Statement:
    """Return the statement that ``approver`` would sign about ``subject`` at ``now``. What it is worth is for ``judge`` to say."""
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
        signed_at=moment(now),
        expires_at=moment(now + timedelta(days=subject.requirement.validity_days)),
    )


def sign_statement(statement: Statement, *, key_file: Path, source: str = "this statement") -> Signed:
    """Return ``statement`` with its signature by ``key_file``. Raises SignatureError."""
    data = statement.to_bytes()
    return Signed(source=source, statement=data, signature=sshsig.sign(data, key_file=key_file))


def parse_statement(data: bytes) -> Statement:
    """Return the statement in ``data``; raises SignOffError unless it is exactly the canonical form, so that two readers read the same words."""
    if len(data) > SIZE_LIMIT:
        raise SignOffError(f"a statement must be at most {SIZE_LIMIT} bytes, found {len(data)}: shorten the reason")
    document = parse_json(data, "a statement", SignOffError)
    try:
        statement = Statement.model_validate(document)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise SignOffError(f"a statement's {place} must follow {FORMAT}, found: {first['msg']}") from problem
    try:
        canonical = statement.to_bytes()
    except UnicodeEncodeError as problem:
        raise SignOffError("a statement must be text, found half a character in it: write it again") from problem
    if canonical != data:
        raise SignOffError("a statement must be canonical JSON, found other spacing or order: write it with `firstlight sign-off`")
    return statement


def store(folder: Path, signed: Signed, *, email: str) -> Path:
    """Put ``signed`` into the release folder and return the statement's path; the signature is written first, so a reader never meets a bare one.

    A person has one file: signing again replaces the earlier decision.
    """
    if not email or Path(email).name != email or email.startswith("."):
        raise SignOffError(f"a signer must be an e-mail address that can be a file name, found {email!r}")
    target = folder / FOLDER / f"{email}.json"
    write_atomic(target.with_name(f"{target.name}.sig"), signed.signature)
    return write_atomic(target, signed.statement)


def collect(folder: Path) -> tuple[Sequence[Signed], Sequence[tuple[str, str]]]:
    """Return every statement in the release folder, and (file, reason) of what cannot be read; one bad file does not hide the others."""
    found: list[Signed] = []
    refused: list[tuple[str, str]] = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            found.append(_read(path))
        except SignOffError as problem:
            refused.append((path.name, str(problem)))
    return found, refused


def _read(path: Path) -> Signed:
    signature = path.with_name(f"{path.name}.sig")
    if not signature.exists():
        raise SignOffError(
            f"{path.name} must have its signature beside it ({signature.name}), found none: sign it with `firstlight sign-off`"
        )
    return Signed(
        source=path.name,
        statement=read_bounded(path, SignOffError, limit=SIZE_LIMIT),
        signature=read_bounded(signature, SignOffError, limit=SIZE_LIMIT),
    )
