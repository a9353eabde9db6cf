"""The Great Expectations door: run rules over a table, answer with a typed report, leave nothing behind.

The context is ephemeral and its telemetry and progress bars are off by configuration, whatever the environment says.
Great Expectations is imported inside the one function that needs it: the import takes seconds.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd

from expectations.policy import DataPolicy
from expectations.report import DataReport, ExpectationResult, data_report
from expectations.suites import Rule, reference_suite, spectra_suite, with_missing
from firstlight.errors import RefusedError
from firstlight.verdict import Verdict

_SHOWN_VALUES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the engine saw for one rule."""

    held: bool
    """The expectation's own answer."""
    error: str = ""
    """Why it could not be evaluated; "" when it was."""
    rows: int | None = None
    """Rows looked at; None for rules about the whole table."""
    missing: int | None = None
    """Rows without a value."""
    unexpected: int | None = None
    """Rows against the rule."""
    examples: tuple[str, ...] = ()
    """A few of the values against the rule."""
    observed: object = None
    """The figure a table rule saw, for example the row count."""


def validate_reference(table: pd.DataFrame, policy: DataPolicy, *, required: Sequence[str] = ()) -> DataReport:
    """Validate a hand-off's reference or held-out table (one row per spectrum).

    The columns present decide which rules apply; every column named in ``required`` (and ``targetid``) must be there with values.
    Missing columns, all-missing columns, too few rows and errors inside the engine are CANNOT_TELL. Raises RefusedError for a non-table.
    """
    _check_table(table)
    rules = reference_suite(dict(table.dtypes), policy, required=required)
    return data_report(_evaluate(table, rules), subject="reference", rows=len(table))


def validate_spectra(table: pd.DataFrame, *, refused: int, policy: DataPolicy) -> DataReport:
    """Validate the metadata table of spectra just read; ``refused`` is how many further rows the reader refused.

    Same physical rules and the same verdicts as :func:`validate_reference`; raises RefusedError for a non-table or a negative count.
    """
    _check_table(table)
    if refused < 0:
        raise RefusedError(f"the number of refused rows must not be negative, found {refused!r}; pass len(batch.refused)")
    results = _evaluate(table, spectra_suite(dict(table.dtypes), policy))
    return data_report([*results, refused_result(len(table), refused, policy)], subject="spectra", rows=len(table))


def refused_result(rows: int, refused: int, policy: DataPolicy) -> ExpectationResult:
    """Judge the share of rows that the reader refused (pure). No row at all is CANNOT_TELL."""
    total = rows + refused
    share = refused / total if total else 0.0
    held = share <= policy.max_refused_share
    return ExpectationResult(
        column="",
        rule=f"at most {policy.max_refused_share:.1%} of the rows refused by the reader",
        severity="critical",
        required=True,
        observed=f"{refused} of {total} refused ({share:.1%})" if total else "no rows were read",
        unexpected=refused,
        verdict=Verdict.CANNOT_TELL if not total else Verdict.PASS if held else Verdict.FAIL,
    )


def judge(rule: Rule, outcome: Outcome) -> ExpectationResult:
    """Turn one engine outcome into a row (pure): what could not be looked at is never a success."""
    return ExpectationResult(
        column=rule.column,
        rule=rule.words,
        severity=rule.severity,
        required=rule.required or (rule.severity == "critical" and bool(outcome.error)),
        observed=_observed(outcome),
        unexpected=outcome.unexpected,
        verdict=_verdict(rule, outcome),
    )


def _verdict(rule: Rule, outcome: Outcome) -> Verdict:
    if outcome.error or _nothing_seen(outcome):
        return Verdict.CANNOT_TELL
    if outcome.held:
        return Verdict.PASS
    return Verdict.FAIL if rule.column else Verdict.CANNOT_TELL  # too few rows is missing evidence, not bad data


def _nothing_seen(outcome: Outcome) -> bool:
    return outcome.rows is not None and outcome.rows <= (outcome.missing or 0)


