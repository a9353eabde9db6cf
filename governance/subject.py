"""What a sign-off is about: one release, its model, its evidence and the policy it is judged by, written once before anybody is asked.

``subject.json`` in the release folder is the one place where these digests stand together; statements copy them, ``verify`` recomputes them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from firstlight.digest import sha256_bytes, write_atomic, write_json
from governance.approvers import parse_approvers
from governance.documents import parse_json, read_bounded
from governance.errors import ApproversError, EvidenceError
from governance.evidence import digest_of, evidence_digests

SUBJECT_FILE = "subject.json"
APPROVERS_FILE = "approvers.yaml"
POLICY_FILE = "policy.yaml"
ALLOWED_SIGNERS_FILE = "allowed_signers"

FORMATS = ("firstlight/sign-off-subject/v1", "firstlight/sign-off-subject/v2")
"""The first has no environment, decision id and change id; releases of that time still verify."""

DECISION_ID = r"^DEC-[0-9]{4}-[0-9]{3,6}$"
"""The lab's number of one decision: ``DEC-2026-001``."""
CHANGE_ID = r"^CR-[0-9]{4}-[0-9]{3,6}$"
"""The number of one change in change control: ``CR-2026-014``."""

_Digest = Field(pattern=r"^[0-9a-f]{64}$")


class Person(BaseModel):
    """Name and e-mail address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(max_length=200)
    email: str = Field(max_length=300)
    fingerprints: tuple[str, ...] = ()
    """Of the SSH keys known to be this person's, ``SHA256:...``."""


class Requirement(BaseModel):
    """Who must approve, as the risk assessment of this release decided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    band: str
    roles: dict[str, int] = Field(min_length=1)
    """Role -> how many different people."""
    validity_days: int = Field(ge=1, le=366)
    """Days a sign-off may be used."""
    documents: tuple[str, ...] = ()
    """Documents that those who approve must bring."""


class Subject(BaseModel):
    """The facts a statement must repeat to count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["firstlight/sign-off-subject/v1", "firstlight/sign-off-subject/v2"] = "firstlight/sign-off-subject/v2"
    release: str = Field(min_length=1, max_length=200)
    model: str = Field(min_length=1, max_length=200)
    model_digest: str = _Digest
    evidence: dict[str, str]
    """Evidence document -> sha256 of evidence/<name>.json."""
    evidence_digest: str = _Digest
    policy_digest: str = _Digest
    """sha256 of the policy file that was in force; a copy lies beside."""
    approvers_digest: str = _Digest
    """sha256 of the approvers.yaml that was in force; a copy lies beside."""
    trainer: Person
    requirement: Requirement
    environment: str | None = Field(default=None, max_length=60)
    """Where the model is to go; None in the first format."""
    decision_id: str | None = Field(default=None, pattern=DECISION_ID)
    """The number under which the decision stands in the log of decisions; given by the store, once a release."""
    change_id: str | None = Field(default=None, pattern=CHANGE_ID)
    """The change this release belongs to; None where nobody named one."""

    @model_validator(mode="after")
    def _the_first_format_knows_no_ids(self) -> "Subject":
        known = (self.environment, self.decision_id, self.change_id, self.requirement.documents)
        if self.format == FORMATS[0] and known != (None, None, None, ()):
            raise ValueError(f"{FORMATS[0]} has no environment, decision_id, change_id and documents")
        return self

    def document(self) -> dict[str, Any]:
        """Plain JSON values, with the fields of its format."""
        document = self.model_dump(mode="json")
        if self.format == FORMATS[0]:
            for name in ("environment", "decision_id", "change_id"):
                del document[name]
            del document["requirement"]["documents"]
        return document


def open_for_sign_off(
    folder: Path,
    *,
    release: str,
    model: str,
    model_digest: str,
    policy: bytes,
    trainer: Person,
    requirement: Requirement,
    approvers: bytes,
    names: Sequence[str],
    environment: str | None = None,
    decision_id: str | None = None,
    change_id: str | None = None,
) -> Subject:
    """Write subject.json, and copies of the policy and the approvers in force, into the release folder; doing it again with the same facts changes nothing.

    ``policy`` and ``approvers`` are the bytes of those files, ``names`` are the evidence documents people are asked to judge, ``decision_id`` and ``change_id``
    the numbers under which the lab finds decision and change again.
    Raises EvidenceError when one of them is missing, ApproversError when the approvers file is not usable.
    """
    parsed = parse_approvers(approvers)
    digests = evidence_digests(folder, names)
    subject = Subject(
        release=release,
        model=model,
        model_digest=model_digest,
        evidence=digests,
        evidence_digest=digest_of(digests),
        policy_digest=sha256_bytes(policy),
        approvers_digest=sha256_bytes(approvers),
        trainer=trainer,
        requirement=requirement,
        environment=environment,
        decision_id=decision_id,
        change_id=change_id,
    )
    write_atomic(folder / APPROVERS_FILE, approvers)
    write_atomic(folder / POLICY_FILE, policy)
    write_atomic(folder / ALLOWED_SIGNERS_FILE, parsed.allowed_signers())
    write_json(folder / SUBJECT_FILE, subject.document())
    return subject


def read_subject(folder: Path) -> Subject:
    """Return what the release in ``folder`` asks to be signed. Raises EvidenceError when it has not come that far or was changed."""
    path = folder / SUBJECT_FILE
    if not path.exists():
        raise EvidenceError(
            f"{folder} must hold {SUBJECT_FILE}, found none: the release has not come to its sign-off; see `firstlight status`"
        )
    document = parse_json(read_bounded(path, EvidenceError), str(path), EvidenceError)
    try:
        return Subject.model_validate(document)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise EvidenceError(f"{path}: {place} must follow {FORMATS[-1]}, found: {first['msg']}") from problem


def check_change_id(value: str) -> str:
    """Return ``value`` when it is the number of a change. Raises EvidenceError that says how one looks."""
    if not re.fullmatch(CHANGE_ID, value):
        raise EvidenceError(f"a change must be named as change control does, CR-YYYY-NNN such as CR-2026-014, found {value[:60]!r}")
    return value


def snapshot_approvers(folder: Path, subject: Subject) -> bytes:
    """Return the bytes of the approvers file as it was when the release was put forward. Raises ApproversError when it was changed since."""
    data = read_bounded(folder / APPROVERS_FILE, ApproversError)
    if sha256_bytes(data) != subject.approvers_digest:
        raise ApproversError(
            f"{APPROVERS_FILE} must have digest {subject.approvers_digest[:12]}…, found {sha256_bytes(data)[:12]}…: it was changed after people were asked"
        )
    return data
