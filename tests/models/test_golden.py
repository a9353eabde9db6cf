"""Golden vectors pass, fail with row and output, or cannot tell."""

import json
from pathlib import Path

import numpy as np
import pytest

from firstlight.verdict import Verdict
from models.golden import GoldenReport, compare, replay
from models.handoff import Epsilon, load
from models.program import Program
from models.tensors import read_tensors, write_tensors
from tests.models.breaking import put, rewrite

EPSILON = Epsilon(rtol=1e-3, atol=1e-3)


def one(recorded: list[float], found: list[float]) -> GoldenReport:
    return compare({"score": np.array(recorded, np.float32)}, {"score": np.array(found, np.float32)}, epsilon=EPSILON)


def test_the_saved_model_answers_what_its_trainer_saw(tiny_handoff: Path) -> None:
    report = replay(Program.load(tiny_handoff), tiny_handoff)
    assert report.verdict is Verdict.PASS
    assert report.rows == 8
    assert set(report.worst) == {"score", "embedding", "class_probabilities"}
    assert max(report.worst.values()) < 1e-6
    assert report.reasons == []


def test_another_model_fails_with_row_and_output(broken: Path) -> None:
    tensors = read_tensors((broken / "golden.safetensors").read_bytes(), where="golden")
    tensors["output.embedding"][5, 2] += 0.5
    put(broken, "golden.safetensors", write_tensors(tensors))
    report = replay(Program.load(broken), load(broken))
    assert report.verdict is Verdict.FAIL
    assert "row 5 of output 'embedding'" in report.reasons[0]
    assert "(1 of 8 rows differ)" in report.reasons[0]
    assert report.worst["embedding"] == pytest.approx(0.5, abs=1e-5)


def test_a_model_that_cannot_take_the_golden_inputs_fails(broken: Path) -> None:
    program = Program.load(broken)
    tensors = read_tensors((broken / "golden.safetensors").read_bytes(), where="golden")
    tensors["input.signal"] = tensors["input.signal"][:, :-1]
    put(broken, "golden.safetensors", write_tensors(tensors))
    report = replay(program, broken)
    assert report.verdict is Verdict.FAIL
    assert "must be float32 [-1, 50]" in report.reasons[0]


def test_the_tolerance_is_the_hand_offs_own(broken: Path) -> None:
    tensors = read_tensors((broken / "golden.safetensors").read_bytes(), where="golden")
    tensors["output.score"] += 0.01
    put(broken, "golden.safetensors", write_tensors(tensors))
    assert replay(Program.load(broken), broken).verdict is Verdict.FAIL
    rewrite(broken, lambda value: value["model"]["epsilon"].update(atol=0.02))
    assert replay(Program.load(broken), broken).verdict is Verdict.PASS


def test_no_rows_cannot_tell() -> None:
    assert one([], []).verdict is Verdict.CANNOT_TELL
    assert compare({}, {}, epsilon=EPSILON).verdict is Verdict.CANNOT_TELL
    assert "nothing compared" in compare({}, {}, epsilon=EPSILON).summary


@pytest.mark.parametrize(
    ("recorded", "found", "verdict"),
    [
        ([1.0], [1.0019], Verdict.PASS),
        ([1.0], [1.0021], Verdict.FAIL),
        ([0.0], [0.0009], Verdict.PASS),
        ([0.0], [0.0011], Verdict.FAIL),
        ([1000.0], [1000.9], Verdict.PASS),
        ([1.0], [float("nan")], Verdict.FAIL),
        ([float("nan")], [1.0], Verdict.FAIL),
        ([float("nan")], [float("nan")], Verdict.PASS),
        ([1.0], [float("inf")], Verdict.FAIL),
        ([float("inf")], [float("inf")], Verdict.PASS),
        ([float("inf")], [float("-inf")], Verdict.FAIL),
        ([1.0, 2.0], [1.0], Verdict.FAIL),
        ([], [1.0], Verdict.FAIL),
    ],
)
def test_near_is_near_and_nan_is_not(recorded: list[float], found: list[float], verdict: Verdict) -> None:
    assert one(recorded, found).verdict is verdict


def test_an_output_the_model_does_not_give_fails() -> None:
    report = compare({"score": np.ones(3)}, {}, epsilon=EPSILON)
    assert report.verdict is Verdict.FAIL
    assert "'score' was recorded" in report.reasons[0]


def test_whole_numbers_and_truth_values_are_compared_too() -> None:
    assert compare({"kind": np.array([1, 2])}, {"kind": np.array([1, 2])}, epsilon=EPSILON).verdict is Verdict.PASS
    assert compare({"kind": np.array([True])}, {"kind": np.array([False])}, epsilon=EPSILON).verdict is Verdict.FAIL


def test_the_report_travels_as_json_even_with_nan() -> None:
    content = one([1.0, 2.0], [1.0, float("nan")]).to_dict()
    assert list(content)[:3] == ["verdict", "summary", "reasons"]
    assert json.loads(json.dumps(content, allow_nan=False))["worst"] == {"score": None}
    assert content["verdict"] == "fail"
    assert "row 1 of output 'score' must be 2, found nan" in content["reasons"][0]


def test_the_summary_names_the_largest_error() -> None:
    assert one([1.0], [1.001]).summary == "golden vectors: pass, 1 rows, largest error 0.001 in 'score'"
