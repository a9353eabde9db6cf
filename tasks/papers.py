"""What a release's folder gets when its page is written: what the store knows of it, the register, the papers, its part of the ledger, the bundle."""

import importlib.metadata
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from firstlight.digest import write_atomic
from firstlight.errors import FirstlightError
from firstlight.settings import ROOT, Settings
from firstlight.verdict import Verdict
from governance import intoto, papers, software
from governance.evidence import evidence_names, evidence_path, read_evidence, write_evidence
from governance.manifest import sign_manifest, write_manifest
from governance.papers.facts import RELEASE
from governance.register import fill
from governance.register.filling import OWN_NAME as REGISTER
from governance.software import Software
from rollout.records import Release, ReleaseStatus
from rollout.store import Store
from tasks import anchoring, doors
from tasks.releases import OpenedRelease
from tasks.stages import stage

_VERDICTS = {ReleaseStatus.PROMOTED: Verdict.PASS, ReleaseStatus.FAILED: Verdict.FAIL}
_LOG = logging.getLogger(__name__)
_LOCK = ROOT / "requirements.lock"


@stage("environment", "List the software")
def list_software(release: OpenedRelease) -> Software:
    """List what is installed where this release is judged and, in the embedded default, served."""
    return software.installed("firstlight", lock=_LOCK)


def verdict_of(record: Release) -> Verdict:
    """Return the verdict of a release as a whole: *cannot tell* until it has ended with another."""
    return _VERDICTS.get(record.status, Verdict.CANNOT_TELL)


def write_all(settings: Settings, release: OpenedRelease) -> None:
    """Write everything of a release folder that follows from its evidence, in the order in which one rests on the other; again replaces it.

    Raises EvidenceError when the evidence cannot be read. What cannot be made for another reason (a key, a bucket) is left out and said in the log:
    the page must come, and `firstlight verify` finds what is missing.
    """
    folder = Path(release.folder)
    with doors.store(settings) as records:
        record = records.release(release.id)
        write_evidence(folder, RELEASE, describe(settings, records, record))
    write_evidence(folder, REGISTER, fill(_evidence(folder)).to_dict())
    for name, data in papers.make_all(papers.read_facts(folder)).items():
        with _said(f"paper {name}"):
            papers.check(name, data)
            write_atomic(folder / papers.FOLDER / name, data)
    with _said("this release's part of the ledger"):
        anchoring.export_for(release)
    with _said("the signed bundle"):
        intoto.write_bundle(folder, key_file=anchoring.key_file(settings))


def seal(settings: Settings, folder: Path, *, release: str) -> None:
    """Write the list of every file of a release folder, last of all, and sign it; without the key it stands unsigned, which `firstlight verify` says."""
    write_manifest(folder, release=release)
    with _said("the manifest's signature"):
        sign_manifest(folder, key_file=anchoring.key_file(settings))


@contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except FirstlightError as problem:
        _LOG.error("%s could not be written: %s", what, problem)


def describe(settings: Settings, records: Store, record: Release) -> dict[str, Any]:
    """Return what the store knows of a release, as evidence/release.json: papers take times and names from nothing else."""
    folder = settings.folder("releases", record.id)
    return {
        "verdict": verdict_of(record).value,
        "summary": record.summary or f"release {record.id} is {record.status.value}",
        "reasons": [],
        "release": record.id,
        "model": record.model,
        "environment": record.environment,
        "attempt": record.attempt,
        "status": record.status.value,
        "handoff_digest": record.handoff_digest,
        "model_digest": record.model_digest,
        "policy_digest": record.policy_digest,
        "opened_by": record.opened_by,
        "opened_at": _instant(record.opened_at),
        "closed_at": None if record.closed_at is None else _instant(record.closed_at),
        "supersedes": _superseded(settings, records, record),
        "collected": {name: _instant(evidence_path(folder, name).stat().st_mtime) for name in _collected(folder)},
        "papers": papers.FORMAT,
        "firstlight": importlib.metadata.version("firstlight"),
    }


def _collected(folder: Path) -> list[str]:
    """Names of the documents that stages left: what is written anew with every page has no time of its own."""
    return [name for name in evidence_names(folder) if name not in (RELEASE, REGISTER)]


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _evidence(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: read_evidence(folder, name) for name in evidence_names(folder) if name != REGISTER}


def _superseded(settings: Settings, records: Store, record: Release) -> str | None:
    """Return the decision (else the release) by which what served before this one was approved; None for a model's first."""
    history = records.history(record.environment, record.model)
    own = next((place for place, line in enumerate(history) if line.release_id == record.id), len(history))
    served = history[own - 1].version if own else None
    before = next((line for line in reversed(history[:own]) if line.version == served and line.release_id not in (None, record.id)), None)
    if before is None or before.release_id is None:
        return None
    try:
        subject = json.loads((settings.state / "releases" / before.release_id / "subject.json").read_bytes())
    except (OSError, ValueError):
        subject = {}
    number = subject.get("decision_id")
    return f"{number} (release {before.release_id})" if number else f"release {before.release_id}"
