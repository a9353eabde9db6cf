"""Signatures with the SSH keys people already have: the SSHSIG format of OpenSSH (PROTOCOL.sshsig).

Whatever is signed here verifies with stock ``ssh-keygen -Y verify`` and the other way round. Signing reads an unprotected private key
itself; for a key with a passphrase, in an agent or on a hardware token it hands over to stock ``ssh-keygen -Y sign``, which asks the person.
Accepted: ssh-ed25519, ecdsa-sha2-nistp256, rsa of 2048 bits and more (sha2-512, sha2-256; never SHA-1), and the two hardware-token kinds.
"""

import base64
import binascii
import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from governance.errors import SignatureError

NAMESPACE = "firstlight-sign-off"
"""A signature made for another purpose (git, a file, e-mail) never counts as a sign-off."""

WAIVER_NAMESPACE = "firstlight-waiver"
"""Of signed waivers: a sign-off is no waiver, and a waiver no sign-off."""
INCIDENT_NAMESPACE = "firstlight-incident"
"""Of an answer to an incident about what people answer for."""

_MAGIC = b"SSHSIG"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_HASHES = {"sha512": hashlib.sha512, "sha256": hashlib.sha256}
_RSA_HASHES: dict[str, hashes.HashAlgorithm] = {"rsa-sha2-512": hashes.SHA512(), "rsa-sha2-256": hashes.SHA256()}
_SMALLEST_RSA_BITS = 2048
_SIZE_LIMIT = 1 << 16

_PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class _Unreadable(Exception):
    """The private key is one that only ssh-keygen can use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicKey:
    """An SSH public key: its kind and its wire-format bytes."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As ``ssh-keygen -l`` prints it: ``SHA256:...``."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def line(self) -> str:
        """As it stands in a ``.pub`` file, without comment."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """A parsed SSHSIG: whose key, for what purpose, and the raw signature."""

    key: PublicKey
    namespace: str
    hash_name: str
    algorithm: str
    raw: bytes
    """The signature's fields after the algorithm name, in wire format."""


def public_key(line: str) -> PublicKey:
    """Return the key of one ``authorized_keys``-style line (kind, base64, optional comment). Raises SignatureError on anything else."""
    parts = line.split()
    if len(parts) < 2:
        raise SignatureError(
            f"an SSH public key must read 'kind base64 [comment]', found {line[:60]!r}: copy the whole line of the .pub file"
        )
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError) as problem:
        raise SignatureError(
            f"an SSH public key must be base64, found {parts[1][:40]!r}: copy the whole line of the .pub file"
        ) from problem
    key = _key_of(blob)
    if key.kind != parts[0]:
        raise SignatureError(
            f"an SSH public key must be of the kind it names, found {parts[0]!r} outside and {key.kind!r} inside: copy it again"
        )
    return key


def verify(message: bytes, armored: bytes | str, *, key: PublicKey, namespace: str = NAMESPACE) -> None:
    """Return when ``armored`` is ``key``'s signature over ``message`` in ``namespace``; raise SignatureError saying what differs otherwise."""
    signature = parse(armored)
    if signature.namespace != namespace:
        raise SignatureError(f"the signature must be for {namespace!r}, found {signature.namespace!r}: sign again with -n {namespace}")
    if signature.key != key:
        raise SignatureError(f"the signature must be by key {key.fingerprint}, found {signature.key.fingerprint}")
    try:
        _check(signature, _to_be_signed(message, signature.namespace, signature.hash_name))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as problem:
        raise SignatureError(
            "the signature must match the signed bytes, found that it does not: the statement or the signature was changed"
        ) from problem


def parse(armored: bytes | str) -> Signature:
    """Return the parts of an armored SSHSIG. Raises SignatureError when it is not one."""
    fields = _Wire(_dearmor(armored))
    if fields.take(6) != _MAGIC or fields.number() != 1:
        raise SignatureError("a signature must be an SSHSIG of version 1, found another format: sign with ssh-keygen -Y sign")
    blob, namespace, _reserved, hash_name, raw = (fields.string() for _ in range(5))
    fields.end()
    if hash_name.decode("ascii", "replace") not in _HASHES:
        raise SignatureError(f"a signature must hash with sha512 or sha256, found {hash_name!r}")
    inner = _Wire(raw)
    algorithm = inner.string().decode("ascii", "replace")
    key = _key_of(blob)
    return Signature(
        key=key, namespace=namespace.decode("utf-8", "replace"), hash_name=hash_name.decode(), algorithm=algorithm, raw=inner.rest()
    )


