"""What a model takes and gives, and whether a request fits it. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from serving import tensors
from serving.errors import ProtocolError
from serving.tensors import Array


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output: numpy dtype name (or ``bfloat16``) and shape, -1 where any size goes (the batch first)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @cached_property
    def row_items(self) -> int:
        """Numbers in one row; every length but the first is fixed."""
        return math.prod(self.shape[1:])

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return self.row_items * self.held_as.itemsize

    @cached_property
    def held_as(self) -> np.dtype[Any]:
        """The type of its arrays in this process and its workers."""
        return tensors.DTYPES[self.kind]

    @cached_property
    def kind(self) -> str:
        """The protocol's datatype."""
        return tensors.datatype(self.dtype)

    def metadata(self) -> dict[str, Any]:
        """Return the protocol's description of this tensor."""
        return {"name": self.name, "datatype": self.kind, "shape": list(self.shape)}


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Everything a caller has to know to ask this model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in the model's order."""
        return tuple(spec.name for spec in self.outputs)

    @cached_property
    def output_kinds(self) -> dict[str, str]:
        """Datatypes of the outputs by name."""
        return {spec.name: spec.kind for spec in self.outputs}

    @cached_property
    def by_name(self) -> dict[str, TensorSpec]:
        """The inputs by name."""
        return {spec.name: spec for spec in self.inputs}


def check(inputs: Mapping[str, Array], *, signature: Signature, kinds: Mapping[str, str] | None = None) -> int:
    """Return the number of rows when ``inputs``, of the datatypes ``kinds`` (None: those of their arrays), fit the signature.

    Raises ProtocolError with what must hold and what was found.
    """
    expected = signature.by_name
    if inputs.keys() != expected.keys():
        raise ProtocolError(f"inputs must be exactly {', '.join(expected)}, got {', '.join(inputs)}")
    for name, array in inputs.items():
        _check_one(array, spec=expected[name], kind=(kinds or {}).get(name) or tensors.datatype(array.dtype))
    rows = {name: len(array) for name, array in inputs.items()}
    if len(set(rows.values())) != 1:
        raise ProtocolError(f"all inputs must have the same number of rows, got {rows}")
    count = next(iter(rows.values()))
    if count == 0:
        raise ProtocolError("inputs must have at least one row, got none")
    return count


def check_finite(inputs: Mapping[str, Array]) -> None:
    """Raise ProtocolError naming the first row that holds NaN or infinity: a model would answer it with a number that means nothing."""
    for name, array in inputs.items():
        row = tensors.first_bad_row(array)
        if row is not None:
            raise ProtocolError(f"input {name!r} must be finite, got NaN or infinity in row {row}: mask such pixels or leave the row out")


def _check_one(array: Array, *, spec: TensorSpec, kind: str) -> None:
    if kind != spec.kind:
        raise ProtocolError(f"input {spec.name!r} must be {spec.kind}, got {kind}")
    if not _fits(array.shape, spec.shape):
        raise ProtocolError(f"input {spec.name!r} must have shape {list(spec.shape)}, got {list(array.shape)}")


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(want in (-1, size) for size, want in zip(shape, wanted, strict=True))
