"""What an exported program says about itself: its inputs and outputs as a hand-off declares them, and its archive's bytes."""

import copy
import io
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from models import archive
from models.document import Model, parse_model
from models.errors import HandOffError


def archive_bytes(exported: ExportedProgram) -> bytes:
    """Return the bytes of model.pt2: no example inputs (a pickle), no source paths of the trainer, the same bytes for the same program.

    Raises HandOffError when the program uses something a hand-off may not carry.
    """
    program = copy.copy(exported)
    program.example_inputs = None
    buffer = io.BytesIO()
    try:
        torch.export.save(program, buffer)
    except Exception as problem:
        raise HandOffError(f"the exported program must be one torch can save, torch says: {problem!s:.300}") from problem
    return archive.rebuild(buffer.getvalue())


def declared_form(exported: ExportedProgram, *, units: Mapping[str, str], meanings: Mapping[str, str], rest: Mapping[str, Any]) -> Model:
    """Return the model section for ``exported``. Raises HandOffError when a unit or meaning is missing or names nothing."""
    values = {node.name: node.meta["val"] for node in exported.graph.nodes if "val" in node.meta}
    signature = exported.graph_signature
    inputs = {str(name): values[name] for name in signature.user_inputs if isinstance(name, str)}
    outputs = dict(
        zip(output_order(exported, meanings), (values[name] for name in signature.user_outputs if isinstance(name, str)), strict=False)
    )
    _require_same("input_units", units, inputs)
    _require_same("output_meanings", meanings, outputs)
    specs = {
        "inputs": [{**_form(name, value), "unit": units[name]} for name, value in inputs.items()],
        "outputs": [{**_form(name, value), "meaning": meanings[name]} for name, value in outputs.items()],
    }
    return parse_model({"file": "model.pt2", **specs, **rest})


def output_order(exported: ExportedProgram, declared: Iterable[str]) -> list[str]:
    """Return the names of the outputs in the order in which ``exported`` gives them: its own when it gives a dict, else the declared ones."""
    tree = exported.call_spec.out_spec
    if tree is not None and tree.type is dict:
        return [str(key) for key in pytree.treespec_loads(pytree.treespec_dumps(tree)).context]
    return list(declared)


def _require_same(field: str, given: Mapping[str, str], wanted: Mapping[str, Any]) -> None:
    if set(given) != set(wanted):
        raise HandOffError(f"{field} must name exactly {sorted(wanted)}, found {sorted(given)}: one sentence for each")


def _form(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        raise HandOffError(f"{name!r} must be a tensor with one row per object, found {type(value).__name__}: return tensors [rows, ...]")
    lengths = [int(length) if isinstance(length, int) else -1 for length in value.shape]
    if lengths[0] != -1:
        raise HandOffError(f"{name!r} must take any number of rows, found {lengths[0]} fixed: export with a dynamic first axis")
    return {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": lengths}
