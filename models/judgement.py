"""What a model's answers are worth on rows whose labels are known: pure, from a table and arrays to figures with intervals.

Training claims these figures, evaluation computes them again from the handed-over bytes; both call :func:`judge`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Array = np.ndarray[Any, Any]
Booleans = NDArray[np.bool_]
SNR_BINS = (0.0, 1.0, 2.0, 5.0, 10.0, np.inf)
"""Edges of the S/N bins in which score and S/N are compared at matched S/N."""
MIN_ROWS = 10
"""Fewer rows than this give no correlation and no area under the curve."""
BRIGHT_SNR = 2.0
"""Above this S/N per pixel a class is expected to be found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Metrics by name. None means that it cannot be told from these rows, and ``reasons`` says why."""

    table: pd.DataFrame
    """The rows with what the model said of each, see :func:`judge`."""
    values: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    """Exact 95 % (Clopper-Pearson) intervals of the metrics that are rates."""
    counts: dict[str, int]
    """Rows each metric was taken over."""
    reasons: dict[str, str]


def judge(
    metadata: pd.DataFrame, outputs: Mapping[str, Array], *, roles: Mapping[str, str], classes: Sequence[str], threshold: float | None
) -> Figures:
    """Return the figures of ``outputs`` (arrays by name) on the rows of ``metadata`` (missing columns are allowed).

    The table is ``metadata`` with the scalar outputs and, where they can be known: ``predicted_class``, ``label_class`` (the truth
    where there is one, else redrock's class where ZWARN is 0, else ""), ``class_correct`` (nullable), ``class_differs`` (the model
    names another class than redrock, nullable), ``is_anomaly`` (nullable, only where there is a truth) and ``flagged`` (score >=
    threshold, nullable).
    """
    table = labelled(metadata, outputs, roles=roles, classes=classes, threshold=threshold)
    book = _Book({}, {}, {}, {})
    _class_figures(book, table, classes)
    _anomaly_figures(book, table, _column(outputs, roles.get("score")))
    _fit_figures(book, table, _column(outputs, roles.get("score")), _column(outputs, roles.get("chi2")))
    return Figures(table=table, values=book.values, intervals=book.intervals, counts=book.counts, reasons=book.reasons)


def labelled(
    metadata: pd.DataFrame, outputs: Mapping[str, Array], *, roles: Mapping[str, str], classes: Sequence[str], threshold: float | None
) -> pd.DataFrame:
    """Return the table of :func:`judge`."""
    table = metadata.reset_index(drop=True).copy()
    for name, array in outputs.items():
        if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
            table[name] = array.reshape(-1).astype(np.float64)
    probabilities = outputs.get(roles.get("class_probabilities", ""))
    predicted = np.array(["" for _ in range(len(table))], dtype=object)
    if probabilities is not None and len(classes) == probabilities.shape[1]:
        predicted = np.asarray(classes, dtype=object)[probabilities.argmax(axis=1)]
    truth = _text(table, "has_truth", "").isin(["True", "true", "1"]).to_numpy()
    pipeline = np.where(_number(table, "zwarn", -1) == 0, _text(table, "spectype", ""), "")
    label = np.where(truth, _text(table, "true_spectype", ""), pipeline)
    score = _column(outputs, roles.get("score"))
    table["predicted_class"] = predicted
    table["label_class"] = label
    table["class_correct"] = _nullable(predicted == label, known=(label != "") & (predicted != ""))
    table["class_differs"] = _nullable(predicted != pipeline, known=(pipeline != "") & (predicted != ""))
    table["is_anomaly"] = _nullable(_text(table, "anomaly", "").to_numpy() != "", known=truth)
    flagged = np.zeros(len(table), bool) if score is None or threshold is None else score >= threshold
    table["flagged"] = _nullable(flagged, known=np.full(len(table), score is not None and threshold is not None))
    return table


def interval(successes: int, rows: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a rate; (0, 1) when there are no rows. Exact at any n, never too narrow."""
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, rows - successes + 1))
    high = 1.0 if successes >= rows else float(stats.beta.ppf(1 - tail, successes + 1, rows - successes))
    return low, high


def area_under_curve(anomalous: Array, usual: Array) -> float | None:
    """Return the probability that an anomalous row scores above a usual one, ties half; None when either side has under MIN_ROWS // 2."""
    if min(len(anomalous), len(usual)) < MIN_ROWS // 2:
        return None
    rank = stats.rankdata(np.concatenate([anomalous, usual]))
    wins = rank[: len(anomalous)].sum() - len(anomalous) * (len(anomalous) + 1) / 2
    return float(wins / (len(anomalous) * len(usual)))


def correlation(first: Array, second: Array) -> float | None:
    """Return Spearman's rank correlation over rows where both are finite; None with under MIN_ROWS rows or a constant side."""
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    if len(first) < MIN_ROWS or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)


