"""What papers are made from: the documents of one release folder and nothing else, so that whoever has the folder can make them again.

A paper never holds a value of its own: it asks for a place in the evidence and gets a :class:`Claim`, which knows where it came from and
says :data:`NO_EVIDENCE` where there is nothing.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from firstlight.digest import sha256_bytes
from governance.documents import parse_json, read_bounded
from governance.errors import EvidenceError
from governance.evidence import SIZE_LIMIT, evidence_names, evidence_path
from governance.policy import parse_risk_policy
from governance.scenario import MISSING, look_up
from governance.subject import APPROVERS_FILE, POLICY_FILE, SUBJECT_FILE

NO_EVIDENCE = "no evidence yet"
RELEASE = "release"
"""Evidence document with what the store knows of the release; see :func:`tasks.papers.describe_release`."""
WAIVERS = "waivers"
"""Folder of the waivers that were counted; the risk assessment says what of them it used."""

_LONGEST = 4000
_ORDER = (
    RELEASE,
    "hand_off",
    "golden",
    "registration",
    "environment",
    "data",
    "evaluation",
    "bias",
    "backend",
    "benchmark",
    "serving",
    "previous_drift",
    "risk",
    "register",
    "sign_off",
    "rehearsal",
    "canary",
    "promotion",
    "drift",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One value in a paper and the places in the evidence that it came from."""

    value: Any
    """Plain JSON value; :data:`NO_EVIDENCE` where there is none."""
    sources: tuple[str, ...] = ()
    """Dotted paths, document first."""

    @property
    def is_known(self) -> bool:
        """Whether there was evidence."""
        return bool(self.value != NO_EVIDENCE)

    def __str__(self) -> str:
        """The value in words."""
        return words(self.value)


@dataclass(frozen=True, kw_only=True)
class PaperFacts:
    """The documents of one release."""

    evidence: Mapping[str, Mapping[str, Any]]
    """Name -> document of evidence/."""
    digests: Mapping[str, str]
    """Name in the release folder (evidence/risk.json, policy.yaml, …) -> sha256 of its bytes."""
    subject: Mapping[str, Any] = field(default_factory=dict)
    """subject.json; empty before people are asked."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """The risk section of policy.yaml; empty before people are asked."""

    def at(self, path: str) -> Any:
        """Return the value at ``path`` (document, then keys; ``subject.…`` and ``policy.…`` too), or MISSING."""
        beside = {"subject": self.subject, "policy": self.policy}
        return look_up(beside if path.partition(".")[0] in beside else self.evidence, path)

    def claim(self, path: str) -> Claim:
        """Return what the evidence says at ``path``; an empty text, list or mapping says nothing, nor do ``none`` and ``unknown``."""
        value = self.at(path)
        return Claim(value=NO_EVIDENCE if value is MISSING or value in ("", "none", "unknown", [], {}) else tidy(value), sources=(path,))

    def first(self, *paths: str) -> Claim:
        """Return the first claim that has evidence; that of the last path when none has."""
        claims = [self.claim(path) for path in paths]
        return next((claim for claim in claims if claim.is_known), claims[-1])

    def said(self, *paths: str, between: str = "; ") -> Claim:
        """Return the texts at ``paths`` that are there, joined; NO_EVIDENCE when none is."""
        found = [claim for claim in map(self.claim, paths) if claim.is_known]
        if not found:
            return Claim(value=NO_EVIDENCE, sources=paths)
        return Claim(value=between.join(str(claim) for claim in found), sources=tuple(claim.sources[0] for claim in found))

    def phrase(self, template: str, *paths: str) -> Claim:
        """Return ``template`` with the texts at ``paths`` put in its ``{}``; NO_EVIDENCE unless every one is there."""
        found = [self.claim(path) for path in paths]
        known = all(claim.is_known for claim in found)
        return Claim(value=template.format(*map(str, found)) if known else NO_EVIDENCE, sources=paths)

    def rows(self, path: str) -> list[Mapping[str, Any]]:
        """Return the rows of the table at ``path``; none where there is no such table."""
        value = self.at(path)
        return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []

    def mapping(self, path: str) -> Mapping[str, Any]:
        """Return the mapping at ``path``, empty where there is none."""
        value = self.at(path)
        return value if isinstance(value, Mapping) else {}

    @property
    def documents(self) -> list[str]:
        """Names of the evidence documents, in the order of the story."""
        known = [name for name in _ORDER if name in self.evidence]
        return known + sorted(self.evidence.keys() - set(known))

    @property
    def release(self) -> str:
        """The release's id. Raises EvidenceError when no document names it."""
        for path in ("release.release", "subject.release"):
            value = self.at(path)
            if isinstance(value, str) and value:
                return line(value)
        raise EvidenceError(f"papers must be of one release, found none named in evidence/{RELEASE}.json: run the release again")

    def uuid(self, *parts: str) -> UUID:
        """Return the UUID (version 5) of a part of this release: the same every time."""
        return uuid5(NAMESPACE_URL, "/".join(("urn:firstlight", self.release, *parts)))

    def collected(self, name: str) -> str:
        """Return when evidence document ``name`` was written (RFC 3339, UTC); when the release was last described, if nothing says."""
        return instant(self.mapping("release.collected").get(name)) or self.moment

    @property
    def opened(self) -> str:
        """When the release was opened (RFC 3339, UTC)."""
        return instant(self.at("release.opened_at")) or self.moment

    @property
    def moment(self) -> str:
        """The latest time that the evidence names: when papers say they were made. Raises EvidenceError when it names none."""
        named = [*self.mapping("release.collected").values(), self.at("release.opened_at"), self.at("release.closed_at")]
        found = [moment for moment in map(instant, [*named, self.at("sign_off.decided_at")]) if moment]
        if not found:
            raise EvidenceError(f"papers must say when, found no time in evidence/{RELEASE}.json: run the release again")
        return max(found)


