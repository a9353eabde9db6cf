"""Evidence documents as a reader meets them: cells, tables and facts, cut to a readable length. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HEAD = ("verdict", "summary", "reasons")
_TITLES = {
    "hand_off": "Hand-off",
    "golden": "Golden vectors",
    "environment": "Software",
    "serving": "Serving platform",
    "rehearsal": "Rehearsed way back",
    "previous_drift": "Drift of the version before",
}
_DRAWN = {"canary": ("timeline", "evidence", "rollout", "budget"), "promotion": ("timeline",)}
"""Parts of a document that a picture shows and nobody reads as figures; they are in the evidence file."""
_ROWS, _COLUMNS, _CELL = 60, 11, 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of an evidence document."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    verdict_column: int | None
    """Which column holds verdicts, to be shown as badges."""
    left_out: int
    """Rows that are in the evidence file only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One evidence document, readable."""

    name: str
    title: str
    verdict: str
    summary: str
    reasons: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]


def cell(value: Any) -> str:
    """Return ``value`` in a few words."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    if isinstance(value, Mapping):
        return _cut(", ".join(f"{key}: {cell(item)}" for key, item in list(value.items())[:8]))
    if isinstance(value, list | tuple):
        return _cut(", ".join(cell(item) for item in value[:8]) + (f", … ({len(value)} in all)" if len(value) > 8 else ""))
    return _cut(str(value))


def document(name: str, content: Mapping[str, Any]) -> Document:
    """Return evidence document ``name`` as verdict, sentences, single facts and tables."""
    facts: list[tuple[str, str]] = []
    tables: list[Table] = []
    for key, value in content.items():
        if key in _HEAD or key in _DRAWN.get(name, ()):
            continue
        if _is_table(value):
            tables.append(_table(key, value))
        elif isinstance(value, Mapping) and value:
            facts += [(f"{words(key)}: {words(str(inner))}", cell(item)) for inner, item in list(value.items())[:20]]
        else:
            facts.append((words(key), cell(value)))
    reasons = content.get("reasons") or ()
    return Document(
        name=name,
        title=_TITLES.get(name, words(name).capitalize()),
        verdict=verdict_of(content),
        summary=_cut(str(content.get("summary", "")), 600),
        reasons=tuple(_cut(str(reason), 600) for reason in reasons) if isinstance(reasons, list | tuple) else (_cut(str(reasons), 600),),
        facts=tuple(facts),
        tables=tuple(tables),
    )


def verdict_of(content: Mapping[str, Any] | None) -> str:
    """Return the document's verdict, or ``no evidence``."""
    verdict = str((content or {}).get("verdict", "no evidence"))
    return verdict if verdict in ("pass", "fail", "cannot tell") else "no evidence"


def sentence(text: str) -> str:
    """Return ``text`` with a capital first letter, unless it begins with a name such as ``desi-vae``."""
    return text[:1].upper() + text[1:] if text.split(" ")[0].strip(",;:.").isalpha() else text


def words(key: str) -> str:
    """Return a key as words."""
    return _cut(key.replace("_", " "), 60)


def _is_table(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if any(_is_plain(row.get(key)) for row in rows)]
    verdict = ["verdict"] if "verdict" in keys else []
    columns = verdict + [key for key in keys if key != "verdict"][: _COLUMNS - len(verdict)]
    worst_first = sorted(rows, key=lambda row: {"fail": 0, "cannot tell": 1}.get(str(row.get("verdict")), 2))
    return Table(
        name=words(name),
        columns=tuple(words(column) for column in columns),
        rows=tuple(tuple(cell(row.get(column)) for column in columns) for row in worst_first[:_ROWS]),
        verdict_column=0 if verdict else None,
        left_out=max(0, len(rows) - _ROWS),
    )


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping | list | tuple)


def _cut(text: str, longest: int = _CELL) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
