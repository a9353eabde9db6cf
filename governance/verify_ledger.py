"""The ledger as far as it was given: the part in a release folder, or a whole one that was exported; nothing of it edited, moved, added or cut off."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstlight.chain import ChainKey
from governance import ledger, sshsig
from governance.anchor import SignedAnchor
from governance.errors import GovernanceError
from governance.sshsig import PublicKey
from governance.subject import Subject
from governance.verification import Finding, Notes

FOLDER = "ledger"
"""Where a release folder keeps its part."""
_COUNTED, _GLASS = "sign-off", "break-glass"
"""Entries that a statement leaves when it is counted."""


def check_part(
    folder: Path, subject: Subject, recorded: Mapping[str, Any], *, trusted: Sequence[PublicKey], keys: Sequence[ChainKey], notes: Notes
) -> None:
    """The release's part of the ledger is whole, and tells of its opening and of every statement that was counted."""
    try:
        lines, anchors = ledger.read_export(folder / FOLDER)
    except GovernanceError as problem:
        notes.wrong(FOLDER, str(problem))
        return
    found = _checked(lines, anchors, trusted=trusted, keys=keys, whole=False)
    found += [*_untold(lines, subject, recorded)]
    notes.part(found, _said(lines, anchors, keys))


def check_export(folder: Path, *, trusted: Sequence[PublicKey] | None, keys: Sequence[ChainKey], notes: Notes) -> None:
    """An exported ledger is as it was written; ``trusted`` None believes the keys that its anchors name."""
    try:
        lines, anchors = ledger.read_export(folder)
    except GovernanceError as problem:
        notes.wrong(ledger.ENTRIES_FILE, str(problem))
        return
    if trusted is None:
        trusted = named_keys(anchors)
        notes.believe(
            f"the pipeline keys that the anchors name ({', '.join(key.fingerprint for key in trusted) or 'none'}); give your own with --pipeline-keys"
        )
    if not anchors:
        notes.believe("that nothing was cut off at the end: there are no anchors, so nothing would show it")
    whole = bool(lines) and lines[0].get("sequence") == 1
    if not lines:
        notes.wrong(ledger.ENTRIES_FILE, "must hold at least one entry, found none")
    notes.part(_checked(lines, anchors, trusted=trusted, keys=keys, whole=whole), _said(lines, anchors, keys))


def named_keys(anchors: Sequence[SignedAnchor]) -> tuple[PublicKey, ...]:
    """Return the keys that the signatures of ``anchors`` name, each once."""
    found: dict[str, PublicKey] = {}
    for one in anchors:
        try:
            key = sshsig.parse(one.signature).key
        except GovernanceError:
            continue
        found.setdefault(key.fingerprint, key)
    return tuple(found.values())


def _checked(
    lines: Sequence[Mapping[str, Any]],
    anchors: Sequence[SignedAnchor],
    *,
    trusted: Sequence[PublicKey],
    keys: Sequence[ChainKey],
    whole: bool,
) -> list[Finding]:
    found = ledger.check(lines, anchors, trusted=trusted, keys=keys, whole=whole)
    return [Finding(where=f"{ledger.ENTRIES_FILE}, {one.where}", what=one.what) for one in found]


def _untold(lines: Sequence[Mapping[str, Any]], subject: Subject, recorded: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what the release claims and its part of the ledger does not tell."""
    first = lines[0] if lines else {}
    if (first.get("what"), first.get("detail")) != ("open-release", f"release {subject.release} opened"):
        yield Finding(where=ledger.ENTRIES_FILE, what=f"must begin with the opening of release {subject.release}, it does not")
    told = {(str(line.get("what")), str(line.get("digest"))) for line in lines}
    glass = recorded.get("break_glass")
    claimed = [(_COUNTED, item) for item in recorded.get("accepted") or ()] + ([(_GLASS, glass)] if glass else [])
    for what, item in claimed:
        if isinstance(item, Mapping) and (what, str(item.get("digest"))) not in told:
            yield Finding(
                where=ledger.ENTRIES_FILE,
                what=f"must tell of the {what} in signoffs/{item.get('source')}, it does not: it was not counted then",
            )


def _said(lines: Sequence[Mapping[str, Any]], anchors: Sequence[SignedAnchor], keys: Sequence[ChainKey]) -> str:
    numbers = [line["sequence"] for line in lines if type(line.get("sequence")) is int]
    span = f"{len(lines)} entries of the ledger ({min(numbers)} to {max(numbers)})" if numbers else "no entries"
    last = max((int(one.name) for one in anchors), default=0)
    until = (
        f"nothing up to entry {last} was cut off or written anew, by {len(anchors)} signed anchor{'s' if len(anchors) > 1 else ''}"
        if anchors
        else "no anchor is about them"
    )
    seals = "every seal holds" if keys else "their seals were not checked (that needs the ledger's key)"
    return f"{span} are one chain; {until}; {seals}"
