"""Named arrays in and out of safetensors: a length, a JSON header and raw numbers, so reading one can run nothing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from models.document import InputSpec
from models.errors import HandOffError, InputRefused

Array = np.ndarray[Any, np.dtype[Any]]
BFLOAT16 = "bfloat16"


def held_as(dtype: str) -> str:
    """Return the numpy type that holds numbers of the declared ``dtype``: float32 for bfloat16, of which numpy has none."""
    return "float32" if dtype == BFLOAT16 else dtype


def read_tensors(data: bytes, *, where: str) -> dict[str, Array]:
    """Return the arrays in the safetensors file whose bytes are ``data``; ``where`` names it in the message.

    Raises HandOffError when ``data`` is not a safetensors file, or holds a type numpy has no name for (bfloat16, float8).
    """
    try:
        return dict(safetensors.numpy.load(data))
    except (SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise HandOffError(
            f"{where} must be a safetensors file of numpy types, found {str(problem)!r}: write it with write_tensors"
        ) from None


def write_tensors(arrays: Mapping[str, Array]) -> bytes:
    """Return the bytes of a safetensors file with ``arrays`` in the order of their names, C-contiguous."""
    return bytes(safetensors.numpy.save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}))


def lent(array: Array, *, dtype: str) -> Array:
    """Return ``array`` of the declared ``dtype`` as torch takes it without a copy and without a word: C-contiguous, native byte order, marked writable.

    Memory that only may be read (a request's body) is passed on as it is; whoever gets it must not write. A copy is made only of an
    array that lies otherwise in memory.
    """
    plain: Array = np.ascontiguousarray(array, dtype=np.dtype(held_as(dtype)))
    return plain if plain.flags.writeable else np.asarray(_Lent(plain))


class _Lent:
    """The memory of an array, said to be writable: torch warns of any other."""

    __slots__ = ("__array_interface__", "_owner")

    def __init__(self, array: Array) -> None:
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
        self._owner = array  # the view keeps this object, and it keeps the memory


def rows_of(arrays: Mapping[str, Array]) -> set[int]:
    """Return the distinct row counts (length of axis 0) among ``arrays``; an array without axes counts as -1."""
    return {array.shape[0] if array.ndim else -1 for array in arrays.values()}


def mismatch(array: Array, *, dtype: str, shape: tuple[int, ...]) -> str:
    """Return "" when ``array`` holds this declared dtype and shape (-1 fits any length), otherwise what was found as words."""
    fits = array.ndim == len(shape) and all(want in (-1, have) for want, have in zip(shape, array.shape, strict=True))
    if fits and array.dtype.name == held_as(dtype):
        return ""
    return f"{array.dtype.name} {list(array.shape)}" + (" (an array holds bfloat16 as float32)" if dtype == BFLOAT16 else "")


def check_inputs(inputs: Mapping[str, Array], specs: tuple[InputSpec, ...]) -> int:
    """Return the number of rows. Raises InputRefused when names, dtypes, shapes or row counts are not those of ``specs``."""
    declared = {spec.name for spec in specs}
    if set(inputs) != declared:
        raise InputRefused(f"the inputs must be named {sorted(declared)}, found {sorted(inputs)}: send exactly these")
    for spec in specs:
        if found := mismatch(inputs[spec.name], dtype=spec.dtype, shape=spec.shape):
            raise InputRefused(f"input {spec.name!r} must be {spec.dtype} {list(spec.shape)}, found {found}: convert it before sending")
    counts = rows_of(inputs)
    if len(counts) != 1:
        raise InputRefused(f"all inputs must have the same number of rows, found {sorted(counts)}: send one row of each per object")
    return counts.pop()


def owned(output: Array, inputs: Mapping[str, Array]) -> Array:
    """Return ``output``, or a copy where it lies in the memory of one of ``inputs``: a model may answer with a piece of what it got."""
    return output.copy() if any(np.may_share_memory(output, array) for array in inputs.values()) else output
