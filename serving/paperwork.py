"""Large JSON bodies read and written by a worker: millions of numbers as text would hold up the event loop, and with it everybody, for a second.

Orders and reports are plain JSON values; bytes lie in shared memory. :func:`perform` is what the worker does, the rest is the event loop's.
"""

import math
from typing import Any

import numpy as np
import orjson

from serving import protocol, tensors
from serving.arena import Held
from serving.errors import ProtocolError
from serving.protocol import InferenceRequest, RequestedOutput
from serving.tensors import Array

LARGE_BYTES = 256 << 10
"""Up to this size JSON is read at once: a worker's answer would take as long."""
_ALIGNMENT = 64
_TEXT_BYTES = 26
"""Longest number that is written, with its comma: -1.7976931348623157e+308."""


def reading(body: memoryview, split: str | None, *, held: Held) -> dict[str, Any]:
    """Return the order to read ``body``, whose JSON is ``split`` bytes long (None: all of it). A number takes two bytes of JSON at least and eight of memory at most."""
    room = held.room(4 * len(body) + 257 * _ALIGNMENT)
    return {"read": [held.offset_of(body), len(body), split, held.offset_of(room), len(room)]}


def request_of(report: dict[str, Any], *, held: Held) -> InferenceRequest:
    """Return the request that a worker read. Raises ProtocolError for what it refused."""
    _check(report)
    inputs = {name: _array(held.memory, dtype, shape, at) for name, _, dtype, shape, at in report["inputs"]}
    return InferenceRequest(
        inputs=inputs,
        kinds={name: kind for name, kind, *_ in report["inputs"]},
        id=report["id"],
        outputs=tuple(RequestedOutput(name=name, binary=binary) for name, binary in report["outputs"]),
        binary=report["binary"],
        timeout=report["timeout"],
    )


def writing(arrays: dict[str, Array], *, held: Held) -> dict[str, Any]:
    """Return the order to write ``arrays`` as JSON."""
    order = []
    for name, array in arrays.items():
        source, room = held.room(array.nbytes), held.room(array.size * _TEXT_BYTES + 2)
        source[:] = tensors.to_bytes(array)
        order.append([name, array.dtype.str, list(array.shape), held.offset_of(source), held.offset_of(room), len(room)])
    return {"write": order}


def texts_of(report: dict[str, Any], *, held: Held) -> dict[str, orjson.Fragment]:
    """Return the JSON that a worker wrote, by name. Raises ProtocolError where JSON has no word for a value."""
    _check(report)
    return {name: orjson.Fragment(bytes(held.memory[at : at + size])) for name, at, size in report["written"]}


def is_large(arrays: dict[str, Array]) -> bool:
    """Whether ``arrays`` are to be written by a worker; texts (BYTES) never are."""
    return sum(array.size for array in arrays.values()) * 8 > LARGE_BYTES and all(array.dtype.kind != "O" for array in arrays.values())


def perform(memory: memoryview, order: dict[str, Any]) -> dict[str, Any]:
    """Do what ``order`` says; a request that is not valid is a report too."""
    try:
        return _read(memory, *order["read"]) if "read" in order else _write(memory, order["write"])
    except ProtocolError as error:
        return {"wrong": [str(error), error.status]}


def _read(memory: memoryview, at: int, size: int, split: str | None, room: int, room_size: int) -> dict[str, Any]:
    request = protocol.decode_request(memory[at : at + size], header_length=split)
    end, inputs = room, []
    for name, array in request.inputs.items():
        if array.dtype.kind == "O":
            raise ProtocolError(f"input {name!r} of type BYTES must be sent as binary data, or in less than {LARGE_BYTES} bytes of JSON")
        if end + array.nbytes > room + room_size:
            raise ProtocolError("the tensors of a JSON body must not be larger than its text allows")
        memory[end : end + array.nbytes] = tensors.to_bytes(array)
        inputs.append([name, request.kinds[name], array.dtype.str, list(array.shape), end])
        end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return {
        "inputs": inputs,
        "id": request.id,
        "outputs": [[output.name, output.binary] for output in request.outputs],
        "binary": request.binary,
        "timeout": request.timeout,
    }


def _write(memory: memoryview, order: list[Any]) -> dict[str, Any]:
    written = []
    for name, dtype, shape, at, room, room_size in order:
        text = tensors.json_text(_array(memory, dtype, shape, at), name=name)
        assert len(text) <= room_size, "a number is no longer than its room"
        memory[room : room + len(text)] = text
        written.append([name, room, len(text)])
    return {"written": written}


def _array(memory: memoryview, dtype: str, shape: list[int], at: int) -> Array:
    return np.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=at).reshape(shape)


def _check(report: dict[str, Any]) -> None:
    if "wrong" in report:
        sentence, status = report["wrong"]
        raise ProtocolError(sentence, status=status)
