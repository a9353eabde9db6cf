"""Tensors as the Open Inference Protocol writes them: a datatype name, a shape, and numbers as JSON or as raw little-endian bytes.

Bytes become arrays by ``numpy.frombuffer``: a read-only view on the request's body, never a copy.
Source: https://github.com/kserve/open-inference-protocol (REST) and Triton's binary tensor data extension.
"""

import math
import struct
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

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
    "BF16": np.dtype("<f4"),
    "BYTES": np.dtype("O"),
}
"""Datatype names, and the numpy type their values have here: numpy has no bfloat16, so BF16 is float32 whose lower half is zero;
BYTES are Python's ``bytes``."""

BFLOAT16 = "bfloat16"
"""How a signature writes BF16, for want of a numpy name."""
_NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
_ACCEPTED_KINDS = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}
_MAX_DIMENSIONS = 8
_LENGTH = struct.Struct("<I")
_LITTLE = sys.byteorder == "little"


def datatype(dtype: npt.DTypeLike) -> str:
    """Return the protocol's name of a numpy dtype (or of ``"bfloat16"``). Raises ProtocolError for one that has none."""
    if isinstance(dtype, str) and dtype == BFLOAT16:
        return "BF16"
    wanted = np.dtype(dtype)
    name = _NAMES.get(wanted) or _NAMES.get(wanted.newbyteorder("<"))
    if name is None:
        raise ProtocolError(f"tensors must have one of the datatypes {', '.join(DTYPES)}, got numpy {np.dtype(dtype)!s}")
    return name


def kind_of(name: object) -> str:
    """Return ``name`` when it is a protocol datatype. Raises ProtocolError for a foreign one."""
    if not isinstance(name, str) or name not in DTYPES:
        raise ProtocolError(f"'datatype' must be one of {', '.join(DTYPES)}, got {_short(name)}")
    return name


def shape_of(value: object) -> tuple[int, ...]:
    """Return a JSON shape as integers. Raises ProtocolError unless it is a list of 1 to 8 non-negative integers."""
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_DIMENSIONS:
        raise ProtocolError(f"'shape' must be a list of 1 to {_MAX_DIMENSIONS} integers, got {_short(value)}")
    if not all(type(size) is int and 0 <= size < 2**31 for size in value):
        raise ProtocolError(f"'shape' must hold integers from 0 to 2147483647, got {_short(value)}")
    return tuple(value)


def from_bytes(data: memoryview, *, name: str, kind: str, shape: tuple[int, ...]) -> Array:
    """Return ``data`` as an array of the datatype ``kind``, sharing its memory (BF16 and BYTES: a copy).

    Raises ProtocolError when the length does not fit.
    """
    if kind == "BYTES":
        return _elements(data, name=name, shape=shape)
    if kind == "BF16":
        halves = from_bytes(data, name=name, kind="UINT16", shape=shape)
        return (halves.astype(np.uint32) << 16).view(np.float32)
    dtype = DTYPES[kind]
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ProtocolError(f"tensor {name!r} of shape {list(shape)} and type {kind} takes {expected} bytes, got {len(data)}")
    if dtype.kind == "b":
        return _booleans(data, name=name).reshape(shape)
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def from_json(data: object, *, name: str, kind: str, shape: tuple[int, ...]) -> Array:
    """Return JSON numbers (BYTES: texts), flat or nested, row-major. Raises ProtocolError on foreign, ragged or out-of-range values."""
    if not isinstance(data, list):
        raise ProtocolError(f"'data' of tensor {name!r} must be a list of values, got {_short(data)}")
    dtype = DTYPES[kind]
    if math.prod(shape) == 0 and not data:
        return np.empty(shape, dtype)
    if kind == "BYTES":
        return _texts(data, name=name, shape=shape)
    if kind == "BF16":
        raise ProtocolError(f"tensor {name!r} of type BF16 must be sent as binary data: JSON has no such numbers")
    values = _wide_integers(data, name=name) if dtype == np.uint64 else _numbers(data, name=name)
    if values.shape != shape and values.ndim != 1:
        raise ProtocolError(f"'data' of tensor {name!r} must be flat or nested like its shape {list(shape)}, got {list(values.shape)}")
    if values.size != math.prod(shape):
        raise ProtocolError(f"tensor {name!r} of shape {list(shape)} takes {math.prod(shape)} values, got {values.size}")
    return _cast(values, name=name, dtype=dtype).reshape(shape)


