"""Open Inference Protocol V2 messages, JSON and the binary tensor extension, both directions. Pure: bytes in, values out.

A message is a JSON object, followed (when the header ``Inference-Header-Content-Length`` gives the object's length) by the raw bytes of
every tensor that has ``binary_data_size``, in order and without gaps. Whatever the bytes are, the only exception is ProtocolError.
Source: https://github.com/kserve/open-inference-protocol and Triton's ``extension_binary_data.md``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import orjson

from serving import tensors
from serving.errors import ProtocolError
from serving.tensors import Array

HEADER_LENGTH = "inference-header-content-length"
"""Name of the HTTP header that splits JSON from raw bytes."""

_SMALL_JSON = 16 << 10
"""Envelopes up to this size are read by Python's parser, which can be asked about keys that are there twice; spectra as JSON are longer,
and only orjson reads them in less time than the model takes."""
_MAX_MICROSECONDS = 86_400_000_000
_MAX_TENSORS = 256
_MAX_ID = 256
_DIGITS = re.compile(r"[0-9]{1,15}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestedOutput:
    """One output a caller asked for."""

    name: str
    binary: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceRequest:
    """What a caller sent. ``outputs`` is empty when all outputs are wanted; then ``binary`` says how."""

    inputs: Mapping[str, Array]
    id: str | None = None
    outputs: tuple[RequestedOutput, ...] = ()
    binary: bool = False
    timeout: float | None = None
    """Seconds after which the caller no longer wants the answer; None when it did not say."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Datatype of every input that was decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceResponse:
    """What a model answered."""

    model: str
    version: str
    outputs: Mapping[str, Array]
    id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """Bytes ready for HTTP: the buffers to send one after the other, and the headers that describe them."""

    headers: Mapping[str, str]
    buffers: Sequence[bytes | memoryview] = field(default_factory=tuple)

    @property
    def body(self) -> bytes:
        """The buffers joined."""
        return b"".join(self.buffers)


def decode_request(body: bytes | memoryview, *, header_length: str | None = None) -> InferenceRequest:
    """Return the request in ``body``; its arrays are views on it. Raises ProtocolError."""
    envelope, raw = _open(body, header_length=header_length)
    parameters = _parameters(envelope, where="the request")
    binary = _flag(parameters, "binary_data_output", default=False)
    inputs, kinds = _tensors(envelope, key="inputs", raw=raw)
    return InferenceRequest(
        inputs=inputs,
        kinds=kinds,
        timeout=_timeout(parameters),
        id=_identifier(envelope),
        outputs=_requested(envelope, default=binary),
        binary=binary,
    )


def decode_response(body: bytes | memoryview, *, header_length: str | None = None) -> InferenceResponse:
    """Return the response in ``body``; its arrays are views on it. Raises ProtocolError."""
    envelope, raw = _open(body, header_length=header_length)
    return InferenceResponse(
        model=_text(envelope, "model_name"),
        version=_text(envelope, "model_version", default=""),
        id=_identifier(envelope),
        outputs=_tensors(envelope, key="outputs", raw=raw)[0],
    )


def encode_request(request: InferenceRequest, *, binary: bool = True) -> Message:
    """Return ``request`` as bytes, its inputs raw when ``binary``. Raises ProtocolError for a type or value the form cannot carry."""
    envelope: dict[str, Any] = {} if request.id is None else {"id": request.id}
    if request.binary:
        envelope["parameters"] = {"binary_data_output": True}
    if request.outputs:
        envelope["outputs"] = [{"name": out.name, "parameters": {"binary_data": out.binary}} for out in request.outputs]
    return _close(envelope, key="inputs", arrays=request.inputs, binary=dict.fromkeys(request.inputs, binary))


def encode_response(
    response: InferenceResponse,
    *,
    binary: Mapping[str, bool],
    kinds: Mapping[str, str] | None = None,
    texts: Mapping[str, orjson.Fragment] | None = None,
) -> Message:
    """Return ``response`` as bytes; ``binary`` says for each output name whether it goes raw, ``kinds`` its datatype where it has another name
    than its numpy type, ``texts`` the JSON of outputs that was written already. Raises ProtocolError on NaN in JSON.
    """
    envelope: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id is not None:
        envelope["id"] = response.id
    return _close(envelope, key="outputs", arrays=response.outputs, binary=binary, kinds=kinds, texts=texts)


