"""What a made-up release gets besides its evidence and signatures: its part of a ledger, register, papers, bundle, page, manifest.

In the order and by the functions of tasks/papers.py, without a store.
"""

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from firstlight import chain
from firstlight.chain import ChainKey
from governance import anchor, dsse, intoto, ledger, papers
from governance.anchor import SignedAnchor
from governance.attestation import ensure_key
from governance.evidence import evidence_names, read_evidence, write_evidence
from governance.manifest import sign_manifest, write_manifest
from governance.papers.facts import RELEASE
from governance.register import fill
from governance.register.filling import OWN_NAME
from governance.sshsig import PublicKey

LEDGER_KEY = ChainKey(b"the ledger's key, of a test alone")
OPENED = datetime(2026, 11, 23, 0, 10, tzinfo=UTC)
CLOSED = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
WHOLE = "whole-ledger"
"""Folder beside the releases with the ledger that a release has a part of, exported."""


def complete(folder: Path) -> None:
    """Write everything of the release in ``folder`` that follows from its evidence and signatures."""
    key = pipeline_key(folder)
    subject = json.loads((folder / "subject.json").read_bytes())
    recorded = read_evidence(folder, "sign_off")
    write_evidence(folder, RELEASE, facts(folder, subject))
    follow(folder)
    lines = entries(subject, recorded)
    kept = anchors(lines, key)
    for earlier in (folder.parent.parent / WHOLE, folder / "ledger"):
        shutil.rmtree(earlier, ignore_errors=True)
    ledger.write_export(folder.parent.parent / WHOLE, lines, kept)
    ledger.write_export(folder / "ledger", lines[2:], kept[-1:])
    (folder / "dossier.html").write_text("<!doctype html><title>a page</title>")
    finish(folder)


def follow(folder: Path) -> None:
    """Write register and papers by the evidence that is there."""
    names = [name for name in evidence_names(folder) if name != OWN_NAME]
    write_evidence(folder, OWN_NAME, fill({name: read_evidence(folder, name) for name in names}).to_dict())
    for name, data in papers.make_all(papers.read_facts(folder)).items():
        (folder / papers.FOLDER).mkdir(exist_ok=True)
        (folder / papers.FOLDER / name).write_bytes(data)


def finish(folder: Path, *, key: Path | None = None) -> None:
    """Sign bundle and manifest over what is there, as the pipeline does; a forger does it with another ``key``."""
    signer = key or pipeline_key(folder)
    intoto.write_bundle(folder, key_file=signer)
    write_manifest(folder, release=folder.name)
    sign_manifest(folder, key_file=signer)


def pipeline_key(folder: Path) -> Path:
    """Return the pipeline's private key, beside the releases."""
    return ensure_key(folder.parent.parent / "keys" / "pipeline")


def trusted(folder: Path) -> tuple[PublicKey, ...]:
    """Return the pipeline's public key, from outside the release."""
    return (dsse.public_of(pipeline_key(folder)),)


def facts(folder: Path, subject: dict[str, Any]) -> dict[str, Any]:
    """Return what the store would know of the release."""
    times = dict.fromkeys(evidence_names(folder), OPENED.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return {
        "verdict": "pass",
        "summary": "version 7 is champion",
        "reasons": [],
        "release": folder.name,
        "model": subject["model"],
        "environment": "local",
        "attempt": 1,
        "status": "promoted",
        "handoff_digest": "cd" * 32,
        "model_digest": subject["model_digest"],
        "policy_digest": subject["policy_digest"],
        "opened_by": "cecilia@lab.example",
        "opened_at": OPENED.isoformat(),
        "closed_at": CLOSED.isoformat(),
        "supersedes": None,
        "collected": times,
        "papers": papers.FORMAT,
        "firstlight": "0.1.0",
    }


def entries(subject: dict[str, Any], recorded: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a ledger: two entries about another model, then this release from its opening to its end."""
    name, digest = subject["release"], subject["model_digest"]
    counted = [("sign-off", item) for item in recorded["accepted"]]
    counted += [("break-glass", recorded["break_glass"])] if recorded["break_glass"] else []
    told = [
        ("open-release", "e" * 64, "release other-1 opened", "flow"),
        ("close-release", "e" * 64, "release other-1 ended: failed", "flow"),
        ("open-release", digest, f"release {name} opened", "cecilia@lab.example"),
        *((what, item["digest"], f"release {name}: {what} by {item['name']}", item["email"]) for what, item in counted),
        ("promote", digest, "version 7 is champion", "flow"),
        ("close-release", digest, f"release {name} ended: promoted", "flow"),
    ]
    return chained(
        [{"model": subject["model"], "what": what, "digest": about, "detail": said, "by": who} for what, about, said, who in told]
    )


def chained(
    contents: Sequence[dict[str, Any]], *, key: ChainKey | None = LEDGER_KEY, start: str = chain.GENESIS, first: int = 1
) -> list[dict[str, Any]]:
    """Return entries with these contents, linked and sealed."""
    lines: list[dict[str, Any]] = []
    for place, content in enumerate(contents):
        fixed = {"sequence": first + place, "at": OPENED.timestamp() + 60.0 * place, "environment": "local", "adopted": False}
        entry = {**fixed, "key_id": key.id if key else None, **content}
        previous = lines[-1]["entry_digest"] if lines else start
        own = chain.entry_digest(previous, entry)
        lines.append({**entry, "previous": previous, "entry_digest": own, "seal": chain.seal(own, key) if key else None})
    return lines


def anchors(lines: Sequence[dict[str, Any]], key: Path) -> list[SignedAnchor]:
    """Return anchors of the second and of the last entry."""
    made: list[SignedAnchor] = []
    for line in (lines[1], lines[-1]):
        new = anchor.draft(sequence=line["sequence"], entry_digest=line["entry_digest"], before=made[-1] if made else None, now=CLOSED)
        made.append(anchor.sign(new, key_file=key))
    return made
