"""A model.pt2 that could run code is refused without torch having seen it; one that cannot is passed on, cleaned."""

import contextlib
import copy
import io
import json
import logging
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import archive
from models.errors import HandOffError
from models.handoff import load
from models.program import Program, export
from models.program_form import archive_bytes, declared_form
from tests.models import attacks
from tests.models.attacks import CONSTANTS, GRAPH, WEIGHTS, edit, pack, unpack
from tests.models.breaking import put
from tests.models.tiny import TinyModel, tiny_signals


@pytest.fixture(scope="session")
def good(tiny_handoff: Path) -> bytes:
    return (tiny_handoff / "model.pt2").read_bytes()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Let torch find the modules an attack wants to import, and keep its complaints out of the test output."""
    monkeypatch.syspath_prepend(tmp_path)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    for name in ("imported_by_attack", "imported_as_enum"):
        sys.modules.pop(name, None)


def test_a_good_archive_has_no_reasons_by_path_or_by_bytes(tiny_handoff: Path, good: bytes) -> None:
    assert archive.inspect(good) == []
    assert archive.inspect(tiny_handoff / "model.pt2") == []


def test_inspection_does_not_import_torch(tiny_handoff: Path) -> None:
    program = "import sys; from models import archive; print(archive.inspect(sys.argv[1]), 'torch' in sys.modules)"
    root = Path(__file__).parents[2]
    answer = subprocess.run(
        [sys.executable, "-c", program, tiny_handoff / "model.pt2"], capture_output=True, text=True, cwd=root, check=True
    )
    assert answer.stdout == "[] False\n"


@pytest.mark.parametrize("attack", attacks.ALIVE, ids=lambda attack: attack.__name__)
class TestEveryKnownWayToRunCode:
    """Each is tried twice: given to torch it works, given to us it does not."""

    @pytest.mark.usefixtures("quiet")
    @pytest.mark.filterwarnings("ignore")
    def test_the_attack_is_real(self, good: bytes, tmp_path: Path, attack: Callable[[attacks.Members, Path], None]) -> None:
        members, marker = unpack(good), tmp_path / "ran"
        attack(members, marker)
        with contextlib.suppress(Exception):  # it may fail afterwards: the code has run
            torch.export.load(io.BytesIO(pack(members))).module()(signal=torch.zeros(3, 50))
        assert marker.exists()

    @pytest.mark.usefixtures("quiet")
    def test_the_attack_is_refused_and_nothing_runs(
        self, broken: Path, good: bytes, tmp_path: Path, attack: Callable[[attacks.Members, Path], None]
    ) -> None:
        members, marker = unpack(good), tmp_path / "ran"
        attack(members, marker)
        evil = pack(members)
        put(broken, "model.pt2", evil)

        assert archive.inspect(evil) != []
        with pytest.raises(HandOffError, match=r"model\.pt2 is refused"):
            archive.rebuild(evil)
        with pytest.raises(HandOffError, match=r"model\.pt2 is refused"):
            Program.load(broken)
        assert not marker.exists()


def test_guards_are_not_handed_on_even_without_sample_inputs(good: bytes) -> None:
    members = unpack(good)
    edit(members, GRAPH, lambda value: value["guards_code"].append("print('evil')"))
    assert json.loads(unpack(archive.rebuild(pack(members)))[GRAPH])["guards_code"] == []


def test_where_the_trainer_keeps_his_code_is_not_handed_on() -> None:
    class Named(torch.nn.Module):
        def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"score": signal.sum(1)}

    exported = export(Named(), {"signal": np.zeros((2, 5), np.float32)})
    plain = io.BytesIO()
    torch.export.save(exported, plain)
    assert b"test_archive" in plain.getvalue()
    assert b"test_archive" not in archive_bytes(exported)


def test_the_same_program_gives_the_same_bytes(good: bytes) -> None:
    assert archive.rebuild(good) == archive.rebuild(archive.rebuild(good)) == good


def test_a_raw_pickle_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    assert "pickle" in archive.inspect(attacks.pickled(marker))[0]
    assert not marker.exists()


def test_a_torch_save_file_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    assert any("data.pkl" in reason and "pickle" in reason for reason in archive.inspect(attacks.torch_saved(marker)))
    assert not marker.exists()


def test_torchscript_is_refused() -> None:
    members = {"data.pkl": b"\x80\x02}.", "code/__torch__.py": b"x = 1", "constants.pkl": b"\x80\x02).", "version": b"3"}
    assert archive.inspect(pack(members))


@pytest.mark.parametrize("name", ["data/aotinductor/model/x.so", "data/aotinductor/model/wrapper.cpp", "data/weights/x.so"])
def test_native_code_is_refused(good: bytes, name: str) -> None:
    reasons = archive.inspect(pack({**unpack(good), name: b"\x7fELF"}))
    assert any("native code" in reason for reason in reasons)


@pytest.mark.parametrize(
    "name", ["../evil", "data/../../evil", "/etc/passwd", "a\\b", "data/weights/..", "a\x00b", "extra/note", "models/other.json"]
)
def test_members_that_climb_or_do_not_belong_are_refused(good: bytes, name: str) -> None:
    assert archive.inspect(pack({**unpack(good), name: b"x"}))


def test_an_absolute_root_is_refused(good: bytes) -> None:
    assert archive.inspect(pack(unpack(good), root="/tmp"))
    assert archive.inspect(pack(unpack(good), root=".."))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_given_twice_is_refused(good: bytes) -> None:
    buffer = io.BytesIO(good)
    with zipfile.ZipFile(buffer, "a") as target:
        target.writestr(f"model/{GRAPH}", b"{}")
    assert any("twice" in reason for reason in archive.inspect(buffer.getvalue()))


def test_compression_is_refused_so_nothing_can_unfold(good: bytes) -> None:
    members = {**unpack(good), "data/weights/weight_9": bytes(50_000_000)}
    bomb = pack(members, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    assert any("bomb" in reason for reason in archive.inspect(bomb))


def test_members_that_overlap_are_refused(good: bytes) -> None:
    """The quoted-overlap bomb: many entries of the table of contents point at the same bytes."""
    data = bytearray(good)
    size = int.from_bytes(data[data.rfind(b"PK\x05\x06") + 12 :][:4], "little")
    start = data.rfind(b"PK\x05\x06") - size
    entry = data.index(b"PK\x01\x02", start)
    data[entry + 20 : entry + 28] = (2**31 - 1).to_bytes(4, "little") * 2
    assert any("bomb" in reason for reason in archive.inspect(bytes(data)))


def test_an_encrypted_member_is_refused(good: bytes) -> None:
    data = bytearray(good)
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert any("encrypted" in reason for reason in archive.inspect(bytes(data)))


def test_too_many_members_are_refused(good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    assert "at most 5 members" in archive.inspect(good)[0]


def test_too_many_bytes_are_refused(tiny_handoff: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 100)
    assert "at most 100 bytes" in archive.inspect(tiny_handoff / "model.pt2")[0]


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04", b"\x89HDF", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(300)])
def test_what_is_no_archive_is_refused_in_words(data: bytes) -> None:
    assert archive.inspect(data)


def test_a_missing_file_is_a_reason_not_a_traceback(tmp_path: Path) -> None:
    assert "readable file" in archive.inspect(tmp_path / "none.pt2")[0]


@pytest.mark.parametrize("cut", [10, 200, 1000, 4000])
def test_a_truncated_archive_is_refused(good: bytes, cut: int) -> None:
    assert archive.inspect(good[:-cut])


def test_any_damaged_byte_leaves_a_clear_answer(good: bytes) -> None:
    generator = np.random.default_rng(3)
    for position in generator.integers(0, len(good), 300):
        damaged = bytearray(good)
        damaged[position] ^= 1 << int(generator.integers(0, 8))
        archive.inspect(bytes(damaged))  # must not raise; a changed weight is not this module's question


def first_tensor(value: Any) -> dict[str, Any]:
    return next(iter(value["config"].values()))["tensor_meta"]


def test_a_tensor_larger_than_its_bytes_is_refused(good: bytes) -> None:
    members = unpack(good)
    edit(members, WEIGHTS, lambda value: first_tensor(value)["sizes"].__setitem__(0, {"as_int": 2**40}))
    assert any("bytes" in reason for reason in archive.inspect(pack(members)))


def test_an_empty_member_cannot_become_terabytes_of_zeros(good: bytes) -> None:
    members = {**unpack(good), "data/weights/weight_0": b""}
    edit(
        members,
        WEIGHTS,
        lambda value: first_tensor(value).update(sizes=[{"as_int": 2**20}] * 2, strides=[{"as_int": 2**20}, {"as_int": 1}]),
    )
    assert any("found 0" in reason for reason in archive.inspect(pack(members)))


def test_a_repeated_number_cannot_become_terabytes(good: bytes) -> None:
    members = unpack(good)
    edit(members, WEIGHTS, lambda value: first_tensor(value).update(sizes=[{"as_int": 2**30}] * 2, strides=[{"as_int": 0}] * 2))
    assert any("stride 0" in reason for reason in archive.inspect(pack(members)))


def test_numbers_elsewhere_in_the_archive_are_refused(good: bytes) -> None:
    members = unpack(good)
    edit(members, WEIGHTS, lambda value: next(iter(value["config"].values())).update(path_name="../constants/tensor_0"))
    assert archive.inspect(pack(members))


def graph_change(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        members = unpack(data)
        edit(members, GRAPH, change)
        return pack(members)

    return changed


def node(value: dict[str, Any]) -> dict[str, Any]:
    return value["graph_module"]["graph"]["nodes"][0]


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.aten.rand.default",
        "torch.ops.aten.add.__class__",
        "torch.ops.aten.add.Tensor.__init__",
        "torch.ops.aten.__class__.mro",
        "torch._C._jit_set_profiling_mode",
        "torch.os.system",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "_operator.call",
        "_operator.pow",
        "_operator.add.__self__.eval",
        "math.factorial",
        "#triton:evil",
        "builtins.eval",
        "torch.ops.higher_order.run_and_save_rng_state",
        "torch.ops.aten.add.Tensor\n",
    ],
)
def test_operators_off_the_list_are_refused(good: bytes, target: str) -> None:
    reasons = archive.inspect(graph_change(lambda value: node(value).update(target=target))(good))
    assert any("archive_operators" in reason for reason in reasons)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('id')",
        "s0.__class__",
        "().__class__.__bases__",
        "[x for x in (1,)]",
        "lambda: 0",
        "s0 if s0 else 1",
        "9**9**9",
        "1 << 10**9",
        "exec('1')",
        "Symbol('__import__(\"os\")')",
        "Integer('__import__(\"os\")')",
        "Symbol('s0', cls=print)",
        "Symbol('s0', **{})",
        "open",
        "f'{s0}'",
        "s0 := 1",
        "1" * 30,
        "s0 +",
        "",
        "+" * 5000,
        "(" * 500,
    ],
)
def test_lengths_that_are_no_arithmetic_are_refused(good: bytes, expression: str) -> None:
    def change(value: dict[str, Any]) -> None:
        value["graph_module"]["graph"]["tensor_values"]["signal"]["sizes"][0] = {"as_expr": {"expr_str": expression, "hint": None}}

    assert any("expr_str" in reason for reason in archive.inspect(graph_change(change)(good)))


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(unknown=1),
        lambda value: value["schema_version"].update(major=9),
        lambda value: value["range_constraints"].update({"__import__": {"min_val": 1, "max_val": 2}}),
        lambda value: value["verifiers"].append("EVIL"),
        lambda value: value["graph_module"]["graph"]["custom_obj_values"].update(x={"name": "x", "class_fqn": "evil"}),
        lambda value: value["graph_module"]["treespec_namedtuple_fields"].update(x={"field_names": ["a"]}),
        lambda value: value["graph_module"]["signature"]["input_specs"].append({"custom_obj": {"arg": {"name": "x", "class_fqn": "y"}}}),
        lambda value: value["graph_module"]["signature"]["output_specs"].append(
            {"buffer_mutation": {"arg": {"name": "x"}, "buffer_name": "b"}}
        ),
        lambda value: value["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name="a; import os"),
        lambda value: value["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name="a.__class__.b"),
        lambda value: node(value)["inputs"][0].update(name="import"),
        lambda value: node(value)["inputs"][0].update(arg={"as_operator": "torch.load"}),
        lambda value: node(value)["inputs"][0].update(arg={"as_custom_obj": {"name": "x", "class_fqn": "y"}}),
        lambda value: node(value)["inputs"][0].update(arg={"as_int": 1, "as_float": 1.0}),
        lambda value: node(value)["inputs"][0].update(arg={}),
        lambda value: node(value)["inputs"][0].update(arg={"as_device": {"type": "meta", "index": None}}),
        lambda value: node(value)["outputs"].append({"as_tensor": {"name": "class"}}),
        lambda value: value.pop("graph_module"),
        lambda value: value["graph_module"].update(module_call_graph=[{"fqn": "", "signature": None}]),
        lambda value: attacks.outermost(value).update(forward_arg_names=["a, b=print()"]),
        lambda value: attacks.outermost(value).update(in_spec="[1, {]"),
        lambda value: attacks.outermost(value).update(in_spec="7"),
        lambda value: attacks.outermost(value).update(in_spec="[" * 20_000),
    ],
)
def test_what_is_not_understood_is_refused(good: bytes, change: Callable[[dict[str, Any]], object]) -> None:
    assert archive.inspect(graph_change(change)(good))


def test_a_graph_inside_a_wrapper_is_checked_like_the_outer_one(good: bytes) -> None:
    def change(value: dict[str, Any]) -> None:
        inner = copy.deepcopy({**value["graph_module"]["graph"], "nodes": [{**node(value), "target": "torch.load"}]})
        node(value)["inputs"].append({"name": "", "arg": {"as_graph": {"name": "sub", "graph": inner}}, "kind": 1})

    assert any("torch.load" in reason for reason in archive.inspect(graph_change(change)(good)))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"config": NaN}'])
def test_json_that_is_none_is_refused(good: bytes, content: bytes) -> None:
    assert archive.inspect(pack({**unpack(good), GRAPH: content}))
    assert archive.inspect(pack({**unpack(good), CONSTANTS: content}))


@pytest.mark.parametrize("name", ["archive_format", "byteorder", GRAPH, WEIGHTS, CONSTANTS, "data/sample_inputs/model.pt"])
def test_a_missing_member_is_named(good: bytes, name: str) -> None:
    members = unpack(good)
    del members[name]
    assert any(name in reason for reason in archive.inspect(pack(members)))


class Varied(torch.nn.Module):
    """Many things a spectral model does: convolution, attention, no_grad, interpolation, writing into a part of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(1, 4, 5, stride=2, padding=2)
        self.norm = torch.nn.BatchNorm1d(4)
        self.attend = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.up = torch.nn.ConvTranspose1d(4, 1, 4, stride=2, padding=1)
        self.drop = torch.nn.Dropout()

    def forward(self, signal: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            scale = torch.quantile(signal.abs(), 0.5, dim=1, keepdim=True).clamp(min=1e-3)
        x = torch.where(weight > 0, signal / scale, torch.zeros_like(signal))
        x = torch.nn.functional.gelu(self.norm(self.conv(x.unsqueeze(1))))
        x = self.drop(torch.nn.functional.interpolate(x, size=16, mode="linear"))
        x = self.attend(x.transpose(1, 2))
        rebuilt = self.up(x.transpose(1, 2)).flatten(1)
        rebuilt[:, 0] = 0.0
        return {"hidden": x.mean(1), "rebuilt": rebuilt, "score": torch.einsum("ij,ij->i", rebuilt, rebuilt).sqrt()}


def test_a_model_with_many_kinds_of_layers_passes_and_answers_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Varied().eval()
    generator = np.random.default_rng(0)
    inputs = {"signal": generator.normal(size=(5, 32)).astype(np.float32), "weight": generator.random((5, 32)).astype(np.float32)}
    exported = export(module, inputs)
    form = declared_form(
        exported, units=dict.fromkeys(inputs, "1"), meanings=dict.fromkeys(["hidden", "rebuilt", "score"], "x"), rest={"epsilon": {}}
    )
    data = archive_bytes(exported)
    assert archive.inspect(data) == []

    found = Program(data, model=form, batch_size=2)(inputs)
    with torch.no_grad():
        wanted = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    for name, tensor in wanted.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-4, atol=1e-5)


def test_an_archive_saved_by_torch_itself_loads_when_it_has_no_examples(broken: Path) -> None:
    exported = export(TinyModel(), {"signal": tiny_signals(4)})
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    put(broken, "model.pt2", buffer.getvalue())
    assert Program.load(load(broken))({"signal": tiny_signals(3)})["score"].shape == (3,)
