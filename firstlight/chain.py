"""A keyed hash chain: entries that cannot be changed, moved, added or taken away unseen.

Each entry states the digest of the one before it, and its own: sha256 over the canonical JSON of both (``firstlight.digest``). That much
anybody can check, and a forger can make again from the changed entry on. So each digest is also sealed with HMAC-SHA256 (RFC 2104, FIPS
198-1): a holder of the key can check that nobody without it wrote an entry. Neither shows that the last entries were cut off: for that a
head is kept elsewhere (``governance.anchor``). After Schneier and Kelsey 1999, Secure audit logs, and Haber and Stornetta 1991.

Pure; knows nothing of databases, files or time.
"""

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from firstlight.digest import canonical_json, sha256_bytes, sha256_json

GENESIS = "0" * 64
"""What the first entry states as the digest of the one before it."""
CONTENT = ("sequence", "at", "environment", "model", "what", "digest", "detail", "by", "adopted", "key_id")
"""The fields an entry's digest is over, beside ``previous``."""
FIELDS = (*CONTENT, "previous", "entry_digest", "seal")
"""Every field of an entry."""
ROTATION = "rotate-ledger-key"
"""The entry after which another key seals."""
REPLACEMENT = "replace-ledger-key"
"""The entry with which a key takes over from one that was lost: no key but its own seals it, and every check says so."""
SMALLEST_SECRET = 16
"""Bytes; FIPS 198-1 wants a key with the security strength that is asked for."""

_TYPES: dict[str, tuple[type, ...]] = {
    "sequence": (int,),
    "at": (float,),
    "adopted": (bool,),
    "key_id": (str, type(None)),
    "seal": (str, type(None)),
}
_DIGESTS = ("previous", "entry_digest")


@dataclass(frozen=True, slots=True)
class ChainKey:
    """A secret that seals entries. Its id may be known to everybody."""

    secret: bytes = field(repr=False)
    id: str = field(init=False)
    """16 hex digits of the secret's sha256."""

    def __post_init__(self) -> None:
        """Raise ValueError for a secret that could be guessed."""
        if len(self.secret) < SMALLEST_SECRET:
            raise ValueError(f"a ledger key must have {SMALLEST_SECRET} bytes or more, got {len(self.secret)}")
        object.__setattr__(self, "id", sha256_bytes(self.secret)[:16])


@dataclass(frozen=True, order=True, slots=True)
class Break:
    """One place where a chain does not hold."""

    sequence: int
    """The entry at which it shows."""
    what: str
    """One sentence, which begins with the kind: edited, reordered, inserted, deleted, not linked, not sealed, wrong seal, wrong key, not an entry."""

    def __str__(self) -> str:
        """One sentence with its place."""
        return f"entry {self.sequence}: {self.what}"


def entry_digest(previous: str, entry: Mapping[str, Any]) -> str:
    """Return the sha256 (64 hex digits) of the canonical JSON of ``{"previous": …}`` and the entry's fields of :data:`CONTENT`.

    Raises KeyError for an absent field, ValueError or TypeError for a value that JSON does not have.

    >>> entry = dict.fromkeys(CONTENT, "x")
    >>> entry_digest(GENESIS, entry) == entry_digest(GENESIS, {**entry, "seal": "not part of it"})
    True
    """
    return sha256_json({"previous": previous, **{name: entry[name] for name in CONTENT}})


def seal(digest: str, key: ChainKey) -> str:
    """Return the HMAC-SHA256 of an entry's digest (its 64 hex digits as ASCII), as 64 hex digits."""
    return hmac.new(key.secret, digest.encode("ascii"), hashlib.sha256).hexdigest()


def handover(before: str, after: str) -> str:
    """Return what a :data:`ROTATION` entry is about: the sha256 of the two keys' ids."""
    return sha256_json({"from": before, "to": after})


def broken(
    lines: Sequence[Mapping[str, Any]], *, keys: Sequence[ChainKey] = (), start: str | None = GENESIS, first: int = 1
) -> list[Break]:
    """Return every place where ``lines`` are not the chain that begins with entry ``first`` after digest ``start``, in order; [] when they are.

    ``start`` None takes the first line's word for what stood before it (a part of a ledger). ``keys`` are those whose seals are checked;
    without any the seals are not. Never raises, whatever the lines hold. A chain that was cut off at its end holds: compare its head.
    """
    whole: list[Mapping[str, Any]] = []
    found: list[Break] = []
    for place, line in enumerate(lines):
        wrong = _malformed(line)
        if wrong:
            found.append(Break(first + place, f"not an entry: {wrong}"))
        else:
            whole.append(line)
    found += [Break(line["sequence"], "edited: its content does not have the digest that it states") for line in whole if _is_edited(line)]
    found += _out_of_order(whole)
    straight = _straight(whole)
    found += _gaps(straight, first=first)
    found += _unlinked(straight, start=start, first=first)
    found += _sealing(straight, {key.id: key for key in keys})
    return sorted(set(found))


