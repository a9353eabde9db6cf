"""What a replay makes of an answer: right or wrong by the label, equal or not to what was evaluated."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.evaluation import evaluate
from models.handoff import load
from models.program import Program
from serving.client import Answer
from tasks.replay import Replay
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
        yield made


def answer(papers: object, row: int, *, version: str = "2", shift: float = 0.0) -> Answer:
    inputs = {name: values[row : row + 1] for name, values in papers.holdout_inputs().items()}  # type: ignore[attr-defined]
    outputs = {name: values + np.float32(shift) for name, values in Program.load(papers)(inputs).items()}  # type: ignore[arg-type]
    return Answer(outputs=outputs, version=version, seconds=0.01, status=200)


def test_an_answer_that_was_evaluated_agrees_and_another_does_not(papers: object, replay: Replay) -> None:
    replay._take(1, answer(papers, 1))
    replay._take(1, answer(papers, 2))
    replay._take(3, answer(papers, 3, shift=0.5))
    assert replay.counts("2")[1] == (1, 3)


def test_only_the_candidate_is_held_against_its_evaluation(papers: object, replay: Replay) -> None:
    replay._take(1, answer(papers, 2, version="1"))
    assert replay.counts("1")[1] == (0, 0)


def test_a_row_without_a_label_is_neither_right_nor_wrong(papers: object, replay: Replay) -> None:
    replay._take(1, answer(papers, 1))
    assert replay.counts("2")[0] == (0, 0)
    replay._take(0, answer(papers, 0))
    assert replay.counts("2")[0][1] == 1


def test_answers_that_are_no_numbers_agree_with_nothing(papers: object, replay: Replay) -> None:
    replay._take(1, answer(papers, 1, shift=float("nan")))
    assert replay.counts("2")[1] == (0, 1)


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


def test_requests_nobody_answers_are_counted_and_not_raised(replay: Replay) -> None:
    replay.send(5)
    assert sum(replay.unanswered.values()) == 5
    assert replay.counts("2") == ((0, 0), (0, 0))


def test_a_new_step_starts_the_candidates_tally_anew(papers: object, replay: Replay, tmp_path: Path) -> None:
    replay._take(1, answer(papers, 1))
    replay.restart()
    assert replay.counts("2") == ((0, 0), (0, 0))
