"""When is a slice treated worse than the rest? The decision, pure, from counts and a policy.

One slice and rate

* CANNOT_TELL when the slice or the rest has fewer labelled rows than ``min_rows`` (``min_anomalies`` for recall), when too few of the slice's rows have counterparts of
  the same S/N (``min_matched_share``), or when nothing below applies (the interval is too wide either way).
* FAIL when it is worse than the rest by more than the margin **and** the adjusted exact stratified p value is below ``alpha``.
* PASS when the upper limit of how much worse it can be does not exceed the margin.

The report

* FAIL when any slice fails, required or not.
* CANNOT_TELL when a required question (dimension and rate) is not answered: the slices with PASS or FAIL hold less than
  ``required_coverage`` of the dimension's labelled rows, a tested slice of it looks worse than the margin without being proven so,
  or the dimension is not in the table; also when nothing passed at all.
* PASS otherwise. Every other CANNOT_TELL is advice and stays visible in its row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expectations.bias_report import Answer, SliceResult
from expectations.intervals import Strata, clopper_pearson, difference_limits, exact_stratified_p, standardised_rest
from expectations.policy import BiasPolicy, Requirement
from firstlight.verdict import Verdict, worst

HARM_IS_SUCCESS_MISSING = {"anomaly_recall": True, "class_accuracy": True, "false_alarm_rate": False}
"""Metric -> True when the harm is the complement of the rate (a miss, a wrong class), False when the rate itself is the harm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A slice's harms (misses, false alarms, wrong classes) beside the rest's, before the decision."""

    dimension: str
    slice: str
    metric: str
    rows: int
    harms: int
    compared: Strata
    """Only strata with rows on both sides."""
    matched: bool
    comparable: bool = True
    """False when the comparison at matched S/N was asked for and there is no S/N."""

    @property
    def compared_rows(self) -> int:
        """Rows of the slice that have counterparts."""
        return int(self.compared.slice_rows.sum())

    @property
    def rest_rows(self) -> int:
        """Rows of the rest in the compared strata."""
        return int(self.compared.rest_rows.sum())


def least_rows(metric: str, policy: BiasPolicy) -> int:
    """Return the labelled rows that a slice, and the rest, must have for this rate."""
    return policy.min_anomalies if metric == "anomaly_recall" else policy.min_rows


def too_little(comparison: Comparison, policy: BiasPolicy) -> str:
    """Return why the comparison has too little evidence to be tested, or "" when it has enough."""
    least = least_rows(comparison.metric, policy)
    if comparison.rows < least:
        return f"{comparison.rows} labelled rows, at least {least} are needed"
    if not comparison.comparable:
        return "the table has no S/N, so like cannot be compared with like"
    if comparison.compared_rows < max(least, policy.min_matched_share * comparison.rows):
        return f"only {comparison.compared_rows} of {comparison.rows} rows have counterparts of the same S/N in the rest"
    if comparison.rest_rows < least:
        return f"{comparison.rest_rows} rows in the rest to compare with, at least {least} are needed"
    return ""


def p_value(comparison: Comparison) -> float:
    """Return the exact stratified one-sided p value that the slice has more harms than the rest."""
    return exact_stratified_p(comparison.compared)


def decide(comparison: Comparison, policy: BiasPolicy, *, p: float, p_adjusted: float) -> SliceResult:
    """Return the row for one slice and rate; ``p`` is NaN when it was not tested (see :func:`too_little`)."""
    margins = policy.margin if comparison.matched else policy.margin_unmatched
    margin = float(getattr(margins, comparison.metric))
    worse_by, worse_at_most, rest_harm = _difference(comparison, policy)
    verdict, why = _verdict(comparison, policy, worse_by=worse_by, worse_at_most=worse_at_most, margin=margin, p_adjusted=p_adjusted)
    complement = HARM_IS_SUCCESS_MISSING[comparison.metric]
    events = comparison.rows - comparison.harms if complement else comparison.harms
    shown = clopper_pearson(events, comparison.rows, confidence=policy.confidence)
    return SliceResult(
        dimension=comparison.dimension,
        slice=comparison.slice,
        metric=comparison.metric,
        rows=comparison.rows,
        events=events,
        rate=shown.rate,
        low=shown.low,
        high=shown.high,
        rest_rows=comparison.rest_rows,
        rest_rate=1.0 - rest_harm if complement else rest_harm,
        worse_by=worse_by,
        worse_at_most=worse_at_most,
        margin=margin,
        matched=comparison.matched,
        p=p,
        p_adjusted=p_adjusted,
        verdict=verdict,
        why=why,
    )


def _difference(comparison: Comparison, policy: BiasPolicy) -> tuple[float, float, float]:
    """Return (worse by, worse by at most, harm rate of the rest) over the comparable rows."""
    two_sided = 2.0 * policy.pass_confidence - 1.0  # both tails of this interval are the one-sided level
    harms = int(comparison.compared.slice_events.sum())
    own = clopper_pearson(harms, comparison.compared_rows, confidence=two_sided)
    rest = standardised_rest(comparison.compared, confidence=two_sided)
    if comparison.compared_rows == 0:
        return float("nan"), 1.0, float("nan")
    return own.rate - rest.rate, difference_limits(own, rest)[1], rest.rate


def _verdict(
    comparison: Comparison, policy: BiasPolicy, *, worse_by: float, worse_at_most: float, margin: float, p_adjusted: float
) -> tuple[Verdict, str]:
    lacking = too_little(comparison, policy)
    if lacking:
        return Verdict.CANNOT_TELL, lacking
    if worse_by > margin and p_adjusted < policy.alpha:
        return Verdict.FAIL, f"worse than the rest by {worse_by:.3f}, more than {margin:g} (adjusted p {p_adjusted:.2g})"
    if worse_at_most <= margin:
        return Verdict.PASS, f"worse than the rest by at most {worse_at_most:.3f}, within {margin:g}"
    return (
        Verdict.CANNOT_TELL,
        f"worse than the rest by {worse_by:.3f}, perhaps by {worse_at_most:.3f}: {margin:g} is neither shown nor excluded",
    )


def answer(requirement: Requirement, rows: Sequence[SliceResult], policy: BiasPolicy) -> Answer:
    """Say whether a required question is answered by the rows of its dimension and rate."""
    asked = [row for row in rows if row.dimension == requirement.dimension and row.metric == requirement.metric]
    total = sum(row.rows for row in asked)
    told = sum(row.rows for row in asked if row.verdict is not Verdict.CANNOT_TELL)
    coverage = told / total if total else 0.0
    failed = any(row.verdict is Verdict.FAIL for row in asked)
    suspects = [row.slice for row in asked if row.verdict is Verdict.CANNOT_TELL and not math.isnan(row.p) and row.worse_by > row.margin]
    enough = total > 0 and coverage >= policy.required_coverage and not suspects
    verdict = Verdict.FAIL if failed else Verdict.PASS if enough else Verdict.CANNOT_TELL
    return Answer(
        dimension=requirement.dimension,
        metric=requirement.metric,
        coverage=coverage,
        verdict=verdict,
        why=_why(asked, total, coverage, suspects),
    )


def _why(asked: Sequence[SliceResult], total: int, coverage: float, suspects: Sequence[str]) -> str:
    if not asked:
        return "the table has no such slices: the column is missing or has one value"
    if total == 0:
        return "no labelled rows"
    suspicion = f"; looks worse than the margin without proof in {', '.join(suspects)}" if suspects else ""
    return f"slices with an answer hold {coverage:.0%} of {total} labelled rows{suspicion}"


def overall(rows: Sequence[SliceResult], answers: Sequence[Answer]) -> tuple[Verdict, tuple[str, ...]]:
    """Return the report's verdict and its reasons, failures first."""
    failures = [f"fail: {row.metric} in {row.dimension} {row.slice}: {row.why}" for row in rows if row.verdict is Verdict.FAIL]
    open_questions = [f"cannot tell: {a.metric} over {a.dimension}: {a.why}" for a in answers if a.verdict is Verdict.CANNOT_TELL]
    if failures:
        return Verdict.FAIL, (*failures, *open_questions)
    if not any(row.verdict is Verdict.PASS for row in rows):
        return Verdict.CANNOT_TELL, (*open_questions, "cannot tell: no slice has enough labelled rows for any answer")
    return worst([Verdict.PASS, *(a.verdict for a in answers)]), tuple(open_questions)


def empty_strata() -> Strata:
    """Return strata without rows."""
    none = np.zeros(0, dtype=np.int64)
    return Strata(slice_events=none, slice_rows=none, rest_events=none, rest_rows=none)