def _malformed(line: object) -> str:
    """Return what is wrong with the form of an entry; empty when nothing is."""
    if not isinstance(line, Mapping):
        return "it is not an object"
    absent, foreign = sorted(set(FIELDS) - set(line)), sorted(str(name) for name in set(line) - set(FIELDS))
    if absent or foreign:
        return "; ".join((f"it lacks {', '.join(absent)}",) * bool(absent) + (f"it has {', '.join(foreign)[:80]}",) * bool(foreign))
    odd = [name for name in FIELDS if type(line[name]) not in _TYPES.get(name, (str,))]
    odd += [name for name in _DIGESTS if name not in odd and not re.fullmatch("[0-9a-f]{64}", line[name])]
    if odd:
        return f"{', '.join(odd)} must be of another form"
    try:
        canonical_json(dict(line))
    except ValueError:  # NaN, infinity, half a surrogate pair
        return "it has a value that JSON does not have"
    return ""


def _is_edited(line: Mapping[str, Any]) -> bool:
    return entry_digest(line["previous"], line) != str(line["entry_digest"])


def _out_of_order(lines: Sequence[Mapping[str, Any]]) -> Iterator[Break]:
    """Yield what stands behind an entry that it should stand before, and what stands there twice."""
    seen: set[int] = set()
    highest = 0
    for line in lines:
        number = line["sequence"]
        if number in seen:
            yield Break(number, f"inserted: there is an entry {number} already")
        elif number < highest:
            yield Break(number, f"reordered: it stands after entry {highest}")
        seen.add(number)
        highest = max(highest, number)


def _straight(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return one entry for each number, by number; of two with one number that which the others are linked with."""
    linked = {line["previous"] for line in lines}
    by_number: dict[int, Mapping[str, Any]] = {}
    for line in lines:
        other = by_number.get(line["sequence"])
        if other is None or (line["entry_digest"] in linked and other["entry_digest"] not in linked):
            by_number[line["sequence"]] = line
    return [by_number[number] for number in sorted(by_number)]


def _gaps(lines: Sequence[Mapping[str, Any]], *, first: int) -> Iterator[Break]:
    expected = first
    for line in lines:
        number = line["sequence"]
        if number > expected:
            last = number - 1
            many = f"entries {expected} to {last} are" if last > expected else f"entry {expected} is"
            yield Break(expected, f"deleted: {many} not there, entry {number} is")
        elif number < expected:
            yield Break(number, f"inserted: the chain begins with entry {first}")
        expected = max(expected, number + 1)


def _unlinked(lines: Sequence[Mapping[str, Any]], *, start: str | None, first: int) -> Iterator[Break]:
    if start is not None and lines and lines[0]["sequence"] == first and lines[0]["previous"] != start:
        yield Break(first, "not linked: it states another digest for what stood before it")
    for before, line in pairwise(lines):
        if line["sequence"] == before["sequence"] + 1 and line["previous"] != before["entry_digest"]:
            yield Break(
                line["sequence"],
                f"not linked: it follows another entry {before['sequence']} than this; one of the two was edited or replaced",
            )


def _sealing(lines: Sequence[Mapping[str, Any]], keys: Mapping[str, ChainKey]) -> Iterator[Break]:
    """Yield entries that nobody, or another key than the one in force, has sealed. Those of before there were seals stand at the beginning."""
    in_force: str | None = None
    successor: str | None = None  # what the last rotation named
    begun = False
    for line in lines:
        number, key_id = line["sequence"], line["key_id"]
        if line["adopted"] and key_id is None and not begun:
            continue
        begun = True
        if key_id is None or line["seal"] is None:
            if keys or in_force is not None:
                yield Break(number, "not sealed: no holder of the ledger's key wrote it")
            continue
        if in_force is not None and key_id != in_force and handover(in_force, key_id) != successor:
            yield Break(number, f"wrong key: it is sealed with key {key_id}, and key {in_force} was in force")
        elif successor is not None and key_id == in_force:
            yield Break(number, f"wrong key: it is sealed with key {key_id}, which another one had followed")
        if keys and key_id not in keys:
            yield Break(number, f"wrong key: it is sealed with key {key_id}, which is not among those given ({', '.join(keys)})")
        elif keys and not hmac.compare_digest(seal(line["entry_digest"], keys[key_id]).encode(), line["seal"].encode()):
            yield Break(number, f"wrong seal: it was not sealed with key {key_id}")
        in_force, successor = key_id, line["digest"] if line["what"] == ROTATION else None
    if lines and keys and not begun:
        yield Break(lines[-1]["sequence"], "not sealed: no holder of the ledger's key vouches for what was adopted")
