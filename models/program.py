"""The one way a handed-over model runs: verified bytes in, named numpy arrays in, named numpy arrays out."""

import io
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from models import archive
from models.document import MODEL, TEXT_REFUSED, InputSpec, Model, OutputSpec
from models.errors import HandOffError, ProgramError
from models.handoff_folder import HandOff, load
from models.tensors import Array, check_inputs, held_as, lent, mismatch, owned
from models.torch_tensors import array_of, tensor_of

MAX_ROWS = 65536
"""The longest batch an exported program of ours accepts; longer inputs are cut into chunks."""


def export(module: torch.nn.Module, inputs: Mapping[str, Array | torch.Tensor]) -> ExportedProgram:
    """Return ``module`` as a program without Python, for any number of rows.

    ``inputs`` are examples of at least two rows, named like the parameters of ``module.forward``, which returns a dict of tensors
    (its keys become the output names). The example of an input in bfloat16 must be a tensor: numpy has no such type. The module is put
    into eval mode and must be on the CPU. The examples are not kept: torch would pickle them into the archive. Raises HandOffError when
    torch cannot export the module, or an input is text.
    """
    rows = Dim("rows", min=1, max=MAX_ROWS)
    examples = {name: _example(name, value) for name, value in inputs.items()}
    try:
        with torch.no_grad():
            program = torch.export.export(
                module.eval(), (), kwargs=examples, dynamic_shapes={name: {0: rows} for name in examples}, strict=False
            )
    except Exception as problem:  # torch raises many kinds; all mean the same to a scientist
        raise HandOffError(f"the module must be exportable for any number of rows, torch says: {_short(problem)}") from problem
    program.example_inputs = None
    return program


def _example(name: str, value: "Array | torch.Tensor") -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    array = np.array(value)
    if array.dtype.kind in "OSU":
        raise HandOffError(f"input {name!r} {TEXT_REFUSED.format(found=array.dtype.name)}")
    return torch.from_numpy(array)