def read_facts(folder: Path) -> PaperFacts:
    """Return what the papers of the release in ``folder`` are made from. Raises EvidenceError or PolicyError when a document cannot be read."""
    evidence: dict[str, Mapping[str, Any]] = {}
    digests: dict[str, str] = {}
    for name in evidence_names(folder):
        evidence[name], digests[f"evidence/{name}.json"] = _read(evidence_path(folder, name))
    beside = {
        name: read_bounded(folder / name, EvidenceError) for name in (SUBJECT_FILE, POLICY_FILE, APPROVERS_FILE) if (folder / name).exists()
    }
    digests |= {name: sha256_bytes(data) for name, data in beside.items()}
    for path in sorted((folder / WAIVERS).glob("*.json")):
        digests[f"{WAIVERS}/{path.name}"] = sha256_bytes(read_bounded(path, EvidenceError))
    return PaperFacts(
        evidence=evidence,
        digests=digests,
        subject=_object(beside[SUBJECT_FILE], SUBJECT_FILE) if SUBJECT_FILE in beside else {},
        policy=parse_risk_policy(beside[POLICY_FILE], POLICY_FILE).model_dump(mode="json") if POLICY_FILE in beside else {},
    )


def _read(path: Path) -> tuple[Mapping[str, Any], str]:
    data = read_bounded(path, EvidenceError, limit=SIZE_LIMIT)
    return _object(data, path.name), sha256_bytes(data)


def _object(data: bytes, where: str) -> Mapping[str, Any]:
    document = parse_json(data, where, EvidenceError)
    if not isinstance(document, dict):
        raise EvidenceError(f"{where} must hold a JSON object, found {type(document).__name__}")
    return document


def instant(value: Any) -> str | None:
    """Return ``value`` (RFC 3339 with an offset, or Unix seconds) in UTC to the second; None when it is no time."""
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
        if moment.tzinfo is None:
            return None
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return None


def line(text: str) -> str:
    """Return ``text`` in one line, control characters removed, at most 4000 characters."""
    plain = "".join(" " if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character for character in str(text))
    joined = " ".join(plain.split())
    return joined if len(joined) <= _LONGEST else joined[: _LONGEST - 1] + "…"


def tidy(value: Any) -> Any:
    """Return a plain JSON value with every text in one line; keys too."""
    if isinstance(value, str):
        return line(value)
    if isinstance(value, Mapping):
        return {line(str(key)): tidy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(item) for item in value]
    return value


def words(value: Any) -> str:
    """Return a plain JSON value in words: numbers to four figures, lists and mappings in one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(words(item) for item in value)
    return line(str(value))


def walk(tree: Any) -> Iterator[Claim]:
    """Yield every claim in a tree of mappings, lists and claims."""
    if isinstance(tree, Claim):
        yield tree
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from walk(item)
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from walk(item)


def plain(tree: Any) -> Any:
    """Return ``tree`` with every claim replaced by its value."""
    if isinstance(tree, Claim):
        return tree.value
    if isinstance(tree, Mapping):
        return {key: plain(item) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(item) for item in tree]
    return tree


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return ``document`` as the indented JSON that other programs and people read; the same every time."""
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