def sign(message: bytes, *, key_file: Path, namespace: str = NAMESPACE, ssh_keygen: str = "ssh-keygen") -> bytes:
    """Return the armored SSHSIG of ``message`` by the private key in ``key_file``; the result has been verified.

    A key that cannot be read without its owner (passphrase, hardware token, or a ``.pub`` file whose private half is in an agent) is used
    through stock ``ssh_keygen``, which talks to the terminal. Raises SignatureError.
    """
    try:
        private = _load_private(key_file)
    except _Unreadable:
        armored = _sign_with_ssh_keygen(message, key_file, namespace, ssh_keygen)
    else:
        armored = _sign_here(message, private, namespace)
    verify(message, armored, key=parse(armored).key, namespace=namespace)
    return armored


def _load_private(path: Path) -> _PrivateKey:
    try:
        data = path.read_bytes()[:_SIZE_LIMIT]
    except OSError as problem:
        raise SignatureError(
            f"the private key must be a readable file, found {str(path)!r}: {problem.strerror}; name it with --key"
        ) from problem
    if b"PRIVATE KEY-----" not in data:
        if path.suffix == ".pub" or data.startswith((b"ssh-", b"ecdsa-", b"sk-")):
            raise _Unreadable
        raise SignatureError(
            f"the private key must be an SSH private key, found something else in {str(path)!r}: make one with ssh-keygen -t ed25519"
        )
    load = serialization.load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else serialization.load_pem_private_key
    try:
        private = load(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
        raise _Unreadable from problem
    if isinstance(private, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return private
    raise SignatureError(
        f"the private key must be ed25519, ecdsa nistp256 or rsa, found {type(private).__name__}: make one with ssh-keygen -t ed25519"
    )


def _sign_with_ssh_keygen(message: bytes, path: Path, namespace: str, program: str) -> bytes:
    command = [program, "-q", "-Y", "sign", "-n", namespace, "-f", str(path)]
    try:
        done = subprocess.run(command, input=message, stdout=subprocess.PIPE, check=False)
    except OSError as problem:
        raise SignatureError(
            f"the key {str(path)!r} needs stock ssh-keygen, found none ({problem.strerror}): install the OpenSSH client"
        ) from problem
    if done.returncode != 0 or not done.stdout:
        raise SignatureError(
            f"ssh-keygen must sign with {str(path)!r}, found that it ended with code {done.returncode}: see its words above"
        )
    return done.stdout


def _sign_here(message: bytes, private: _PrivateKey, namespace: str) -> bytes:
    line = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    key = public_key(line.decode())
    data = _to_be_signed(message, namespace, "sha512")
    if isinstance(private, ed25519.Ed25519PrivateKey):
        algorithm, raw = "ssh-ed25519", private.sign(data)
    elif isinstance(private, rsa.RSAPrivateKey):
        algorithm, raw = "rsa-sha2-512", private.sign(data, padding.PKCS1v15(), hashes.SHA512())
    else:
        r, s = decode_dss_signature(private.sign(data, ec.ECDSA(hashes.SHA256())))
        algorithm, raw = key.kind, _string(_mpint(r)) + _string(_mpint(s))
    signature = _string(algorithm.encode()) + _string(raw)
    parts = (key.blob, namespace.encode(), b"", b"sha512", signature)
    return _armor(_MAGIC + (1).to_bytes(4, "big") + b"".join(_string(part) for part in parts))


def _to_be_signed(message: bytes, namespace: str, hash_name: str) -> bytes:
    parts = (namespace.encode(), b"", hash_name.encode(), _HASHES[hash_name](message).digest())
    return _MAGIC + b"".join(_string(part) for part in parts)


def _check(signature: Signature, data: bytes) -> None:
    key, after = _Wire(signature.key.blob), _Wire(signature.raw)
    kind, raw = key.string().decode(), after.string()
    if kind == "ssh-rsa":
        _check_rsa(key, signature.algorithm, raw, data)
        after.end()
        return
    if signature.algorithm != kind:
        raise InvalidSignature
    if kind.startswith("sk-"):
        data = _token_data(key, after, data)
    after.end()
    if "ed25519" in kind:
        ed25519.Ed25519PublicKey.from_public_bytes(_key_body(signature.key)).verify(raw, data)
        return
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), _key_body(signature.key))
    numbers = _Wire(raw)
    der = encode_dss_signature(numbers.integer(), numbers.integer())
    numbers.end()
    point.verify(der, data, ec.ECDSA(hashes.SHA256()))


