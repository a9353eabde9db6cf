"""Check the ledger, or an exported part of it, offline: the chain, its seals, and the anchors that were kept elsewhere.

What each of them finds, and who can get round it: docs/ledger.md. Exported, a ledger is a folder with ``entries.jsonl`` (one entry a
line, canonical JSON) and ``anchors/``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight import chain
from firstlight.chain import ChainKey
from firstlight.digest import canonical_json, write_atomic
from governance import anchor as anchors_of
from governance.anchor import Anchor, SignedAnchor
from governance.documents import parse_json, read_bounded
from governance.errors import GovernanceError, LedgerError
from governance.sshsig import PublicKey

ENTRIES_FILE = "entries.jsonl"
ANCHORS_FOLDER = "anchors"
EXPORT_LIMIT = 1 << 30
"""Bytes of an exported ledger; a busy year has some ten million."""
MOST_ANCHORS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerFinding:
    """One thing that is not as it must be."""

    where: str
    """``entry 7``, ``anchor 000000012``."""
    what: str
    """One sentence."""

    def __str__(self) -> str:
        """One sentence with its place."""
        return f"{self.where}: {self.what}"


def check(
    lines: Sequence[Mapping[str, Any]],
    anchors: Sequence[SignedAnchor],
    *,
    trusted: Sequence[PublicKey],
    keys: Sequence[ChainKey] = (),
    whole: bool = True,
) -> list[LedgerFinding]:
    """Return everything that is wrong with ``lines`` (parsed entries) and their ``anchors``, in order; [] when nothing is.

    ``trusted``: the pipeline keys whose anchors count. ``keys``: those of the seals; without any they are not checked. ``whole``: the
    lines are the whole ledger; else the part that begins with their first entry. Never raises, whatever the lines and anchors hold.
    """
    first = 1 if whole else _first(lines)
    start = chain.GENESIS if first == 1 else None
    broken = chain.broken(lines, keys=keys, start=start, first=first)
    found = [LedgerFinding(where=f"entry {one.sequence}", what=one.what) for one in broken]
    read: dict[str, Anchor] = {}
    for signed in anchors:
        try:
            read[signed.digest] = anchors_of.read(signed, trusted=trusted)
        except GovernanceError as problem:
            found.append(LedgerFinding(where=f"anchor {signed.name}", what=str(problem)))
    found += _unchained(read, whole=whole)
    found += _contradicted(lines, list(read.values()), first=first)
    return found


def _first(lines: Sequence[Mapping[str, Any]]) -> int:
    number = lines[0].get("sequence") if lines and isinstance(lines[0], Mapping) else None
    return number if type(number) is int and number > 0 else 1


def _unchained(read: Mapping[str, Anchor], *, whole: bool) -> Iterator[LedgerFinding]:
    """Yield anchors that name one before them that is not there. Two made at once may name the same one."""
    by_sequence = sorted(read.values(), key=lambda one: one.sequence)
    for place, one in enumerate(by_sequence):
        before = read.get(one.previous_anchor)
        if one.previous_anchor == chain.GENESIS or (place == 0 and not whole):
            continue
        if before is None:
            yield LedgerFinding(
                where=f"anchor {one.name}", what="the anchor before it, which it names, is not there: it was taken away or changed"
            )
        elif before.sequence >= one.sequence:
            yield LedgerFinding(where=f"anchor {one.name}", what=f"it names anchor {before.name} as the one before it")


def _contradicted(lines: Sequence[Mapping[str, Any]], anchors: Sequence[Anchor], *, first: int) -> Iterator[LedgerFinding]:
    """Yield what was anchored and is not so."""
    whole = [line for line in lines if isinstance(line, Mapping) and type(line.get("sequence")) is int]
    digests = {line["sequence"]: line.get("entry_digest") for line in whole}
    last = max(digests, default=0)
    if first > 1 and first in digests:
        digests.setdefault(first - 1, next(line.get("previous") for line in whole if line["sequence"] == first))
    agrees = "no anchor before it is about these entries"
    for one in sorted(anchors, key=lambda one: one.sequence):
        where = f"entry {one.sequence}"
        if one.sequence > last:
            said = f"cut off: it was there on {one.at}, as anchor {one.name} says, and the ledger ends with entry {last}"
            yield LedgerFinding(where=where, what=f"{said}; {agrees}")
        elif one.sequence in digests and digests[one.sequence] != one.entry_digest:
            said = f"replaced: it was another one on {one.at}, as anchor {one.name} says"
            yield LedgerFinding(where=where, what=f"{said}; {agrees}")
        elif one.sequence in digests:
            agrees = f"up to entry {one.sequence} the ledger is as it was anchored"


def write_export(folder: Path, lines: Sequence[Mapping[str, Any]], anchors: Sequence[SignedAnchor]) -> None:
    """Write ``entries.jsonl`` and ``anchors/`` into ``folder``, over what is there. Raises OSError."""
    write_atomic(folder / ENTRIES_FILE, b"".join(canonical_json(dict(line)) + b"\n" for line in lines))
    for signed in anchors:
        for name, data in signed.files.items():
            write_atomic(folder / ANCHORS_FOLDER / name, data)


def read_export(folder: Path) -> tuple[list[dict[str, Any]], list[SignedAnchor]]:
    """Return the entries and the anchors of an exported ledger, checked in nothing but their form. Raises LedgerError."""
    data = read_bounded(folder / ENTRIES_FILE, LedgerError, limit=EXPORT_LIMIT)
    return [_line(line) for line in data.splitlines() if line.strip()], read_anchors(folder / ANCHORS_FOLDER)


def read_anchors(folder: Path) -> list[SignedAnchor]:
    """Return the anchors in ``folder``, by sequence; none where there is no folder. Raises LedgerError for what cannot be read."""
    paths = sorted(path for path in folder.glob("*.json*") if path.name.endswith((anchors_of.SUFFIX, anchors_of.SIGNATURE_SUFFIX)))
    if len(paths) > 2 * MOST_ANCHORS:
        raise LedgerError(f"{folder} must hold at most {MOST_ANCHORS} anchors, found more: it is not the folder of a ledger")
    return anchors_of.paired({path.name: read_bounded(path, LedgerError, limit=anchors_of.SIZE_LIMIT) for path in paths})


def _line(line: bytes) -> dict[str, Any]:
    """Return an entry; what is no JSON object becomes an empty one, which the check of the chain names with its place."""
    try:
        found = parse_json(line, ENTRIES_FILE, LedgerError)
    except LedgerError:
        return {}
    return found if isinstance(found, dict) else {}
