"""Does what the live model sees and says still look like the reference? Evidently computes, the decision here is ours and pure.

One column

* CANNOT_TELL when it is missing, has fewer than ``min_rows`` usable values, lost more values than ``max_missing_increase``, changed its kind,
  is the same constant on both sides, broke the engine, or when the test could not have seen a change of ``detectable_distance``.
* FAIL when the adjusted p value is below ``alpha`` **and** the change matters (distance or effect above its limit).
* PASS otherwise: no change, or one too small to matter.

The report

* FAIL when any column fails: with Holm the chance of one false alarm anywhere in a night is at most ``alpha``.
* CANNOT_TELL when there are too few rows, no comparable column, or a column that blocks cannot be judged. A column blocks when the policy
  names it or when the reference has it and the current data lost it; a constant column, or one the reference cannot support, is advice.
* PASS otherwise.

The same spectrum asked for again is no new evidence: current rows that repeat another one in every compared column are counted once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

from firstlight.errors import RefusedError
from firstlight.verdict import Verdict
from monitoring.drift_engine import Measured, measure
from monitoring.drift_report import ColumnDrift, DriftReport, Histogram

__all__ = ["ColumnDrift", "DriftPolicy", "DriftReport", "Histogram", "drift"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
_IDENTIFIERS = (
    *("targetid", "healpix", "tileid", "petal", "fiber", "fiberstatus", "night", "zwarn", "desi_target", "row", "index", "version"),
    *("request_id", "time", "timestamp", "latency_s", "latency_ms", "status"),
    *("true_z", "has_truth", "is_anomaly"),
)


class DriftPolicy(BaseModel):
    """When a night's data count as drifted from the reference."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.01
    """Probability of one false alarm over all columns of one check; 0.01 is about one false incident in three months of nights."""
    correction: Literal["holm", "benjamini-yekutieli"] = "holm"
    """How p values are adjusted over columns; both hold under any dependence, and spectral features depend on one another."""
    min_rows: Annotated[int, Field(ge=2)] = 50
    """Usable values per column on each side, and distinct rows. Fewer cannot show a change of ``detectable_distance``."""
    detectable_distance: Share = 0.35
    """Largest acceptable critical Kolmogorov-Smirnov distance at the adjusted level (0 to 1): a pass from a blinder test is no pass."""
    distance_limit: Share = 0.15
    """Distance of the distribution functions (0 to 1) above which a sure change matters: 15 % of the spectra moved. Robust to outliers."""
    effect_limit: Annotated[float, Field(gt=0.0)] = 0.25
    """Wasserstein distance, in reference standard deviations, above which a sure change matters: it sees moved tails the distance above misses."""
    category_limit: Share = 0.15
    """Jensen-Shannon distance (natural logarithm, 0 to 0.83) above which a sure change of category shares matters."""
    max_missing_increase: Share = 0.05
    """Share of rows by which missing values may grow over the reference; more means that the evidence, not the sky, changed."""
    columns: tuple[str, ...] = ()
    """Numeric columns that must be compared; empty means every numeric column both sides have, but identifiers."""
    categorical: tuple[str, ...] = ()
    """Text columns that must be compared, for example the predicted class; true/false columns on both sides are always compared."""
    excluded: tuple[str, ...] = _IDENTIFIERS
    """Columns never compared by default: names of things, bit masks, times and truth."""
    bins: Annotated[int, Field(ge=2, le=200)] = 30
    """Bins of the histograms in the report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """One column on both sides: float64 with NaN, or text with None."""

    column: str
    is_number: bool
    named: bool
    current: pd.Series
    reference: pd.Series
    problem: str = ""
    blocks: bool = False


def drift(current: pd.DataFrame, reference: pd.DataFrame, policy: DriftPolicy) -> DriftReport:
    """Compare ``current`` (one row per live request) with ``reference`` (one row per reference spectrum), column by column.

    Whatever cannot be compared, including an exception inside Evidently, is CANNOT_TELL. Raises RefusedError for what is not a table.
    """
    for name, table in (("current", current), ("reference", reference)):
        if not isinstance(table, pd.DataFrame) or table.columns.has_duplicates:
            raise RefusedError(f"{name} must be a DataFrame with one row per spectrum and unique columns, found {type(table).__name__!r}")
    columns = _chosen(current, reference, policy)
    distinct = _distinct(current, columns)
    samples = [_checked_sample(_sample(name, distinct, reference, policy), policy) for name in columns]
    testable = [sample for sample in samples if not sample.problem]
    measured, render = _measure(testable)
    rows = tuple(_judge_all(samples, measured, policy))
    verdict, reasons = overall(rows, current_rows=len(distinct), reference_rows=len(reference), min_rows=policy.min_rows)
    return DriftReport(
        reference_rows=len(reference),
        current_rows=len(distinct),
        repeated_rows=len(current) - len(distinct),
        verdict=verdict,
        reasons=reasons,
        columns=rows,
        correction=policy.correction,
        alpha=policy.alpha,
        render=render,
    )


def overall(rows: Sequence[ColumnDrift], *, current_rows: int, reference_rows: int, min_rows: int) -> tuple[Verdict, tuple[str, ...]]:
    """Return the report's verdict and reasons from the columns (pure)."""
    failed = [f"fail: {row.column}: {row.why}" for row in rows if row.verdict is Verdict.FAIL]
    unclear = [f"cannot tell: {row.column}: {row.why}" for row in rows if row.verdict is Verdict.CANNOT_TELL and row.blocks]
    if min(current_rows, reference_rows) < min_rows:
        unclear.insert(
            0, f"cannot tell: {current_rows} current and {reference_rows} reference rows, at least {min_rows} of each are needed"
        )
    if failed:
        return Verdict.FAIL, (*failed, *unclear)
    if not any(row.verdict is Verdict.PASS for row in rows):
        unclear.append("cannot tell: no column could be judged")
    return (Verdict.CANNOT_TELL if unclear else Verdict.PASS), tuple(unclear)


