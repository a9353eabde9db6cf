"""Does the model treat every kind of spectrum alike? Rates per slice of the sky, compared with the rest at matched S/N.

Faint spectra are harder for anyone, so a slice is compared with the rest inside strata of equal S/N; what remains is the model's doing.
Three rates, each with its own labelled rows: ``anomaly_recall`` over known anomalies, ``false_alarm_rate`` over known normals,
``class_accuracy`` over rows whose class is known. The rules of the decision are in :mod:`expectations.slice_decision`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expectations.bias_report import BiasReport, SliceResult
from expectations.intervals import Interval, Strata, adjust, clopper_pearson
from expectations.policy import BiasPolicy, Margins, Requirement
from expectations.slice_decision import HARM_IS_SUCCESS_MISSING, Comparison, answer, decide, empty_strata, overall, p_value, too_little
from expectations.slice_definitions import Mask, Slice, slices, snr_strata
from firstlight.errors import RefusedError

__all__ = ["BiasPolicy", "BiasReport", "Margins", "Requirement", "assess_bias"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Metric:
    """Rows a rate is taken over and which of them were harmed (missed, falsely flagged, wrongly classified)."""

    name: str
    population: Mask
    harmed: Mask


def assess_bias(table: pd.DataFrame, policy: BiasPolicy) -> BiasReport:
    """Compare every slice of ``table`` with the rest.

    ``table`` has one row per held-out spectrum: ``is_anomaly`` (true, false or missing), ``flagged``, ``class_correct`` (true, false or missing),
    ``snr``, and whatever the policy slices by. A missing label leaves the row out of that rate; no label at all is CANNOT_TELL.
    Raises RefusedError when a truth column holds anything but true, false and missing.
    """
    if not isinstance(table, pd.DataFrame):
        raise RefusedError(f"the bias check needs a pandas DataFrame with one row per spectrum, found {type(table).__name__!r}")
    metrics = _metrics(table)
    levels = snr_strata(table, policy)
    comparisons = [_compare(part, metric, levels, policy) for part in slices(table, policy) for metric in metrics]
    rows = _decide_all(comparisons, policy)
    answers = tuple(answer(requirement, rows, policy) for requirement in policy.required)
    verdict, reasons = overall(rows, answers)
    return BiasReport(
        rows=len(table),
        verdict=verdict,
        reasons=reasons,
        overall={metric.name: _overall_rate(metric, policy) for metric in metrics},
        overall_rows={metric.name: int(metric.population.sum()) for metric in metrics},
        slices=tuple(rows),
        answers=answers,
        correction=policy.correction,
        alpha=policy.alpha,
    )


def _decide_all(comparisons: list[Comparison], policy: BiasPolicy) -> list[SliceResult]:
    """Test what has enough evidence, adjust over everything tested, decide everything."""
    tested = [index for index, comparison in enumerate(comparisons) if not too_little(comparison, policy)]
    p_values = [p_value(comparisons[index]) for index in tested]
    adjusted = adjust(p_values, correction=policy.correction)
    by_index: Mapping[int, tuple[float, float]] = dict(zip(tested, zip(p_values, adjusted, strict=True), strict=True))
    untested = (float("nan"), float("nan"))
    pairs = [by_index.get(index, untested) for index in range(len(comparisons))]
    return [decide(comparison, policy, p=p, p_adjusted=q) for comparison, (p, q) in zip(comparisons, pairs, strict=True)]


def _compare(part: Slice, metric: _Metric, levels: tuple[NDArray[np.int64], ...], policy: BiasPolicy) -> Comparison:
    """Return the counts of one slice and rate, in the finest strata that leave enough counterparts."""
    if not part.matched:
        levels = (np.zeros(len(part.members), dtype=np.int64),)
    candidates = [_count(part, metric, where) for where in levels] or [_count(part, metric, None)]
    return next((candidate for candidate in candidates if not too_little(candidate, policy)), candidates[-1])


def _count(part: Slice, metric: _Metric, where: NDArray[np.int64] | None) -> Comparison:
    members, rest = part.members & metric.population, part.rest & metric.population
    return Comparison(
        dimension=part.dimension,
        slice=part.name,
        metric=metric.name,
        rows=int(members.sum()),
        harms=int((members & metric.harmed).sum()),
        compared=empty_strata() if where is None else _strata(members, rest, metric.harmed, where).comparable(),
        matched=part.matched,
        comparable=where is not None,
    )


def _strata(members: Mask, rest: Mask, harmed: Mask, where: NDArray[np.int64]) -> Strata:
    length = int(where.max()) + 1 if len(where) else 1

    def count(mask: Mask) -> NDArray[np.int64]:
        return np.bincount(where[mask], minlength=length).astype(np.int64)

    return Strata(slice_events=count(members & harmed), slice_rows=count(members), rest_events=count(rest & harmed), rest_rows=count(rest))


def _overall_rate(metric: _Metric, policy: BiasPolicy) -> Interval:
    rows, harms = int(metric.population.sum()), int((metric.population & metric.harmed).sum())
    events = rows - harms if HARM_IS_SUCCESS_MISSING[metric.name] else harms
    return clopper_pearson(events, rows, confidence=policy.confidence)


def _metrics(table: pd.DataFrame) -> list[_Metric]:
    anomaly, anomaly_known = _truth(table, "is_anomaly")
    flagged, flagged_known = _truth(table, "flagged")
    correct, correct_known = _truth(table, "class_correct")
    judged = anomaly_known & flagged_known
    return [
        _Metric(name="anomaly_recall", population=judged & anomaly, harmed=~flagged),
        _Metric(name="false_alarm_rate", population=judged & ~anomaly, harmed=flagged),
        _Metric(name="class_accuracy", population=correct_known, harmed=~correct),
    ]


def _truth(table: pd.DataFrame, column: str) -> tuple[Mask, Mask]:
    """Return (true, known) of a nullable truth column; a column that is not there is unknown everywhere."""
    if column not in table:
        return np.zeros(len(table), dtype=bool), np.zeros(len(table), dtype=bool)
    known = table[column].notna().to_numpy(dtype=bool)
    values = table[column].astype("object").to_numpy()[known]
    foreign = sorted({repr(value) for value in values if not (isinstance(value, bool | np.bool_) or value in (0, 1))})
    if foreign:
        raise RefusedError(f"{column!r} must hold true, false or missing, found {', '.join(foreign[:3])}; convert it before the bias check")
    true = np.zeros(len(table), dtype=bool)
    true[known] = values.astype(bool)
    return true, known
