"""Inputs as the bytes that each server takes, and its answers back as arrays. Bodies are encoded once, before anything is timed.

The first number of the first input is a mark that the load generator overwrites, so that no request is like another and no cache can help.
"""

import base64
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

Array = NDArray[Any]
Shapes = Mapping[str, tuple[int, ...]]
"""Shape of one row, by tensor."""

MARK = np.float32(0.71828175)
_RAW_MARK, _TEXT_MARK = struct.pack("<f", MARK), b"0.71828175"
_V2_LENGTH = "inference-header-content-length"


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """One request, but for its address."""

    data: bytes
    headers: Mapping[str, str]
    mark_at: int
    mark_kind: str
    """"raw" for four bytes of float32, "text" for ten decimal characters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How one server takes inputs and gives outputs."""

    path: str
    encode: Callable[[Mapping[str, Array]], tuple[bytes, dict[str, str]]]
    decode: Callable[[bytes, Mapping[str, str], Shapes], dict[str, Array]] = field(repr=False)

    def body(self, inputs: Mapping[str, Array]) -> Body:
        """Return ``inputs`` encoded, the mark in place and found."""
        marked = {name: array.copy() for name, array in inputs.items()}
        next(iter(marked.values())).flat[0] = MARK
        data, headers = self.encode(marked)
        for kind, mark in (("raw", _RAW_MARK), ("text", _TEXT_MARK)):
            if (at := data.find(mark)) >= 0:
                if data.find(mark, at + 1) >= 0:
                    raise ValueError("the mark must be there once, found twice: choose another number")
                return Body(data=data, headers=headers, mark_at=at, mark_kind=kind)
        raise ValueError("the mark must be found in the encoded body, found none: is it compressed?")


def v2_binary(path: str) -> Form:
    """Return the Open Inference Protocol V2 with raw tensors both ways."""
    return Form(path=path, encode=_to_v2_binary, decode=_from_v2)


def v2_json(path: str) -> Form:
    """Return the Open Inference Protocol V2 as JSON both ways."""
    return Form(path=path, encode=_to_v2_json, decode=_from_v2)


def raw(path: str) -> Form:
    """Return the tensors one after the other, as peers/same_work.py takes them."""
    return Form(path=path, encode=_to_raw, decode=_from_raw)


def columns(path: str, content_type: str = "application/json") -> Form:
    """Return one nested list for every tensor."""
    return Form(path=path, encode=lambda inputs: (_dumps(dict(inputs)), {"content-type": content_type}), decode=_from_columns)


def mlflow_parquet(path: str) -> Form:
    """Return Parquet in, JSON with base64 texts out."""
    return Form(path=path, encode=_to_parquet, decode=_from_base64)


def mlflow_json(path: str) -> Form:
    """Return MLflow's named tensor inputs as JSON."""
    headers = {"content-type": "application/json"}
    return Form(path=path, encode=lambda inputs: (_dumps({"inputs": dict(inputs)}), headers), decode=_from_predictions)


def _dumps(value: Any) -> bytes:
    # the shortest decimals that give the same float32: about half of what tolist() would send
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _to_v2_binary(inputs: Mapping[str, Array]) -> tuple[bytes, dict[str, str]]:
    entries = [
        {"name": name, "datatype": "FP32", "shape": list(array.shape), "parameters": {"binary_data_size": array.nbytes}}
        for name, array in inputs.items()
    ]
    head = json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}).encode()
    headers = {"content-type": "application/octet-stream", _V2_LENGTH: str(len(head))}
    return b"".join((head, *(array.tobytes() for array in inputs.values()))), headers


def _to_v2_json(inputs: Mapping[str, Array]) -> tuple[bytes, dict[str, str]]:
    entries = [{"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel()} for name, array in inputs.items()]
    return _dumps({"inputs": entries}), {"content-type": "application/json"}


def _to_raw(inputs: Mapping[str, Array]) -> tuple[bytes, dict[str, str]]:
    return b"".join(array.tobytes() for array in inputs.values()), {"content-type": "application/octet-stream"}


def _to_parquet(inputs: Mapping[str, Array]) -> tuple[bytes, dict[str, str]]:
    import io

    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({name: pa.array([row.tobytes() for row in array], pa.binary()) for name, array in inputs.items()})
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    return sink.getvalue(), {"content-type": "application/vnd.apache.parquet"}


def _from_v2(data: bytes, headers: Mapping[str, str], shapes: Shapes) -> dict[str, Array]:
    length = int(headers.get(_V2_LENGTH, len(data)))
    outputs, at = {}, length
    for entry in json.loads(data[:length])["outputs"]:
        if "data" in entry:
            values = np.asarray(entry["data"], np.float32)
        else:
            size = entry["parameters"]["binary_data_size"]
            values = np.frombuffer(data[at : at + size], "<f4")
            at += size
        outputs[entry["name"]] = values.reshape(entry["shape"])
    return outputs


def _from_raw(data: bytes, headers: Mapping[str, str], shapes: Shapes) -> dict[str, Array]:
    values = np.frombuffer(data, "<f4")
    rows = len(values) // sum(int(np.prod(shape)) for shape in shapes.values())
    outputs, at = {}, 0
    for name, shape in shapes.items():
        size = rows * int(np.prod(shape))
        outputs[name] = values[at : at + size].reshape(rows, *shape)
        at += size
    return outputs


def _from_columns(data: bytes, headers: Mapping[str, str], shapes: Shapes) -> dict[str, Array]:
    return {name: np.asarray(values, np.float32) for name, values in json.loads(data).items()}


def _from_predictions(data: bytes, headers: Mapping[str, str], shapes: Shapes) -> dict[str, Array]:
    return {name: np.asarray(values, np.float32) for name, values in json.loads(data)["predictions"].items()}


def _from_base64(data: bytes, headers: Mapping[str, str], shapes: Shapes) -> dict[str, Array]:
    rows = [_from_raw(base64.b64decode(text), headers, shapes) for text in json.loads(data)["predictions"]]
    return {name: np.concatenate([row[name] for row in rows]) for name in shapes}
