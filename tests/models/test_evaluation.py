"""Claims against what the handed-over bytes say."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from firstlight.digest import canonical_json
from models.errors import HandOffError
from models.evaluation import EvaluationPolicy, assess, evaluate, examples
from models.handoff import load
from models.judgement import area_under_curve, interval, judge
from tests.models.tiny import CLASSES, ROWS, tiny_table, write_tiny_handoff

ROLES = {"score": "score", "class_probabilities": "probabilities", "chi2": "chi2"}


def truth_table(rows: int = 100) -> pd.DataFrame:
    """Half GALAXY and half STAR, every tenth row a labelled anomaly."""
    kind = np.where(np.arange(rows) % 2 == 0, "GALAXY", "STAR")
    anomaly = np.where(np.arange(rows) % 10 == 0, "sky-residual", "")
    return pd.DataFrame(
        {"spectype": kind, "true_spectype": kind, "zwarn": 0, "snr": np.linspace(0.5, 20, rows), "anomaly": anomaly, "has_truth": True}
    )


def answers(table: pd.DataFrame, *, right: float = 1.0) -> dict[str, np.ndarray]:
    """Answers that name the class of the first ``right`` share of rows, and score anomalies 5, others 0 to 1."""
    star = (table["true_spectype"] == "STAR").to_numpy()
    said = np.where(np.arange(len(table)) < right * len(table), star, ~star)
    score = np.where(table["anomaly"] != "", 5.0, np.random.default_rng(0).random(len(table)))
    return {"probabilities": np.stack([~said, said], axis=1).astype(np.float32), "score": score, "chi2": np.ones(len(table))}


def figures(table: pd.DataFrame, outputs: dict[str, np.ndarray], threshold: float | None = 2.0) -> Any:
    return judge(table, outputs, roles=ROLES, classes=("GALAXY", "STAR"), threshold=threshold)


def test_known_answers_give_the_known_figures() -> None:
    table = truth_table()

    found = figures(table, answers(table, right=0.8))

    assert found.values["class_accuracy_macro"] == pytest.approx(0.8)
    assert found.values["anomaly_recall"] == 1
    assert found.values["false_alarm_rate"] == 0
    assert found.values["anomaly_auc"] == 1
    assert found.values["anomaly_recall_sky_residual"] == 1
    assert found.values["median_chi2"] == 1
    assert found.counts["false_alarm_rate"] == 90
    assert found.intervals["anomaly_recall"] == pytest.approx((0.6915, 1.0), abs=1e-4)
    assert found.table["class_correct"].sum() == 80


def test_a_score_that_follows_snr_is_told_overall_and_within_bins() -> None:
    table = truth_table()
    outputs = answers(table) | {"score": table["snr"].to_numpy()}

    found = figures(table, outputs)

    assert found.values["spearman_score_snr"] == pytest.approx(1)
    assert found.values["spearman_score_snr_matched"] == pytest.approx(1)


def test_the_truth_is_the_label_and_redrock_only_where_there_is_none() -> None:
    table = truth_table(4).assign(spectype="GALAXY", zwarn=[0, 0, 0, 4], has_truth=[True, True, False, False])

    found = figures(table, answers(table)).table

    assert found["label_class"].tolist() == ["GALAXY", "STAR", "GALAXY", ""]
    assert found["class_correct"].isna().tolist() == [False, False, False, True]
    assert found["is_anomaly"].isna().tolist() == [False, False, True, True]
    assert found["class_differs"].fillna(False).tolist() == [False, True, False, False]


def test_missing_labels_are_cannot_tell_and_not_zero() -> None:
    table = truth_table().drop(columns=["has_truth", "true_spectype", "anomaly", "zwarn"])

    found = figures(table, answers(truth_table()))

    assert found.values["anomaly_recall"] is None
    assert found.values["class_accuracy_macro"] is None
    assert "no held-out row carries a truth label" in found.reasons["anomaly_recall"]
    assert found.values["median_chi2"] == 1


def test_a_class_without_rows_makes_the_macro_accuracy_untellable() -> None:
    table = truth_table().assign(true_spectype="GALAXY")

    found = figures(table, answers(table))

    assert found.values["class_accuracy_macro"] is None
    assert "1 have one" in found.reasons["class_accuracy_macro"]


def test_no_rows_are_no_figures() -> None:
    found = figures(truth_table(0), answers(truth_table(0)))

    assert set(found.values.values()) == {None}


def test_without_a_threshold_nothing_is_flagged_and_nothing_is_cleared() -> None:
    found = figures(truth_table(), answers(truth_table()), threshold=None)

    assert found.table["flagged"].isna().all()
    assert "anomaly_recall" not in found.values
    assert found.values["anomaly_auc"] == 1


def test_intervals_are_exact() -> None:
    assert interval(0, 10) == pytest.approx((0, 0.3085), abs=1e-4)
    assert interval(10, 10) == pytest.approx((0.6915, 1), abs=1e-4)
    assert interval(0, 0) == (0, 1)
    low, high = interval(3, 40)
    assert stats.binom.sf(2, 40, low) == pytest.approx(0.025)
    assert stats.binom.cdf(3, 40, high) == pytest.approx(0.025)


def test_the_area_under_the_curve_counts_ties_half() -> None:
    assert area_under_curve(np.ones(6), np.ones(6)) == 0.5
    assert area_under_curve(np.arange(6) + 10.0, np.arange(6.0)) == 1
    assert area_under_curve(np.ones(2), np.ones(100)) is None


def labelled_table() -> pd.DataFrame:
    return tiny_table().assign(zwarn=0)


def test_a_model_of_another_shape_is_evaluated_on_its_own_classes(tmp_path: Path) -> None:
    folder = write_tiny_handoff(tmp_path / "tiny", holdout_table=labelled_table())

    evaluation = evaluate(folder, EvaluationPolicy(at_least={}, at_most={}), batch_size=7)

    assert len(evaluation.table) == ROWS
    assert set(evaluation.table["predicted_class"]) <= set(CLASSES)
    assert evaluation.metrics["class_accuracy_macro"] is not None
    assert evaluation.verdict == "cannot tell"  # its table has no truth about anomalies
    assert "score" in evaluation.table
    assert canonical_json(evaluation.to_dict())
    assert list(evaluation.to_dict())[:3] == ["verdict", "summary", "reasons"]


def test_the_chunk_size_changes_no_figure(tmp_path: Path) -> None:
    folder = write_tiny_handoff(tmp_path / "tiny", holdout_table=labelled_table())

    assert evaluate(folder, batch_size=1).metrics == pytest.approx(evaluate(folder, batch_size=40).metrics, abs=1e-6)


def test_an_invented_claim_fails_and_names_both_figures(tmp_path: Path) -> None:
    folder = write_tiny_handoff(tmp_path / "tiny", holdout_table=labelled_table(), metrics={"class_accuracy_macro": 0.999, "loss": 0.5})

    evaluation = evaluate(folder)

    assert evaluation.verdict == "fail"
    assert evaluation.verdicts["class_accuracy_macro"] == "fail"
    assert any("claims class_accuracy_macro = 0.999, the handed-over model gives" in reason for reason in evaluation.reasons)


def test_an_honest_claim_passes(tmp_path: Path) -> None:
    honest = evaluate(write_tiny_handoff(tmp_path / "first", holdout_table=labelled_table())).metrics["class_accuracy_macro"]
    folder = write_tiny_handoff(tmp_path / "second", holdout_table=labelled_table(), metrics={"class_accuracy_macro": honest})

    assert evaluate(folder).verdicts["class_accuracy_macro"] == "pass"


def test_an_answer_that_is_no_number_fails(tiny_handoff: Path) -> None:
    handoff = load(tiny_handoff)
    outputs = {"score": np.full(ROWS, 0.1), "embedding": np.zeros((ROWS, 4)), "class_probabilities": np.full((ROWS, 2), 0.5)}
    outputs["embedding"][3, 2] = np.nan

    evaluation = assess(handoff, outputs)

    assert evaluation.verdict == "fail"
    assert any("'embedding'" in reason for reason in evaluation.reasons)


def test_a_broken_hand_off_is_refused(broken: Path) -> None:
    (broken / "holdout.safetensors").write_bytes(b"no tensors")

    with pytest.raises(HandOffError, match="holdout"):
        evaluate(broken)


def test_pictures_of_another_shape_are_over_pixels(tiny_handoff: Path) -> None:
    pictures = examples(tiny_handoff, evaluate(tiny_handoff).table, k=2)

    assert pictures["x_label"] == "pixel"
    assert pictures["flux"].shape == (len(pictures["row"]), 50)
    assert "reconstruction" not in pictures
    assert pictures["kind"][-2:] == ["strange", "strange"]
    assert len(set(pictures["row"])) == len(pictures["row"])
