"""Drift through the real Evidently: a moved column is found whatever the row count, a still sky is left alone, gaps are no success."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy import stats

from firstlight.digest import canonical_json
from firstlight.errors import RefusedError
from firstlight.verdict import Verdict
from monitoring import drift_engine
from monitoring.drift import ColumnDrift, DriftPolicy, DriftReport, adjust, critical_distance, decide, drift, overall
from monitoring.drift_engine import Measured

POLICY = DriftPolicy()


def a_table(seed: int, rows: int) -> pd.DataFrame:
    """Features as the inference log has them: three that hang together, one skewed, a flag, a class and an identifier."""
    random = np.random.default_rng(seed)
    flux = random.normal(0.0, 1.0, rows)
    return pd.DataFrame(
        {
            "targetid": random.integers(0, 2**60, rows),
            "flux_median": flux,
            "flux_p95": flux + random.normal(0.0, 0.5, rows),
            "latent_0": random.normal(0.0, 1.0, rows) - 0.5 * flux,
            "snr": np.exp(random.normal(0.9, 0.8, rows)),
            "flagged": random.random(rows) < 0.06,
            "predicted_class": random.choice(["GALAXY", "QSO", "STAR"], rows, p=[0.7, 0.09, 0.21]),
        }
    )


REFERENCE = a_table(0, 600)


def column(report: DriftReport, name: str) -> ColumnDrift:
    return next(row for row in report.columns if row.column == name)


def test_a_still_sky_passes_and_identifiers_are_not_compared() -> None:
    report = drift(a_table(1, 300), REFERENCE, POLICY)
    assert (report.verdict, report.reasons) == (Verdict.PASS, ())
    assert [row.column for row in report.columns] == ["flux_median", "flux_p95", "latent_0", "snr", "flagged"]


@pytest.mark.parametrize("rows", [200, 1000, 1001, 2000])
def test_a_moved_column_is_found_by_the_same_method_at_any_row_count(rows: int) -> None:
    current = a_table(2, rows)
    current["snr"] *= 1.8
    report = drift(current, REFERENCE, POLICY)
    assert report.verdict is Verdict.FAIL
    assert [row.column for row in report.columns if row.verdict is Verdict.FAIL] == ["snr"]
    assert column(report, "snr").method == "ks"
    assert "snr" in report.reasons[0]
    assert "snr" in report.summary


def test_a_sure_but_small_change_is_no_drift() -> None:
    reference, current = a_table(0, 6000), a_table(3, 6000)
    current["latent_0"] += 0.12
    row = column(drift(current, reference, POLICY), "latent_0")
    assert row.p_adjusted < POLICY.alpha
    assert row.verdict is Verdict.PASS


def test_an_outlier_in_the_reference_does_not_hide_a_shift() -> None:
    # Given one wild reference value, which makes every Wasserstein distance look small beside the standard deviation
    reference = REFERENCE.copy()
    reference.loc[0, "flux_median"] = 1e9
    current = a_table(4, 300).assign(flux_median=lambda table: table["flux_median"] + 1.5)
    row = column(drift(current, reference, POLICY), "flux_median")
    assert row.effect < POLICY.effect_limit
    assert row.verdict is Verdict.FAIL


def test_evidently_and_scipy_agree_on_the_figures() -> None:
    current = a_table(5, 300)
    row = column(drift(current, REFERENCE, POLICY), "snr")
    expected = stats.ks_2samp(REFERENCE["snr"], current["snr"])
    assert (row.statistic, row.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert row.effect == pytest.approx(stats.wasserstein_distance(REFERENCE["snr"], current["snr"]) / REFERENCE["snr"].std(ddof=0))


def test_a_moved_class_mix_is_found_and_one_new_class_in_one_row_is_not_drift() -> None:
    policy = POLICY.model_copy(update={"categorical": ("predicted_class",)})
    swapped = a_table(6, 300).assign(predicted_class=lambda t: t["predicted_class"].map({"GALAXY": "STAR", "STAR": "GALAXY", "QSO": "QSO"}))
    assert column(drift(swapped, REFERENCE, policy), "predicted_class").verdict is Verdict.FAIL
    novel = a_table(6, 300)
    novel.loc[0, "predicted_class"] = "NEBULA"
    row = column(drift(novel, REFERENCE, policy), "predicted_class")
    assert row.verdict is Verdict.PASS
    assert row.histogram is not None
    assert row.histogram.labels == ("GALAXY", "NEBULA", "QSO", "STAR")


def test_more_flags_than_before_are_found() -> None:
    current = a_table(7, 300).assign(flagged=lambda table: table.index % 2 == 0)
    assert column(drift(current, REFERENCE, POLICY), "flagged").verdict is Verdict.FAIL


@pytest.mark.parametrize("rows", [0, 1, 49])
def test_too_few_rows_cannot_tell(rows: int) -> None:
    for report in (drift(a_table(8, rows), REFERENCE, POLICY), drift(a_table(8, 300), REFERENCE.iloc[:rows], POLICY)):
        assert report.verdict is Verdict.CANNOT_TELL
        assert "at least 50" in report.reasons[0]
        assert canonical_json(report.to_dict())


def test_tables_with_nothing_in_common_cannot_tell() -> None:
    report = drift(pd.DataFrame({"a": np.arange(100.0)}), pd.DataFrame({"b": np.arange(100.0)}), POLICY)
    assert (report.verdict, report.columns) == (Verdict.CANNOT_TELL, ())
    assert drift(pd.DataFrame(), pd.DataFrame(), POLICY).verdict is Verdict.CANNOT_TELL


@pytest.mark.parametrize("gone", [np.nan, np.inf, None])
def test_a_column_without_values_cannot_tell_and_blocks(gone: object) -> None:
    report = drift(a_table(9, 300).assign(snr=pd.Series([gone] * 300, dtype="float64")), REFERENCE, POLICY)
    assert report.verdict is Verdict.CANNOT_TELL
    assert column(report, "snr").verdict is Verdict.CANNOT_TELL
    assert any("snr" in reason for reason in report.reasons)


def test_values_that_go_missing_block() -> None:
    current = a_table(9, 300)
    current.loc[:29, "snr"] = np.nan
    report = drift(current, REFERENCE, POLICY)
    assert report.verdict is Verdict.CANNOT_TELL
    assert "missing values grew by 10.0%" in column(report, "snr").why


def test_a_missing_column_blocks_only_when_the_policy_names_it() -> None:
    current = a_table(10, 300).drop(columns="snr")
    assert drift(current, REFERENCE, POLICY).verdict is Verdict.PASS
    named = drift(current, REFERENCE, POLICY.model_copy(update={"columns": ("snr", "latent_0")}))
    assert named.verdict is Verdict.CANNOT_TELL
    assert "missing in the current data" in column(named, "snr").why


def test_a_column_that_turned_into_text_cannot_tell() -> None:
    report = drift(a_table(10, 300).assign(snr="bright"), REFERENCE, POLICY)
    assert report.verdict is Verdict.CANNOT_TELL
    assert "numbers are needed on both sides" in column(report, "snr").why


def test_a_constant_on_both_sides_is_advice_and_a_stuck_column_is_drift() -> None:
    constant = drift(a_table(11, 300).assign(bias=1.0), REFERENCE.assign(bias=1.0), POLICY)
    assert column(constant, "bias").verdict is Verdict.CANNOT_TELL
    assert constant.verdict is Verdict.PASS
    stuck = drift(a_table(11, 300).assign(latent_0=0.0), REFERENCE, POLICY)
    assert column(stuck, "latent_0").verdict is Verdict.FAIL


def test_the_same_few_spectra_asked_again_and_again_are_few() -> None:
    few = pd.concat([a_table(12, 20)] * 30, ignore_index=True)
    report = drift(few, REFERENCE, POLICY)
    assert (report.current_rows, report.repeated_rows) == (20, 580)
    assert report.verdict is Verdict.CANNOT_TELL


def test_a_test_too_blind_to_see_a_change_is_no_pass() -> None:
    strict = POLICY.model_copy(update={"detectable_distance": 0.1})
    report = drift(a_table(13, 200), REFERENCE, strict)
    assert report.verdict is Verdict.CANNOT_TELL
    assert "would show only a distance above" in report.reasons[0]


def test_a_failure_inside_evidently_costs_one_column_and_never_passes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an engine that cannot take one of the columns
    real = drift_engine._evidently

    def broken(current, reference, numeric, categorical):  # type: ignore[no-untyped-def]
        if "snr" in numeric:
            raise KeyError("snr")
        return real(current, reference, numeric, categorical)

    monkeypatch.setattr(drift_engine, "_evidently", broken)
    # When drift is checked
    report = drift(a_table(14, 300), REFERENCE, POLICY)
    # Then that column cannot tell and blocks, and the others are still judged
    assert report.verdict is Verdict.CANNOT_TELL
    assert "Evidently failed with KeyError" in column(report, "snr").why
    assert column(report, "latent_0").verdict is Verdict.PASS
    with pytest.raises(RefusedError, match="at least one compared column"):
        report.html(Path("never-written.html"))


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(RefusedError, match="current must be a DataFrame"):
        drift([1], REFERENCE, POLICY)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="reference must be a DataFrame"):
        drift(REFERENCE, pd.concat([REFERENCE, REFERENCE], axis=1), POLICY)


def test_the_report_is_plain_json_with_pictures_numbers() -> None:
    plain = drift(a_table(15, 300), REFERENCE, POLICY).to_dict()
    assert list(plain)[:3] == ["verdict", "summary", "reasons"]
    assert json.loads(canonical_json(plain)) == plain
    histogram = next(row for row in plain["columns"] if row["column"] == "snr")["histogram"]
    assert len(histogram["edges"]) == POLICY.bins + 1
    widths = np.diff(histogram["edges"])
    for side in ("reference", "current"):
        assert np.sum(widths * histogram[side]) == pytest.approx(1.0)


def test_evidentlys_page_is_written_only_on_demand(tmp_path: Path) -> None:
    report = drift(a_table(16, 100), REFERENCE, POLICY)
    assert list(tmp_path.iterdir()) == []
    page = report.html(tmp_path / "drift.html")
    assert page.read_bytes().lstrip()[:20].lower().startswith((b"<html", b"<!doctype"))


def test_no_warning_of_the_library_escapes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drift(a_table(17, 100), REFERENCE, POLICY).columns
    assert "evidently" in sys.modules


def test_tables_are_left_as_they_were() -> None:
    current = a_table(18, 100)
    before = current.copy(deep=True)
    drift(current, REFERENCE, POLICY)
    pd.testing.assert_frame_equal(current, before)


def test_false_alarms_over_many_still_nights_are_as_rare_as_alpha_says() -> None:
    # Given the decision over many nights of five columns that hang together (the figures as Evidently computes them, without its overhead)
    policy = POLICY.model_copy(update={"alpha": 0.05, "distance_limit": 0.0, "effect_limit": 1e-9})
    names = ["flux_median", "flux_p95", "latent_0", "snr"]
    alarms = 0
    for night in range(200):
        then, now = a_table(1000 + night, 600), a_table(5000 + night, 200)
        adjusted = adjust([stats.ks_2samp(then[name], now[name]).pvalue for name in names], correction=policy.correction)
        moved = Measured(statistic=1.0, p=0.0, effect=1.0)
        verdicts = [decide(moved, is_number=True, rows=(200, 600), p_adjusted=p, tested=4, policy=policy)[0] for p in adjusted]
        alarms += Verdict.FAIL in verdicts
    # Then, even with no regard to what matters, at most about alpha of the nights raise an alarm (0.05 + 2 sigma)
    assert alarms / 200 <= 0.08


@pytest.mark.parametrize(
    ("measured", "p_adjusted", "rows", "verdict"),
    [
        (Measured(statistic=0.3, p=0.0, effect=0.5), 0.001, (300, 600), Verdict.FAIL),
        (Measured(statistic=0.3, p=0.0, effect=0.01), 0.001, (300, 600), Verdict.FAIL),
        (Measured(statistic=0.05, p=0.0, effect=0.5), 0.001, (300, 600), Verdict.FAIL),
        (Measured(statistic=0.05, p=0.0, effect=0.01), 0.001, (300, 600), Verdict.PASS),
        (Measured(statistic=0.3, p=0.0, effect=0.5), 0.02, (300, 600), Verdict.PASS),
        (Measured(statistic=0.3, p=0.0, effect=0.5), 0.02, (10, 600), Verdict.CANNOT_TELL),
    ],
    ids=["sure and large", "sure, distance only", "sure, tails only", "sure but small", "not sure", "not sure and blind"],
)
def test_one_column_is_decided_by_certainty_and_size(
    measured: Measured, p_adjusted: float, rows: tuple[int, int], verdict: Verdict
) -> None:
    assert decide(measured, is_number=True, rows=rows, p_adjusted=p_adjusted, tested=5, policy=POLICY)[0] is verdict


def test_the_critical_distance_is_where_the_test_turns() -> None:
    distance = critical_distance(300, 600, alpha=0.01)
    assert stats.kstwobign.sf(distance * np.sqrt(300 * 600 / 900)) == pytest.approx(0.01, rel=0.02)
    assert critical_distance(0, 600, alpha=0.01) == 1.0


def test_no_column_at_all_is_no_pass() -> None:
    assert overall([], current_rows=500, reference_rows=500, min_rows=50)[0] is Verdict.CANNOT_TELL


def test_p_values_are_adjusted_as_defined() -> None:
    assert adjust([0.01, 0.04, 0.03, 0.005], correction="holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust([0.01, 0.02], correction="benjamini-yekutieli") == pytest.approx([0.03, 0.03])


@pytest.mark.parametrize("wrong", [{"aplha": 0.1}, {"alpha": 0.0}, {"min_rows": 1}, {"correction": "none"}])
def test_a_policy_with_a_slip_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DriftPolicy.model_validate(wrong)
