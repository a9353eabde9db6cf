"""What a sign-off is about: one release, its model, its evidence and the policy it is judged by, written once before anybody is asked.

``subject.json`` in the release folder is the one place where these digests stand together; statements copy them, ``verify`` recomputes them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from firstlight.digest import sha256_bytes, write_atomic, write_json
from governance.approvers import parse_approvers
from governance.documents import parse_json, read_bounded
from governance.errors import ApproversError, EvidenceError
from governance.evidence import digest_of, evidence_digests

SUBJECT_FILE = "subject.json"
APPROVERS_FILE = "approvers.yaml"
POLICY_FILE = "policy.yaml"
ALLOWED_SIGNERS_FILE = "allowed_signers"

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


class Subject(BaseModel):
    """The facts a statement must repeat to count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["firstlight/sign-off-subject/v1"] = "firstlight/sign-off-subject/v1"
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
) -> Subject:
    """Write subject.json, and copies of the policy and the approvers in force, into the release folder; doing it again with the same facts changes nothing.

    ``policy`` and ``approvers`` are the bytes of those files, ``names`` are the evidence documents people are asked to judge.
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
    )
    write_atomic(folder / APPROVERS_FILE, approvers)
    write_atomic(folder / POLICY_FILE, policy)
    write_atomic(folder / ALLOWED_SIGNERS_FILE, parsed.allowed_signers())
    write_json(folder / SUBJECT_FILE, subject.model_dump(mode="json"))
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
        raise EvidenceError(f"{path}: {place} must follow firstlight/sign-off-subject/v1, found: {first['msg']}") from problem


def snapshot_approvers(folder: Path, subject: Subject) -> bytes:
    """Return the bytes of the approvers file as it was when the release was put forward. Raises ApproversError when it was changed since."""
    data = read_bounded(folder / APPROVERS_FILE, ApproversError)
    if sha256_bytes(data) != subject.approvers_digest:
        raise ApproversError(
            f"{APPROVERS_FILE} must have digest {subject.approvers_digest[:12]}…, found {sha256_bytes(data)[:12]}…: it was changed after people were asked"
        )
    return data
