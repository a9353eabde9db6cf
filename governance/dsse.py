"""The Dead Simple Signing Envelope (DSSE v1.0.2): a payload, its type, and signatures over both.

What is signed is the pre-authentication encoding PAE(type, payload), so that bytes signed as one kind of thing never pass for another.
The key is the pipeline's SSH key; the key id is its SSH fingerprint. ed25519, ecdsa nistp256 (sha256, DER) and rsa (PSS, sha256): what
in-toto's own tools and securesystemslib verify.
"""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from firstlight.digest import canonical_json
from governance.documents import parse_json
from governance.errors import SignatureError
from governance.sshsig import PublicKey, public_key

_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)
_KEY_LIMIT = 1 << 16


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed.

    >>> pae("text/plain", b"hello")
    b'DSSEv1 10 text/plain 5 hello'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, *, payload_type: str, key_file: Path) -> bytes:
    """Return the envelope of ``payload`` (canonical JSON) with one signature by the SSH private key in ``key_file``. Raises SignatureError."""
    private, public = _private(key_file)
    signature = {"keyid": public.fingerprint, "sig": base64.b64encode(_sign(private, pae(payload_type, payload))).decode()}
    return canonical_json({"payload": base64.b64encode(payload).decode(), "payloadType": payload_type, "signatures": [signature]})


def verify(envelope: bytes, *, payload_type: str, trusted: Sequence[PublicKey]) -> bytes:
    """Return the payload when a ``trusted`` key signed it as ``payload_type``. Raises SignatureError saying what differs.

    The key id is a hint, as the specification says: every signature is tried with every trusted key.
    """
    payload, kind, signatures = _parts(envelope)
    if kind != payload_type:
        raise SignatureError(f"the envelope must hold {payload_type}, found {kind[:100]!r}")
    data = pae(kind, payload)
    if any(_holds(key, signature, data) for signature in signatures for key in trusted):
        return payload
    known = ", ".join(key.fingerprint for key in trusted) or "none"
    raise SignatureError(
        f"the envelope must be signed by a trusted key ({known}), found no signature of one that holds: it was changed or another signed it"
    )


def public_of(key_file: Path) -> PublicKey:
    """Return the public half of the private key in ``key_file``. Raises SignatureError."""
    return _private(key_file)[1]


def _parts(envelope: bytes) -> tuple[bytes, str, list[bytes]]:
    document: Any = parse_json(envelope, "the envelope", SignatureError)
    try:
        payload = _decoded(document["payload"])
        signatures = [_decoded(one["sig"]) for one in document["signatures"]]
        return payload, str(document["payloadType"]), signatures
    except (KeyError, TypeError, binascii.Error, ValueError) as problem:
        raise SignatureError(
            "an envelope must be DSSE (payload, payloadType, signatures), found something else: it was changed"
        ) from problem


def _decoded(text: Any) -> bytes:
    """Standard or URL-safe base64: a verifier must take both (DSSE protocol, section "Parameters")."""
    if not isinstance(text, str):
        raise TypeError("base64 is text")
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)


_Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def _private(path: Path) -> tuple[_Private, PublicKey]:
    try:
        data = path.read_bytes()[:_KEY_LIMIT]
        load = serialization.load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else serialization.load_pem_private_key
        private = load(data, password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as problem:
        raise SignatureError(f"the pipeline's key must be a private key without passphrase, {path} cannot be used: {problem}") from problem
    if not isinstance(private, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise SignatureError(f"the pipeline's key must be ed25519, ecdsa nistp256 or rsa, found {type(private).__name__} in {path}")
    text = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public_key(text.decode())


def _sign(private: _Private, data: bytes) -> bytes:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(data)
    if isinstance(private, rsa.RSAPrivateKey):
        return private.sign(data, _PSS, hashes.SHA256())
    return private.sign(data, ec.ECDSA(hashes.SHA256()))


def _holds(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Say whether ``signature`` is ``key``'s over ``data``; a key that signs only through SSH (a token's) never is."""
    try:
        public = serialization.load_ssh_public_key(key.line.encode())
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(signature, data)
        elif isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, data, _PSS, hashes.SHA256())
        elif isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        else:
            return False
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True
