"""A GPU gives the model's answers at every batch size, also those between the captured ones; without one the backend is unavailable."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models import golden
from models.backends import CUDA, CUDA_BF16, EAGER, BackendUnavailable, open_backend
from models.handoff import load
from tests.models.odd import odd_inputs, write_odd_handoff
from tests.models.tiny import tiny_signals

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use, there is none here")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", [CUDA, CUDA_BF16])
def test_without_a_gpu_the_backend_is_unavailable(tiny_handoff: Path, name: str) -> None:
    with pytest.raises(BackendUnavailable, match="needs a GPU"):
        open_backend(load(tiny_handoff), name)


@GPU
def test_a_gpu_answers_what_the_program_answers_at_any_batch_size(tiny_handoff: Path) -> None:
    papers = load(tiny_handoff)
    eager, runner = open_backend(papers, EAGER), open_backend(papers, CUDA)
    assert (runner.name, runner.device) == (CUDA, "cuda")
    for rows in (1, 2, 3, 7, 1, 64, 100, 256, 257, 600):
        inputs = {"signal": tiny_signals(rows, seed=rows)}
        wanted, found = eager(inputs), runner(inputs)
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3, atol=1e-4)
    assert golden.replay(runner, papers).verdict == "pass"


@GPU
def test_answers_of_one_call_are_not_overwritten_by_the_next(tiny_handoff: Path) -> None:
    runner = open_backend(load(tiny_handoff), CUDA)
    first = runner({"signal": tiny_signals(4, seed=1)})
    kept = {name: array.copy() for name, array in first.items()}
    runner({"signal": tiny_signals(4, seed=2)})
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)


@GPU
def test_a_model_that_writes_in_place_runs_without_a_graph(tmp_path: Path) -> None:
    papers = load(write_odd_handoff(tmp_path / "odd"))
    eager, runner, inputs = open_backend(papers, EAGER), open_backend(papers, CUDA), odd_inputs(5)
    for _ in range(2):
        np.testing.assert_allclose(runner(inputs)["score"], eager(inputs)["score"], rtol=1e-3, atol=1e-4)
