"""Papers of a release, made from its evidence and from nothing else: model card, bill of materials, OSCAL results, AISIA, decision log.

Every function here is pure: the same folder gives the same bytes, so that `firstlight verify` makes them again and compares.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from governance.documents import read_bounded
from governance.errors import EvidenceError, GovernanceError
from governance.papers import aisia, decision_log, mlbom, model_card, oscal
from governance.papers.facts import NO_EVIDENCE, PaperFacts, read_facts

__all__ = ["FOLDER", "FORMAT", "NO_EVIDENCE", "PAPERS", "PaperFacts", "check", "differences", "make_all", "read_facts"]

FORMAT = "firstlight/papers/v1"
"""How papers are made from evidence. It stands in evidence/release.json; whoever changes a byte of what `make` gives for old evidence raises it."""

FOLDER = "papers"

PAPERS: dict[str, Callable[[PaperFacts], bytes]] = {
    "model-card.yaml": model_card.make,
    "model-card.html": model_card.make_page,
    "mlbom.cdx.json": mlbom.make,
    "assessment-results.oscal.json": oscal.make,
    "aisia.html": aisia.make,
    "decision-log.md": decision_log.make,
}
"""File in papers/ -> what makes it."""

_CHECKS = {"model-card.yaml": model_card.check, "mlbom.cdx.json": mlbom.check, "assessment-results.oscal.json": oscal.check}
_SIZE_LIMIT = 16 << 20


def make_all(facts: PaperFacts) -> dict[str, bytes]:
    """Return every paper by its file name. Raises EvidenceError when no document names the release or a time."""
    return {name: make(facts) for name, make in PAPERS.items()}


def check(name: str, data: bytes) -> None:
    """Raise EvidenceError when a paper that has a schema does not follow it; slow the first time (a second)."""
    if name in _CHECKS:
        _CHECKS[name](data)


def differences(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (where, what) for every paper in the release ``folder`` that is not what its evidence gives. Never raises on what is in the folder.

    A release made by another version of the papers is not compared: its papers are held by the bundle and the manifest alone.
    """
    if not (folder / FOLDER).is_dir():
        yield FOLDER, "missing: a release that was described has its papers"
        return
    try:
        facts = read_facts(folder)
        if facts.at("release.papers") != FORMAT:
            return
        made = make_all(facts)
    except (GovernanceError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as problem:
        yield FOLDER, f"cannot be made again from the evidence: {str(problem).splitlines()[0] if str(problem) else type(problem).__name__}"
        return
    present = {path.name for path in (folder / FOLDER).iterdir()}
    for name in sorted(present - made.keys()):
        yield f"{FOLDER}/{name}", "is no paper of a release: somebody put it there"
    for name, data in made.items():
        yield from _compared(folder / FOLDER / name, data)


def _compared(path: Path, data: bytes) -> Iterator[tuple[str, str]]:
    where = f"{FOLDER}/{path.name}"
    try:
        found = read_bounded(path, EvidenceError, limit=_SIZE_LIMIT)
    except EvidenceError as problem:
        yield where, str(problem)
        return
    if found != data:
        line = next(
            (place for place, (one, other) in enumerate(zip(found.split(b"\n"), data.split(b"\n"), strict=False), 1) if one != other), 0
        )
        yield where, f"is not what the evidence gives: it differs from line {line or 'its end'} on"
