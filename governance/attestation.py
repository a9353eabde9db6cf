"""The pipeline's word that a version is what it registered: a signature that a model server checks before it reads a byte of the model.

Digests in a database protect against a changed file, not against somebody who changes file and database. The signature is an SSHSIG (see
:mod:`governance.sshsig`) over the canonical JSON of a :class:`VersionStatement`, in a namespace of its own, by the key of the environment's
pipeline; the servers hold only its public half. It says nothing about approval: that is people's (:mod:`governance.signoff`).
Stock ``ssh-keygen -Y verify -n firstlight-version`` checks it too.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from firstlight.digest import canonical_json
from governance import sshsig
from governance.errors import SignatureError
from governance.sshsig import PublicKey

NAMESPACE = "firstlight-version"
"""A signature made for another purpose, a person's sign-off included, never counts as this one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionStatement:
    """What is attested: this version of this model is these bytes, run in this way."""

    model: str
    version: str
    model_digest: str
    """sha256 of model.pt2."""
    handoff_digest: str
    """sha256 of handoff.yaml, which pins every other file."""
    backend: str
    """How it is run; see ``models.backends``."""
    backend_digest: str | None
    """sha256 of the backend's compiled file; None for a backend that has none."""

    def to_bytes(self) -> bytes:
        """Return the bytes that are signed: canonical JSON."""
        return canonical_json({"format": "firstlight/version-statement/v1", **asdict(self)})


def attest(statement: VersionStatement, *, key_file: Path) -> str:
    """Return the armored signature of ``statement`` by the private key in ``key_file``. Raises SignatureError when it cannot be used."""
    return sshsig.sign(statement.to_bytes(), key_file=key_file, namespace=NAMESPACE).decode()


def verify_attestation(statement: VersionStatement, armored: str | None, *, trusted: Sequence[PublicKey]) -> None:
    """Return when one of the ``trusted`` keys signed exactly ``statement``. Raises SignatureError that says what differs."""
    where = f"version {statement.version} of {statement.model}"
    if not armored:
        raise SignatureError(f"{where} must be signed by the pipeline that registered it, found no signature: release its hand-off again")
    key = sshsig.parse(armored).key
    if key not in trusted:
        known = ", ".join(item.fingerprint for item in trusted) or "none"
        raise SignatureError(f"{where} must be signed by a trusted pipeline key ({known}), found {key.fingerprint}: do not serve it")
    try:
        sshsig.verify(statement.to_bytes(), armored, key=key, namespace=NAMESPACE)
    except SignatureError as problem:
        raise SignatureError(f"{where} is not what its pipeline signed: {problem}") from problem


def read_trusted(path: Path) -> tuple[PublicKey, ...]:
    """Return the keys of a file with one public key a line (``#`` comments). Raises SignatureError when it has none or cannot be read."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as problem:
        raise SignatureError(f"the file of trusted pipeline keys must be readable, {path} is not ({problem}): name another") from problem
    keys = tuple(sshsig.public_key(line) for line in lines if line and not line.startswith("#"))
    if not keys:
        raise SignatureError(f"the file of trusted pipeline keys must hold at least one public key, {path} holds none: add the .pub line")
    return keys


def ensure_key(path: Path) -> Path:
    """Return ``path``, having made an ed25519 key pair there (``path``, mode 0600, and ``path.pub``) unless it exists.

    Two processes that come at once end with one pair. Raises SignatureError when the folder cannot be written.
    """
    public = path.with_name(path.name + ".pub")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _create_once(path, _private_bytes())
        if not public.exists():
            public.write_text(_public_line(path))
    except OSError as problem:
        raise SignatureError(
            f"the pipeline's key must be kept in {path.parent}, that failed ({problem.strerror}): make it writable"
        ) from problem
    return path


def _create_once(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` whole; whoever comes second keeps the first one's."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return
    finally:
        os.unlink(temporary)


def _private_bytes() -> bytes:
    private = ed25519.Ed25519PrivateKey.generate()
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())


def _public_line(path: Path) -> str:
    private = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    line = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return f"{line.decode()} firstlight pipeline\n"
