"""What a replay makes of an answer: right or wrong by the label, equal or not to what was evaluated."""

import json
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from models.evaluation import evaluate
from models.handoff import load
from models.program import Program
from rollout.judge import Answered
from serving.client import Answer
from tasks.replay import FEWEST_ROWS, Replay, strata
from tests.models.tiny import write_tiny_handoff
from tests.serving.acting import Actor, whole


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> object:
    return load(write_tiny_handoff(tmp_path_factory.mktemp("replay") / "tiny"))


@pytest.fixture
def replay(papers: object) -> Iterator[Replay]:
    table = evaluate(papers.folder).table.assign(label_class="")  # type: ignore[attr-defined]
    table.loc[0, "label_class"] = "calm"
    with Replay(lambda: ("http://127.0.0.1:1", ""), papers, table, candidate="2") as made:  # type: ignore[arg-type]
        made._table = table  # type: ignore[attr-defined]
        yield made


def answer(papers: object, row: int, *, version: str = "2", shift: float = 0.0) -> Answer:
    inputs = {name: values[row : row + 1] for name, values in papers.holdout_inputs().items()}  # type: ignore[attr-defined]
    outputs = {name: values + np.float32(shift) for name, values in Program.load(papers)(inputs).items()}  # type: ignore[arg-type]
    return Answer(outputs=outputs, version=version, seconds=0.01, status=200)


def taken(replay: Replay, version: str = "2") -> Answered:
    return replay.take().get(version, Answered())


def test_an_answer_that_was_evaluated_agrees_and_another_does_not(papers: object, replay: Replay) -> None:
    replay._take(1, answer(papers, 1))
    replay._take(1, answer(papers, 2))
    replay._take(3, answer(papers, 3, shift=0.5))
    found = taken(replay)
    assert (found.matches, found.compared) == (1, 3)
    assert taken(replay) == Answered(), "what was taken is not given again"


def test_only_the_candidate_is_held_against_its_evaluation(papers: object, replay: Replay) -> None:
    replay._take(1, answer(papers, 2, version="1"))
    assert taken(replay, "1").compared == 0


def test_a_row_without_a_label_is_neither_right_nor_wrong_and_one_with_a_label_counts_once(papers: object, replay: Replay) -> None:
    replay._take(1, answer(papers, 1))
    assert taken(replay).judged == 0
    for _ in range(3):
        replay._take(0, answer(papers, 0))
    replay._take(0, answer(papers, 0, version="1"))
    assert {version: (one.judged, one.compared) for version, one in replay.take().items()} == {"2": (1, 3), "1": (1, 0)}


def test_answers_that_are_no_numbers_agree_with_nothing(papers: object, replay: Replay) -> None:
    replay._take(1, answer(papers, 1, shift=float("nan")))
    found = taken(replay)
    assert (found.matches, found.compared) == (0, 1)


def test_a_gateway_that_moved_is_found_again(papers: object) -> None:
    table = evaluate(papers.folder).table  # type: ignore[attr-defined]
    actor = Actor(lambda ask: whole(b'{"error": "busy"}', status=503) if ask.body() else None)
    addresses = [("http://127.0.0.1:1", "old")] * 2 + [(actor.url, "new")] * 2
    with Replay(lambda: addresses.pop(0), papers, table, candidate="2") as moved:  # type: ignore[arg-type]
        moved.send(2)
        moved.send(2)
    actor.close()
    assert moved.unanswered["busy"] == 2
    assert {ask.headers["authorization"] for ask in actor.asked} == {"Bearer new"}
    assert all(ask.headers["x-request-id"].startswith("replay-2-") for ask in actor.asked)


def test_requests_nobody_answers_are_counted_and_not_raised_and_none_is_sent_too_late(replay: Replay) -> None:
    replay.send(5)
    assert sum(replay.unanswered.values()) == 5
    replay.send(5, seconds=-1.0)
    assert sum(replay.unanswered.values()) == 5
    assert replay.take() == {}


def test_another_process_goes_on_with_the_next_row_and_knows_which_have_counted(papers: object, replay: Replay) -> None:
    replay.send(3)
    replay._take(0, answer(papers, 0))
    saved = json.loads(json.dumps(replay.state()))
    with Replay(lambda: ("http://127.0.0.1:1", ""), papers, replay._table, candidate="2") as second:  # type: ignore[arg-type]
        second.restore(saved)
        second._take(0, answer(papers, 0))
        assert (taken(second).judged, second.state()) == (0, saved)


def test_faint_spectra_are_parts_of_their_own_where_there_are_enough_of_them() -> None:
    table = pd.DataFrame({"snr": [1.5, 2.5, 5.0, 9.0, float("nan")] * FEWEST_ROWS})
    assert [strata(table).get(row) for row in range(5)] == [("snr<2", "snr<3.75"), ("snr<3.75",), None, None, None]
    # two parts that are nearly the same are one
    assert strata(pd.DataFrame({"snr": [1.5, 1.9, 2.1, 5.0] * FEWEST_ROWS})).get(0) == ("snr<2",)
    # where nothing is below 2, only the fainter half is; where few are, nobody is
    assert strata(table + 5).get(0) == ("snr<8.75",)
    assert strata(table[:40]) == strata(table.drop(columns="snr")) == strata(table * float("nan")) == {}
