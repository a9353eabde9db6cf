"""What every backend does around its computation: the form of what goes in and out, chunks, arrays that belong to the caller."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from models.document import InputSpec, OutputSpec
from models.errors import InputRefused, ProgramError
from models.handoff_folder import HandOff
from models.tensors import Array, check_inputs, held_as, lent, mismatch, owned


class Framed(ABC):
    """A runner but for :meth:`compute`."""

    name: str
    device: str = "cpu"

    def __init__(self, handoff: HandOff, *, writes: bool, batch_size: int = 256) -> None:
        """``writes``: the computation may write into its inputs, so it gets copies. ``batch_size``: rows computed at once, at most."""
        self.handoff = handoff
        self._writes = writes
        self._batch_size = batch_size

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Return what the model takes."""
        return self.handoff.model.inputs

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """Return what the model gives."""
        return self.handoff.model.outputs

    @abstractmethod
    def compute(self, inputs: Mapping[str, Array], wanted: Sequence[OutputSpec]) -> Mapping[str, Array]:
        """Return at least the ``wanted`` outputs for C-contiguous inputs of at least one row. May raise anything."""

    def __call__(self, inputs: Mapping[str, Array], *, wanted: Collection[str] | None = None) -> dict[str, Array]:
        """Return the outputs by name; see :class:`models.backends.Runner`."""
        rows = check_inputs(inputs, self.inputs)
        specs = [spec for spec in self.outputs if wanted is None or spec.name in wanted]
        if not rows:
            return {spec.name: np.zeros((0, *spec.shape[1:]), dtype=held_as(spec.dtype)) for spec in specs}
        chunks = [self._chunk(inputs, slice(at, at + self._batch_size), specs) for at in range(0, rows, self._batch_size)]
        if len(chunks) == 1:
            return chunks[0]
        return {spec.name: np.concatenate([chunk[spec.name] for chunk in chunks]) for spec in specs}

    def _chunk(self, inputs: Mapping[str, Array], chunk: slice, specs: Sequence[OutputSpec]) -> dict[str, Array]:
        given = {spec.name: lent(inputs[spec.name][chunk], dtype=spec.dtype) for spec in self.inputs}
        rows = len(next(iter(given.values())))
        try:
            found = self.compute({name: array.copy() for name, array in given.items()} if self._writes else given, specs)
        except InputRefused:
            raise
        except Exception as problem:  # native code raises what it likes
            said = " ".join(str(problem).split())[:400] or type(problem).__name__
            raise ProgramError(f"the model must answer every valid input, the backend {self.name!r} says: {said}") from problem
        return {spec.name: owned(_fitting(found, spec, rows=rows), given) for spec in specs}


def _fitting(found: Mapping[str, Array], spec: OutputSpec, *, rows: int) -> Array:
    if spec.name not in found:
        raise ProgramError(f"the model must give the output {spec.name!r}, found {sorted(found)}: declare what it gives")
    array = found[spec.name]
    if wrong := mismatch(array, dtype=spec.dtype, shape=(rows, *spec.shape[1:])):
        wanted = f"{spec.dtype} {[rows, *spec.shape[1:]]}"
        raise ProgramError(f"output {spec.name!r} must be {wanted} for {rows} rows, found {wrong}: declare what the model gives")
    return array
