"""The typed answer of a drift check: one row per column with its pictures' numbers, and the verdict they add up to."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from firstlight.digest import finite, write_atomic
from firstlight.errors import RefusedError
from firstlight.verdict import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """The same bins over both samples."""

    edges: tuple[float, ...]
    """Bin edges, (bins + 1,); values beyond the outer edges are counted in the outer bins. Empty for categories."""
    labels: tuple[str, ...]
    """Category names, (bins,); empty for numbers."""
    reference: tuple[float, ...]
    current: tuple[float, ...]
    """Density per bin for numbers (integral 1), share per category (sum 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnDrift:
    """One column: how far its distribution moved, how surely, and whether that matters."""

    column: str
    method: str
    """``ks`` for numbers; ``chi2`` (two samples) with Evidently's ``jensenshannon`` as effect for categories; "" when nothing ran."""
    reference_rows: int
    current_rows: int
    """Rows with a usable (present, finite) value."""
    statistic: float
    """Largest distance of the two distribution functions (numbers) or half the sum of share differences (categories), 0 to 1."""
    p: float
    p_adjusted: float
    """p value of "same distribution", alone and adjusted over all columns; NaN when not tested."""
    effect: float
    """Numbers: Wasserstein distance in reference standard deviations. Categories: Jensen-Shannon distance (natural logarithm)."""
    verdict: Verdict
    why: str
    """One sentence."""
    blocks: bool
    """Whether a CANNOT_TELL here makes the report CANNOT_TELL."""
    histogram: Histogram | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftReport:
    """Whether what the live model sees and says still looks like the reference."""

    reference_rows: int
    current_rows: int
    """Rows compared; repeated current rows are counted once."""
    repeated_rows: int
    """Current rows left out because they repeat another one."""
    verdict: Verdict
    reasons: tuple[str, ...]
    columns: tuple[ColumnDrift, ...]
    correction: str
    alpha: float
    render: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    """Makes Evidently's own page on demand; None when Evidently answered nothing."""

    @property
    def summary(self) -> str:
        """One sentence with the figures a reviewer wants."""
        drifted = [row.column for row in self.columns if row.verdict is Verdict.FAIL]
        told = sum(row.verdict is not Verdict.CANNOT_TELL for row in self.columns)
        named = f" ({', '.join(drifted[:3])}{', …' if len(drifted) > 3 else ''})" if drifted else ""
        return (
            f"{len(drifted)} of {len(self.columns)} columns drifted{named}, {told} judged, "
            f"{self.current_rows} current against {self.reference_rows} reference rows ({self.correction}, alpha {self.alpha:g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``columns`` is the table of the dossier, each with the histogram to draw."""
        plain: dict[str, Any] = finite(
            {
                "verdict": str(self.verdict),
                "summary": self.summary,
                "reasons": list(self.reasons),
                "reference_rows": self.reference_rows,
                "current_rows": self.current_rows,
                "repeated_rows": self.repeated_rows,
                "correction": self.correction,
                "alpha": self.alpha,
                "columns": [asdict(row) | {"verdict": str(row.verdict)} for row in self.columns],
            }
        )
        return plain

    def html(self, path: Path) -> Path:
        """Write Evidently's own page (about 4 MB) to ``path``. Raises RefusedError when no column could be compared."""
        if self.render is None:
            raise RefusedError("Evidently's page needs at least one compared column, found none; see the reasons of the report")
        return write_atomic(path, self.render().encode())
