"""The ledger's head, signed and kept elsewhere: who cuts off the ledger's end, or writes it anew with its key, contradicts an anchor.

An anchor says that at a moment entry ``sequence`` had this digest, and so that everything before it was as it was. It names the anchor
before it, so that one taken away shows too. Its signature is an SSHSIG of the environment's pipeline key in a namespace of its own;
stock ``ssh-keygen -Y verify -n firstlight-ledger-head`` checks it. Kept as ``<sequence>.json`` and ``<sequence>.json.sig``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from firstlight.chain import GENESIS
from firstlight.digest import canonical_json, sha256_bytes
from governance import sshsig
from governance.documents import parse_json
from governance.errors import LedgerError, SignatureError
from governance.sshsig import PublicKey

NAMESPACE = "firstlight-ledger-head"
FORMAT = "firstlight/ledger-anchor/v1"
SUFFIX = ".json"
SIGNATURE_SUFFIX = ".json.sig"
SIZE_LIMIT = 1 << 16
"""Bytes of an anchor or its signature; they have a few hundred."""
_DIGITS = 9
_NAME = re.compile(rf"\d{{{_DIGITS},18}}")
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """What is signed."""

    sequence: int
    entry_digest: str
    """Of entry ``sequence``."""
    at: str
    """When it was anchored: UTC, ISO 8601."""
    previous_anchor: str
    """sha256 of the bytes of the anchor before; 64 zeros for the first."""

    def to_bytes(self) -> bytes:
        """Return the bytes that are signed: canonical JSON."""
        return canonical_json({"format": FORMAT, **asdict(self)})

    @property
    def name(self) -> str:
        """File name without suffix; names sort as sequences do."""
        return f"{self.sequence:0{_DIGITS}d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedAnchor:
    """An anchor as it is kept: bytes nobody has looked at yet."""

    name: str
    """File name without suffix."""
    document: bytes
    signature: bytes

    @property
    def digest(self) -> str:
        """What the next anchor names."""
        return sha256_bytes(self.document)

    @property
    def files(self) -> dict[str, bytes]:
        """File name -> bytes, in the order in which they are written: one without a signature can be signed, the other way round not."""
        return {f"{self.name}{SUFFIX}": self.document} | ({f"{self.name}{SIGNATURE_SUFFIX}": self.signature} if self.signature else {})


def draft(*, sequence: int, entry_digest: str, before: SignedAnchor | None, now: datetime) -> Anchor:
    """Return the anchor of an entry after the anchor ``before``."""
    at = now.astimezone(UTC).isoformat(timespec="seconds")
    return Anchor(sequence=sequence, entry_digest=entry_digest, at=at, previous_anchor=before.digest if before else GENESIS)


def sign(anchor: Anchor, *, key_file: Path) -> SignedAnchor:
    """Return the anchor with the signature of the key in ``key_file``. Raises SignatureError when it cannot be used."""
    return complete(SignedAnchor(name=anchor.name, document=anchor.to_bytes(), signature=b""), key_file=key_file)


def complete(unsigned: SignedAnchor, *, key_file: Path) -> SignedAnchor:
    """Return the anchor with a signature over the very bytes that are there. Raises SignatureError when the key cannot be used."""
    return replace(unsigned, signature=sshsig.sign(unsigned.document, key_file=key_file, namespace=NAMESPACE))


def read(signed: SignedAnchor, *, trusted: Sequence[PublicKey]) -> Anchor:
    """Return what one of the ``trusted`` keys signed. Raises LedgerError or SignatureError that says what is wrong."""
    anchor = parse(signed.document, signed.name)
    if not signed.signature:
        raise SignatureError(f"anchor {signed.name} must be signed by the pipeline, it has no signature")
    key = sshsig.parse(signed.signature).key
    if key not in trusted:
        known = ", ".join(item.fingerprint for item in trusted) or "none"
        raise SignatureError(f"anchor {signed.name} must be signed by a trusted pipeline key ({known}), found {key.fingerprint}")
    sshsig.verify(signed.document, signed.signature, key=key, namespace=NAMESPACE)
    return anchor


def parse(document: bytes, name: str) -> Anchor:
    """Return the anchor in ``document``. Raises LedgerError when it is not one, or not of this name."""
    found = parse_json(document, f"anchor {name}", LedgerError)
    wanted = {"format": str, "sequence": int, "entry_digest": str, "at": str, "previous_anchor": str}
    if not isinstance(found, dict) or {key: type(value) for key, value in found.items()} != wanted or found["format"] != FORMAT:
        raise LedgerError(f"anchor {name} must be of format {FORMAT}, found something else")
    anchor = Anchor(**{key: value for key, value in found.items() if key != "format"})
    if not (_DIGEST.fullmatch(anchor.entry_digest) and _DIGEST.fullmatch(anchor.previous_anchor) and anchor.sequence > 0):
        raise LedgerError(f"anchor {name} must name an entry and two digests, found something else")
    if anchor.name != name:
        raise LedgerError(f"anchor {name} must be about entry {name.lstrip('0')}, it is about entry {anchor.sequence}: it was renamed")
    return anchor


def paired(files: Mapping[str, bytes]) -> list[SignedAnchor]:
    """Return the anchors among ``files`` (name -> bytes), by sequence; one whose signature is not there has an empty one."""
    names = [name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX) and _NAME.fullmatch(name.removesuffix(SUFFIX))]
    return [
        SignedAnchor(name=name, document=files[name + SUFFIX], signature=files.get(name + SIGNATURE_SUFFIX, b""))
        for name in sorted(names, key=int)
    ]
