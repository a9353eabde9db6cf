"""What a verification found: one sentence for every difference, with its place, and what was looked at and found as claimed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_SHOWN = 60
"""Characters of a value that a sentence quotes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is not as claimed."""

    where: str
    what: str

    def __str__(self) -> str:
        """One sentence."""
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was recomputed, and what differs."""

    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    """What was looked at and found as claimed, in sentences."""
    believed: tuple[str, ...] = ()
    """What was taken on the word of the folder itself, because nothing from outside was given."""

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return not self.findings


@dataclass(slots=True)
class Notes:
    """What one verification writes down as it goes."""

    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    believed: list[str] = field(default_factory=list)

    def wrong(self, where: str, what: str) -> None:
        """Write down one difference."""
        self.findings.append(Finding(where=where, what=what))

    def believe(self, what: str) -> None:
        """Write down something that was taken on the folder's word."""
        self.believed.append(what)

    def part(self, found: Iterable[Finding], held: str) -> bool:
        """Write down the differences of one part, or, where there is none, the sentence ``held``; return whether it held."""
        several = list(found)
        self.findings += several
        if not several:
            self.checked.append(held)
        return not several

    def closed(self) -> Verification:
        """Return everything that was written down."""
        return Verification(findings=tuple(self.findings), checked=tuple(self.checked), believed=tuple(self.believed))


def differs(where: str, key: str, claimed: Any, follows: Any) -> Finding:
    """Return the finding that ``key`` in the document ``where`` is not what follows from the evidence."""
    return Finding(where=where, what=f"{key} does not follow from the evidence: says {shown(claimed)}, follows {shown(follows)}")


def shown(value: Any) -> str:
    """Return ``value`` as a sentence quotes it: short, on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