def decide(
    measured: Measured, *, is_number: bool, rows: tuple[int, int], p_adjusted: float, tested: int, policy: DriftPolicy
) -> tuple[Verdict, str]:
    """Decide one measured column (pure); ``rows`` are (current, reference), ``tested`` is how many columns were tested together."""
    limit = policy.effect_limit if is_number else policy.category_limit
    figures = f"distance {measured.statistic:.3f}, effect {measured.effect:.3f}, adjusted p {p_adjusted:.2g}"
    matters = measured.effect > limit or (is_number and measured.statistic > policy.distance_limit)
    if p_adjusted < policy.alpha and matters:
        return Verdict.FAIL, f"changed by more than matters: {figures}"
    blind = critical_distance(*rows, alpha=strictest_level(policy, tested))
    if blind > policy.detectable_distance:
        return (
            Verdict.CANNOT_TELL,
            f"{rows[0]} current values would show only a distance above {blind:.2f}, {policy.detectable_distance:g} is asked",
        )
    return Verdict.PASS, f"no change that matters: {figures}"


def strictest_level(policy: DriftPolicy, tested: int) -> float:
    """Return the unadjusted level that a single changed column among ``tested`` has to reach."""
    penalty = 1.0 if policy.correction == "holm" else sum(1 / k for k in range(1, tested + 1))
    return policy.alpha / max(tested * penalty, 1.0)


def critical_distance(current: int, reference: int, *, alpha: float) -> float:
    """Return the Kolmogorov-Smirnov distance at which the two-sample test with these sizes becomes significant (asymptotic; 1 at most)."""
    if current == 0 or reference == 0:
        return 1.0
    return float(min(1.0, np.sqrt(-np.log(alpha / 2) / 2 * (current + reference) / (current * reference))))


def adjust(p_values: Sequence[float], *, correction: str) -> list[float]:
    """Return adjusted p values in the order given: Holm 1979, or Benjamini & Yekutieli 2001."""
    if not p_values:
        return []
    values = np.asarray(p_values, dtype=np.float64)
    if correction == "benjamini-yekutieli":
        return [float(p) for p in stats.false_discovery_control(values, method="by")]
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return [float(p) for p in adjusted]


def _chosen(current: pd.DataFrame, reference: pd.DataFrame, policy: DriftPolicy) -> list[str]:
    both = [str(name) for name in reference.columns if name in current.columns and name not in policy.excluded]
    flags = [name for name in both if _is_flag(reference[name]) and _is_flag(current[name])]
    numbers = [name for name in both if _is_number(reference[name]) or _is_number(current[name])]
    wanted = [*(policy.columns or numbers), *policy.categorical, *flags]
    return list(dict.fromkeys(wanted))


def _is_flag(values: pd.Series) -> bool:
    return pd.api.types.is_bool_dtype(values.dtype)


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values.dtype) and not _is_flag(values)


