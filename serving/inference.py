"""POST …/infer: from the head of a request to its answer, as plain ASGI; a Starlette request and response would cost a tenth of a small model.

Order of refusal: the path, the size, the form, the signature; then the cache, then the queue. What a caller sent is in shared memory all the
while and is given back in every case; what a caller gets are bytes of its own.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import orjson

from models.summary import VECTOR_LIMIT
from serving import http, intake, paperwork, protocol, signature, tracing
from serving.arena import Held
from serving.engine import Engine, Loaded
from serving.errors import DeadlineError, NotReadyError, OverloadedError, ProtocolError
from serving.http import CLIENT, MOST_ROWS, REQUEST_ID, ROWS, VERSION
from serving.model_metrics import ModelMetrics
from serving.protocol import HEADER_LENGTH, InferenceRequest, InferenceResponse, Message
from serving.recorder import Recorder, input_digest
from serving.remembered import Remembered
from serving.tensors import Array
from serving.wire import EXTENSION, Connection

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

TIMEOUT = "x-firstlight-timeout-ms"
"""Header with the milliseconds after which the caller no longer wants the answer."""

_LOG = logging.getLogger(__name__)
_MAX_MILLISECONDS = 86_400_000
_LARGE = 1 << 20
"""Work on more bytes than this would hold up everybody else: it is done in a thread."""
_CODINGS = {b"gzip": 31, b"deflate": 15}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that was read and fits the signature."""

    request: InferenceRequest
    wanted: Mapping[str, bool]
    rows: int
    deadline: float