class Program:
    """A model that runs. It was hashed, inspected and rebuilt from the parts that were understood before torch saw it."""

    def __init__(self, data: bytes, *, model: Model, device: str = "cpu", batch_size: int = 256, autocast: bool = False) -> None:
        """Build the program from the bytes of a model.pt2 and its declared form. Use :meth:`load` for a folder.

        ``autocast`` computes matrix products and convolutions in bfloat16; the outputs keep their declared types.
        Raises HandOffError when the archive is refused or its inputs and outputs are not the declared ones.
        """
        program = opened(data)
        self._order = input_order(program, model)
        self._writes = writes_in_place(program)
        self._autocast = autocast
        self._tree = program.call_spec.in_spec
        self._module = on_device(program, device).module(check_guards=False)
        self._model = model
        self.device = device
        self.batch_size = min(max(1, batch_size), MAX_ROWS)
        self.handoff: HandOff | None = None

    @classmethod
    def load(
        cls,
        source: Path | str | HandOff,
        *,
        device: str = "cpu",
        threads: int | None = None,
        batch_size: int = 256,
        autocast: bool = False,
    ) -> "Program":
        """Return the program of a hand-off folder, ready to run on ``device`` ("cpu" or "cuda").

        Every digest is verified first; the bytes that were hashed are the bytes that are inspected, and only those reach torch.
        ``threads`` sets the number of CPU threads of the whole process (torch knows no other scope); None leaves it.
        Raises HandOffError.
        """
        handoff = source if isinstance(source, HandOff) else load(source)
        if threads is not None:
            torch.set_num_threads(threads)
        program = cls(handoff.read(MODEL), model=handoff.model, device=device, batch_size=batch_size, autocast=autocast)
        program.handoff = handoff
        return program

    @property
    def name(self) -> str:
        """Return the backend this is (models.backends)."""
        return "eager-bf16" if self._autocast else "eager"

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Return what the model takes."""
        return self._model.inputs

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """Return what the model gives."""
        return self._model.outputs

    def __call__(self, inputs: Mapping[str, Array], *, wanted: Collection[str] | None = None) -> dict[str, Array]:
        """Return the outputs by name for ``inputs`` by name; any number of rows, also none. The inputs are not changed, nor copied
        unless the model writes in place.

        ``wanted`` names the outputs to return, None is all. Raises InputRefused when names, dtypes, shapes or row counts are not the
        declared ones, ProgramError when the model fails.
        """
        rows = check_inputs(inputs, self.inputs)
        specs = [spec for spec in self.outputs if wanted is None or spec.name in wanted]
        chunks = [self._run(inputs, chunk, specs) for chunk in _chunks(rows, self.batch_size)]
        if not chunks:
            return {spec.name: np.zeros((0, *spec.shape[1:]), dtype=held_as(spec.dtype)) for spec in specs}
        if len(chunks) == 1:
            return chunks[0]
        return {spec.name: np.concatenate([chunk[spec.name] for chunk in chunks]) for spec in specs}

    def _run(self, inputs: Mapping[str, Array], chunk: slice, specs: list[OutputSpec]) -> dict[str, Array]:
        given = {spec.name: lent(inputs[spec.name][chunk], dtype=spec.dtype) for spec in self.inputs}
        types = {spec.name: spec.dtype for spec in self.inputs}
        tensors = [
            tensor_of(np.array(given[name]) if self._writes else given[name], types[name], device=self.device) for name in self._order
        ]
        args, kwargs = pytree.tree_unflatten(tensors, self._tree)
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.inference_mode())
                if self._autocast:
                    stack.enter_context(torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16))
                answer = self._module(*args, **kwargs)
        except Exception as problem:
            raise ProgramError(f"the model must answer every valid input, torch says: {_short(problem)}") from problem
        values = output_values(answer, self.outputs)
        rows = len(tensors[0])
        return {spec.name: owned(_array(values[spec.name], spec, rows=rows, cast=self._autocast), given) for spec in specs}


def output_values(answer: Any, specs: tuple[OutputSpec, ...]) -> dict[str, Any]:
    """Return what a program gave by name: its own names when it gave a dict, else the declared ones in order. Raises ProgramError."""
    values = answer if isinstance(answer, dict) else dict(zip(_names(specs), _sequence(answer), strict=False))
    if set(values) != set(_names(specs)):
        raise ProgramError(f"the model must give the outputs {list(_names(specs))}, found {list(values)}: declare what it gives")
    return values


def writes_in_place(program: ExportedProgram) -> bool:
    """Return whether any operator of ``program`` writes into a tensor it is given.

    The signature of an exported program does not tell (torch 2.13 exports without functionalising), and which tensors share memory with
    an input cannot be read off the graph for every operator: so one operator in place anywhere counts.
    """
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    schemas = [getattr(node.target, "_schema", None) for graph in graphs for node in graph.nodes if node.op == "call_function"]
    return any(schema is not None and schema.is_mutable for schema in schemas)


def opened(data: bytes) -> ExportedProgram:
    """Return the program whose model.pt2 has the bytes ``data``: inspected and rebuilt, only then read by torch. Raises HandOffError."""
    rebuilt = archive.rebuild(data)
    try:
        return torch.export.load(io.BytesIO(rebuilt))
    except Exception as problem:
        raise HandOffError(f"{MODEL} must be an archive that torch {torch.__version__} reads, found: {_short(problem)}") from problem


def on_device(program: ExportedProgram, device: str) -> ExportedProgram:
    """Return ``program`` with its numbers on ``device``. Raises HandOffError when that cannot be."""
    if device == "cpu":
        return program
    try:
        return move_to_device_pass(program, device)
    except Exception as problem:
        raise HandOffError(f"the device {device!r} must be usable, torch says: {_short(problem)}: use 'cpu'") from problem


def input_order(program: ExportedProgram, model: Model) -> tuple[str, ...]:
    """Return the names of the inputs in the order in which ``program`` takes them. Raises HandOffError unless they are the declared ones."""
    order = tuple(str(name) for name in program.graph_signature.user_inputs)
    if sorted(order) != sorted(_names(model.inputs)):
        raise HandOffError(f"model.inputs must name what {MODEL} takes, {list(order)}, found {list(_names(model.inputs))}: declare those")
    return order


def _names(specs: tuple[InputSpec, ...] | tuple[OutputSpec, ...]) -> tuple[str, ...]:
    return tuple(spec.name for spec in specs)


def _sequence(answer: Any) -> list[Any]:
    return list(answer) if isinstance(answer, tuple | list) else [answer]


def _array(value: Any, spec: OutputSpec, *, rows: int, cast: bool) -> Array:
    """``cast``: what was computed in another precision than declared is no fault (autocast)."""
    if not isinstance(value, torch.Tensor):
        raise ProgramError(f"output {spec.name!r} must be a tensor, found {type(value).__name__}: return tensors only")
    declared = getattr(torch, spec.dtype)
    if cast and value.dtype.is_floating_point and declared.is_floating_point:
        value = value.to(declared)
    array, given = array_of(value), str(value.dtype).removeprefix("torch.")
    found = mismatch(array, dtype=spec.dtype, shape=(rows, *spec.shape[1:])) or ("" if value.dtype is declared else given)
    if found:
        wanted = f"{spec.dtype} {[rows, *spec.shape[1:]]}"
        raise ProgramError(f"output {spec.name!r} must be {wanted} for {rows} rows, found {found}: declare what the model gives")
    return array


def _chunks(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, rows, size))


def _short(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:400] or type(problem).__name__