def select_outputs(request: InferenceRequest, *, available: Sequence[str]) -> dict[str, bool]:
    """Return {output name: as binary?} in the order asked for. Raises ProtocolError for an output the model does not have."""
    if not request.outputs:
        return dict.fromkeys(available, request.binary)
    for wanted in request.outputs:
        if wanted.name not in available:
            raise ProtocolError(f"requested outputs must be among {', '.join(available)}, got {wanted.name!r}")
    return {wanted.name: wanted.binary for wanted in request.outputs}


def error_body(message: str) -> bytes:
    """Return the protocol's error object."""
    return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})


def _open(body: bytes | memoryview, *, header_length: str | None) -> tuple[dict[str, Any], memoryview | None]:
    view = memoryview(body)
    if header_length is None:
        return _parse(view), None
    if not _DIGITS.fullmatch(header_length):
        raise ProtocolError(f"{HEADER_LENGTH} must be a number of bytes, got {header_length[:40]!r}")
    length = int(header_length)
    if length > len(view):
        raise ProtocolError(f"{HEADER_LENGTH} must not exceed the body of {len(view)} bytes, got {length}")
    return _parse(view[:length]), view[length:]


def _parse(view: memoryview) -> dict[str, Any]:
    try:
        value = orjson.loads(view) if len(view) > _SMALL_JSON else _STRICT.decode(str(view, "utf-8"))
    except ProtocolError:
        raise
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the message must start with a JSON object: {str(error)[:120]}") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"the message must be a JSON object, got {type(value).__name__}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ProtocolError(f"numbers must be finite, got {name}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ProtocolError("every key of a JSON object must be there once, got one twice")
    return value


_STRICT = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_duplicates)


def _tensors(envelope: dict[str, Any], *, key: str, raw: memoryview | None) -> tuple[dict[str, Array], dict[str, str]]:
    """Return arrays and datatypes by name."""
    entries = _entries(envelope.get(key), key=key)
    arrays: dict[str, Array] = {}
    kinds: dict[str, str] = {}
    at = 0
    for entry in entries:
        name = _text(entry, "name")
        if name in arrays:
            raise ProtocolError(f"every tensor in '{key}' must have a name of its own, got {name!r} twice")
        size = _binary_size(entry, name=name)
        kinds[name] = tensors.kind_of(entry.get("datatype"))
        arrays[name] = _tensor(entry, name=name, kind=kinds[name], data=None if size is None else _slice(raw, at, size, name=name))
        at += size or 0
    if raw is not None and at != len(raw):
        raise ProtocolError(f"the bytes after the JSON part must belong to tensors: {at} do, got {len(raw)}")
    return arrays, kinds


def _tensor(entry: dict[str, Any], *, name: str, kind: str, data: memoryview | None) -> Array:
    shape = tensors.shape_of(entry.get("shape"))
    if data is None:
        return tensors.from_json(entry.get("data"), name=name, kind=kind, shape=shape)
    if "data" in entry:
        raise ProtocolError(f"tensor {name!r} must have 'data' or 'binary_data_size', got both")
    return tensors.from_bytes(data, name=name, kind=kind, shape=shape)


def _slice(raw: memoryview | None, at: int, size: int, *, name: str) -> memoryview:
    if raw is None:
        raise ProtocolError(f"tensor {name!r} has 'binary_data_size', so the header {HEADER_LENGTH} must be sent, got none")
    if at + size > len(raw):
        raise ProtocolError(f"tensor {name!r} announces {size} bytes, got {len(raw) - at} left in the body")
    return raw[at : at + size]


def _binary_size(entry: dict[str, Any], *, name: str) -> int | None:
    size = _parameters(entry, where=f"tensor {name!r}").get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise ProtocolError(f"'binary_data_size' of tensor {name!r} must be a number of bytes, got {str(size)[:40]!r}")
    return size


