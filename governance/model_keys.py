"""The keys that sign model folders: which public halves count and since when, and where the private one is kept.

A signature of a model has no time that could be believed, so a key counts or does not count *today*: from ``valid_from`` to ``valid_until``, and
never once it was revoked, whatever it signed and when. Rotation leaves the old key valid for some days, in which what it signed is signed again.

format: firstlight/model-keys/v1
keys:
  - public_key: |
      -----BEGIN PUBLIC KEY-----
      ...
    valid_from: 2026-01-01
    valid_until: 2027-01-01     # optional: last day
    revoked: 2026-06-01         # optional: from this day on nothing it signed is loaded
    reason: the laptop was lost # of the revocation
"""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from firstlight.digest import write_atomic
from governance.documents import parse_yaml, read_bounded
from governance.errors import SignatureError

FORMAT = "firstlight/model-keys/v1"
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_SHOWN = 16
"""Characters of a fingerprint that people compare."""


class ModelKey(BaseModel):
    """One public key and when it counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    public_key: str = Field(max_length=4000)
    """PEM, SubjectPublicKeyInfo."""
    valid_from: date
    """First day the key counts (UTC)."""
    valid_until: date | None = None
    """Last day the key counts (UTC)."""
    revoked: date | None = None
    """From this day on nothing the key signed is loaded: a thief can sign whatever he likes."""
    reason: str = Field(default="", max_length=2000)
    """Why it was revoked."""

    @field_validator("public_key")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        try:
            return pem_of(load_public(value.encode()))
        except SignatureError as problem:
            raise ValueError(str(problem)) from problem

    @model_validator(mode="after")
    def _in_order(self) -> "ModelKey":
        if self.valid_until is not None and self.valid_until < self.valid_from:
            raise ValueError(f"valid_until {self.valid_until} must not be before valid_from {self.valid_from}")
        return self

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 of the PEM, 64 hex digits: the hint that a signature bundle carries."""
        return fingerprint_of(self.public_key)

    def refusal(self, today: date) -> str | None:
        """Say why nothing that this key signed is loaded ``today``; None when it counts."""
        name = shown(self.fingerprint)
        if self.revoked is not None and self.revoked <= today:
            why = f" ({self.reason})" if self.reason else ""
            return f"its key {name} was revoked on {self.revoked}{why}: check the version, then sign it with a key in force (firstlight keys sign)"
        if today < self.valid_from:
            return f"its key {name} counts from {self.valid_from}, today is {today}: set the clock right, or sign with a key in force"
        if self.valid_until is not None and today > self.valid_until:
            return f"its key {name} counted until {self.valid_until}: sign the version with a key in force (firstlight keys sign)"
        return None

    def state(self, today: date) -> str:
        """Return ``in force``, ``revoked``, ``expired`` or ``not yet``."""
        if self.revoked is not None and self.revoked <= today:
            return "revoked"
        if today < self.valid_from:
            return "not yet"
        return "expired" if self.valid_until is not None and today > self.valid_until else "in force"


class ModelKeys(BaseModel):
    """The parsed file of trusted model keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["firstlight/model-keys/v1"] = "firstlight/model-keys/v1"
    keys: tuple[ModelKey, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> "ModelKeys":
        if len({key.fingerprint for key in self.keys}) != len(self.keys):
            raise ValueError("each key must stand in the file once, found one twice: keep the line that revokes it")
        return self

    def get(self, fingerprint: str) -> ModelKey | None:
        """Return the key with this fingerprint, or None."""
        return next((key for key in self.keys if key.fingerprint == fingerprint), None)

    def find(self, beginning: str) -> ModelKey:
        """Return the one key whose fingerprint begins so (8 digits at least). Raises SignatureError when none or several do."""
        found = [key for key in self.keys if key.fingerprint.startswith(beginning.lower())]
        if len(beginning) < 8 or len(found) != 1:
            known = ", ".join(shown(key.fingerprint) for key in self.keys)
            raise SignatureError(
                f"the beginning of one trusted key's fingerprint must be given (8 digits or more), found {beginning!r}: {known}"
            )
        return found[0]

    def require(self, fingerprint: str, *, where: str, today: date) -> ModelKey:
        """Return the key when what it signed may be loaded ``today``. Raises SignatureError that says why not."""
        key = self.get(fingerprint)
        if key is None:
            known = ", ".join(shown(key.fingerprint) for key in self.keys)
            raise SignatureError(f"{where} must be signed by a trusted model key ({known}), found {shown(fingerprint)}: do not load it")
        if (refusal := key.refusal(today)) is not None:
            raise SignatureError(f"{where} must be signed by a key that counts, {refusal}")
        return key

    def trusting(self, public_key: str, *, since: date) -> "ModelKeys":
        """Return these keys and ``public_key``, valid from ``since``; one that is there already stays as it is."""
        added = ModelKey(public_key=public_key, valid_from=since)
        return self if self.get(added.fingerprint) else ModelKeys(keys=(*self.keys, added))

    def ending(self, fingerprint: str, *, last_day: date) -> "ModelKeys":
        """Return these keys with one that counts for the last time on ``last_day``, or sooner when that was said before."""

        def shortened(key: ModelKey) -> dict[str, Any]:
            return {"valid_until": min(last_day, key.valid_until or last_day)}

        return self._changed(fingerprint, shortened)

    def revoking(self, fingerprint: str, *, on: date, reason: str) -> "ModelKeys":
        """Return these keys with one that counts no more from ``on``; the day of an earlier revocation stays."""

        def ended(key: ModelKey) -> dict[str, Any]:
            return {} if key.revoked is not None and key.revoked <= on else {"revoked": on, "reason": reason}

        return self._changed(fingerprint, ended)

    def _changed(self, fingerprint: str, change: Any) -> "ModelKeys":
        made = [ModelKey(**{**key.model_dump(), **change(key)}) if key.fingerprint == fingerprint else key for key in self.keys]
        return ModelKeys(keys=tuple(made))


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySource:
    """Where the private key is: in a PKCS#11 token, else in an environment variable's text, else in a file."""

    file: Path
    pem: str | None = field(default=None, repr=False)
    pkcs11: str | None = field(default=None, repr=False)
    """URI of RFC 7512, such as pkcs11:token=lab;object=models?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin."""

    @property
    def kind(self) -> str:
        """``pkcs11``, ``environment`` or ``file``."""
        return "pkcs11" if self.pkcs11 else "environment" if self.pem else "file"

    def private_pem(self) -> bytes:
        """Return the private key's PEM; not for PKCS#11, where it never leaves the token. Raises SignatureError when it cannot be used."""
        assert not self.pkcs11, "a key in a token has no bytes"
        where = "the text of the model signing key" if self.pem else f"the model signing key {self.file}"
        data = self.pem.encode() if self.pem else read_bounded(self.file, SignatureError)
        _load_private(data, where)
        return data

    def public_pem(self) -> str | None:
        """Return the public half; None for a token, which is asked only to sign. Raises SignatureError when the key cannot be used."""
        if self.pkcs11:
            return None
        return pem_of(_load_private(self.private_pem(), "the model signing key").public_key())


