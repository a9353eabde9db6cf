"""Who may sign what: the approvers file, a YAML document that the lab keeps under change control.

format: firstlight/approvers/v1
approvers:
  - name: Vera Rubin
    email: vera@lab.example
    roles: [ai-risk-officer]
    keys:
      - ssh: ssh-ed25519 AAAAC3Nza... vera@laptop
        valid_from: 2026-01-01
        valid_until: 2027-01-01     # optional
        revoked: 2026-06-01         # optional: from this day nothing this key ever signed counts
"""

import unicodedata
from datetime import date
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from firstlight.digest import sha256_bytes, write_atomic
from governance import sshsig
from governance.documents import parse_yaml, read_bounded
from governance.errors import ApproversError, SignatureError

FORMAT = "firstlight/approvers/v1"


def same_person_email(email: str) -> str:
    """Return the form of ``email`` in which one person's spellings agree: case, width and ``+tag`` removed."""
    plain = unicodedata.normalize("NFKC", email).strip().casefold()
    local, _, domain = plain.partition("@")
    return f"{local.split('+')[0]}@{domain}"


def same_person_name(name: str) -> str:
    """Return the form of ``name`` in which one person's spellings agree: case, width, accents and spacing removed."""
    decomposed = unicodedata.normalize("NFKD", name)
    return " ".join("".join(character for character in decomposed if not unicodedata.combining(character)).casefold().split())


class ApproverKey(BaseModel):
    """One SSH public key of one person and when it counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ssh: str = Field(max_length=4000)
    """The whole line of the .pub file."""
    valid_from: date
    """First day the key counts (UTC)."""
    valid_until: date | None = None
    """Last day the key counts (UTC)."""
    revoked: date | None = None
    """From this day on no signature of the key counts, whatever its date: a thief can date a signature back."""

    @field_validator("ssh")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        try:
            sshsig.public_key(value)
        except SignatureError as problem:
            raise ValueError(str(problem)) from problem
        return value

    @model_validator(mode="after")
    def _in_order(self) -> "ApproverKey":
        if self.valid_until is not None and self.valid_until < self.valid_from:
            raise ValueError(f"valid_until {self.valid_until} must not be before valid_from {self.valid_from}")
        return self

    @property
    def public(self) -> sshsig.PublicKey:
        """The parsed key."""
        return sshsig.public_key(self.ssh)

    def refusal(self, *, signed: date, today: date) -> str | None:
        """Say why a signature dated ``signed`` does not count on ``today``; None when it does."""
        name = self.public.fingerprint
        if self.revoked is not None and self.revoked <= today:
            return f"key {name} was revoked on {self.revoked}: nothing it signed counts any more; sign with a key in force"
        if signed < self.valid_from:
            return f"key {name} counts from {self.valid_from}, found a signature of {signed}"
        if self.valid_until is not None and signed > self.valid_until:
            return f"key {name} counted until {self.valid_until}, found a signature of {signed}; sign with a key in force"
        return None


class Approver(BaseModel):
    """One person who may sign."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=200)
    email: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9][A-Za-z0-9.-]{0,189}$")
    """The principal of the signature; ``ssh-keygen -I``."""
    roles: tuple[str, ...] = Field(min_length=1)
    """Roles of the risk policy, e.g. system-owner, ai-risk-officer, cto, board."""
    keys: tuple[ApproverKey, ...] = Field(min_length=1)


class Approvers(BaseModel):
    """The parsed approvers file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["firstlight/approvers/v1"]
    approvers: tuple[Approver, ...]

    @model_validator(mode="after")
    def _each_once(self) -> "Approvers":
        emails = [same_person_email(person.email) for person in self.approvers]
        blobs = [key.public.blob for person in self.approvers for key in person.keys]
        if len(set(emails)) != len(emails):
            raise ValueError("each person must stand in the file once, found one e-mail address twice: put all their keys under one entry")
        if len(set(blobs)) != len(blobs):
            raise ValueError("each key must belong to one person, found one key twice: a shared key identifies nobody")
        return self

    def by_email(self, email: str) -> Approver | None:
        """Return the person with this address, spelling differences aside."""
        wanted = same_person_email(email)
        return next((person for person in self.approvers if same_person_email(person.email) == wanted), None)

    def allowed_signers(self) -> bytes:
        """Return the file that stock ``ssh-keygen -Y verify -f`` reads; revoked keys are left out."""
        lines = [_allowed_line(person, key) for person in self.approvers for key in person.keys if key.revoked is None]
        return "".join(lines).encode()


def _allowed_line(person: Approver, key: ApproverKey) -> str:
    purposes = ",".join((sshsig.NAMESPACE, sshsig.WAIVER_NAMESPACE, sshsig.INCIDENT_NAMESPACE))
    return f'{person.email} namespaces="{purposes}" {key.public.line}\n'


def parse_approvers(data: bytes, where: str = "the approvers file") -> Approvers:
    """Return the approvers in ``data``; raises ApproversError saying which field is wrong."""
    document = parse_yaml(data, where, ApproversError)
    try:
        return Approvers.model_validate(document)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ApproversError(f"{where}: {place} must follow {FORMAT}, found: {first['msg']}") from problem


def read_approvers(path: Path) -> tuple[Approvers, str]:
    """Return the approvers in ``path`` and the sha256 of its bytes. Raises ApproversError."""
    data = read_bounded(path, ApproversError)
    return parse_approvers(data, str(path)), sha256_bytes(data)


def write_approvers(path: Path, approvers: tuple[Approver, ...]) -> Approvers:
    """Write an approvers file of ``approvers`` atomically and return what a reader gets from it. Raises ApproversError when they clash."""
    document: dict[str, Any] = {"format": FORMAT, "approvers": [person.model_dump(mode="json", exclude_none=True) for person in approvers]}
    data = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000).encode()
    parsed = parse_approvers(data, str(path))
    write_atomic(path, data)
    return parsed
