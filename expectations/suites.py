"""The expectations themselves, as values: which rule for which column, in words, and how much it weighs.

Pure: nothing here imports Great Expectations. :mod:`expectations.validation` turns a :class:`Rule` into the expectation of that name.
A map expectation passes on an empty or all-missing column, so every column also gets a rule about missing values.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from expectations.policy import DataPolicy, Range

Severity = Literal["critical", "warning"]

SENTINEL_COLUMNS = ("zwarn", "healpix", "tileid", "petal", "fiber", "fiberstatus", "night")
"""Integer columns in which -1 stands for *unknown*."""
LABEL_COLUMNS = ("has_truth", "is_anomaly", "label_class")
"""Columns that say what a spectrum truly is."""
_OPTIONAL_TEXT = ("survey", "program", "subtype", "true_spectype", "anomaly", "source_file")
_OPTIONAL_NUMBER = ("zerr", "deltachi2", "true_z", "snr_b", "snr_r", "snr_z", "desi_target")
_LARGEST = 1e30


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One expectation: its Great Expectations name, its arguments, and its words."""

    expectation: str
    """Class name in ``great_expectations.expectations``."""
    column: str
    """Column, or "" for the whole table."""
    words: str
    """The rule for a reader."""
    severity: Severity = "critical"
    """Weight of not holding."""
    required: bool = False
    """Weight of not being able to tell."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the expectation."""


def reference_suite(columns: Mapping[str, object], policy: DataPolicy, *, required: Sequence[str]) -> tuple[Rule, ...]:
    """Return the rules for a hand-off's reference or held-out table with these ``columns`` (name -> dtype); ``required`` must be there."""
    needed = frozenset(required) | {"targetid"}
    rules = [_row_count(policy.min_reference_rows), _unique("critical")]
    return (
        *rules,
        *_column_rules(columns, policy, needed),
        *_label_rules(columns, policy, needed),
        *_foreign_rules(columns, policy, needed),
    )


def spectra_suite(columns: Mapping[str, object], policy: DataPolicy) -> tuple[Rule, ...]:
    """Return the rules for the metadata table of spectra just read; a target seen twice is only a warning (several exposures)."""
    needed = frozenset(policy.spectra_required)
    return (_row_count(policy.min_spectra_rows), _unique("warning"), *_column_rules(columns, policy, needed))


def with_missing(table: pd.DataFrame) -> pd.DataFrame:
    """Return a copy in which what stands for *unknown* is missing: "" in text, -1 in identifiers, False in ``has_truth``."""
    out = table.copy()
    for name in out.columns:
        values = out[name]
        if name in SENTINEL_COLUMNS and pd.api.types.is_numeric_dtype(values):
            out[name] = values.mask(values == -1)
        elif name == "has_truth":
            out[name] = pd.Series(
                [True if isinstance(value, bool) and value else None for value in values.to_list()], index=values.index, dtype="object"
            )
        elif pd.api.types.is_object_dtype(values) or pd.api.types.is_string_dtype(values):
            out[name] = pd.Series([None if _is_unknown(value) else value for value in values.to_list()], index=values.index, dtype="object")
    return out


def _is_unknown(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value))


def _row_count(minimum: int) -> Rule:
    words = f"at least {minimum} rows"
    return Rule(expectation="ExpectTableRowCountToBeBetween", column="", words=words, required=True, arguments={"min_value": minimum})


def _unique(severity: Severity) -> Rule:
    return Rule(expectation="ExpectColumnValuesToBeUnique", column="targetid", words="no target twice", severity=severity)


def _between(column: str, limits: Range, policy: DataPolicy, *, severity: Severity = "critical") -> Rule:
    low, high = limits
    mostly = 1.0 - policy.max_out_of_range_share
    return Rule(
        expectation="ExpectColumnValuesToBeBetween",
        column=column,
        words=f"between {low:g} and {high:g} in {mostly:.1%} of the rows that have it",
        severity=severity,
        arguments={"min_value": low, "max_value": high, "mostly": mostly},
    )


