"""The evidence of one release: every report as canonical JSON in evidence/<name>.json, and one digest over them all."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstlight.digest import sha256_bytes, sha256_json, write_json
from governance.documents import parse_json, read_bounded
from governance.errors import EvidenceError

EVIDENCE_FOLDER = "evidence"
SIZE_LIMIT = 64 << 20
"""Bytes of one evidence document."""

_NAME = r"[a-z][a-z0-9_]{0,63}"


def evidence_path(folder: Path, name: str) -> Path:
    """Return where evidence document ``name`` lies."""
    return folder / EVIDENCE_FOLDER / f"{name}.json"


def write_evidence(folder: Path, name: str, document: Any) -> str:
    """Write ``document`` as canonical JSON to evidence/<name>.json and return its sha256. Raises EvidenceError on a bad name or NaN."""
    if not re.fullmatch(_NAME, name):
        raise EvidenceError(f"an evidence name must be lower-case letters, digits and _, found {name!r}")
    try:
        return write_json(evidence_path(folder, name), document)
    except (ValueError, TypeError) as problem:
        raise EvidenceError(
            f"evidence {name!r} must be plain JSON values without NaN, found: {problem}; use firstlight.digest.finite"
        ) from problem


def read_evidence(folder: Path, name: str) -> dict[str, Any]:
    """Return evidence document ``name``. Raises EvidenceError when it is missing or not a JSON object."""
    path = evidence_path(folder, name)
    document = parse_json(read_bounded(path, EvidenceError, limit=SIZE_LIMIT), str(path), EvidenceError)
    if not isinstance(document, dict):
        raise EvidenceError(f"{path} must hold a JSON object, found {type(document).__name__}")
    return document


def evidence_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the evidence documents that are there, sorted."""
    return tuple(sorted(path.stem for path in (folder / EVIDENCE_FOLDER).glob("*.json")))


def evidence_digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return name -> sha256 of the bytes of evidence/<name>.json. Raises EvidenceError when one is missing."""
    return {name: sha256_bytes(read_bounded(evidence_path(folder, name), EvidenceError, limit=SIZE_LIMIT)) for name in sorted(names)}


def digest_of(digests: dict[str, str]) -> str:
    """Return the one digest over the digests of the evidence documents (canonical JSON of name -> sha256)."""
    return sha256_json({"format": "firstlight/evidence/v1", "documents": digests})


def evidence_digest(folder: Path, names: Sequence[str]) -> str:
    """Return the digest of the evidence documents ``names`` together. Raises EvidenceError when one is missing."""
    return digest_of(evidence_digests(folder, names))