def _check_rsa(key: "_Wire", algorithm: str, raw: bytes, data: bytes) -> None:
    exponent, modulus = key.integer(), key.integer()
    if algorithm not in _RSA_HASHES:
        raise InvalidSignature
    rsa.RSAPublicNumbers(exponent, modulus).public_key().verify(raw, data, padding.PKCS1v15(), _RSA_HASHES[algorithm])


def _key_body(key: PublicKey) -> bytes:
    """The point of an elliptic key: the last string of its blob, before a token's application."""
    fields = list(_Wire(key.blob).strings())
    return fields[-2] if key.kind.startswith("sk-") else fields[-1]


def _token_data(key: "_Wire", after: "_Wire", data: bytes) -> bytes:
    """What a hardware token signs (PROTOCOL.u2f): hash of its application, flags, counter, hash of the message."""
    application = list(key.strings())[-1]
    flags, counter = after.take(1), after.take(4)
    if not flags[0] & 1:
        raise InvalidSignature
    return hashlib.sha256(application).digest() + flags + counter + hashlib.sha256(data).digest()


_FIELDS = {
    "ssh-ed25519": 2,
    "ecdsa-sha2-nistp256": 3,
    "ssh-rsa": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}
"""Kind of key -> how many strings its blob holds."""


def _key_of(blob: bytes) -> PublicKey:
    fields = list(_Wire(blob).strings())
    kind = fields[0].decode("ascii", "replace") if fields else ""
    if _FIELDS.get(kind) != len(fields):
        raise SignatureError(f"a key must be one of {', '.join(_FIELDS)}, found {kind!r}: make one with ssh-keygen -t ed25519")
    if kind == "ssh-rsa" and int.from_bytes(fields[2], "big").bit_length() < _SMALLEST_RSA_BITS:
        raise SignatureError(f"an rsa key must have {_SMALLEST_RSA_BITS} bits or more, found fewer: make one with ssh-keygen -t ed25519")
    return PublicKey(kind=kind, blob=blob)


def _dearmor(armored: bytes | str) -> bytes:
    text = armored.decode("ascii", "replace") if isinstance(armored, bytes) else armored
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(text) > _SIZE_LIMIT or len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise SignatureError(
            f"a signature must be the text between {_BEGIN} and {_END}, found something else: sign with ssh-keygen -Y sign"
        )
    try:
        return base64.b64decode("".join(lines[1:-1]), validate=True)
    except (binascii.Error, ValueError) as problem:
        raise SignatureError("a signature must be base64 between its marks, found other characters: it was cut or changed") from problem


def _armor(blob: bytes) -> bytes:
    text = base64.b64encode(blob).decode()
    lines = [text[start : start + 70] for start in range(0, len(text), 70)]
    return "\n".join([_BEGIN, *lines, _END, ""]).encode()


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _mpint(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big")


class _Wire:
    """Reader of the SSH wire format (RFC 4251 section 5) that never reads past the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise SignatureError("an SSH key or signature must be whole, found it cut short: copy it again")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def strings(self) -> Iterator[bytes]:
        while self._at < len(self._data):
            yield self.string()

    def integer(self) -> int:
        return int.from_bytes(self.string(), "big")

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        if self._at != len(self._data):
            raise SignatureError("an SSH key or signature must end where it says, found bytes after it: copy it again")
