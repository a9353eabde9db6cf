"""The Evidently door: named methods over prepared columns in, plain numbers out.

Evidently's default picks another kind of test from row 1001 on, so every method is named here. Its ``chisquare`` takes the reference for
exact truth and answers p = 0 for one unseen category, so categories get its Jensen-Shannon distance as the effect, and the p value of the
two-sample test from scipy. Evidently is imported inside the function that needs it: the import takes seconds.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was computed for one column; ``error`` says why nothing was."""

    statistic: float = float("nan")
    p: float = float("nan")
    effect: float = float("nan")
    error: str = ""


def measure(
    current: pd.DataFrame, reference: pd.DataFrame, *, numeric: Sequence[str], categorical: Sequence[str]
) -> tuple[dict[str, Measured], Callable[[], str] | None]:
    """Measure every column; return column -> figures, and what renders Evidently's page (None when Evidently answered nothing).

    Numbers must be float with NaN for missing, categories text with None. One column that Evidently cannot take costs that column only.
    """
    if not numeric and not categorical:
        return {}, None
    try:
        with _quiet():
            found, render = _evidently(current, reference, numeric, categorical)
        return {name: _measured(name, found, current, reference, name in numeric) for name in [*numeric, *categorical]}, render
    except Exception as error:  # the door fails closed: what breaks inside is "could not be measured"
        if len(numeric) + len(categorical) == 1:
            return {name: _failed(error) for name in [*numeric, *categorical]}, None
    return _one_by_one(current, reference, numeric, categorical), None


def _one_by_one(current: pd.DataFrame, reference: pd.DataFrame, numeric: Sequence[str], categorical: Sequence[str]) -> dict[str, Measured]:
    alone: dict[str, Measured] = {}
    for name in numeric:
        alone |= measure(current, reference, numeric=[name], categorical=[])[0]
    for name in categorical:
        alone |= measure(current, reference, numeric=[], categorical=[name])[0]
    return alone


def _failed(error: Exception) -> Measured:
    return Measured(error=f"Evidently failed with {type(error).__name__}: {str(error)[:200]}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's own deprecation and arithmetic warnings from reaching callers that treat warnings as errors."""
    with warnings.catch_warnings():
        for category in (
            DeprecationWarning,
            PendingDeprecationWarning,
            FutureWarning,
            SyntaxWarning,
            RuntimeWarning,
            UserWarning,
            ImportWarning,
        ):
            warnings.simplefilter("ignore", category)
        yield


def _evidently(
    current: pd.DataFrame, reference: pd.DataFrame, numeric: Sequence[str], categorical: Sequence[str]
) -> tuple[dict[tuple[str, str], float], Callable[[], str]]:
    """Run one Evidently report; return (column, method) -> value, and the page's renderer."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    methods = [(name, method) for name in numeric for method in ("ks", "wasserstein")]
    methods += [(name, "jensenshannon") for name in categorical]
    definition = DataDefinition(numerical_columns=list(numeric), categorical_columns=list(categorical))
    columns = [*numeric, *categorical]
    snapshot = Report([ValueDrift(column=name, method=method) for name, method in methods]).run(
        current_data=Dataset.from_pandas(current[columns], data_definition=definition),
        reference_data=Dataset.from_pandas(reference[columns], data_definition=definition),
    )
    found = {
        (str(metric["config"]["column"]), str(metric["config"]["method"])): float(metric["value"]) for metric in snapshot.dict()["metrics"]
    }
    return found, lambda: _page(snapshot)


def _page(snapshot: Any) -> str:
    with _quiet():
        return str(snapshot.get_html_str(as_iframe=False))


def _measured(name: str, found: dict[tuple[str, str], float], current: pd.DataFrame, reference: pd.DataFrame, is_number: bool) -> Measured:
    now, then = current[name].dropna(), reference[name].dropna()
    if is_number:
        p, effect = found[name, "ks"], found[name, "wasserstein"]
        return _checked(Measured(statistic=float(stats.ks_2samp(then, now, method="asymp").statistic), p=p, effect=effect))
    statistic, p = _two_sample_categories(now, then)
    return _checked(Measured(statistic=statistic, p=p, effect=found[name, "jensenshannon"]))


def _checked(measured: Measured) -> Measured:
    if np.isfinite([measured.statistic, measured.p, measured.effect]).all():
        return measured
    return Measured(error="Evidently answered with a value that is not a number")


def _two_sample_categories(current: pd.Series, reference: pd.Series) -> tuple[float, float]:
    """Return (total variation distance, p value of the two-sample chi-square test) of two samples of categories."""
    counts = pd.DataFrame({"then": reference.value_counts(), "now": current.value_counts()}).fillna(0).to_numpy(dtype=float)
    shares = counts / counts.sum(axis=0)
    distance = float(np.abs(shares[:, 0] - shares[:, 1]).sum() / 2)
    if len(counts) < 2:
        return distance, 1.0
    return distance, float(stats.chi2_contingency(counts, correction=False).pvalue)