def read_model_keys(path: Path) -> ModelKeys:
    """Return the trusted model keys in ``path``. Raises SignatureError when it cannot be read or a field is wrong."""
    if not path.exists():
        raise SignatureError(
            f"the file of trusted model keys must be there, {path} is not: the first registration here makes it, or add a key (firstlight keys trust)"
        )
    try:
        return ModelKeys.model_validate(parse_yaml(read_bounded(path, SignatureError), str(path), SignatureError))
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise SignatureError(
            f"{path}: {place} must follow {FORMAT}, found: {first['msg']}: mend the file of trusted model keys"
        ) from problem


def write_model_keys(path: Path, keys: ModelKeys) -> None:
    """Write ``keys`` to ``path`` whole or not at all."""
    document = {"format": FORMAT, "keys": [key.model_dump(exclude_defaults=True) for key in keys.keys]}
    write_atomic(path, yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000).encode())


class _Dumper(yaml.SafeDumper):
    """Writes a key as the lines people know."""


def _lines(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _lines)


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Hold the right to change the keys beside ``path``; whoever comes second waits."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(path.with_name(f".{path.name}.lock"), "w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield
    except OSError as problem:
        raise SignatureError(
            f"the model keys must be kept in {path.parent}, that failed ({problem.strerror}): make it writable"
        ) from problem


def ensure_model_key(file: Path, trusted: Path, *, today: date) -> None:
    """Make a P-256 key pair once: the private half in ``file`` (mode 0600), the public one among ``trusted``. Nothing happens when it is there.

    Two processes that come at once end with one key. Raises SignatureError when the folder cannot be written.
    """
    if not file.exists():
        with changing(trusted):
            if not file.exists():
                _make(file, trusted, today=today)


def rotate(file: Path, trusted: Path, *, today: date, overlap: timedelta) -> tuple[str, str]:
    """Make a new signing key in place of the one in ``file``; return the fingerprints of the old and the new one.

    The old private half is gone; what it signed is loaded for ``overlap`` longer. Raises SignatureError when either file cannot be used.
    """
    with changing(trusted):
        old = fingerprint_of(KeySource(file=file).public_pem() or "")
        write_model_keys(trusted, read_model_keys(trusted).ending(old, last_day=today + overlap))
        return old, _make(file, trusted, today=today)


def _make(file: Path, trusted: Path, *, today: date) -> str:
    """The public half becomes known first: a private key that nobody trusts would be of no use."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = pem_of(private.public_key())
    keys = read_model_keys(trusted).trusting(public, since=today) if trusted.exists() else None
    write_model_keys(trusted, keys or ModelKeys(keys=(ModelKey(public_key=public, valid_from=today),)))
    plain = serialization.NoEncryption()
    write_atomic(
        file, private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )  # mode 0600, as mkstemp makes it
    return fingerprint_of(public)


def load_public(data: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key in ``data`` (PEM). Raises SignatureError unless it is one on P-256, P-384 or P-521."""
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as problem:
        raise SignatureError(
            f"a model key must be a public key in PEM, found {str(problem)[:100]!r}: give the text of the .pub.pem file"
        ) from problem
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise SignatureError("a model key must be on the curve P-256, P-384 or P-521, found another kind: make one with openssl ecparam")
    return key


def _load_private(data: bytes, where: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SignatureError(
            f"{where} must be an unencrypted private key in PEM, it is not: give another, or keep it in a PKCS#11 token"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, _CURVES):
        raise SignatureError(f"{where} must be on the curve P-256, P-384 or P-521, found another kind: make one with openssl ecparam")
    return key


def pem_of(key: ec.EllipticCurvePublicKey) -> str:
    """Return the PEM of a public key in the one form whose digest is its fingerprint."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def fingerprint_of(pem: str) -> str:
    """Return the sha256 of a public key's PEM, as OpenSSF model-signing puts it into a bundle."""
    return hashlib.sha256(pem.encode()).hexdigest()


def shown(fingerprint: str) -> str:
    """Return as much of a fingerprint as people compare."""
    return fingerprint[:_SHOWN]
