"""Compiled backends answer what the program answers, on odd rows too, and the choice among them says why.

The model is odd on purpose (tests/models/odd.py). One real compilation of each kind for the whole file, kept for the next run as long as
nothing that makes it has changed (``pytest --cache-clear`` forgets it).
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.errors import RefusedError
from firstlight.verdict import Verdict
from models import golden
from models.backend_choice import Trial, choose_backend, decide, held_out_rows, with_odd_rows
from models.backends import AOT, EAGER, ONNX, Runner, open_backend
from models.backends.compiled import Compiled
from models.backends.compiling import compile_backend
from models.benchmark import CANDIDATE, BenchmarkPolicy, Measurement, benchmark
from models.contestant import Contender
from models.errors import BackendUnavailable, InputRefused
from models.handoff import HandOff, load
from tests.models.odd import odd_inputs, write_odd_handoff

pytestmark = pytest.mark.timeout(600)  # compilers on a busy machine
COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="a native library is made by g++, which is not here")
KINDS = [ONNX, pytest.param(AOT, marks=COMPILER)]


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> HandOff:
    return load(write_odd_handoff(tmp_path_factory.mktemp("odd") / "handoff"))


@pytest.fixture(scope="module")
def folder(compiled_folder: Path) -> Path:
    return compiled_folder


@pytest.fixture(scope="module")
def made(papers: HandOff, folder: Path) -> dict[str, Compiled]:
    names = [ONNX, AOT] if shutil.which("g++") else [ONNX]
    return {name: compile_backend(papers, name, folder=folder) for name in names}


def opened(papers: HandOff, made: dict[str, Compiled], name: str) -> Runner:
    return open_backend(papers, name, compiled=made[name].path.parent, digest=made[name].digest)


@pytest.mark.parametrize("name", KINDS)
def test_a_compiled_model_answers_what_the_program_answers(papers: HandOff, made: dict[str, Compiled], name: str) -> None:
    eager, runner = open_backend(papers, EAGER), opened(papers, made, name)
    assert (runner.name, runner.device, runner.inputs, runner.outputs) == (name, "cpu", papers.model.inputs, papers.model.outputs)
    assert golden.replay(runner, papers).verdict is Verdict.PASS
    further = [with_odd_rows(papers, held_out_rows(papers))] if name == AOT else []  # see OddModel
    for inputs in (odd_inputs(1, seed=5), odd_inputs(7, seed=6), odd_inputs(600, seed=7), *further):
        before = {key: array.copy() for key, array in inputs.items()}
        wanted, found = eager(inputs), runner(inputs)
        assert list(found) == [spec.name for spec in papers.model.outputs]
        for key in wanted:
            np.testing.assert_allclose(found[key], wanted[key], rtol=1e-4, atol=1e-5)
            assert not any(np.may_share_memory(found[key], array) for array in inputs.values())
        for key in inputs:
            np.testing.assert_array_equal(inputs[key], before[key])


@pytest.mark.parametrize("name", KINDS)
def test_a_compiled_model_checks_what_it_is_given_before_native_code_reads_it(
    papers: HandOff, made: dict[str, Compiled], name: str
) -> None:
    runner, good = opened(papers, made, name), odd_inputs(3)
    for wrong in (
        {"signal": good["signal"]},
        {**good, "signal": good["signal"][:, :-1]},
        {**good, "signal": good["signal"].astype(np.float64)},
        {**good, "signal": good["signal"][:2]},
    ):
        with pytest.raises(InputRefused):
            runner(wrong)
    assert {key: len(array) for key, array in runner(odd_inputs(0)).items()} == dict.fromkeys(runner(good), 0)
    frozen = {key: np.frombuffer(array.tobytes(), np.float32).reshape(array.shape) for key, array in good.items()}
    np.testing.assert_allclose(runner(frozen, wanted=["score"])["score"], runner(good)["score"])
    assert list(runner(good, wanted=["piece", "score"])) == [spec.name for spec in papers.model.outputs if spec.name in ("piece", "score")]


@COMPILER
def test_two_libraries_in_one_process_are_not_taken_for_each_other(papers: HandOff, made: dict[str, Compiled]) -> None:
    runners = [opened(papers, made, AOT) for _ in range(3)]
    inputs = odd_inputs(4)
    found = [runner(inputs)["score"] for runner in runners]
    np.testing.assert_array_equal(found[0], found[2])


def test_bytes_that_are_no_graph_are_unavailable(papers: HandOff, made: dict[str, Compiled]) -> None:
    from models.backends.compiled import read
    from models.backends.onnx_session import OnnxRunner

    manifest, _ = read(made[ONNX].path.parent, made[ONNX].digest, handoff=papers, backend=ONNX)
    with pytest.raises(BackendUnavailable, match="must be able to open"):
        OnnxRunner(papers, manifest.form, b"no graph", threads=1)
    from models.backends.aot import AotRunner

    with pytest.raises(BackendUnavailable, match="must load into torch"):
        AotRunner(papers, manifest.form, b"no library", threads=1)


def test_a_program_whose_reach_compiled_code_would_not_check_is_not_compiled(tmp_path: Path) -> None:
    import torch

    from models.backends.compiler import _make_aot
    from models.program import export

    class Strided(torch.nn.Module):
        def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"piece": torch.as_strided(signal, (signal.shape[0], 2), (1, 1))}

    with pytest.raises(BackendUnavailable, match="as_strided"):
        _make_aot(export(Strided(), {"signal": np.ones((4, 8), np.float32)}), {}, tmp_path / "model.so")


# --- the choice -------------------------------------------------------------------------------------------------------

QUICK = BenchmarkPolicy(batches=(1, 8), rounds=3, spectra_per_round=8, calls_at_least=2, backend_gain=1.0)


def test_the_choice_measures_what_is_there_and_says_why_not_the_others(papers: HandOff, made: dict[str, Compiled], folder: Path) -> None:
    told: list[float] = []
    rules = QUICK.model_copy(update={"backends": (EAGER, "cuda", *made), "device": "cpu"})
    report = choose_backend(papers.folder, rules, compiled=folder, progress=told.append)
    document = report.to_dict()
    rows = {row["backend"]: row for row in document["backends"]}
    assert report.verdict is Verdict.PASS
    assert document["chosen"] in {EAGER, AOT}
    assert [name for name, row in rows.items() if row["chosen"]] == [document["chosen"]]
    assert rows[EAGER]["times_eager"] == 1.0
    assert "needs a GPU" in rows["cuda"]["why_not"]
    for name in made:
        assert rows[name]["golden_error"] < 1e-4
        assert rows[name]["compile_seconds"] == 0.0, "it was compiled before"
    if AOT in made:
        assert rows[AOT]["times_eager"] > 0
        assert rows[AOT]["eager_error"] < 1e-4
        assert rows[AOT]["peak_mib"] > 20
    assert rows[ONNX]["why_not"].startswith("it answers otherwise than eager: row 45 of output")
    digests = {name: item.digest for name, item in made.items()}
    assert document["digest"] == digests.get(document["chosen"])
    assert told[-1] == 1.0
    assert {point["who"] for point in document["points"]} >= {EAGER, *made} - {ONNX}
    assert set(report.reasons) == {f"{name}: {row['why_not']}" for name, row in rows.items() if row["why_not"]}


def test_a_version_whose_file_is_gone_is_measured_as_it_would_be_served(papers: HandOff, tmp_path: Path) -> None:
    report = benchmark(Contender(folder=papers.folder, backend=ONNX, compiled=tmp_path, digest="0" * 64), None, QUICK)
    assert [(item.who, item.backend) for item in report.footprints] == [(CANDIDATE, EAGER)]


def test_a_version_whose_file_was_changed_is_not_measured_at_all(papers: HandOff, made: dict[str, Compiled], tmp_path: Path) -> None:
    copy = tmp_path / made[ONNX].digest
    shutil.copytree(made[ONNX].path, copy)
    (copy / "model.onnx").write_bytes(b"x")
    with pytest.raises(RefusedError, match="somebody changed it"):
        benchmark(Contender(folder=papers.folder, backend=ONNX, compiled=tmp_path, digest=made[ONNX].digest), None, QUICK)


def trial(backend: str, *times: float, problem: str = "", digest: str | None = None) -> Trial:
    """Return a trial whose calls took ``times`` seconds at batches 1 and 8."""
    measured = [
        Measurement(who=backend, batch=batch, seconds=((seconds,),) * 3) for batch, seconds in zip(QUICK.batches, times, strict=False)
    ]
    return Trial(backend=backend, problem=problem, digest=digest, measurements=measured)


@pytest.mark.parametrize(
    ("trials", "changes", "chosen", "said"),
    [
        ([trial(EAGER, 4, 4), trial(ONNX, 2, 4, digest="d")], {}, ONNX, "onnx, 1.41 × as fast as eager"),
        ([trial(EAGER, 4, 4), trial(ONNX, 2, 4), trial(AOT, 2, 2)], {}, AOT, "aot, 2.00 × as fast as eager (onnx 1.41 ×)"),
        ([trial(EAGER, 4, 4), trial(ONNX, 1, 8), trial(AOT, 3, 3)], {"batch_weights": {8: 3.0}}, AOT, "aot, 1.33 ×"),
        ([trial(EAGER, 4, 4), trial(ONNX, 1, 8), trial(AOT, 3, 3)], {"batch_weights": {8: 0.0}}, ONNX, "onnx, 4.00 ×"),
        ([trial(EAGER, 4, 4), trial(ONNX, 3.9, 3.9)], {"backend_gain": 1.05}, EAGER, "eager (onnx 1.03 ×)"),
        ([trial(EAGER, 4, 4), trial(ONNX, 1, 1, problem="it answers otherwise than eager")], {}, EAGER, "eager; no other"),
        ([trial(EAGER, 4, 4), trial(ONNX, 1)], {}, EAGER, "eager; no other"),
        ([trial(EAGER, 4, 4), trial(ONNX, 8, 8)], {}, EAGER, "eager (onnx 0.50 ×)"),
    ],
)
def test_the_fastest_by_the_policy_is_chosen(trials: list[Trial], changes: dict[str, Any], chosen: str, said: str) -> None:
    report = decide(trials, QUICK.model_copy(update=changes), {})
    assert (report.backend, report.verdict) == (chosen, Verdict.PASS)
    assert report.summary.startswith(said)
    assert report.digest == next(item.digest for item in trials if item.backend == chosen)
    assert len(report.reasons) == len(trials) - 1
    assert all(row["why_not"] or row["chosen"] for row in report.rows)


def test_without_a_model_that_answers_its_golden_vectors_the_choice_fails() -> None:
    assert decide([trial(EAGER, 4, 4, problem="its golden vectors do not come out")], QUICK, {}).verdict is Verdict.FAIL