def _distinct(current: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Drop repeated rows; only real-valued columns can tell a repeat from a coincidence."""
    present = [name for name in columns if name in current.columns]
    if not any(pd.api.types.is_float_dtype(current[name].dtype) for name in present):
        return current
    return current.drop_duplicates(subset=present)


def _sample(name: str, current: pd.DataFrame, reference: pd.DataFrame, policy: DriftPolicy) -> _Sample:
    named = name in policy.columns or name in policy.categorical
    nothing = pd.Series([], dtype="float64")
    for side, table in (("current", current), ("reference", reference)):
        if name not in table.columns:
            problem = f"the column is missing in the {side} data"
            return _Sample(column=name, is_number=True, named=named, current=nothing, reference=nothing, problem=problem, blocks=True)
    now, then = current[name], reference[name]
    categorical = name in policy.categorical or (_is_flag(now) and _is_flag(then))
    if not categorical and not (_is_number(now) and _is_number(then)):
        problem = f"numbers are needed on both sides, found {now.dtype} and {then.dtype}"
        return _Sample(column=name, is_number=True, named=named, current=nothing, reference=nothing, problem=problem, blocks=True)
    prepare = _categories if categorical else _numbers
    return _Sample(column=name, is_number=not categorical, named=named, current=prepare(now), reference=prepare(then))


def _numbers(values: pd.Series) -> pd.Series:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return pd.Series(np.where(np.isfinite(numbers), numbers, np.nan))


def _categories(values: pd.Series) -> pd.Series:
    known = values.notna() & (values.astype("object") != "")
    return pd.Series([str(value) if ok else None for value, ok in zip(values, known, strict=True)], dtype="object")


def _checked_sample(sample: _Sample, policy: DriftPolicy) -> _Sample:
    """Return the sample with the reason why it cannot be tested, if there is one."""
    if sample.problem:
        return sample
    now, then = sample.current.dropna(), sample.reference.dropna()
    grown = sample.current.isna().mean() - sample.reference.isna().mean() if len(sample.current) else 0.0
    if len(then) < policy.min_rows:
        return _with(sample, f"{len(then)} usable reference values, at least {policy.min_rows} are needed", blocks=sample.named)
    if len(now) < policy.min_rows:
        return _with(sample, f"{len(now)} usable current values, at least {policy.min_rows} are needed", blocks=True)
    if grown > policy.max_missing_increase:
        return _with(sample, f"missing values grew by {grown:.1%} of the rows, {policy.max_missing_increase:.1%} is accepted", blocks=True)
    if now.nunique() == 1 and then.nunique() == 1 and now.iloc[0] == then.iloc[0]:
        return _with(sample, f"the column is the constant {now.iloc[0]!s} on both sides", blocks=sample.named)
    return sample


def _with(sample: _Sample, problem: str, *, blocks: bool) -> _Sample:
    return replace(sample, problem=problem, blocks=blocks)


def _measure(samples: Sequence[_Sample]) -> tuple[dict[str, Measured], Callable[[], str] | None]:
    return measure(
        pd.DataFrame({sample.column: sample.current for sample in samples}),
        pd.DataFrame({sample.column: sample.reference for sample in samples}),
        numeric=[sample.column for sample in samples if sample.is_number],
        categorical=[sample.column for sample in samples if not sample.is_number],
    )


def _judge_all(samples: Sequence[_Sample], measured: dict[str, Measured], policy: DriftPolicy) -> list[ColumnDrift]:
    tested = [name for name, figures in measured.items() if not figures.error]
    adjusted = dict(zip(tested, adjust([measured[name].p for name in tested], correction=policy.correction), strict=True))
    return [_judge(sample, measured.get(sample.column, Measured()), adjusted, policy) for sample in samples]


def _judge(sample: _Sample, measured: Measured, adjusted: dict[str, float], policy: DriftPolicy) -> ColumnDrift:
    rows = (int(sample.current.notna().sum()), int(sample.reference.notna().sum()))
    p_adjusted = adjusted.get(sample.column, float("nan"))
    problem = sample.problem or measured.error
    verdict, why = Verdict.CANNOT_TELL, problem
    if not problem:
        verdict, why = decide(measured, is_number=sample.is_number, rows=rows, p_adjusted=p_adjusted, tested=len(adjusted), policy=policy)
    return ColumnDrift(
        column=sample.column,
        method="" if problem else "ks" if sample.is_number else "chi2",
        reference_rows=rows[1],
        current_rows=rows[0],
        statistic=measured.statistic,
        p=measured.p,
        p_adjusted=p_adjusted,
        effect=measured.effect,
        verdict=verdict,
        why=why,
        blocks=sample.blocks or not sample.problem,
        histogram=_histogram(sample, policy.bins),
    )


def _histogram(sample: _Sample, bins: int) -> Histogram | None:
    now, then = sample.current.dropna(), sample.reference.dropna()
    if now.empty or then.empty:
        return None
    return _number_histogram(now.to_numpy(), then.to_numpy(), bins) if sample.is_number else _category_histogram(now, then)


def _number_histogram(now: NDArray[np.float64], then: NDArray[np.float64], bins: int) -> Histogram:
    low, high = np.quantile(np.concatenate([now, then]), [0.005, 0.995])
    edges = np.histogram_bin_edges([low, high], bins=bins)
    densities = [np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges, density=True)[0] for values in (then, now)]
    return Histogram(edges=_floats(edges), labels=(), reference=_floats(densities[0]), current=_floats(densities[1]))


def _category_histogram(now: pd.Series, then: pd.Series) -> Histogram:
    labels = tuple(sorted({*now, *then}))
    shares = [values.value_counts(normalize=True).reindex(labels, fill_value=0.0).to_numpy() for values in (then, now)]
    return Histogram(edges=(), labels=labels, reference=_floats(shares[0]), current=_floats(shares[1]))


def _floats(values: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
