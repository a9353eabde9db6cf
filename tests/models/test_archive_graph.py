"""What an archive says about its tensors and its graph: arithmetic on the list, lengths that are lengths, or refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from models import archive
from tests.models import attacks
from tests.models.attacks import GRAPH, WEIGHTS, edit, pack, unpack


def first_tensor(value: Any) -> dict[str, Any]:
    return next(iter(value["config"].values()))["tensor_meta"]


def test_a_tensor_larger_than_its_bytes_is_refused(good_archive: bytes) -> None:
    members = unpack(good_archive)
    edit(members, WEIGHTS, lambda value: first_tensor(value)["sizes"].__setitem__(0, {"as_int": 2**40}))
    assert any("bytes" in reason for reason in archive.inspect(pack(members)))


def test_an_empty_member_cannot_become_terabytes_of_zeros(good_archive: bytes) -> None:
    members = {**unpack(good_archive), "data/weights/weight_0": b""}
    edit(
        members,
        WEIGHTS,
        lambda value: first_tensor(value).update(sizes=[{"as_int": 2**20}] * 2, strides=[{"as_int": 2**20}, {"as_int": 1}]),
    )
    assert any("found 0" in reason for reason in archive.inspect(pack(members)))


def test_a_repeated_number_cannot_become_terabytes(good_archive: bytes) -> None:
    members = unpack(good_archive)
    edit(members, WEIGHTS, lambda value: first_tensor(value).update(sizes=[{"as_int": 2**30}] * 2, strides=[{"as_int": 0}] * 2))
    assert any("stride 0" in reason for reason in archive.inspect(pack(members)))


def test_numbers_elsewhere_in_the_archive_are_refused(good_archive: bytes) -> None:
    members = unpack(good_archive)
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
def test_operators_off_the_list_are_refused(good_archive: bytes, target: str) -> None:
    reasons = archive.inspect(graph_change(lambda value: node(value).update(target=target))(good_archive))
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
def test_lengths_that_are_no_arithmetic_are_refused(good_archive: bytes, expression: str) -> None:
    def change(value: dict[str, Any]) -> None:
        value["graph_module"]["graph"]["tensor_values"]["signal"]["sizes"][0] = {"as_expr": {"expr_str": expression, "hint": None}}

    assert any("expr_str" in reason for reason in archive.inspect(graph_change(change)(good_archive)))


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
def test_what_is_not_understood_is_refused(good_archive: bytes, change: Callable[[dict[str, Any]], object]) -> None:
    assert archive.inspect(graph_change(change)(good_archive))


def test_a_graph_inside_a_wrapper_is_checked_like_the_outer_one(good_archive: bytes) -> None:
    def change(value: dict[str, Any]) -> None:
        inner = copy.deepcopy({**value["graph_module"]["graph"], "nodes": [{**node(value), "target": "torch.load"}]})
        node(value)["inputs"].append({"name": "", "arg": {"as_graph": {"name": "sub", "graph": inner}}, "kind": 1})

    assert any("torch.load" in reason for reason in archive.inspect(graph_change(change)(good_archive)))