def _requested(envelope: dict[str, Any], *, default: bool) -> tuple[RequestedOutput, ...]:
    if envelope.get("outputs") is None:
        return ()
    wanted: dict[str, RequestedOutput] = {}
    for entry in _entries(envelope["outputs"], key="outputs"):
        name = _text(entry, "name")
        if name in wanted:
            raise ProtocolError(f"every requested output must be named once, got {name!r} twice")
        parameters = _parameters(entry, where=f"output {name!r}")
        _offered(parameters, name=name)
        binary = _flag(parameters, "binary_data", default=default)
        wanted[name] = RequestedOutput(name=name, binary=binary)
    return tuple(wanted.values())


def _offered(parameters: dict[str, Any], *, name: str) -> None:
    """Refuse what another server would do with an output: an answer in another form than the caller expects would be worse."""
    for foreign in ("classification", "shared_memory_region"):
        if parameters.get(foreign):
            raise ProtocolError(f"output {name!r} must be asked for as a tensor, got {foreign!r}, which this server does not offer")


def _timeout(parameters: dict[str, Any]) -> float | None:
    """Triton's parameter: microseconds, 0 for none."""
    value = parameters.get("timeout", 0)
    if type(value) is not int or not 0 <= value <= _MAX_MICROSECONDS:
        raise ProtocolError(f"'timeout' must be microseconds from 0 to {_MAX_MICROSECONDS}, got {str(value)[:40]!r}")
    return value / 1e6 if value else None


def _entries(value: object, *, key: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ProtocolError(f"'{key}' must be a list of objects, got {str(value)[:80]!r}")
    if not 0 < len(value) <= _MAX_TENSORS:
        raise ProtocolError(f"'{key}' must have 1 to {_MAX_TENSORS} entries, got {len(value)}")
    return value


def _parameters(entry: dict[str, Any], *, where: str) -> dict[str, Any]:
    value = entry.get("parameters")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ProtocolError(f"'parameters' of {where} must be an object, got {str(value)[:80]!r}")
    return value


def _flag(parameters: dict[str, Any], key: str, *, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise ProtocolError(f"'{key}' must be true or false, got {str(value)[:40]!r}")
    return value


def _text(entry: dict[str, Any], key: str, *, default: str | None = None) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str) or len(value) > _MAX_ID or (default is None and not value):
        raise ProtocolError(f"'{key}' must be a text of at most {_MAX_ID} characters, got {str(value)[:40]!r}")
    return value


def _identifier(envelope: dict[str, Any]) -> str | None:
    return None if envelope.get("id") is None else _text(envelope, "id", default="")


def _written(envelope: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(envelope)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"a message must be made of Unicode text and finite numbers: {str(error)[:120]}") from error


def _close(
    envelope: dict[str, Any],
    *,
    key: str,
    arrays: Mapping[str, Array],
    binary: Mapping[str, bool],
    kinds: Mapping[str, str] | None = None,
    texts: Mapping[str, orjson.Fragment] | None = None,
) -> Message:
    entries: list[dict[str, Any]] = []
    buffers: list[bytes | memoryview] = []
    for name in binary:
        array = arrays[name]
        kind = (kinds or {}).get(name) or tensors.datatype(array.dtype)
        entry: dict[str, Any] = {"name": name, "datatype": kind, "shape": list(array.shape)}
        if binary[name]:
            buffers.append(tensors.to_bytes(array, kind=kind))
            entry["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            entry["data"] = (texts or {}).get(name) or orjson.Fragment(tensors.json_text(array, name=name))
        entries.append(entry)
    head = _written({**envelope, key: entries})
    if not buffers:
        return Message(headers={"content-type": "application/json", "content-length": str(len(head))}, buffers=(head,))
    size = len(head) + sum(len(buffer) for buffer in buffers)
    headers = {"content-type": "application/octet-stream", "content-length": str(size), HEADER_LENGTH: str(len(head))}
    return Message(headers=headers, buffers=(head, *buffers))