def _observed(outcome: Outcome) -> str:
    if outcome.error:
        return outcome.error
    if outcome.rows is None:
        return f"found {outcome.observed}"
    if outcome.rows == 0:
        return "no rows"
    if _nothing_seen(outcome):
        return f"all {outcome.rows} values are missing"
    shown = f", for example {', '.join(outcome.examples)}" if outcome.examples else ""
    return f"{outcome.unexpected or 0} of {outcome.rows - (outcome.missing or 0)} against it{shown}"


def _check_table(table: object) -> None:
    if not isinstance(table, pd.DataFrame):
        raise RefusedError(f"validation needs a pandas DataFrame with one row per spectrum, found {type(table).__name__!r}")
    doubled = sorted({str(name) for name in table.columns[table.columns.duplicated()]})
    if doubled:
        raise RefusedError(f"every column must have a name of its own, found {doubled!r} twice; rename or drop the copies")


def _evaluate(table: pd.DataFrame, rules: Sequence[Rule]) -> list[ExpectationResult]:
    """Run the rules that can be run and judge all of them."""
    prepared = with_missing(table)
    runnable = [rule for rule in rules if not rule.column or rule.column in prepared.columns]
    absent = [rule for rule in rules if rule.column and rule.column not in prepared.columns]
    missing = Outcome(held=False, error="the column is missing")
    seen = zip(runnable, _outcomes(prepared, runnable), strict=True)
    return [judge(rule, outcome) for rule, outcome in seen] + [judge(rule, missing) for rule in absent]


def _outcomes(table: pd.DataFrame, rules: Sequence[Rule]) -> list[Outcome]:
    try:
        with _quiet():
            raw = _run_great_expectations(table, rules)
    except Exception as error:  # the door fails closed: whatever breaks inside is "could not be looked at", for every rule
        return [Outcome(held=False, error=f"the validation engine failed with {type(error).__name__}: {str(error)[:200]}")] * len(rules)
    lost = Outcome(held=False, error="the validation engine gave no answer")
    return [_with_missing_count(raw.get(index, lost), rule, table) for index, rule in enumerate(rules)]


def _with_missing_count(outcome: Outcome, rule: Rule, table: pd.DataFrame) -> Outcome:
    """A not-null rule counts missing values as unexpected; put an all-missing column where the other rules have it."""
    if rule.expectation != "ExpectColumnValuesToNotBeNull" or outcome.rows is None or outcome.unexpected != outcome.rows:
        return outcome
    return Outcome(held=False, rows=outcome.rows, missing=len(table), unexpected=outcome.unexpected)


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


def _run_great_expectations(table: pd.DataFrame, rules: Sequence[Rule]) -> dict[int, Outcome]:
    """Run the rules in an ephemeral context and return rule index -> outcome."""
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset("table")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    suite = gx.ExpectationSuite(name="suite")
    for index, rule in enumerate(rules):
        suite.add_expectation(_expectation(gxe, rule, index))
    result = batch.validate(suite, result_format="SUMMARY")
    return {int(item.expectation_config.meta["rule"]): _outcome(item) for item in result.results}


def _expectation(catalogue: Any, rule: Rule, index: int) -> Any:
    column = {"column": rule.column} if rule.column else {}
    expectation = getattr(catalogue, rule.expectation)
    return expectation(**column, **rule.arguments, severity=rule.severity, meta={"rule": index})


def _outcome(item: Any) -> Outcome:
    result: Mapping[str, Any] = item.result or {}
    if not result:
        return Outcome(held=False, error=f"could not be evaluated: {_first_message(item.exception_info)}")
    examples = tuple(str(value) for value in result.get("partial_unexpected_list") or ())
    return Outcome(
        held=bool(item.success),
        rows=result.get("element_count"),
        missing=result.get("missing_count"),
        unexpected=result.get("unexpected_count"),
        examples=examples[:_SHOWN_VALUES],
        observed=result.get("observed_value"),
    )


def _first_message(information: Any) -> str:
    """Return the first line of the first exception; the library nests them by metric when several metrics failed."""
    entries = information.values() if isinstance(information, Mapping) and "exception_message" not in information else [information]
    for entry in entries:
        if isinstance(entry, Mapping) and entry.get("exception_message"):
            return str(entry["exception_message"]).splitlines()[0][:200]
    return "no reason given"
