"""``python -m models.backends.compiler HANDOFF MODEL_DIGEST BACKEND TARGET``: one compilation in a process of its own.

What is compiled is the rebuilt archive, as everywhere: nothing in it can name a file or run code. Writes the compiled file and its form
into the folder TARGET. Ends with its whole process group when its standard input ends: whoever asked is gone.
"""

import os
import signal
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.errors import FirstlightError
from models.backends.compiled import Form, TensorForm, tensor_form
from models.backends.compiling import FILES, FORM, REFUSED
from models.document import MODEL
from models.errors import BackendUnavailable, HandOffError
from models.handoff_folder import HandOff, load

_EXAMPLE_ROWS = 4
AOT_SETTINGS = {
    "aot_inductor.precompile_headers": False,  # would be kept in a folder of /tmp that others may write
    "aot_inductor.enable_line_tables": False,
    "aot_inductor.enable_frame_pointer": False,
    "cpp.vec_isa_ok": True,  # the processor's own list is enough: six trial compilations less
}
"""No precompiled headers, whose shared folder others could write to; without them a compilation takes a seventh longer, and skipping probes and debug
information takes that back. The same speed. Freezing was slower for one spectrum, stack allocation gained nothing."""
_UNCHECKED = ("as_strided",)
"""Operators whose reach torch checks when it runs them and compiled code does not."""


def main() -> None:
    """Compile; the last line on standard error says what went wrong."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    folder, digest, name, target = sys.argv[1:]
    try:
        papers = load(folder)
        if papers.model_digest != digest:
            raise HandOffError(f"the model to compile must be {digest[:12]}, found {papers.model_digest[:12]}: hand it over again")
        form = make(papers, name, Path(target))
    except BackendUnavailable as error:
        sys.exit(" ".join(str(error).split()))
    except FirstlightError as error:
        print(" ".join(str(error).split()), file=sys.stderr)  # noqa: T201
        sys.exit(REFUSED)
    (Path(target) / FORM).write_text(form.model_dump_json())


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    if os.getpgrp() == os.getpid():  # our own group, so nobody else's process is in it
        os.killpg(0, signal.SIGKILL)


def make(papers: HandOff, name: str, target: Path) -> Form:
    """Write the compiled file of ``papers`` for the backend ``name`` into ``target`` and return how it is called."""
    import torch

    from models.program import opened, writes_in_place
    from models.torch_tensors import tensor_of

    torch.set_num_threads(1)
    program = opened(papers.read(MODEL))
    form = _form(program, papers, writes=writes_in_place(program))
    golden = papers.golden()[0]
    rows = {item.name: np.resize(golden[item.name], (_EXAMPLE_ROWS, *item.shape[1:])) for item in form.inputs}
    examples = {item.name: tensor_of(rows[item.name], item.dtype) for item in form.inputs}
    with torch.no_grad():
        (_make_aot if name == "aot" else _make_onnx)(program, examples, target / FILES[name])
    return form


def _form(program: Any, papers: HandOff, *, writes: bool) -> Form:
    """Return the form in the program's own order, after the program's own word for it: compiled code checks nothing when it runs."""
    from models.program import input_order
    from models.program_form import output_order

    declared = {spec.name: tensor_form(spec) for spec in papers.model.inputs}
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    inputs = []
    for name in input_order(program, papers.model):
        found = TensorForm(name=name, dtype=str(values[name].dtype).removeprefix("torch."), shape=_shape(values[name]))
        if found != declared[name]:
            raise HandOffError(f"input {name!r} must be {declared[name]} as declared, the program takes {found}: declare what it takes")
        inputs.append(found)
    outputs = {spec.name: tensor_form(spec) for spec in papers.model.outputs}
    order = output_order(program, list(outputs))
    if sorted(order) != sorted(outputs):
        raise HandOffError(f"the outputs must be {sorted(outputs)} as declared, the program gives {sorted(order)}: declare what it gives")
    return Form(inputs=tuple(inputs), outputs=tuple(outputs[name] for name in order), writes=writes)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(length) if isinstance(length, int) else -1 for length in value.shape)


def _make_aot(program: Any, examples: dict[str, Any], file: Path) -> None:
    used = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    if unchecked := sorted(name for name in used if any(name.startswith(f"aten.{one}") for one in _UNCHECKED)):
        raise BackendUnavailable(f"compiled code does not check what {', '.join(unchecked)} reaches, torch does: the model uses it")
    from torch._inductor import aoti_compile_and_package  # seconds, and a refusal needs none of them

    program.example_inputs = ((), examples)
    package = file.with_name("package.pt2")
    try:
        aoti_compile_and_package(program, package_path=str(package), inductor_configs=AOT_SETTINGS)
    except Exception as problem:  # inductor raises what it likes
        raise BackendUnavailable(f"torch must be able to compile this model, it says: {problem!s:.400}") from problem
    with zipfile.ZipFile(package) as source:
        libraries = [name for name in source.namelist() if name.endswith(".so")]
        if len(libraries) != 1:
            raise BackendUnavailable(f"the compiled package must hold one library, found {libraries}: this torch is another")
        file.write_bytes(source.read(libraries[0]))
    package.unlink()


def _make_onnx(program: Any, examples: dict[str, Any], file: Path) -> None:
    import torch

    _give_clamps_float_bounds(program)
    try:
        made = torch.onnx.export(program, args=(), kwargs=examples, dynamo=True, verbose=False)
        assert made is not None, "the exporter of exported programs returns what it made"
        made.save(str(file), external_data=False)
    except Exception as problem:
        raise BackendUnavailable(f"torch must be able to write this model as ONNX, it says: {problem!s:.400}") from problem


def _give_clamps_float_bounds(program: Any) -> None:
    """Turn whole bounds of clamps on real numbers into real ones: the exporter of torch 2.13 stops at them."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not str(node.target).startswith("aten.clamp") or not node.args:
            continue
        value = getattr(node.args[0], "meta", {}).get("val")
        if value is not None and value.dtype.is_floating_point:
            node.args = (node.args[0], *(_real(bound) for bound in node.args[1:]))
            node.kwargs = {name: _real(bound) for name, bound in node.kwargs.items()}


def _real(bound: Any) -> Any:
    return float(bound) if isinstance(bound, int) and not isinstance(bound, bool) else bound


if __name__ == "__main__":
    main()
