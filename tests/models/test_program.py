"""A program takes what its hand-off declares and nothing else, any number of rows, and leaves the caller's arrays alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.backends.compiling import compile_backend
from models.errors import BackendUnavailable, HandOffError, InputRefused, ProgramError
from models.handoff import load
from models.program import Program, export
from models.program_form import archive_bytes, declared_form
from tests.models.breaking import rewrite
from tests.models.tiny import LENGTH, TinyModel, tiny_signals
from tests.models.typed import typed_inputs, write_typed_handoff


@pytest.fixture(scope="module")
def program(tiny_handoff: Path) -> Program:
    return Program.load(tiny_handoff)


def small(module: torch.nn.Module, inputs: dict[str, np.ndarray], outputs: list[str]) -> Program:
    """Return ``module`` exported, saved and opened again."""
    exported = export(module, inputs)
    form = declared_form(exported, units=dict.fromkeys(inputs, "1"), meanings=dict.fromkeys(outputs, "a number"), rest={"epsilon": {}})
    return Program(archive_bytes(exported), model=form)


def test_it_answers_what_the_module_answers(program: Program) -> None:
    signals = tiny_signals(5, seed=11)
    with torch.no_grad():
        wanted = TinyModel().eval()(torch.from_numpy(signals))
    found = program({"signal": signals})
    assert list(found) == ["score", "embedding", "class_probabilities"]
    for name, tensor in wanted.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 600])
def test_chunks_make_no_difference(program: Program, tiny_handoff: Path, rows: int) -> None:
    signals = tiny_signals(rows, seed=rows)
    whole, pieces = program({"signal": signals}), Program.load(tiny_handoff, batch_size=3)({"signal": signals})
    for name in whole:
        assert len(pieces[name]) == rows
        np.testing.assert_allclose(whole[name], pieces[name], rtol=1e-5, atol=1e-6)


def test_no_rows_give_no_rows(program: Program) -> None:
    found = program({"signal": tiny_signals(0)})
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "score": ((0,), "float32"),
        "embedding": ((0, 4), "float32"),
        "class_probabilities": ((0, 2), "float32"),
    }


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ({}, r"must be named \['signal'\], found \[\]"),
        ({"signal": tiny_signals(2), "more": tiny_signals(2)}, r"found \['more', 'signal'\]"),
        ({"flux": tiny_signals(2)}, r"found \['flux'\]"),
        ({"signal": tiny_signals(2).astype(np.float64)}, r"must be float32 \[-1, 50\], found float64 \[2, 50\]"),
        ({"signal": tiny_signals(2)[:, :-1]}, r"found float32 \[2, 49\]"),
        ({"signal": tiny_signals(2)[0]}, r"found float32 \[50\]"),
        ({"signal": np.array(1.0, dtype=np.float32)}, r"found float32 \[\]"),
        ({"signal": np.array([["a"] * LENGTH])}, r"must be float32"),
        ({"signal": np.array([[None] * LENGTH])}, r"found object"),
        ({"signal": tiny_signals(2).astype(">f4").byteswap().view(">f4").astype(">f8")}, r"found float64"),
    ],
)
def test_other_input_is_refused_in_words(program: Program, inputs: dict[str, np.ndarray], found: str) -> None:
    with pytest.raises(InputRefused, match=found):
        program(inputs)


class Pair(torch.nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": left + right, "first": left[:, 0]}


def test_inputs_of_unequal_length_are_refused() -> None:
    pair = small(Pair(), {"left": np.zeros((2, 3), np.float32), "right": np.zeros((2, 3), np.float32)}, ["sum", "first"])
    with pytest.raises(InputRefused, match=r"same number of rows, found \[2, 4\]"):
        pair({"left": np.zeros((2, 3), np.float32), "right": np.zeros((4, 3), np.float32)})


def test_inputs_are_told_apart_by_name_not_by_order() -> None:
    class Difference(torch.nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"difference": left - right}

    ones, twos = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    difference = small(Difference(), {"left": ones, "right": twos}, ["difference"])
    assert difference({"right": ones, "left": twos})["difference"].tolist() == [[1.0] * 3] * 2


def test_a_model_that_writes_into_its_input_does_not_reach_the_callers_array() -> None:
    class Greedy(torch.nn.Module):
        def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"score": signal.clamp_(min=0).sum(1)}

    greedy = small(Greedy(), {"signal": tiny_signals(2)}, ["score"])
    signals = tiny_signals(3)
    before = signals.copy()
    greedy({"signal": signals})
    np.testing.assert_array_equal(signals, before)


def test_read_only_strided_and_foreign_order_arrays_are_welcome(program: Program) -> None:
    signals = np.asfortranarray(np.repeat(tiny_signals(3), 2, axis=0))[::2]
    signals.flags.writeable = False
    np.testing.assert_allclose(program({"signal": signals})["score"], program({"signal": tiny_signals(3)})["score"], rtol=1e-5)


def test_other_dtypes_and_a_bare_tensor_as_answer_fit_too() -> None:
    class Counter(torch.nn.Module):
        def forward(self, codes: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
            return (codes * keep).sum(dim=1)

    counter = small(Counter(), {"codes": np.ones((2, 3), np.int64), "keep": np.ones((2, 3), bool)}, ["count"])
    assert [spec.dtype for spec in counter.inputs] == ["int64", "bool"]
    assert counter({"codes": np.arange(6).reshape(2, 3), "keep": np.array([[True, False, True]] * 2)})["count"].tolist() == [2, 8]


def test_a_model_that_fails_on_valid_input_is_a_sentence() -> None:
    class Fragile(torch.nn.Module):
        def forward(self, codes: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"found": torch.arange(3)[codes]}

    fragile = small(Fragile(), {"codes": np.zeros((2,), np.int64)}, ["found"])
    assert fragile({"codes": np.array([2])})["found"].tolist() == [2]
    with pytest.raises(ProgramError, match="must answer every valid input"):
        fragile({"codes": np.array([7])})


def test_a_declared_shape_the_model_does_not_keep_is_told(broken: Path) -> None:
    rewrite(broken, lambda value: value["model"]["outputs"][1].update(shape=[-1, 5]))
    with pytest.raises(ProgramError, match=r"output 'embedding' must be float32 \[3, 5\] for 3 rows, found float32 \[3, 4\]"):
        Program.load(broken)({"signal": tiny_signals(3)})


def test_digests_are_verified_before_torch_sees_a_byte(broken: Path) -> None:
    with open(broken / "model.pt2", "r+b") as stream:
        stream.seek(200)
        stream.write(b"\xff\xff\xff")
    with pytest.raises(HandOffError, match="must have sha256"):
        Program.load(broken)


def test_a_model_swapped_after_loading_the_document_is_refused(broken: Path) -> None:
    handoff = load(broken)
    data = bytearray((broken / "model.pt2").read_bytes())
    data[100] ^= 1
    (broken / "model.pt2").write_bytes(data)
    with pytest.raises(HandOffError, match="must have the sha256"):
        Program.load(handoff)


def test_threads_are_set_for_the_process(tiny_handoff: Path) -> None:
    before = torch.get_num_threads()
    try:
        program = Program.load(tiny_handoff, threads=1)
        assert torch.get_num_threads() == 1
        assert program.handoff == load(tiny_handoff)
    finally:
        torch.set_num_threads(before)


def test_a_device_that_is_not_there_is_a_sentence(tiny_handoff: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(HandOffError, match="the device 'cuda' must be usable"):
        Program.load(tiny_handoff, device="cuda")
    with pytest.raises(HandOffError, match="the device 'teapot' must be usable"):
        Program.load(tiny_handoff, device="teapot")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_answers(tiny_handoff: Path) -> None:
    signals = tiny_signals(40)
    here, there = Program.load(tiny_handoff)({"signal": signals}), Program.load(tiny_handoff, device="cuda")({"signal": signals})
    for name in here:
        np.testing.assert_allclose(there[name], here[name], rtol=1e-3, atol=1e-4)


def test_a_module_that_cannot_be_exported_is_a_sentence() -> None:
    class Branching(torch.nn.Module):
        def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"score": signal.sum(1) if signal.sum() > 0 else -signal.sum(1)}

    with pytest.raises(HandOffError, match="must be exportable"):
        export(Branching(), {"signal": tiny_signals(2)})


def test_bfloat16_is_held_as_float32_rounded_on_the_way_in_and_told_from_float32(tmp_path: Path) -> None:
    program = Program.load(write_typed_handoff(tmp_path / "typed"))
    inputs = typed_inputs(3)
    inputs["weight"] = np.full((3, 3), 1 + 2**-8, np.float32)  # lies between two numbers of bfloat16: ties go to the even one
    assert program(inputs, wanted=["heavier"])["heavier"].tolist() == [[2.0] * 3] * 3
    with pytest.raises(InputRefused, match=r"must be bfloat16 \[-1, 3\], found float64 \[3, 3\] \(an array holds bfloat16 as float32\)"):
        program({**inputs, "weight": inputs["weight"].astype(np.float64)})
    rewrite(tmp_path / "typed", lambda value: value["model"]["outputs"][0].update(dtype="bfloat16"))
    with pytest.raises(ProgramError, match="output 'total' must be bfloat16"):
        Program.load(tmp_path / "typed")(inputs)
    with pytest.raises(BackendUnavailable, match="no bfloat16"):
        compile_backend(load(tmp_path / "typed"), "onnx", folder=tmp_path / "compiled")


def test_text_is_refused_with_what_to_do_instead(broken: Path) -> None:
    with pytest.raises(HandOffError, match="no tensor holds BYTES; encode text as rows of uint8 or int64"):
        export(TinyModel(), {"signal": np.array(["M31", "M33"])})
    rewrite(broken, lambda value: value["model"]["inputs"][0].update(dtype="BYTES"))
    with pytest.raises(HandOffError, match=r"model\.inputs\.0\.dtype: must be a type of numbers, found 'BYTES': .*no tensor holds BYTES"):
        load(broken)
