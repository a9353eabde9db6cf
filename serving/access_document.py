"""The access file: who may ask the gateway what. A YAML document under change control; docs/access.md explains it with examples.

Strict: an unknown field, a key given twice, an alias, a name used twice, a role that does not exist or a file that everybody may write is
refused with a sentence. It holds no secret: keys stand in it as sha256, issuers by their public keys.
"""

import ipaddress
import re
import stat
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from governance.documents import SIZE_LIMIT, parse_yaml
from serving.errors import AccessFileError
from serving.grants import MODEL_PATTERN, Grant, Limits, Role

FORMAT = "firstlight/access/v1"
RESERVED = frozenset({"canary-replay"})
"""Names that our own processes use. Requests under them count as no live traffic, so nobody else may have them."""
SIGNATURES = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Every algorithm an issuer may use: public keys only. With HMAC whoever can check a token could make one; ``none`` is no signature."""

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_MEGABYTE = 1 << 20


def _moment(value: Any) -> Any:
    """Take a plain date for its first moment in UTC."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        value = date.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""A date (its first moment) or a time; without an offset it is UTC."""
Pattern = Annotated[str, StringConstraints(pattern=MODEL_PATTERN)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitsPart(_Part):
    """How much somebody may ask for; what is left out is without limit."""

    requests_per_second: Positive | None = None
    rows_per_second: Positive | None = None
    megabytes_per_second: Positive | None = None
    """Of request bodies."""
    body_mb: Positive | None = None
    """Largest request body in megabytes; never above the gateway's own limit."""
    rows: int | None = Field(default=None, ge=1)
    """Largest number of rows (spectra) in one request."""

    def over(self, base: "LimitsPart") -> Limits:
        """Return these limits, and those of ``base`` where nothing is said here."""
        said = {**base.model_dump(exclude_none=True), **self.model_dump(exclude_none=True)}
        body = said.pop("body_mb", None)
        return Limits(**said, body_bytes=None if body is None else int(body * _MEGABYTE))


class GrantPart(_Part):
    """Roles over models."""

    roles: tuple[Role, ...] = Field(min_length=1)
    models: tuple[Pattern, ...] = Field(min_length=1)
    """Names of models, and patterns with ``*``; ``"*"`` is every model."""

    @property
    def grant(self) -> Grant:
        """As the decision wants it."""
        return Grant(roles=frozenset(self.roles), models=self.models)


class KeyPart(_Part):
    """One API key of a client."""

    id: str = Field(pattern=r"^[a-z2-7]{10}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the whole key, ``fl_<id>_<secret>``."""
    created: Moment | None = None
    expires: Moment | None = None
    """From this moment on it counts no more."""
    revoked: Moment | None = None
    """From this moment on it counts no more, and its holder is told so."""
    note: str = Field(default="", max_length=500)


class CertificatePart(_Part):
    """What a client's certificate must say (mTLS): exactly one of these."""

    dns: str | None = Field(default=None, min_length=1, max_length=253)
    """A DNS name among its subject alternative names, letter by letter: a wildcard matches nothing."""
    uri: str | None = Field(default=None, min_length=1, max_length=2000)
    """A URI among them, such as a SPIFFE id."""
    email: str | None = Field(default=None, min_length=3, max_length=320)
    """A mail address among them."""
    subject: str | None = Field(default=None, min_length=3, max_length=1000)
    """Its whole subject as RFC 4514 writes it: ``CN=portal,O=Lab``."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Fingerprint of exactly one certificate."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("a certificate must be named by exactly one of dns, uri, email, subject and sha256")
        return self

    @property
    def identity(self) -> str:
        """As :mod:`serving.peer` writes what a certificate says: ``dns:portal.lab``."""
        ((kind, value),) = self.model_dump(exclude_none=True).items()
        return f"{kind}:{value.lower() if kind == 'dns' else value}"


class ClientPart(GrantPart):
    """A program (or a person) that asks with a key or a certificate."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Goes to the inference log and the access log."""
    keys: tuple[KeyPart, ...] = ()
    certificates: tuple[CertificatePart, ...] = ()
    limits: LimitsPart = LimitsPart()
    note: str = Field(default="", max_length=500)

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name in RESERVED:
            raise ValueError(f"the name {name!r} belongs to our own processes: choose another")
        return name


class GroupPart(GrantPart):
    """What the members of one group of an issuer may do."""

    group: str = Field(min_length=1, max_length=500)
    """As it stands in the token; ``"*"`` is everybody to whom the issuer gives a token for us."""


class IssuerPart(_Part):
    """An OpenID Connect issuer whose access tokens count."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")
    """Callers are called ``<name>:<who>`` in logs."""
    issuer: str = Field(min_length=1, max_length=500)
    """The ``iss`` claim, letter by letter."""
    audience: str = Field(min_length=1, max_length=500)
    """What ``aud`` must contain: the name of this gateway at the issuer."""
    jwks: str = Field(min_length=1, max_length=2000)
    """Where its public keys are: an https address, or a file."""
    jwks_ca: Path | None = None
    """PEM certificates that vouch for that address; None means the system's."""
    algorithms: tuple[Literal[SIGNATURES], ...] = Field(default=("RS256", "ES256"), min_length=1)  # type: ignore[valid-type]
    token_types: tuple[str, ...] = Field(default=("at+jwt",), min_length=1)
    """``typ`` of an access token (RFC 9068). Keycloak writes JWT unless the client says at+jwt."""
    leeway_seconds: int = Field(default=30, ge=0, le=300)
    """How much clocks may differ."""
    name_claim: str = Field(default="sub", min_length=1, max_length=100)
    """Claim that names the caller; it must never be given to somebody else, so ``sub`` is best."""
    groups_claim: tuple[str, ...] = Field(default=("groups",), min_length=1)
    """Path to the list of groups: [realm_access, roles]."""
    required: dict[str, str] = Field(default_factory=dict)
    """Claims that must have exactly this value, such as azp."""
    groups: tuple[GroupPart, ...] = Field(min_length=1)
    limits: LimitsPart = LimitsPart()

    @field_validator("jwks")
    @classmethod
    def _is_safe(cls, where: str) -> str:
        address = urlsplit(where)
        if address.scheme == "http" and address.hostname not in _LOOPBACK:
            raise ValueError(f"jwks must be an https address or a file, got {where!r}: whoever can change the keys can make tokens")
        if address.scheme not in ("http", "https", ""):
            raise ValueError(f"jwks must be an https address or a file, got {where!r}")
        return where


class ModelLimitsPart(_Part):
    """How much everybody together may ask of a model; each model that the pattern covers is counted by itself."""

    model: Pattern
    requests_per_second: Positive


class AccessDocument(_Part):
    """The parsed access file."""

    format: Literal["firstlight/access/v1"]
    clients: tuple[ClientPart, ...] = ()
    issuers: tuple[IssuerPart, ...] = ()
    limits: LimitsPart = LimitsPart()
    """Of every client and caller, where they say nothing else."""
    models: tuple[ModelLimitsPart, ...] = ()
    failures_per_minute: float = Field(default=30, ge=1, allow_inf_nan=False)
    """Wrong credentials that one address may try before it has to wait."""
    proxies: tuple[str, ...] = ()
    """Networks of reverse proxies whose X-Forwarded-For is believed."""

    @field_validator("proxies")
    @classmethod
    def _are_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for network in proxies:
            ipaddress.ip_network(network)
        return proxies

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for what, values in (
            ("client", [client.name for client in self.clients]),
            ("key id", [key.id for client in self.clients for key in client.keys]),
            ("key", [key.sha256 for client in self.clients for key in client.keys]),
            ("certificate", [certificate.identity for client in self.clients for certificate in client.certificates]),
            ("issuer name", [issuer.name for issuer in self.issuers]),
            ("issuer", [issuer.issuer for issuer in self.issuers]),
        ):
            twice = {value for value in values if values.count(value) > 1}
            if twice:
                raise ValueError(f"each {what} must stand in the file once, found {sorted(twice)[0]!r} twice")
        return self

    def client(self, name: str) -> ClientPart | None:
        """Return the client of this name."""
        return next((client for client in self.clients if client.name == name), None)


def parse(data: bytes, where: str = "the access file") -> AccessDocument:
    """Return the document in ``data``. Raises AccessFileError that names every wrong field; it repeats no value, which might be a secret."""
    document = parse_yaml(data, where, AccessFileError)
    try:
        return AccessDocument.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'the document'}: {item['msg'].removeprefix('Value error, ')}" for item in found
        )
        raise AccessFileError(f"{where} must follow {FORMAT}, found {wrong}: see docs/access.md") from None


def read(path: Path) -> AccessDocument:
    """Return the document in the file ``path``. Raises AccessFileError when it cannot be read, used or trusted."""
    return parse(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """Return the bytes of an access file. Raises AccessFileError when it cannot be read or trusted."""
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(path.stat().st_mode)
            data = stream.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise AccessFileError(f"the access file {path} must be readable, found {error.strerror or error}") from None
    if mode & stat.S_IWOTH:
        raise AccessFileError(f"the access file {path} must not be writable by everybody, found mode {mode:o}: chmod o-w {path}")
    if len(data) > SIZE_LIMIT:
        raise AccessFileError(f"the access file {path} must have at most {SIZE_LIMIT} bytes, found more")
    return data
