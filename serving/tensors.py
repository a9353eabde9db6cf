"""Tensors as the Open Inference Protocol writes them: a datatype name, a shape, and numbers as JSON or as raw little-endian bytes.

Bytes become arrays by ``numpy.frombuffer``: a read-only view on the request's body, never a copy.
Source: https://github.com/kserve/open-inference-protocol (REST) and Triton's binary tensor data extension.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import ProtocolError

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""Datatype names this project serves. BYTES and BF16 are refused by name: no model here takes them."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ACCEPTED_KINDS = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}
_MAX_DIMENSIONS = 8


def datatype(dtype: npt.DTypeLike) -> str:
    """Return the protocol's name of a numpy dtype. Raises ProtocolError for one that has none."""
    wanted = np.dtype(dtype).newbyteorder("<")
    name = _NAMES.get(wanted)
    if name is None:
        raise ProtocolError(f"tensors must have one of the datatypes {', '.join(DTYPES)}, got numpy {np.dtype(dtype)!s}")
    return name


def dtype_of(name: object) -> np.dtype[Any]:
    """Return the numpy dtype of a protocol datatype name. Raises ProtocolError for a foreign one."""
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise ProtocolError(f"'datatype' must be one of {', '.join(DTYPES)}, got {_short(name)}")
    return dtype


def shape_of(value: object) -> tuple[int, ...]:
    """Return a JSON shape as integers. Raises ProtocolError unless it is a list of 1 to 8 non-negative integers."""
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_DIMENSIONS:
        raise ProtocolError(f"'shape' must be a list of 1 to {_MAX_DIMENSIONS} integers, got {_short(value)}")
    if not all(type(size) is int and 0 <= size < 2**31 for size in value):
        raise ProtocolError(f"'shape' must hold integers from 0 to 2147483647, got {_short(value)}")
    return tuple(value)


def from_bytes(data: memoryview, *, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return ``data`` as an array of ``dtype`` and ``shape``, sharing its memory. Raises ProtocolError when the length does not fit."""
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ProtocolError(f"tensor {name!r} of shape {list(shape)} and type {_NAMES[dtype]} takes {expected} bytes, got {len(data)}")
    if dtype.kind == "b":
        return _booleans(data, name=name).reshape(shape)
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def from_json(data: object, *, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return JSON numbers, flat or nested, row-major, as an array. Raises ProtocolError on foreign, ragged or out-of-range values."""
    if not isinstance(data, list):
        raise ProtocolError(f"'data' of tensor {name!r} must be a list of numbers, got {_short(data)}")
    if math.prod(shape) == 0 and not data:
        return np.empty(shape, dtype)
    values = _wide_integers(data, name=name) if dtype == np.uint64 else _numbers(data, name=name)
    if values.shape != shape and values.ndim != 1:
        raise ProtocolError(f"'data' of tensor {name!r} must be flat or nested like its shape {list(shape)}, got {list(values.shape)}")
    if values.size != math.prod(shape):
        raise ProtocolError(f"tensor {name!r} of shape {list(shape)} takes {math.prod(shape)} values, got {values.size}")
    return _cast(values, name=name, dtype=dtype).reshape(shape)


def to_json(array: Array, *, name: str) -> list[Any]:
    """Return the array's values flat, row-major. Raises ProtocolError where JSON has no word for a value (NaN, infinity)."""
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        row = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
        raise ProtocolError(f"output {name!r} is not finite in row {row} and JSON has no NaN; ask for it as binary data", status=422)
    flat: list[Any] = array.ravel().tolist()
    return flat


def to_bytes(array: Array) -> memoryview:
    """Return the array's raw little-endian bytes, row-major; a view where the memory already lies that way."""
    contiguous = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return contiguous.reshape(-1).view(np.uint8).data


def first_bad_row(array: Array) -> int | None:
    """Return the index along axis 0 of the first row that holds NaN or infinity, or None."""
    if array.dtype.kind != "f" or array.ndim == 0:
        return None
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return None if bool(finite.all()) else int(np.argmin(finite))


def _numbers(data: Sequence[Any], *, name: str) -> Array:
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        raise ProtocolError(f"'data' of tensor {name!r} must be numbers, flat or evenly nested, got something ragged") from error
    if values.dtype.kind not in "biuf":
        raise ProtocolError(f"'data' of tensor {name!r} must hold only numbers or only booleans, got {_short(data)}")
    return values


def _wide_integers(data: Sequence[Any], *, name: str) -> Array:
    """numpy reads 0 beside 2**63 as floats and would round them; Python's own integers are asked instead."""
    values = _numbers(data, name=name)
    if values.dtype.kind != "f":
        return values
    exact = np.asarray(data, dtype=object)
    if all(type(value) is int and 0 <= value < 2**64 for value in exact.flat):
        return exact.astype(np.uint64)
    return values


def _cast(values: Array, *, name: str, dtype: np.dtype[Any]) -> Array:
    if values.dtype.kind not in _ACCEPTED_KINDS[dtype.kind]:
        raise ProtocolError(f"'data' of tensor {name!r} must fit {_NAMES[dtype]}, got {values.dtype.name} values")
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if dtype.kind == "f" and not bool(np.isfinite(cast).all()):
        raise ProtocolError(f"'data' of tensor {name!r} has a value outside the range of {_NAMES[dtype]}")
    if dtype.kind in "iu" and not np.array_equal(cast, values):
        raise ProtocolError(f"'data' of tensor {name!r} has a value outside the range of {_NAMES[dtype]}")
    return cast


def _booleans(data: memoryview, *, name: str) -> Array:
    raw = np.frombuffer(data, dtype=np.uint8)
    if raw.size and int(raw.max()) > 1:
        raise ProtocolError(f"tensor {name!r} of type BOOL must hold the bytes 0 and 1, got {int(raw.max())}")
    return raw.view(np.bool_)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
