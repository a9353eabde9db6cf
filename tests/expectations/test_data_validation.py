"""Data validation through the real Great Expectations: what is missing is no success, what is wrong fails, warnings are reasons."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from expectations import DataPolicy, DataReport, validate_reference, validate_spectra
from expectations import validation as door
from firstlight.digest import canonical_json
from firstlight.errors import RefusedError
from firstlight.verdict import Verdict

POLICY = DataPolicy()
REQUIRED = ("snr", "z", "spectype")


def a_table(rows: int = 200) -> pd.DataFrame:
    random = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "targetid": np.arange(rows, dtype=np.int64),
            "snr": np.exp(random.normal(0.9, 0.8, rows)),
            "z": random.uniform(0.0, 3.0, rows),
            "spectype": random.choice(["GALAXY", "QSO", "STAR"], rows),
            "masked_fraction": random.beta(1, 200, rows),
            "ebv": random.uniform(0.0, 0.1, rows),
            "mag_r": random.normal(20.5, 1.0, rows),
            "petal": random.integers(0, 10, rows),
            "has_truth": True,
            "anomaly_score": random.normal(0.0, 1.0, rows),
        }
    )


def reference(table: pd.DataFrame, **policy: object) -> DataReport:
    return validate_reference(table, DataPolicy.model_validate(policy), required=REQUIRED)


def test_a_sound_reference_passes_without_reasons() -> None:
    report = reference(a_table())
    assert (report.verdict, report.reasons) == (Verdict.PASS, ())
    assert "expectations hold over 200 rows" in report.summary


@pytest.mark.parametrize("column", [*REQUIRED, "targetid"])
def test_a_missing_required_column_cannot_tell(column: str) -> None:
    report = reference(a_table().drop(columns=column))
    assert report.verdict is Verdict.CANNOT_TELL
    assert any(column in reason and "the column is missing" in reason for reason in report.reasons)


@pytest.mark.parametrize(("column", "nothing"), [("snr", np.nan), ("z", np.nan), ("spectype", ""), ("spectype", None)])
def test_a_required_column_without_any_value_cannot_tell(column: str, nothing: object) -> None:
    report = reference(a_table().assign(**{column: nothing}))
    assert report.verdict is Verdict.CANNOT_TELL
    assert any("all 200 values are missing" in reason for reason in report.reasons)


@pytest.mark.parametrize("table", [a_table().iloc[:0], pd.DataFrame(), a_table(99)], ids=["zero rows", "nothing at all", "too few"])
def test_too_few_rows_cannot_tell(table: pd.DataFrame) -> None:
    assert reference(table).verdict is Verdict.CANNOT_TELL
    assert validate_spectra(table.iloc[:5], refused=0, policy=POLICY).verdict is Verdict.CANNOT_TELL


def test_missing_values_above_the_share_fail_and_below_it_pass() -> None:
    table = a_table()
    assert reference(table.assign(z=table["z"].where(table.index >= 11))).verdict is Verdict.FAIL  # 5.5 % missing
    assert reference(table.assign(z=table["z"].where(table.index >= 9))).verdict is Verdict.PASS  # 4.5 % missing


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("snr", 5e4),
        ("z", 99.0),
        ("z", -0.5),
        ("z", np.inf),
        ("masked_fraction", 1.5),
        ("spectype", "NEBULA"),
        ("ebv", -1.0),
        ("anomaly_score", np.inf),
    ],
)
def test_values_against_physics_fail(column: str, value: object) -> None:
    table = a_table()
    table[column] = table[column].astype("object").where(table.index >= 20, value).infer_objects()
    report = reference(table)
    assert report.verdict is Verdict.FAIL
    assert any(reason.startswith("fail") and column in reason for reason in report.reasons)


def test_half_blind_spectra_fail_only_when_they_are_many() -> None:
    table = a_table()
    assert reference(table.assign(masked_fraction=table["masked_fraction"].where(table.index >= 30, 0.6))).verdict is Verdict.FAIL
    assert reference(table.assign(masked_fraction=table["masked_fraction"].where(table.index >= 5, 0.6))).verdict is Verdict.PASS


def test_a_target_twice_fails_the_reference_and_warns_for_exposures() -> None:
    table = a_table()
    table.loc[0, "targetid"] = 1
    assert reference(table).verdict is Verdict.FAIL
    spectra = validate_spectra(table, refused=0, policy=POLICY)
    assert spectra.verdict is Verdict.PASS
    assert any("no target twice" in reason and "advice" in reason for reason in spectra.reasons)


def test_a_warning_that_does_not_hold_is_a_pass_with_a_reason() -> None:
    report = reference(a_table().assign(mag_r=50.0))
    assert report.verdict is Verdict.PASS
    assert any("mag_r" in reason and "advice" in reason for reason in report.reasons)


def test_text_in_a_numeric_column_cannot_tell() -> None:
    report = reference(a_table().assign(ebv="thick"))
    assert report.verdict is Verdict.CANNOT_TELL
    assert any("could not be evaluated" in reason for reason in report.reasons)


def test_unknown_identifiers_and_missing_labels_are_missing_values() -> None:
    report = reference(a_table().assign(petal=-1, has_truth=False))
    assert report.verdict is Verdict.PASS
    assert {"petal", "has_truth"} <= {row.column for row in report.expectations if row.verdict is Verdict.CANNOT_TELL}


@pytest.mark.parametrize("dtype", ["object", "string", "str"])
def test_every_kind_of_missing_text_and_nullable_integers_are_understood(dtype: str) -> None:
    table = a_table()
    gone: list[object] = ["", None, "" if dtype == "str" else pd.NA, np.nan]
    table["spectype"] = pd.Series([gone[i % 4] if i < 20 else "GALAXY" for i in range(200)], dtype=dtype)
    table["zwarn"] = pd.array([None, -1] + [0] * 198, dtype="Int64")
    table["has_truth"] = pd.array([None, False] + [True] * 198, dtype="boolean")
    report = reference(table)
    missing = next(row for row in report.expectations if row.column == "spectype" and "missing" in row.rule)
    labels = next(row for row in report.expectations if row.column == "has_truth")
    assert (missing.unexpected, missing.verdict) == (20, Verdict.FAIL)
    assert (labels.unexpected, labels.verdict) == (2, Verdict.PASS)


def test_labels_block_when_they_are_required() -> None:
    table = a_table().assign(has_truth=False)
    assert validate_reference(table, POLICY, required=["has_truth"]).verdict is Verdict.CANNOT_TELL


def test_spectra_without_redshift_are_judged_on_what_they_have() -> None:
    table = a_table().assign(z=np.nan, spectype="")
    assert validate_spectra(table, refused=0, policy=POLICY).verdict is Verdict.PASS
    assert validate_spectra(table.assign(snr=np.nan), refused=0, policy=POLICY).verdict is Verdict.CANNOT_TELL


@pytest.mark.parametrize(
    ("rows", "refused", "verdict"), [(200, 20, Verdict.PASS), (200, 30, Verdict.FAIL), (0, 5, Verdict.FAIL), (0, 0, Verdict.CANNOT_TELL)]
)
def test_refused_rows_count(rows: int, refused: int, verdict: Verdict) -> None:
    assert door.refused_result(rows, refused, POLICY).verdict is verdict
    assert validate_spectra(a_table(rows) if rows else a_table().iloc[:0], refused=refused, policy=POLICY).verdict is verdict


def test_what_is_no_table_is_refused_in_one_sentence() -> None:
    with pytest.raises(RefusedError, match="found 'list'"):
        validate_reference([1, 2], POLICY)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="must not be negative, found -1"):
        validate_spectra(a_table(), refused=-1, policy=POLICY)
    with pytest.raises(RefusedError, match="found \\['z'\\] twice"):
        reference(pd.concat([a_table(), a_table()[["z"]]], axis=1))


def test_the_table_is_left_as_it_was() -> None:
    table = a_table().assign(petal=-1, spectype="")
    before = table.copy(deep=True)
    reference(table)
    pd.testing.assert_frame_equal(table, before)


def test_the_report_is_plain_json_with_the_verdict_first() -> None:
    table = a_table().assign(z=np.nan)
    plain = reference(table).to_dict()
    assert list(plain)[:3] == ["verdict", "summary", "reasons"]
    assert json.loads(canonical_json(plain)) == plain
    row = next(row for row in plain["expectations"] if row["column"] == "snr")
    assert {"column", "rule", "observed", "unexpected", "verdict", "severity", "counts"} <= set(row)


def test_policies_refuse_unknown_fields_and_falling_ranges() -> None:
    with pytest.raises(ValidationError, match="max_mising_share"):
        DataPolicy.model_validate({"max_mising_share": 0.1})
    with pytest.raises(ValidationError, match="must rise"):
        DataPolicy.model_validate({"z_range": (7.0, 0.0)})


def test_validation_is_silent_writes_no_files_and_opens_no_connection(tmp_path: Path) -> None:
    # Given a fresh process with its own home and working directory, in which any connection and any warning is an error
    script = """
import socket, warnings
warnings.simplefilter("error")
def no_network(*_):
    raise AssertionError("a connection was opened")
socket.socket.connect = no_network
import expectations, sys
assert "great_expectations" not in sys.modules
import pandas as pd
table = pd.DataFrame({"targetid": range(200), "snr": 2.0})
report = expectations.validate_reference(table, expectations.DataPolicy(), required=["snr"])
assert report.verdict == "pass", report.reasons
"""
    root = Path(__file__).parents[2]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    # When it validates
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    # Then nothing is said and nothing is left
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
