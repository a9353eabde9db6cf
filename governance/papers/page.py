"""A paper as a page: a tree of claims becomes headings, lists and tables, each value with the place it came from. Nothing on it can run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from governance.dossier.page import environment
from governance.papers.facts import NO_EVIDENCE, Claim, words

_TEMPLATE = Path(__file__).parent / "paper.html.j2"
_MOST_SOURCES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One section of a paper."""

    title: str
    tree: Mapping[str, Any]
    """Name -> claim, list or mapping of the same."""
    tables: Sequence["Grid"] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of a section as the template shows it."""

    depth: int
    name: str
    texts: tuple[str, ...]
    """None for a heading, one for a value, more for a list."""
    sources: str
    is_known: bool


def render(*, title: str, kicker: str, lead: str, parts: Sequence[Part]) -> bytes:
    """Return the page as UTF-8. Every text is escaped by the template."""
    shown = [(part.title, list(_entries(part.tree, 0)), part.tables) for part in parts]
    template = environment().from_string(_TEMPLATE.read_text())
    return template.render(title=title, kicker=kicker, lead=lead, parts=shown).encode()


def _entries(tree: Any, depth: int) -> list[Entry]:
    made: list[Entry] = []
    for key, value in tree.items():
        name = str(key).replace("_", " ")
        if isinstance(value, Mapping):
            made += [Entry(depth=depth, name=name, texts=(), sources="", is_known=True), *_entries(value, depth + 1)]
        elif isinstance(value, list | tuple):
            texts = tuple(_line(item) for item in value)
            made.append(Entry(depth=depth, name=name, texts=texts or (NO_EVIDENCE,), sources="", is_known=bool(texts)))
        else:
            made.append(_entry(name, value if isinstance(value, Claim) else Claim(value=value), depth))
    return made


def _entry(name: str, claim: Claim, depth: int) -> Entry:
    value = claim.value
    if isinstance(value, list) and value:
        texts = tuple(words(item) for item in value)
    elif isinstance(value, Mapping) and value:
        texts = tuple(f"{key}: {words(item)}" for key, item in value.items())
    else:
        texts = (words(value),)
    more = f" and {len(claim.sources) - _MOST_SOURCES} more" if len(claim.sources) > _MOST_SOURCES else ""
    return Entry(depth=depth, name=name, texts=texts, sources=", ".join(claim.sources[:_MOST_SOURCES]) + more, is_known=claim.is_known)


def _line(item: Any) -> str:
    """Return one row of a list in words: a mapping's values after one another."""
    if isinstance(item, Mapping):
        return " · ".join(_line(value) for value in item.values())
    return words(item.value if isinstance(item, Claim) else item)
