"""Both answers to one request: numbers as numbers, vectors by what is largest, NaN in sight, and nothing of the question."""

import gzip
import itertools

import numpy as np
import orjson
import pytest

from serving import protocol
from serving.comparing import PairLog
from serving.pairs import Answer, Outcome, compare, outputs_of
from serving.protocol import InferenceResponse

NAN, INF = float("nan"), float("inf")


def answer(outputs, *, binary=True, coding=None, status=200):
    """An answer as a model server sends it."""
    arrays = {
        name: np.asarray(value, dtype=None if np.asarray(value).dtype.kind in "OUb" else np.float32) for name, value in outputs.items()
    }
    arrays = {name: array.astype(object) if array.dtype.kind == "U" else array for name, array in arrays.items()}
    message = protocol.encode_response(InferenceResponse(model="m", version="1", outputs=arrays), binary=dict.fromkeys(arrays, binary))
    body = message.body
    if coding == "gzip":
        body = gzip.compress(body)
    half = len(body) // 2
    return Answer(
        status=status, pieces=(body[:half], body[half:]), header_length=message.headers.get(protocol.HEADER_LENGTH), coding=coding
    )


def one(live, shadow, **more):
    (pair,) = compare(answer(live), answer(shadow), **more)
    return pair


FORMS = {"binary": {}, "json": {"binary": False}, "gzip": {"coding": "gzip"}, "json-gzip": {"binary": False, "coding": "gzip"}}


@pytest.mark.parametrize("forms", list(itertools.product(FORMS, FORMS)), ids="-".join)
def test_the_same_numbers_make_the_same_pair_in_whatever_form_either_side_sent_them(forms):
    generator = np.random.default_rng(1)
    shapes = {"score": (2,), "classes": (2, 4), "reconstruction": (2, 101)}
    live, shadow = ({name: generator.normal(size=shape) for name, shape in shapes.items()} for _ in range(2))
    pairs = compare(answer(live, **FORMS[forms[0]]), answer(shadow, **FORMS[forms[1]]))
    for row, pair in enumerate(pairs):
        a, b = ({name: value[row].astype(np.float32) for name, value in side.items()} for side in (live, shadow))
        assert pair.outputs["score"] == [a["score"], b["score"]]
        assert pair.outputs["classes"]["argmax"] == [a["classes"].argmax(), b["classes"].argmax()]
        assert pair.outputs["classes"]["distance"] == pytest.approx(np.abs(a["classes"] - b["classes"]).max(), rel=1e-6)
        assert pair.outputs["reconstruction"] == {
            "rms": pytest.approx(np.sqrt(np.mean((a["reconstruction"] - b["reconstruction"]) ** 2)), rel=1e-6)
        }
    assert len(pairs) == 2


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_number_that_is_none_is_seen_as_null_and_fails_the_judged_side_alone(bad):
    good, ill = {"score": [1.0]}, {"score": [bad]}
    assert one(good, ill).outputs == {"score": [1.0, None]}
    assert one(good, ill).outcome is Outcome.FAILED
    # a control that has none blames nobody, nor do two of them
    assert one(ill, good).outcome is Outcome.AGREES
    assert one(ill, good).outputs == {"score": [None, 1.0]}
    assert one(ill, ill).outcome is Outcome.AGREES
    # at 100 % the canary is the live side
    assert one(ill, good, judged="live").outcome is Outcome.FAILED
    assert one(ill, good, judged="live").outputs == {"score": [None, 1.0]}
    assert one(good, ill, judged="live").outcome is Outcome.AGREES


def test_in_vectors_one_bad_element_is_enough_and_the_other_rows_stay_good():
    live = {"classes": [[0.1, 0.9], [0.8, 0.2]], "long": np.ones((2, 33))}
    shadow = {"classes": [[0.2, NAN], [0.7, 0.3]], "long": np.ones((2, 33)) * [[2], [1]]}
    shadow["long"][0, 32] = INF
    first, second = compare(answer(live), answer(shadow))
    assert first.outputs == {"classes": {"argmax": [1, None], "distance": None}, "long": {"rms": None}}
    assert first.outcome is Outcome.FAILED
    assert second.outputs == {"classes": {"argmax": [0, 0], "distance": pytest.approx(0.1)}, "long": {"rms": 0.0}}
    assert second.outcome is Outcome.AGREES


