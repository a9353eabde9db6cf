"""Bias over slices: a biased slice is found, an even one is not accused, and what nobody can know blocks only where it must."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from expectations import BiasPolicy, BiasReport, SliceResult, assess_bias
from expectations.intervals import Strata
from expectations.policy import Requirement
from expectations.slice_decision import Comparison, decide, overall
from expectations.slice_definitions import slices, snr_strata
from firstlight.digest import canonical_json
from firstlight.errors import RefusedError
from firstlight.verdict import Verdict

POLICY = BiasPolicy()
Rate = NDArray[np.float64]


def a_sky(seed: int, *, rows: int = 600, more_alarms: Callable[[pd.DataFrame], Rate] | None = None) -> pd.DataFrame:
    """A hold-out as the demo has it: 6 % anomalies, 5 % false alarms, accuracy rising with S/N; ``more_alarms`` adds to the alarm rate."""
    random = np.random.default_rng(seed)
    label = random.choice(["GALAXY", "QSO", "STAR"], rows, p=[0.7, 0.09, 0.21])
    snr = np.exp(random.normal(np.log(2.4), 0.8, rows))
    table = pd.DataFrame(
        {
            "snr": snr,
            "z": np.where(label == "STAR", 0.0, np.where(label == "QSO", random.uniform(0.5, 4, rows), random.uniform(0.02, 1.6, rows))),
            "mag_r": 21.5 - 2.5 * np.log10(snr) + random.normal(0, 0.7, rows),
            "ebv": random.uniform(0.005, 0.12, rows),
            "petal": random.integers(0, 10, rows),
            "survey": "main",
            "program": random.choice(["dark", "bright"], rows),
            "label_class": label,
            "spectype": label,
            "is_anomaly": random.random(rows) < 0.06,
        }
    )
    alarms = 0.05 + (more_alarms(table) if more_alarms else 0.0)
    table["flagged"] = np.where(table["is_anomaly"], random.random(rows) < 0.8, random.random(rows) < alarms)
    table["class_correct"] = random.random(rows) < np.clip(0.86 + 0.03 * np.log(snr / 2.4), 0, 1)
    return table


def failures(report: BiasReport) -> set[tuple[str, str, str]]:
    return {(row.dimension, row.slice, row.metric) for row in report.slices if row.verdict is Verdict.FAIL}


def test_an_even_model_is_accused_no_more_often_than_alpha_says() -> None:
    verdicts = [assess_bias(a_sky(seed), POLICY).verdict for seed in range(60)]
    assert verdicts.count(Verdict.FAIL) <= 0.05 * 60
    assert verdicts.count(Verdict.PASS) >= 0.85 * 60


def test_an_injected_bias_is_found_and_named() -> None:
    reports = [assess_bias(a_sky(seed, more_alarms=lambda t: 0.3 * (t["petal"] == 3).to_numpy()), POLICY) for seed in range(20)]
    found = [("petal", "3", "false_alarm_rate") in failures(report) for report in reports]
    assert sum(found) >= 19
    assert all(report.verdict is Verdict.FAIL for report, hit in zip(reports, found, strict=True) if hit)
    assert any("false_alarm_rate in petal 3" in reason for reason in reports[0].reasons)


def test_a_blind_spot_for_anomalies_is_found_with_few_of_them() -> None:
    # Given enough anomalies overall and a program in which the model sees none
    table = a_sky(3, rows=1200)
    blind = table["is_anomaly"] & (table["program"] == "bright")
    table.loc[blind, "flagged"] = False
    assert ("program", "bright", "anomaly_recall") in failures(assess_bias(table, POLICY))


def test_a_slice_that_is_only_fainter_is_not_accused() -> None:
    # Given a model whose classes go wrong at low S/N, and a program that looks at fainter things
    random = np.random.default_rng(11)
    table = a_sky(11, rows=3000)
    table["program"] = np.where(random.random(3000) < 1 / (1 + (table["snr"] / 2.4) ** 3), "dark", "bright")
    table["class_correct"] = random.random(3000) < np.clip(0.8 + 0.2 * np.log(table["snr"] / 2.4), 0.05, 0.99)
    plain = table.groupby("program")["class_correct"].mean()
    # Then the plain rates differ by more than the margin, and the comparison at matched S/N does not blame the program
    assert plain["bright"] - plain["dark"] > POLICY.margin.class_accuracy
    row = next(r for r in assess_bias(table, POLICY).slices if (r.dimension, r.slice, r.metric) == ("program", "dark", "class_accuracy"))
    assert row.verdict is Verdict.PASS
    assert row.matched


def test_without_labels_nobody_can_tell() -> None:
    table = a_sky(1).assign(is_anomaly=pd.NA, class_correct=None)
    report = assess_bias(table, POLICY)
    assert report.verdict is Verdict.CANNOT_TELL
    assert report.reasons
    assert all(row.verdict is Verdict.CANNOT_TELL for row in report.slices)


@pytest.mark.parametrize("table", [pd.DataFrame(), a_sky(1).iloc[:0], a_sky(1).iloc[:15]], ids=["nothing", "no rows", "few rows"])
def test_too_little_cannot_tell(table: pd.DataFrame) -> None:
    report = assess_bias(table, POLICY)
    assert report.verdict is Verdict.CANNOT_TELL
    assert canonical_json(report.to_dict())


def test_without_snr_only_cannot_tell_is_left() -> None:
    report = assess_bias(a_sky(1).drop(columns="snr"), POLICY)
    assert report.verdict is Verdict.CANNOT_TELL
    assert {row.verdict for row in report.slices} == {Verdict.CANNOT_TELL}
    assert any("no S/N" in row.why for row in report.slices)


def test_a_required_dimension_that_is_missing_blocks_and_another_one_does_not() -> None:
    assert assess_bias(a_sky(2).drop(columns="z"), POLICY).verdict is Verdict.CANNOT_TELL
    assert assess_bias(a_sky(2).drop(columns="ebv"), POLICY).verdict is Verdict.PASS


def test_small_slices_of_no_required_question_are_advice() -> None:
    report = assess_bias(a_sky(2), POLICY)
    assert report.verdict is Verdict.PASS
    assert any(row.verdict is Verdict.CANNOT_TELL for row in report.slices)


def test_the_same_small_slices_block_when_they_are_required() -> None:
    required = (Requirement(dimension="petal", metric="anomaly_recall"),)
    report = assess_bias(a_sky(2), POLICY.model_copy(update={"required": required}))
    assert report.verdict is Verdict.CANNOT_TELL
    assert "petal" in report.reasons[0]


def test_rows_with_a_missing_label_leave_that_rate_only() -> None:
    table = a_sky(4)
    table["is_anomaly"] = table["is_anomaly"].astype("boolean").mask(table.index < 100)
    report = assess_bias(table, POLICY)
    assert report.overall_rows["class_accuracy"] == 600
    assert report.overall_rows["anomaly_recall"] + report.overall_rows["false_alarm_rate"] == 500


def test_truth_that_is_no_truth_value_is_refused() -> None:
    with pytest.raises(RefusedError, match="'flagged' must hold true, false or missing"):
        assess_bias(a_sky(1).assign(flagged="yes"), POLICY)
    with pytest.raises(RefusedError, match="found 'dict'"):
        assess_bias({}, POLICY)  # type: ignore[arg-type]


def test_a_column_that_names_objects_is_no_slice() -> None:
    policy = POLICY.model_copy(update={"categories": {"target": "targetid"}})
    with pytest.raises(RefusedError, match="at most 64 values"):
        assess_bias(a_sky(1).assign(targetid=np.arange(600)), policy)


def test_slices_leave_out_unknown_values_and_single_valued_columns() -> None:
    table = pd.DataFrame({"snr": [0.5, 3.0, np.nan], "petal": [1, -1, 2], "program": ["dark", "", "bright"], "survey": ["main"] * 3})
    found = {(part.dimension, part.name): (part.members.tolist(), part.rest.tolist()) for part in slices(table, POLICY)}
    assert found == {
        ("snr", "below 1"): ([True, False, False], [False, True, False]),
        ("snr", "2 to 4"): ([False, True, False], [True, False, False]),
        ("program", "dark"): ([True, False, False], [False, False, True]),
        ("program", "bright"): ([False, False, True], [True, False, False]),
    }  # petal cuts the table exactly as program does, so it would be the same question twice


def test_every_edge_belongs_to_the_bin_above_it() -> None:
    table = pd.DataFrame({"snr": [0.999, 1.0, 8.0]})
    assert {part.name: part.members.tolist().index(True) for part in slices(table, POLICY)} == {"below 1": 0, "1 to 2": 1, "8 and above": 2}


def test_rows_without_snr_are_matched_with_one_another() -> None:
    fine, coarse = snr_strata(pd.DataFrame({"snr": [0.1, np.nan, np.inf, 100.0]}), POLICY)
    assert fine.tolist() == [0, 10, 10, 9]
    assert coarse.tolist() == [0, 4, 4, 3]


def compared(
    *, harms: int, rows: int, rest_harms: int, rest_rows: int, metric: str = "false_alarm_rate", labelled: int | None = None
) -> Comparison:
    columns = [np.array([value]) for value in (harms, rows, rest_harms, rest_rows)]
    return Comparison(
        dimension="program",
        slice="dark",
        metric=metric,
        rows=rows if labelled is None else labelled,
        harms=harms,
        compared=Strata(slice_events=columns[0], slice_rows=columns[1], rest_events=columns[2], rest_rows=columns[3]),
        matched=True,
    )


@pytest.mark.parametrize(
    ("comparison", "p_adjusted", "verdict"),
    [
        (compared(harms=40, rows=100, rest_harms=10, rest_rows=200), 0.001, Verdict.FAIL),
        (compared(harms=40, rows=100, rest_harms=10, rest_rows=200), 0.06, Verdict.CANNOT_TELL),
        (compared(harms=5, rows=100, rest_harms=10, rest_rows=200), 0.6, Verdict.PASS),
        (compared(harms=70, rows=1000, rest_harms=20, rest_rows=1000), 1e-9, Verdict.PASS),
        (compared(harms=1, rows=21, rest_harms=10, rest_rows=200), 0.6, Verdict.CANNOT_TELL),
        (compared(harms=19, rows=19, rest_harms=0, rest_rows=200), float("nan"), Verdict.CANNOT_TELL),
        (compared(harms=30, rows=30, rest_harms=0, rest_rows=19), float("nan"), Verdict.CANNOT_TELL),
        (compared(harms=30, rows=30, rest_harms=0, rest_rows=200, labelled=40), float("nan"), Verdict.CANNOT_TELL),
    ],
    ids=["worse and sure", "worse, not sure", "alike", "sure but small", "interval too wide", "few rows", "small rest", "few counterparts"],
)
def test_one_slice_is_decided_by_margin_certainty_and_rows(comparison: Comparison, p_adjusted: float, verdict: Verdict) -> None:
    assert decide(comparison, POLICY, p=p_adjusted, p_adjusted=p_adjusted).verdict is verdict


def test_a_rate_where_high_is_good_is_shown_as_such() -> None:
    row = decide(compared(harms=10, rows=100, rest_harms=10, rest_rows=200, metric="class_accuracy"), POLICY, p=0.1, p_adjusted=0.1)
    assert (row.events, row.rate, row.rest_rate) == (90, 0.9, pytest.approx(0.95))
    assert row.low < 0.9 < row.high
    assert row.worse_by == pytest.approx(0.05)


def test_any_failure_fails_the_whole_report() -> None:
    rows: list[SliceResult] = [
        decide(compared(harms=40, rows=100, rest_harms=10, rest_rows=200), POLICY, p=1e-5, p_adjusted=1e-4),
        decide(compared(harms=5, rows=100, rest_harms=10, rest_rows=200), POLICY, p=0.6, p_adjusted=1.0),
    ]
    assert overall(rows, [])[0] is Verdict.FAIL
    assert overall(rows[1:], [])[0] is Verdict.PASS
    assert overall([], [])[0] is Verdict.CANNOT_TELL


def test_a_suspicious_slice_of_a_required_question_is_no_pass() -> None:
    # Given quasars that look far worse than the margin, in numbers too small to prove it
    table = a_sky(2)
    quasars = table.index[(table["label_class"] == "QSO") & ~table["is_anomaly"]]
    table.loc[quasars, "flagged"] = np.arange(len(quasars)) < 4
    report = assess_bias(table.drop(index=quasars[22:]), POLICY)
    row = next(r for r in report.slices if (r.slice, r.metric) == ("QSO", "false_alarm_rate"))
    assert row.worse_by > row.margin
    assert row.verdict is Verdict.CANNOT_TELL
    # Then the other classes' answers do not outvote them
    assert report.verdict is Verdict.CANNOT_TELL
    assert any("QSO" in reason for reason in report.reasons)


def test_the_report_is_plain_json_that_a_chart_can_draw() -> None:
    plain = assess_bias(a_sky(6), POLICY).to_dict()
    assert list(plain)[:3] == ["verdict", "summary", "reasons"]
    assert json.loads(canonical_json(plain)) == plain
    assert {"dimension", "slice", "metric", "rows", "rate", "low", "high", "rest_rate", "p_adjusted", "verdict"} <= set(plain["slices"][0])
    assert set(plain["overall"]) == {"anomaly_recall", "false_alarm_rate", "class_accuracy"}


def test_benjamini_yekutieli_finds_the_same_strong_bias() -> None:
    table = a_sky(5, more_alarms=lambda t: 0.4 * (t["petal"] == 3).to_numpy())
    report = assess_bias(table, POLICY.model_copy(update={"correction": "benjamini-yekutieli"}))
    assert ("petal", "3", "false_alarm_rate") in failures(report)


@pytest.mark.parametrize(
    "wrong", [{"bins": {"snr": (2.0, 1.0)}}, {"match_edges": ()}, {"alpha": 0.0}, {"colour": 1}, {"margin": {"recall": 0.1}}]
)
def test_a_policy_with_a_slip_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BiasPolicy.model_validate(wrong)