def json_text(array: Array, *, name: str) -> bytes:
    """Return the array's values flat, row-major, as JSON. Raises ProtocolError where JSON has no word for a value (NaN, not UTF-8)."""
    if array.dtype.kind == "O":
        return orjson.dumps([_text(value, name=name) for value in array.reshape(-1)])
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        row = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
        raise ProtocolError(f"output {name!r} is not finite in row {row} and JSON has no NaN; ask for it as binary data", status=422)
    flat = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1)
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)


def to_bytes(array: Array, *, kind: str | None = None) -> memoryview:
    """Return the array's raw little-endian bytes, row-major, as the datatype ``kind`` (None: its own); a view where they already lie that way."""
    if array.dtype.kind == "O":
        elements = [value if isinstance(value, bytes) else str(value).encode() for value in array.reshape(-1)]
        return memoryview(b"".join(part for value in elements for part in (_LENGTH.pack(len(value)), value)))
    if kind == "BF16":
        halves = np.ascontiguousarray(array, dtype="<f4").reshape(-1).view(np.uint32) >> 16
        return halves.astype("<u2").view(np.uint8).data
    if not (array.flags.c_contiguous and array.dtype.isnative and _LITTLE):
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data


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


def _elements(data: memoryview, *, name: str, shape: tuple[int, ...]) -> Array:
    """Read BYTES: every element is preceded by its length, four bytes."""
    count = math.prod(shape)
    if count * _LENGTH.size > len(data):
        raise ProtocolError(
            f"tensor {name!r} of shape {list(shape)} takes {count} elements with 4 bytes of length each, got {len(data)} bytes"
        )
    values: list[bytes] = []
    at = 0
    while at < len(data) and len(values) < count:
        end = at + _LENGTH.size
        size = _LENGTH.unpack(data[at:end])[0] if end <= len(data) else len(data)
        if end + size > len(data):
            raise ProtocolError(f"element {len(values)} of tensor {name!r} must lie inside its bytes, it ends beyond them")
        values.append(bytes(data[end : end + size]))
        at = end + size
    if at != len(data) or len(values) != count:
        raise ProtocolError(
            f"tensor {name!r} of shape {list(shape)} takes {count} elements and nothing else, got {len(values)} and more bytes"
        )
    return _objects(values, shape)


def _texts(data: Sequence[Any], *, name: str, shape: tuple[int, ...]) -> Array:
    flat: list[Any] = list(data)
    for _ in shape[1:]:
        if flat and all(isinstance(value, list) for value in flat):
            flat = [inner for value in flat for inner in value]
    if len(flat) != math.prod(shape) or not all(isinstance(value, str) for value in flat):
        raise ProtocolError(f"'data' of tensor {name!r} must be {math.prod(shape)} texts, flat or evenly nested, got {_short(data)}")
    return _objects([_encoded(value, name=name) for value in flat], shape)


def _encoded(value: str, *, name: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ProtocolError(f"'data' of tensor {name!r} must be Unicode text, got half of a character") from None


def _objects(values: list[bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def _text(value: object, *, name: str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise ProtocolError(f"output {name!r} is not UTF-8 text; ask for it as binary data", status=422) from None


def _booleans(data: memoryview, *, name: str) -> Array:
    raw = np.frombuffer(data, dtype=np.uint8)
    if raw.size and int(raw.max()) > 1:
        raise ProtocolError(f"tensor {name!r} of type BOOL must hold the bytes 0 and 1, got {int(raw.max())}")
    return raw.view(np.bool_)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