class Inference:
    """Answers inference requests for one model version."""

    def __init__(
        self,
        *,
        model: str,
        version: str,
        engine: Engine,
        metrics: ModelMetrics,
        recorder: Recorder | None,
        remembered: Remembered | None,
        body_bytes: int,
    ) -> None:
        """``remembered`` None computes every request, also one that is just being computed."""
        self._model, self._version, self._engine, self._metrics = model, version, engine, metrics
        self._recorder, self._remembered, self._body_bytes = recorder, remembered, body_bytes
        self._version_header = (VERSION.encode(), version.encode())
        self.count = 0
        """Requests since the start."""

    async def answer(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer the request of ``scope``."""
        began = time.perf_counter()
        self.count += 1
        headers: dict[bytes, bytes] = dict(scope["headers"])
        identifier = _printable(headers.get(REQUEST_ID.encode()), otherwise=http.new_request_id)
        with tracing.span("infer", headers=scope["headers"], kind=tracing.SERVER, model=self._model, version=self._version) as span:
            tracing.about(request_id=identifier, headers=scope["headers"], span=span)
            try:
                status, message = 200, await self._message(scope, receive, headers, identifier=identifier, span=span)
            except intake.CallerLeft:
                self._metrics.request(status=499, seconds=time.perf_counter() - began)
                return
            except Exception as error:
                status, message = _failure(error)
                if status == 500:  # a 503 or 504 is counted: under load, a line for each would be a load of its own
                    _LOG.warning("request failed", exc_info=error, extra={"request_id": identifier, "status": status})
            span.answered(status)
            # counted first: whoever has read the answer finds it in the metrics
            self._metrics.request(status=status, seconds=time.perf_counter() - began)
            await self._send(scope, send, status, message, identifier=identifier)

    async def _message(
        self, scope: "Scope", receive: "Receive", headers: Mapping[bytes, bytes], *, identifier: str, span: tracing.Span
    ) -> Message:
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        loaded = self._engine.model()
        split = _text(headers.get(HEADER_LENGTH.encode()))
        patience = _patience(headers)
        with self._engine.hold() as held:
            align = int(split) if split is not None and split.isdigit() and len(split) < 10 else 0
            body = await intake.read(scope, receive, headers=headers, held=held, limit=self._body_bytes, align=align)
            request = await self._read(body, split, held=held, deadline=arrived + (patience or self._engine.wait_seconds))
            asked = self._understood(request, loaded=loaded, arrived=arrived, patience=patience)
            _check_rows(asked.rows, headers)
            recorded = self._recorder is not None and self._recorder.wants()
            outputs, digest = await self._outputs(scope, asked, loaded=loaded, held=held, recorded=recorded, span=span)
            if recorded:
                client = _printable(headers.get(CLIENT.encode()), otherwise=str)
                self._record(asked, outputs, loaded=loaded, identifier=asked.request.id or identifier, client=client, digest=digest)
            texts = await self._texts(asked, outputs, held=held)
        response = InferenceResponse(model=self._model, version=self._version, id=asked.request.id, outputs=outputs)
        message = protocol.encode_response(response, binary=asked.wanted, kinds=loaded.signature.output_kinds, texts=texts)
        message = replace(message, headers={**message.headers, ROWS: str(asked.rows)})
        return await _packed(message, headers)

    async def _read(self, body: memoryview, split: str | None, *, held: Held, deadline: float) -> InferenceRequest:
        length = len(body) if split is None else int(split) if split.isdigit() and len(split) < 10 else 0
        if length <= paperwork.LARGE_BYTES:
            return protocol.decode_request(body, header_length=split)
        order = paperwork.reading(body, split, held=held)
        return paperwork.request_of(await self._engine.do(order, held=held, deadline=deadline), held=held)

    async def _texts(self, asked: _Asked, outputs: Mapping[str, Array], *, held: Held) -> Mapping[str, orjson.Fragment]:
        """Return the JSON of the outputs when it is long; what is short is written at once, later."""
        arrays = {name: outputs[name] for name, binary in asked.wanted.items() if not binary}
        if not paperwork.is_large(arrays):
            return {}
        order = paperwork.writing(arrays, held=held)
        return paperwork.texts_of(await self._engine.do(order, held=held, deadline=asked.deadline), held=held)

    def _understood(self, request: InferenceRequest, *, loaded: Loaded, arrived: float, patience: float | None) -> _Asked:
        wanted = protocol.select_outputs(request, available=loaded.signature.output_names)
        rows = signature.check(request.inputs, signature=loaded.signature, kinds=request.kinds)
        limits = [seconds for seconds in (patience, request.timeout, self._engine.wait_seconds) if seconds is not None]
        return _Asked(request, wanted, rows, arrived + min(limits))

    async def _outputs(
        self, scope: "Scope", asked: _Asked, *, loaded: Loaded, held: Held, recorded: bool, span: tracing.Span
    ) -> tuple[Mapping[str, Array], str | None]:
        """Return the outputs that are wanted (by the caller, or the log) and the digest of the inputs where it was needed."""
        names = [spec.name for spec in loaded.signature.outputs if spec.name in asked.wanted or (recorded and _is_short(spec.shape))]
        connection = _connection(scope)
        inputs = asked.request.inputs

        async def compute(lonely: Callable[[], bool]) -> Mapping[str, Array]:
            def gone() -> bool:
                return connection is not None and connection.gone() and lonely()

            return await self._engine.infer(inputs, rows=asked.rows, names=names, deadline=asked.deadline, held=held, gone=gone, span=span)

        if self._remembered is None:
            outputs, outcome, digest = await compute(lambda: True), None, None
        else:
            digest = await _digest(inputs)
            outputs, outcome = await self._remembered.answer(digest, names, compute, deadline=asked.deadline)
            span.set(cache=outcome)
        self._metrics.answered(rows=asked.rows, outcome=outcome)
        return outputs, digest

    def _record(
        self, asked: _Asked, outputs: Mapping[str, Array], *, loaded: Loaded, identifier: str, client: str, digest: str | None
    ) -> None:
        assert self._recorder is not None
        self._recorder.classify(loaded.data_class)
        # the log keeps them for seconds; the memory they arrived in is somebody else's by then
        inputs = {name: np.array(array) for name, array in asked.request.inputs.items()} if self._recorder.takes_inputs else {}
        self._recorder.record(
            request_id=identifier,
            client=client,
            model_digest=loaded.model_digest,
            inputs=inputs,
            outputs={name: array for name, array in outputs.items() if _is_short(array.shape)},
            input_digest=digest,
            rows=asked.rows,
        )

    async def _send(self, scope: "Scope", send: "Send", status: int, message: Message, *, identifier: str) -> None:
        headers = [(name.encode(), value.encode()) for name, value in message.headers.items()]
        headers += [self._version_header, (REQUEST_ID.encode(), identifier.encode())]
        connection = _connection(scope)
        if connection is None or not await connection.respond(scope, status, headers, message.buffers):
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": message.body})


def _connection(scope: "Scope") -> Connection | None:
    connection: Connection | None = scope.get("extensions", {}).get(EXTENSION)
    return connection


async def _digest(inputs: Mapping[str, Array]) -> str:
    if sum(array.nbytes for array in inputs.values()) > _LARGE:
        return await asyncio.get_running_loop().run_in_executor(None, input_digest, inputs)
    return input_digest(inputs)


async def _packed(message: Message, headers: Mapping[bytes, bytes]) -> Message:
    """Return ``message`` compressed when the caller asks for just one coding, as a client that was told to compress does.

    The lists that HTTP libraries send by themselves ask for nothing: floats as bytes do not shrink, and packing them takes longer than the model.
    """
    asked = headers.get(b"accept-encoding", b"").strip().lower()
    bits = _CODINGS.get(asked)
    if bits is None:
        return message
    body = await asyncio.get_running_loop().run_in_executor(None, _deflated, message.body, bits)
    described = {**message.headers, "content-encoding": asked.decode(), "content-length": str(len(body))}
    return Message(headers=described, buffers=(body,))


def _deflated(body: bytes, bits: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, bits)
    return packer.compress(body) + packer.flush()


def _failure(error: Exception) -> tuple[int, Message]:
    status, retry, sentence = 500, None, "the server failed on this request; its log has the reason"
    if isinstance(error, ProtocolError):
        status, sentence = error.status, str(error)
    elif isinstance(error, OverloadedError):
        status, retry, sentence = 503, str(error.retry_after), str(error)
    elif isinstance(error, NotReadyError):
        status, retry, sentence = 503, "1", str(error)
    elif isinstance(error, DeadlineError):
        status, sentence = 504, str(error)
    body = protocol.error_body(sentence)
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    if retry is not None:
        headers["retry-after"] = retry
    return status, Message(headers=headers, buffers=(body,))


def _patience(headers: Mapping[bytes, bytes]) -> float | None:
    value = headers.get(TIMEOUT.encode())
    if value is None:
        return None
    if not value.isdigit() or len(value) > 8 or not 0 < int(value) <= _MAX_MILLISECONDS:
        raise ProtocolError(f"{TIMEOUT} must be milliseconds from 1 to {_MAX_MILLISECONDS}, got {value[:40]!r}")
    return int(value) / 1000


def _check_rows(rows: int, headers: Mapping[bytes, bytes]) -> None:
    """Hold the request against what its caller may ask for, as the gateway has it from the access file."""
    most = headers.get(MOST_ROWS.encode())
    if most is not None and most.isdigit() and len(most) < 12 and rows > int(most):
        raise ProtocolError(f"a request of yours must have at most {int(most)} rows, got {rows}: send fewer at once", status=413)


def _is_short(shape: tuple[int, ...]) -> bool:
    """Whether an output of this shape goes into the inference log."""
    return len(shape) == 1 or (len(shape) == 2 and shape[1] <= VECTOR_LIMIT)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _printable(value: bytes | None, *, otherwise: Callable[[], str]) -> str:
    text = _text(value)
    return text if text is not None and http.is_token(text) else otherwise()