def _present(column: str, share_missing: float, *, required: bool) -> Rule:
    return Rule(
        expectation="ExpectColumnValuesToNotBeNull",
        column=column,
        words=f"missing in at most {share_missing:.1%} of the rows",
        severity="critical" if required else "warning",
        required=required,
        arguments={"mostly": 1.0 - share_missing},
    )


def _physical_rules(policy: DataPolicy) -> dict[str, tuple[Rule, ...]]:
    half_blind = Rule(
        expectation="ExpectColumnValuesToBeBetween",
        column="masked_fraction",
        words=f"more than half of the pixels masked in at most {policy.max_half_blind_share:.1%} of the rows",
        arguments={"min_value": 0.0, "max_value": 0.5, "mostly": 1.0 - policy.max_half_blind_share},
    )
    classes = Rule(
        expectation="ExpectColumnValuesToBeInSet",
        column="spectype",
        words=f"one of {', '.join(policy.spectypes)}",
        arguments={"value_set": list(policy.spectypes)},
    )
    whole = Rule(
        expectation="ExpectColumnValuesToBeBetween",
        column="masked_fraction",
        words="between 0 and 1 in every row",
        arguments={"min_value": 0.0, "max_value": 1.0},
    )
    return {
        "targetid": (),
        "snr": (_between("snr", policy.snr_range, policy),),
        "z": (_between("z", policy.z_range, policy),),
        "masked_fraction": (whole, half_blind),
        "spectype": (classes,),
        "ebv": (_between("ebv", policy.ebv_range, policy),),
        "mag_r": (_between("mag_r", policy.mag_r_range, policy, severity="warning"),),
        "petal": (_between("petal", (0, 9), policy, severity="warning"),),
    }


def _column_rules(columns: Iterable[str], policy: DataPolicy, needed: frozenset[str]) -> list[Rule]:
    """Return rules for every physical column that is there, and for every needed one whether there or not."""
    physical = _physical_rules(policy)
    wanted = [name for name in physical if name in set(columns) | needed]
    wanted += sorted(needed - set(physical) - set(LABEL_COLUMNS))
    found: list[Rule] = []
    for name in wanted:
        found.append(_present(name, _may_miss(name, policy), required=name in needed))
        found += [replace(rule, required=name in needed) for rule in physical.get(name, ())]
    return found


def _may_miss(name: str, policy: DataPolicy) -> float:
    return 0.0 if name == "targetid" else policy.max_missing_share


def _label_rules(columns: Iterable[str], policy: DataPolicy, needed: frozenset[str]) -> list[Rule]:
    wanted = [name for name in LABEL_COLUMNS if name in set(columns) | needed]
    return [_present(name, 1.0 - policy.min_label_share, required=name in needed) for name in wanted]


def _foreign_rules(columns: Mapping[str, object], policy: DataPolicy, needed: frozenset[str]) -> list[Rule]:
    """Return rules for numeric columns we have no physics for (feature summaries, model outputs): finite, and mostly there."""
    known = {*_physical_rules(policy), *LABEL_COLUMNS, *SENTINEL_COLUMNS, *_OPTIONAL_TEXT, *_OPTIONAL_NUMBER}
    names = [name for name, dtype in columns.items() if name not in known and _is_real(dtype)]
    missing = [_present(name, policy.max_missing_share, required=False) for name in names if name not in needed]
    return missing + [_finite(name) for name in names]


def _is_real(dtype: object) -> bool:
    return bool(pd.api.types.is_float_dtype(dtype))  # type: ignore[arg-type]


def _finite(column: str) -> Rule:
    return Rule(
        expectation="ExpectColumnValuesToBeBetween",
        column=column,
        words="finite wherever present",
        arguments={"min_value": -_LARGEST, "max_value": _LARGEST},
    )