@pytest.mark.parametrize(
    ("live", "shadow", "outcome"),
    [
        ({"score": [1.0]}, {"score": [1.5]}, Outcome.AGREES),
        ({"flag": np.array([True])}, {"flag": np.array([True])}, Outcome.AGREES),
        ({"flag": np.array([True])}, {"flag": np.array([False])}, Outcome.DIFFERS),
        ({"label": np.array(["QSO"])}, {"label": np.array(["STAR"])}, Outcome.DIFFERS),
        ({"labels": np.array([["QSO", "a"]])}, {"labels": np.array([["QSO", "b"]])}, Outcome.DIFFERS),
        ({"classes": [[0.4, 0.6]]}, {"classes": [[0.6, 0.4]]}, Outcome.DIFFERS),
        ({"score": [1.0]}, {"other": [1.0]}, Outcome.FAILED),
        ({"classes": [[0.4, 0.6]]}, {"classes": [[0.4, 0.3, 0.3]]}, Outcome.FAILED),
        ({"score": [1.0]}, {"score": np.array(["1.0"])}, Outcome.FAILED),
        ({"score": [1.0]}, {"score": [1.0, 2.0]}, Outcome.FAILED),
    ],
    ids=["number", "flag", "other-flag", "label", "texts", "class", "missing", "other-shape", "other-sort", "other-rows"],
)
def test_what_must_be_the_same_is_told_from_what_is_measured(live, shadow, outcome):
    assert one(live, shadow).outcome is outcome


def test_flags_are_numbers_and_texts_are_cut_like_the_logs():
    pair = one({"flag": np.array([True]), "label": np.array(["x" * 300])}, {"flag": np.array([False]), "label": np.array(["y"])})
    assert pair.outputs == {"flag": [1, 0], "label": ["x" * 256, "y"]}


@pytest.mark.parametrize(
    ("live", "shadow", "outcome"),
    [
        (200, 0, Outcome.FAILED),
        (200, 500, Outcome.FAILED),
        (200, 422, Outcome.FAILED),
        (500, 200, Outcome.DIFFERS),
        (400, 400, Outcome.AGREES),
    ],
)
def test_an_answer_that_is_none_fails_every_row_that_the_control_answered(live, shadow, outcome):
    sides = [answer({"score": [1.0, 2.0]}, status=status) for status in (live, shadow)]
    pairs = compare(*sides)
    assert {pair.outcome for pair in pairs} == {outcome}
    assert [pair.outputs for pair in pairs] == ([{"score": [1.0, None]}, {"score": [2.0, None]}] if live == 200 else [{}])


@pytest.mark.parametrize(
    "made",
    [
        Answer(status=200, pieces=(b"no JSON",)),
        Answer(status=200, pieces=(b'{"model_name":"m","outputs":[{"name":"a","datatype":"FP32","shape":[1],"data":[NaN]}]}',)),
        Answer(status=200, pieces=(gzip.compress(b"{}")[:9],), coding="gzip"),
        Answer(status=200, pieces=(b"{}",), coding="br"),
        Answer(status=200, pieces=(b"{}",), header_length="9"),
    ],
    ids=["text", "nan", "cut", "brotli", "short"],
)
def test_bytes_that_mean_nothing_are_no_answer_and_no_exception(made):
    assert outputs_of(made) is None
    (pair,) = compare(answer({"score": [1.0]}), made)
    assert (pair.outputs, pair.outcome) == ({"score": [1.0, None]}, Outcome.FAILED)
    assert compare(made, answer({"score": [1.0]}))[0].outputs == {}


def test_a_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr("serving.pairs.ANSWER_BYTES", 1 << 16)
    assert outputs_of(Answer(status=200, pieces=(gzip.compress(b" " * (1 << 20)),), coding="gzip")) is None


def test_the_latest_pairs_are_read_page_by_page_and_what_was_forgotten_is_said(monkeypatch):
    monkeypatch.setattr("serving.comparing.PAGE", 4)
    log = PairLog(kept=6)
    log.add([b'"n":%d' % number for number in range(1, 11)], head=b'"request_id":"r"')
    after, seen = 2, []
    while page := orjson.loads(log.page(after, epoch="e")):
        assert page["epoch"] == "e"
        if not page["pairs"]:
            break
        seen.append((page["dropped"], [pair["seq"] for pair in page["pairs"]]))
        assert all(pair["n"] == pair["seq"] for pair in page["pairs"])
        after = page["next"]
    assert seen == [(2, [5, 6, 7, 8]), (0, [9, 10])]
    # whoever knows numbers of another process hears where this one stands
    assert orjson.loads(log.page(2**53, epoch="e")) == {"epoch": "e", "next": 10, "dropped": 0, "uncompared": 0, "pairs": []}