@dataclass(frozen=True, slots=True)
class _Book:
    values: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    counts: dict[str, int]
    reasons: dict[str, str]

    def rate(self, name: str, hits: Array, why_none: str) -> None:
        """Enter the share of true values in ``hits``, with its interval."""
        self.value(name, float(hits.mean()) if len(hits) else None, rows=len(hits), why_none=why_none)
        if len(hits):
            self.intervals[name] = interval(int(hits.sum()), len(hits))

    def value(self, name: str, value: float | None, *, rows: int, why_none: str) -> None:
        """Enter a figure, or why there is none."""
        finite = value is not None and bool(np.isfinite(value))
        self.values[name], self.counts[name] = (value if finite else None), rows
        if not finite:
            self.reasons[name] = f"{name} cannot be told: {why_none}"


def _class_figures(book: _Book, table: pd.DataFrame, classes: Sequence[str]) -> None:
    if not classes or not (table["predicted_class"] != "").any():
        return
    correct = table["class_correct"].fillna(False).to_numpy(dtype=bool)
    label = table["label_class"].to_numpy()
    bright = _number(table, "snr", np.nan) > BRIGHT_SNR
    for suffix, rows in (("", np.full(len(table), True)), ("_bright", bright)):
        means = [float(correct[rows & (label == name)].mean()) for name in classes if (rows & (label == name)).any()]
        value = float(np.mean(means)) if len(means) == len(classes) else None
        missing = f"every one of {', '.join(classes)} needs a labelled row{' at S/N > 2' if suffix else ''}, {len(means)} have one"
        book.value(f"class_accuracy_macro{suffix}", value, rows=int((rows & (label != "")).sum()), why_none=missing)
    for name in classes:
        book.rate(f"class_accuracy_{name.lower()}", correct[label == name], f"no row is labelled {name}")


def _anomaly_figures(book: _Book, table: pd.DataFrame, score: Array | None) -> None:
    if score is None:
        return
    none = "no held-out row carries a truth label"
    known = table["is_anomaly"].notna().to_numpy()
    anomalous = known & table["is_anomaly"].fillna(False).to_numpy(dtype=bool)
    usual = known & ~anomalous
    flagged = table["flagged"].fillna(False).to_numpy(dtype=bool)
    if table["flagged"].notna().any():
        book.rate("anomaly_recall", flagged[anomalous], none)
        book.rate("false_alarm_rate", flagged[usual], none)
        differs = flagged | table["class_differs"].fillna(False).to_numpy(dtype=bool)
        book.rate("anomaly_recall_with_class", differs[anomalous], none)
        book.rate("false_alarm_rate_with_class", differs[usual], none)
    book.value("anomaly_auc", area_under_curve(score[anomalous], score[usual]), rows=int(known.sum()), why_none=none)
    kinds = _text(table, "anomaly", "").to_numpy()
    for kind in sorted(set(kinds[anomalous])):
        rows, name = anomalous & (kinds == kind), kind.replace("-", "_")
        few = f"only {int(rows.sum())} rows of this kind"
        book.value(f"anomaly_auc_{name}", area_under_curve(score[rows], score[usual]), rows=int(rows.sum()), why_none=few)
        book.rate(f"anomaly_recall_{name}", flagged[rows], few)


def _fit_figures(book: _Book, table: pd.DataFrame, score: Array | None, chi2: Array | None) -> None:
    snr = _number(table, "snr", np.nan)
    if chi2 is not None:
        book.value("median_chi2", float(np.median(chi2)) if len(chi2) else None, rows=len(chi2), why_none="there are no rows")
        book.value("spearman_chi2_snr", correlation(chi2, snr), rows=len(chi2), why_none="too few rows with S/N")
    if score is None:
        return
    book.value("spearman_score_snr", correlation(score, snr), rows=len(score), why_none="too few rows with S/N")
    within = [(correlation(score[rows], snr[rows]), int(rows.sum())) for rows in _snr_bins(snr)]
    told = [(value, rows) for value, rows in within if value is not None]
    rows = sum(count for _, count in told)
    matched = sum(abs(value) * count for value, count in told) / rows if rows else None
    book.value("spearman_score_snr_matched", matched, rows=rows, why_none=f"no S/N bin has {MIN_ROWS} rows")


def _snr_bins(snr: Array) -> list[Booleans]:
    return [np.asarray((snr >= low) & (snr < high)) for low, high in pairwise(SNR_BINS)]


def _column(outputs: Mapping[str, Array], name: str | None) -> Array | None:
    return None if name is None or name not in outputs else outputs[name].reshape(-1).astype(np.float64)


def _text(table: pd.DataFrame, column: str, missing: str) -> "pd.Series[str]":
    if column not in table:
        return pd.Series([missing] * len(table), dtype=object)
    return table[column].astype(object).where(table[column].notna(), missing).astype(str)


def _number(table: pd.DataFrame, column: str, missing: float) -> Array:
    if column not in table:
        return np.full(len(table), missing)
    return np.asarray(pd.to_numeric(table[column], errors="coerce").astype("Float64").fillna(missing).to_numpy(dtype=np.float64))


def _nullable(values: Any, *, known: Any) -> "pd.Series[bool]":
    """Return booleans that are missing where they are not known."""
    return pd.Series(np.asarray(values, dtype=bool)).astype("boolean").mask(~np.asarray(known, dtype=bool))
