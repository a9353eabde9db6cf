"""The typed answer of a data validation: one row per expectation, in words, and the verdict they add up to.

Rules of the verdict (pure, in :func:`data_report`):

* an expectation that was looked at and did not hold is FAIL when critical; a warning that did not hold is a reason and nothing more;
* an expectation that could not be looked at (column missing, every value missing, no rows, an error inside) is CANNOT_TELL,
  and that counts when the column is required, or when a critical rule broke on values that are there;
* the report is the worst of what counts; nothing that counts at all is CANNOT_TELL.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from firstlight.digest import finite
from firstlight.verdict import Verdict, worst


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectationResult:
    """One expectation, what was seen, and whether it held."""

    column: str
    """Column looked at; "" for the table as a whole."""
    rule: str
    """The expectation in words."""
    severity: str
    """``critical`` (not holding is FAIL) or ``warning`` (not holding is a reason)."""
    required: bool
    """Whether not being able to tell blocks."""
    observed: str
    """What was seen, in words."""
    unexpected: int | None
    """Number of rows against the rule; None where that has no meaning."""
    verdict: Verdict
    """Whether the rule held; how much that weighs is in ``severity`` and ``required``."""

    @property
    def counts(self) -> bool:
        """True when this row's verdict enters the report's verdict."""
        if self.verdict is Verdict.CANNOT_TELL:
            return self.required
        return self.severity == "critical"

    def sentence(self) -> str:
        """Return the row as one sentence for the list of reasons."""
        weight = "" if self.counts else " (advice)"
        return f"{self.verdict}{weight}: {self.column or 'table'}: {self.rule}; {self.observed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """Whether a table may be used, and why."""

    subject: str
    """What was looked at: "reference" or "spectra"."""
    rows: int
    """Number of rows of the table."""
    verdict: Verdict
    """Worst of the expectations that count."""
    reasons: tuple[str, ...]
    """One sentence per expectation that is not a plain pass."""
    expectations: tuple[ExpectationResult, ...]
    """Every expectation, critical ones first."""

    @property
    def summary(self) -> str:
        """One sentence with the figures a reviewer wants."""
        held = sum(row.verdict is Verdict.PASS for row in self.expectations)
        return f"{self.subject}: {held} of {len(self.expectations)} expectations hold over {self.rows} rows"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``expectations`` is the table of the dossier."""
        head = {"verdict": str(self.verdict), "summary": self.summary, "reasons": list(self.reasons)}
        table = [asdict(row) | {"verdict": str(row.verdict), "counts": row.counts} for row in self.expectations]
        plain: dict[str, Any] = finite(head | {"subject": self.subject, "rows": self.rows, "expectations": table})
        return plain


def data_report(results: Iterable[ExpectationResult], *, subject: str, rows: int) -> DataReport:
    """Add the expectations up to a report (pure)."""
    ordered = tuple(sorted(results, key=lambda row: (row.severity != "critical", not row.required)))
    return DataReport(
        subject=subject,
        rows=rows,
        verdict=worst(row.verdict for row in ordered if row.counts),
        reasons=tuple(row.sentence() for row in ordered if row.verdict is not Verdict.PASS and not _is_echo(row, ordered)),
        expectations=ordered,
    )


def _is_echo(row: ExpectationResult, rows: Iterable[ExpectationResult]) -> bool:
    """Return True for advice that cannot tell, when a row that counts already says so of the same column or of the table."""
    if row.counts or row.verdict is not Verdict.CANNOT_TELL:
        return False
    said = {other.column for other in rows if other.counts and other.verdict is Verdict.CANNOT_TELL}
    return row.column in said or "" in said
