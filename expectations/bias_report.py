"""The typed answer of the bias check: one row per slice and rate, the questions that must be answered, and the verdict."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from expectations.intervals import Interval
from firstlight.digest import finite
from firstlight.verdict import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceResult:
    """One rate in one slice, compared with the rest."""

    dimension: str
    slice: str
    metric: str
    """``anomaly_recall`` and ``class_accuracy`` (higher is better), ``false_alarm_rate`` (lower is better)."""
    rows: int
    """Labelled rows of the slice that the rate is taken over."""
    events: int
    """Rows that count into the rate: anomalies flagged, normals flagged, classes right."""
    rate: float
    low: float
    high: float
    """The slice's own rate and its exact two-sided Clopper-Pearson limits; NaN without rows."""
    rest_rows: int
    """Rows of the rest that were compared."""
    rest_rate: float
    """The rest's rate at the slice's mix of S/N strata (the plain rate when ``matched`` is False); NaN when there is none."""
    worse_by: float
    """How much worse than the rest, as a difference of rates over the comparable rows; negative is better."""
    worse_at_most: float
    """Upper one-sided limit of ``worse_by``."""
    margin: float
    """Difference that matters."""
    matched: bool
    """Whether the comparison is at matched S/N."""
    p: float
    """Exact stratified one-sided p value of being worse; NaN when not tested."""
    p_adjusted: float
    """The same, adjusted for all slices and rates tested."""
    verdict: Verdict
    why: str
    """One sentence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Whether a required question got an answer."""

    dimension: str
    metric: str
    coverage: float
    """Share of the dimension's labelled rows that lie in slices with PASS or FAIL."""
    verdict: Verdict
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BiasReport:
    """Whether any slice is treated worse than the rest, and why."""

    rows: int
    verdict: Verdict
    reasons: tuple[str, ...]
    """What failed and what blocks; advice is in the rows."""
    overall: Mapping[str, Interval]
    """Metric -> the rate over the whole table with its exact interval."""
    overall_rows: Mapping[str, int]
    """Metric -> rows it is taken over."""
    slices: tuple[SliceResult, ...]
    answers: tuple[Answer, ...]
    correction: str
    alpha: float

    @property
    def summary(self) -> str:
        """One sentence with the figures a reviewer wants."""
        count = {verdict: sum(row.verdict is verdict for row in self.slices) for verdict in Verdict}
        return (
            f"{count[Verdict.FAIL]} of {len(self.slices)} slice rates worse than the rest by more than the margin, "
            f"{count[Verdict.PASS]} within it, {count[Verdict.CANNOT_TELL]} cannot tell, over {self.rows} rows "
            f"({self.correction}, alpha {self.alpha:g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``slices`` and ``overall`` are what the charts draw."""
        overall = {name: asdict(interval) | {"rows": self.overall_rows[name]} for name, interval in self.overall.items()}
        plain: dict[str, Any] = finite(
            {
                "verdict": str(self.verdict),
                "summary": self.summary,
                "reasons": list(self.reasons),
                "rows": self.rows,
                "correction": self.correction,
                "alpha": self.alpha,
                "overall": overall,
                "slices": [asdict(row) | {"verdict": str(row.verdict)} for row in self.slices],
                "required": [asdict(answer) | {"verdict": str(answer.verdict)} for answer in self.answers],
            }
        )
        return plain
