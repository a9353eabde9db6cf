"""Model folders signed and verified with OpenSSF model-signing. The only module that imports model_signing.

A signature is a Sigstore bundle (DSSE over an in-toto statement with predicate https://model_signing/signature/v1.0) that lists every file of a
folder with its sha256, signed by an elliptic key; the stock tool checks it: ``model_signing verify key FOLDER --signature S --public_key P``. It lies
*beside* the folder, as ``<folder>.sig``: a hand-off refuses files that it does not list. Here it is held against the keys that count today
(:mod:`governance.model_keys`) before a byte of the model is parsed. An added file, a changed byte and a link are refused, and nothing is ignored.
"""

import ast
import base64
import binascii
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from firstlight.digest import sha256_bytes
from governance.documents import parse_json, read_bounded
from governance.errors import SignatureError
from governance.model_keys import KeySource, ModelKeys, shown

METHOD = "OpenSSF model-signing v1.0, elliptic key"
SUFFIX = ".sig"
ARTIFACT = "model.sig"
"""What the signature is called where it is not beside its folder."""
SIZE_LIMIT = 1 << 20
"""Bytes of a bundle; one of ten files has 4 kB."""
_SHOWN_DIGITS = 12
_MISMATCH = "Signature mismatch: "


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedFolder:
    """What a signature that was verified says."""

    digests: Mapping[str, str]
    """sha256 of every file, by its name in the folder."""
    fingerprint: str
    """Of the key that signed."""
    public_key: str
    """PEM of that key."""
    signature_digest: str
    """sha256 of the bundle."""

    def to_dict(self) -> dict[str, Any]:
        """Return the facts that evidence keeps."""
        return {
            "method": METHOD,
            "key_fingerprint": self.fingerprint,
            "public_key": self.public_key,
            "signature_sha256": self.signature_digest,
            "files": dict(sorted(self.digests.items())),
        }

    def require(self, name: str, digest: str | None, *, where: Path) -> None:
        """Raise SignatureError unless the file ``name`` was signed with this sha256."""
        if digest is None or self.digests.get(name) != digest:
            found = (self.digests.get(name) or "no such file")[:_SHOWN_DIGITS]
            raise SignatureError(
                f"the signature of {where} must be over the {name} with sha256 {(digest or 'unknown')[:_SHOWN_DIGITS]}, found {found}: do not load it"
            )


def signature_path(folder: Path | str) -> Path:
    """Return where the signature of ``folder`` lies: beside it."""
    place = Path(folder).absolute()
    return place.with_name(place.name + SUFFIX)


def read_signature(folder: Path | str) -> bytes | None:
    """Return the signature beside ``folder``, or None when there is none. Raises SignatureError when it cannot be read."""
    place = signature_path(folder)
    return read_bounded(place, SignatureError, limit=SIZE_LIMIT) if place.exists() or place.is_symlink() else None


def sign(folder: Path | str, key: KeySource) -> bytes:
    """Return a signature over every file of ``folder``. Raises SignatureError when the key cannot be used or the folder not be read."""
    from model_signing import signing

    config = signing.Config().set_hashing_config(_everything())  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / ARTIFACT
        try:
            if key.pkcs11:
                config.use_pkcs11_signer(pkcs11_uri=key.pkcs11).sign(Path(folder), made)
            else:
                with _held(key.private_pem()) as place:
                    config.use_elliptic_key_signer(private_key=place).sign(Path(folder), made)
        except SignatureError:
            raise
        except Exception as problem:  # the library and a token's driver raise almost anything
            why = _said(problem).replace(key.pkcs11 or "\0", "its URI")  # a PIN may stand in it
            raise SignatureError(f"{folder} must be signed with the key from {key.kind}, that failed ({why}): mend the key") from None
        return made.read_bytes()


def verify(folder: Path | str, signature: bytes | None, *, trusted: ModelKeys, today: date) -> SignedFolder:
    """Return what was signed when a key that counts ``today`` signed exactly the files that are in ``folder``.

    Raises SignatureError: no signature, an unknown, expired or revoked key, a signature that does not hold, a file changed, added or missing.
    """
    from model_signing import verifying

    if signature is None:
        raise SignatureError(
            f"the model in {folder} must be signed, found no signature {signature_path(folder).name} beside it: "
            "release its hand-off again, or sign what was registered before (firstlight keys sign)"
        )
    hint, digests = _read(signature, folder)
    key = trusted.require(hint, where=f"the model in {folder}", today=today)
    with _held(key.public_key.encode()) as public, _held(signature) as bundle:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public).set_hashing_config(_everything())  # type: ignore[no-untyped-call]
        try:
            config.verify(Path(folder), bundle)
        except Exception as problem:  # a bundle that was tampered with makes the library raise almost anything
            raise SignatureError(
                f"the model in {folder} is not what was signed with key {shown(hint)} ({_said(problem)}): do not load it, restore what was registered"
            ) from problem
    return SignedFolder(digests=digests, fingerprint=hint, public_key=key.public_key, signature_digest=sha256_bytes(signature))


def key_of(signature: bytes, *, where: Path | str) -> str:
    """Return the fingerprint of the key that ``signature`` says it is by; nothing is verified. Raises SignatureError when it says none."""
    return _read(signature, where)[0]


def _read(signature: bytes, folder: Path | str) -> tuple[str, dict[str, str]]:
    """Return which key the bundle names, and the files it lists: to be believed only once the library has verified these very bytes."""
    where = f"the signature of {folder}"
    bundle = parse_json(signature, where, SignatureError)
    try:
        hint = bundle["verificationMaterial"]["publicKey"]["hint"]
        payload = base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True)
        resources = parse_json(payload, where, SignatureError)["predicate"]["resources"]
        files = {item["name"]: item["digest"] for item in resources if item["algorithm"] == "sha256"}
    except (KeyError, TypeError, binascii.Error):
        raise SignatureError(
            f"{where} must be an OpenSSF model-signing v1.0 bundle that names its key, it is not: sign again (firstlight keys sign)"
        ) from None
    if not isinstance(hint, str) or not all(isinstance(text, str) for pair in files.items() for text in pair):
        raise SignatureError(f"{where} must name its key and files as text, it does not: sign again (firstlight keys sign)")
    return hint, files


def _everything() -> Any:
    """Return how a folder is hashed: every file by sha256, git's too, no links."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=(), ignore_git_paths=False)  # type: ignore[no-untyped-call]


@contextmanager
def _held(data: bytes) -> Iterator[Path]:
    """Give ``data`` to a library that wants a path without putting it on a disk: the bytes that were looked at, which nobody can exchange."""
    descriptor = os.memfd_create("firstlight-model-signing", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(data)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _said(problem: Exception) -> str:
    """Return what the library found, in words: it lists the differences as Python shows a list, with digests as bytes."""
    text = " ".join(str(problem).split())
    if text.startswith(_MISMATCH):
        with suppress(ValueError, SyntaxError):
            text = "; ".join(_difference(str(item)) for item in ast.literal_eval(text.removeprefix(_MISMATCH)))
    return text[:300] or type(problem).__name__


def _difference(item: str) -> str:
    for pattern, words in (
        (r"Hash mismatch for '(.*)': Expected", "{} was changed"),
        (r"Extra files found in model '.*': (.*)", "added: {}"),
        (r"Missing files in model '.*': (.*)", "missing: {}"),
    ):
        if found := re.match(pattern, item):
            return words.format(found[1])
    return item
