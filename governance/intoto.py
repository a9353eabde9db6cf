"""The one bundle of a release: an in-toto Statement v1 that joins the model with every file of its release folder by sha256, in a DSSE envelope.

bundle.dsse.json    the envelope, signed by the pipeline's key
pipeline.pub        the public half, for whoever has nothing else; give your own copy to be sure of the pipeline too

The model's own signature (:mod:`governance.model_signature`) says which bytes a model is; this says which evidence, papers, signatures, policy and
part of the ledger belong to it. Subject and predicate are checked apart from the manifest, which anybody can write anew.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstlight.digest import canonical_json, sha256_file, write_atomic
from governance import dsse
from governance.documents import parse_json, read_bounded
from governance.errors import EvidenceError, SignatureError
from governance.evidence import evidence_names, read_evidence
from governance.manifest import files_of
from governance.sshsig import PublicKey, public_key

BUNDLE_FILE = "bundle.dsse.json"
PUBLIC_KEY_FILE = "pipeline.pub"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:firstlight:predicate:release:v1"
LEDGER_FILE = "ledger/entries.jsonl"

_WRITTEN_AFTER = (BUNDLE_FILE, "dossier.html")
"""What a release folder gets after its bundle; the manifest lists it."""
_SIZE_LIMIT = 16 << 20


def statement(folder: Path) -> bytes:
    """Return the statement about the release in ``folder`` as it is now (canonical JSON).

    Raises EvidenceError when nothing there names the model's and the hand-off's digest, on a symbolic link, or on an unreadable ledger.
    """
    evidence = {
        name: read_evidence(folder, name) for name in ("release", "hand_off", "backend", "sign_off") if name in evidence_names(folder)
    }
    known = evidence.get("release") or evidence.get("hand_off") or {}
    document = {
        "_type": STATEMENT_TYPE,
        "subject": list(_subjects(known, evidence.get("backend", {}))),
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "release": evidence.get("release", {}).get("release") or folder.name,  # a copy may have another name
            "decision": evidence.get("sign_off", {}).get("verdict"),
            "ledger": _head(folder),
            "files": [{"name": name, "digest": {"sha256": digest}} for name, digest in _files(folder)],
        },
    }
    return canonical_json(document)


def write_bundle(folder: Path, *, key_file: Path) -> Path:
    """Write the signed bundle and the public key into ``folder`` and return the bundle's path. Raises EvidenceError or SignatureError."""
    public = dsse.public_of(key_file)
    write_atomic(folder / PUBLIC_KEY_FILE, f"{public.line} firstlight pipeline\n".encode())
    return write_atomic(folder / BUNDLE_FILE, dsse.sign(statement(folder), payload_type=PAYLOAD_TYPE, key_file=key_file))


def differences(folder: Path, *, trusted: Sequence[PublicKey] | None = None) -> Iterator[tuple[str, str]]:
    """Yield (where, what) for all that is not as the bundle of ``folder`` says; ``trusted`` None believes the key that lies in the folder.

    Never raises on what is in the folder.
    """
    try:
        envelope = read_bounded(folder / BUNDLE_FILE, EvidenceError, limit=_SIZE_LIMIT)
        believed = _own_key(folder) if trusted is None else trusted
        payload = dsse.verify(envelope, payload_type=PAYLOAD_TYPE, trusted=believed)
        claimed = parse_json(payload, "the statement", EvidenceError)
        found = parse_json(statement(folder), "the statement", EvidenceError)
    except (EvidenceError, SignatureError) as problem:
        yield BUNDLE_FILE, str(problem)
        return
    yield from _compared(claimed, found)


def _compared(claimed: Any, found: Any) -> Iterator[tuple[str, str]]:
    try:
        signed = {str(one["name"]): str(one["digest"]["sha256"]) for one in claimed["predicate"]["files"]}
        rest = [{**document, "predicate": {**document["predicate"], "files": []}} for document in (claimed, found)]
    except (KeyError, TypeError):
        yield BUNDLE_FILE, f"must hold an in-toto statement of {PREDICATE_TYPE}, holds something else"
        return
    there = {one["name"]: one["digest"]["sha256"] for one in found["predicate"]["files"]}
    for name in sorted(signed.keys() - there.keys()):
        yield name, "missing: the bundle was signed over it"
    for name in sorted(there.keys() - signed.keys()):
        yield name, "added: the bundle was not signed over it"
    for name in sorted(signed.keys() & there.keys()):
        if signed[name] != there[name]:
            yield name, f"changed: the bundle was signed over sha256 {signed[name][:16]}…, the file has {there[name][:16]}…"
    if rest[0] != rest[1]:
        parts = [key for key in ("_type", "predicateType", "subject") if claimed.get(key) != found[key]]
        parts += [key for key in found["predicate"] if key != "files" and claimed["predicate"].get(key) != found["predicate"][key]]
        yield BUNDLE_FILE, f"its {', '.join(parts) or 'statement'} is not what the folder gives: it was signed about something else"


def _subjects(known: Mapping[str, Any], backend: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, key in (("model.pt2", "model_digest"), ("handoff.yaml", "handoff_digest")):
        digest = known.get(key)
        if not isinstance(digest, str):
            raise EvidenceError(f"a bundle must be about a model, found no {key} in the evidence: run the release again")
        yield {"name": name, "digest": {"sha256": digest}}
    if isinstance(digest := backend.get("digest"), str):
        yield {"name": f"backend/{backend.get('chosen')}", "digest": {"sha256": digest}}


def _head(folder: Path) -> dict[str, Any] | None:
    """Return sequence and digest of the last ledger entry in the folder, None without one."""
    if not (folder / LEDGER_FILE).exists():
        return None
    lines = read_bounded(folder / LEDGER_FILE, EvidenceError, limit=_SIZE_LIMIT << 2).splitlines()
    if not lines:
        return None
    try:
        last = json.loads(lines[-1])
        return {"sequence": last["sequence"], "entry_digest": last["entry_digest"]}
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise EvidenceError(f"the last line of {LEDGER_FILE} must be a ledger entry, found something else: it was changed") from problem


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    for name, path in files_of(folder):
        if name in _WRITTEN_AFTER:
            continue
        if path.is_symlink():
            raise EvidenceError(f"a release folder must hold files of its own, found the symbolic link {name!r}: copy the file there")
        try:
            yield name, sha256_file(path)
        except OSError as problem:
            raise EvidenceError(f"a release folder must hold files that can be read, {name!r} cannot: {problem.strerror}") from problem


def _own_key(folder: Path) -> tuple[PublicKey, ...]:
    data = read_bounded(folder / PUBLIC_KEY_FILE, EvidenceError, limit=_SIZE_LIMIT)
    return (public_key(data.decode("utf-8", "replace")),)
