"""Every backend gives the answers of the model that was handed over, or is refused; the arrays it is given stay as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models import golden
from models.backends import BF16, EAGER, BackendUnavailable, open_backend
from models.handoff import load
from models.program import Program, export
from models.program_form import archive_bytes, declared_form
from models.tensors import lent
from tests.models.tiny import tiny_signals


def program_of(module: torch.nn.Module, inputs: dict[str, np.ndarray], outputs: list[str]) -> Program:
    exported = export(module, inputs)
    form = declared_form(exported, units=dict.fromkeys(inputs, "1"), meanings=dict.fromkeys(outputs, "a number"), rest={"epsilon": {}})
    return Program(archive_bytes(exported), model=form)


def read_only(array: np.ndarray) -> np.ndarray:
    """Return ``array`` over memory that must not be written: what a request's body is."""
    return np.frombuffer(array.tobytes(), dtype=array.dtype).reshape(array.shape)


@pytest.mark.parametrize("name", [EAGER, BF16])
def test_a_backend_without_a_file_opens_from_the_hand_off_alone(tiny_handoff: Path, name: str) -> None:
    papers = load(tiny_handoff)
    runner = open_backend(papers, name)
    assert (runner.name, runner.device, runner.handoff) == (name, "cpu", papers)
    found = runner({"signal": read_only(tiny_signals(5))})
    assert {key: (array.shape, array.dtype.name) for key, array in found.items()} == {
        "score": ((5,), "float32"),
        "embedding": ((5, 4), "float32"),
        "class_probabilities": ((5, 2), "float32"),
    }
    assert list(runner({"signal": tiny_signals(2)}, wanted=["score"])) == ["score"]
    assert golden.replay(open_backend(papers), papers).verdict == "pass"


def test_a_backend_nobody_knows_is_a_sentence(tiny_handoff: Path) -> None:
    with pytest.raises(BackendUnavailable, match="must be one of"):
        open_backend(load(tiny_handoff), "teapot")


def test_read_only_memory_reaches_the_model_without_a_copy() -> None:
    body = read_only(tiny_signals(3))
    view = lent(body, dtype="float32")
    assert np.shares_memory(view, body)
    assert view.flags.writeable
    assert not body.flags.writeable
    foreign = lent(body.astype(">f4")[::2], dtype="float32")
    np.testing.assert_array_equal(foreign, body[::2])


def test_an_answer_that_is_a_piece_of_the_input_is_an_array_of_its_own() -> None:
    class Echo(torch.nn.Module):
        def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"same": signal.view(-1, 50), "first": signal[:, :3], "sum": signal.sum(1)}

    echo = program_of(Echo(), {"signal": tiny_signals(2)}, ["same", "first", "sum"])
    signals = tiny_signals(4)
    found = echo({"signal": signals})
    np.testing.assert_array_equal(found["same"], signals)
    assert not any(np.may_share_memory(array, signals) for array in found.values())


def test_a_model_that_writes_through_a_view_gets_a_copy() -> None:
    class Sly(torch.nn.Module):
        def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
            signal.view(-1, 25).clamp_(min=0)
            return {"score": signal.sum(1)}

    sly = program_of(Sly(), {"signal": tiny_signals(2)}, ["score"])
    signals = tiny_signals(3)
    body = read_only(signals)
    np.testing.assert_allclose(sly({"signal": body})["score"], signals.clip(min=0).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(body, signals)
