"""Ledgers made without a store, and what a forger does to them: with a text editor, and with a program that makes the digests again."""

from collections.abc import Mapping, Sequence
from typing import Any

from firstlight import chain
from firstlight.chain import ChainKey

KEY, NEXT_KEY, FOREIGN_KEY = ChainKey(b"the ledger's key"), ChainKey(b"the one after it"), ChainKey(b"a forger's own key")

Line = dict[str, Any]


def entry(sequence: int, **changes: Any) -> Line:
    """The content of one entry, unlinked."""
    made = {"sequence": sequence, "at": 1_795_000_000.25 + sequence, "environment": "local", "model": "desi-vae", "what": "traffic"}
    made |= {
        "digest": f"{sequence:064x}",
        "detail": f"{sequence} % zum Kanarienvogel é",
        "by": "ada@lab",
        "adopted": False,
        "key_id": KEY.id,
    }
    return {**made, **changes}


def linked(
    entries: Sequence[Mapping[str, Any]], *, keys: Mapping[str, ChainKey] | None = None, previous: str = chain.GENESIS
) -> list[Line]:
    """Link and seal entries as the store does; an entry without a ``key_id``, or with one that is not among ``keys``, has no seal of its own."""
    known = {KEY.id: KEY, NEXT_KEY.id: NEXT_KEY} if keys is None else keys
    lines = []
    for one in entries:
        digest = chain.entry_digest(previous, one)
        key = known.get(one["key_id"] or "")
        seal = chain.seal(digest, key) if key else one.get("seal")
        lines.append({**{name: one[name] for name in chain.CONTENT}, "previous": previous, "entry_digest": digest, "seal": seal})
        previous = digest
    return lines


def ledger(count: int) -> list[Line]:
    """A whole ledger of so many entries."""
    return linked([entry(number) for number in range(1, count + 1)])


def rotated(count: int, at: int) -> list[Line]:
    """A ledger whose entry ``at`` hands over from KEY to NEXT_KEY."""
    words = {"what": chain.ROTATION, "digest": chain.handover(KEY.id, NEXT_KEY.id)}
    numbers = range(1, count + 1)
    return linked([entry(one, **words) if one == at else entry(one, key_id=(KEY if one < at else NEXT_KEY).id) for one in numbers])


def forged(lines: Sequence[Line], *, since: int = 0) -> list[Line]:
    """Number and link ``lines`` from place ``since`` on again, as one can who has the database and not the key: the seals stay as they were."""
    kept = list(lines[:since])
    before = kept[-1] if kept else None
    again = [{**line, "sequence": number} for number, line in enumerate(lines[since:], start=before["sequence"] + 1 if before else 1)]
    return kept + linked(again, keys={}, previous=before["entry_digest"] if before else chain.GENESIS)


def kinds(found: Sequence[chain.Break]) -> dict[int, set[str]]:
    """What was found, as sequence -> kinds."""
    told: dict[int, set[str]] = {}
    for one in found:
        told.setdefault(one.sequence, set()).add(one.what.partition(":")[0])
    return told
