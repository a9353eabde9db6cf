"""What lies in a release folder beside its evidence and belongs on the page: papers, the signed bundle, the release's part of the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from firstlight.verdict import Verdict
from governance import ledger
from governance.dossier.view import cell
from governance.errors import GovernanceError
from governance.intoto import BUNDLE_FILE, PUBLIC_KEY_FILE

LEDGER_FOLDER = "ledger"
PAPERS_FOLDER = "papers"
MOST_ENTRIES = 40
"""Entries of the ledger on the page, the newest; all of them are in the file."""

_PAPERS = {
    "model-card.html": ("Model card", "who made it, for what, how good it is and where it is not; in the lab's schema"),
    "model-card.yaml": ("Model card, for programs", "the same as YAML"),
    "aisia.html": ("AI system impact assessment", "in seven sections"),
    "decision-log.md": ("Decision-log entry", "what was decided, by whom, and why"),
    "mlbom.cdx.json": ("Bill of materials", "model, data and software with their digests; CycloneDX 1.6"),
    "assessment-results.oscal.json": ("Assessment results", "findings and risks for other programs; OSCAL"),
}
"""File in papers/ -> its name on the page and what is in it, in reading order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """One paper that is there."""

    href: str
    """Relative to the page."""
    title: str
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of the ledger, in words."""

    sequence: str
    at: str
    what: str
    by: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerPart:
    """The part of the ledger that was exported with the release."""

    entries: tuple[Entry, ...]
    """The newest first."""
    count: int
    first: str
    last: str
    head: str
    """Digest of the last entry."""
    anchors: tuple[str, ...]
    problem: str
    """Why it cannot be shown; empty when it can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """Everything of it."""

    papers: tuple[Paper, ...]
    ledger: LedgerPart | None
    bundle: str
    """Name of the signed bundle; empty where there is none."""
    public_key: str
    """Name of the pipeline's public key; empty where there is none."""


def read_beside(folder: Path) -> Beside:
    """Return what lies in the release ``folder`` beside its evidence. What cannot be read is said on the page, it never keeps the page from being made."""
    papers = tuple(
        Paper(href=f"{PAPERS_FOLDER}/{name}", title=title, what=what)
        for name, (title, what) in _PAPERS.items()
        if (folder / PAPERS_FOLDER / name).is_file()
    )
    here = [name if (folder / name).is_file() else "" for name in (BUNDLE_FILE, PUBLIC_KEY_FILE)]
    return Beside(papers=papers, ledger=_ledger(folder / LEDGER_FOLDER), bundle=here[0], public_key=here[1])


def _ledger(folder: Path) -> LedgerPart | None:
    if not (folder / ledger.ENTRIES_FILE).exists():
        return None
    try:
        lines, anchors = ledger.read_export(folder)
    except GovernanceError as problem:
        return LedgerPart(entries=(), count=0, first="", last="", head="", anchors=(), problem=str(problem))
    last: Mapping[str, Any] = lines[-1] if lines else {}
    return LedgerPart(
        entries=tuple(_entry(line) for line in reversed(lines[-MOST_ENTRIES:])),
        count=len(lines),
        first=cell(lines[0].get("sequence")) if lines else "",
        last=cell(last.get("sequence")),
        head=cell(last.get("entry_digest")),
        anchors=tuple(one.name.lstrip("0") or "0" for one in anchors),
        problem="",
    )


def _entry(line: Mapping[str, Any]) -> Entry:
    return Entry(
        sequence=cell(line.get("sequence")),
        at=_moment(line.get("at")),
        what=cell(line.get("what")),
        by=cell(line.get("by")),
        detail=cell(line.get("detail")),
    )


def _moment(value: Any) -> str:
    try:
        return datetime.fromtimestamp(float(value), UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (TypeError, ValueError, OverflowError, OSError):
        return Verdict.CANNOT_TELL.value
