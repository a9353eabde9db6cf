"""One model version behind the Open Inference Protocol V2. Live at once; ready only when the golden vectors came out again.

Refusing is not crashing: a version that cannot be vouched for stays live and unready and says why, so that whoever looks finds the reason.
"""

import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from firstlight import __version__
from serving import http, protocol, signature
from serving.engine import Engine, Loaded, State
from serving.errors import ProtocolError
from serving.http import HANDLERS, REQUEST_ID, VERSION, read_body
from serving.protocol import HEADER_LENGTH, InferenceResponse

if TYPE_CHECKING:
    from serving.recorder import Recorder

_LOG = logging.getLogger(__name__)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who this process answers as."""

    model: str
    version: str


class ModelServer:
    """The application around one engine."""

    def __init__(
        self, identity: Identity, *, engine: Engine, recorder: "Recorder | None" = None, body_bytes: int = http.BODY_BYTES
    ) -> None:
        """``recorder`` None writes no inference log; ``body_bytes`` bounds a request."""
        self.identity, self.engine, self.recorder, self.body_bytes = identity, engine, recorder, body_bytes
        self.metrics = _Metrics(identity, engine=engine)
        self.headers = {VERSION: identity.version}

    def app(self) -> Starlette:
        """Return the ASGI application."""
        model, versioned = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
        paths: list[Route] = [
            Route("/v2", self.server_metadata),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/metrics", self.prometheus),
        ]
        for base in (model, versioned):
            paths += [
                Route(base, self.model_metadata),
                Route(f"{base}/ready", self.ready),
                Route(f"{base}/infer", self.infer, methods=["POST"]),
            ]
        return Starlette(routes=paths, exception_handlers=HANDLERS, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.engine.start()
        yield
        self.engine.stop()
        if self.recorder is not None:
            self.recorder.close()

    async def server_metadata(self, request: Request) -> Response:
        """Answer GET /v2."""
        return JSONResponse({"name": "firstlight", "version": __version__, "extensions": ["binary_tensor_data"]}, headers=self.headers)

    async def live(self, request: Request) -> Response:
        """Answer GET /v2/health/live: the process runs, whatever its model does."""
        return JSONResponse({"live": True}, headers=self.headers)

    async def ready(self, request: Request) -> Response:
        """Answer the ready paths: 200, or 503 with the state and the reason."""
        self._check_path(request)
        state = self.engine.state
        if state is State.READY:
            return JSONResponse({"ready": True, "state": state}, headers=self.headers)
        body = {"ready": False, "state": state, "error": self.engine.reason}
        return JSONResponse(body, status_code=503, headers={**self.headers, "retry-after": "1"})

    async def model_metadata(self, request: Request) -> Response:
        """Answer GET /v2/models/{name}: what the model takes and gives."""
        self._check_path(request)
        loaded = self.engine.model()
        body = {
            "name": self.identity.model,
            "versions": [self.identity.version],
            "platform": "pytorch_export",
            "inputs": [spec.metadata() for spec in loaded.signature.inputs],
            "outputs": [spec.metadata() for spec in loaded.signature.outputs],
            "parameters": {"model_digest": loaded.model_digest},
        }
        return JSONResponse(body, headers=self.headers)

    async def prometheus(self, request: Request) -> Response:
        """Answer GET /metrics in Prometheus text format."""
        if self.recorder is not None:
            self.metrics.log(self.recorder)
        return Response(generate_latest(self.metrics.registry), media_type="text/plain; version=0.0.4")

    async def infer(self, request: Request) -> Response:
        """Answer POST …/infer."""
        began = time.perf_counter()
        identifier = http.request_id(request.headers)
        try:
            answer = await self._infer(request, identifier=identifier)
        except Exception as error:
            answer = await http.on_error(request, error)
            if answer.status_code >= 500:
                _LOG.warning("request failed", exc_info=error, extra={"request_id": identifier, "status": answer.status_code})
        self.metrics.request(status=answer.status_code, seconds=time.perf_counter() - began)
        answer.headers[VERSION] = self.identity.version
        answer.headers[REQUEST_ID] = identifier
        return answer

    async def _infer(self, request: Request, *, identifier: str) -> Response:
        self._check_path(request)
        loaded = self.engine.model()
        body = await read_body(request, limit=self.body_bytes)
        asked = protocol.decode_request(body, header_length=request.headers.get(HEADER_LENGTH))
        wanted = protocol.select_outputs(asked, available=loaded.signature.output_names)
        rows = signature.check(asked.inputs, signature=loaded.signature)
        outputs = await self.engine.infer(asked.inputs)
        response = InferenceResponse(model=self.identity.model, version=self.identity.version, id=asked.id, outputs=outputs)
        message = protocol.encode_response(response, binary=wanted)
        self.metrics.rows.inc(rows)
        self._record(request, identifier=asked.id or identifier, loaded=loaded, inputs=asked.inputs, outputs=outputs)
        return Response(message.body, headers=dict(message.headers))

    def _record(self, request: Request, *, identifier: str, loaded: Loaded, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        if self.recorder is not None:
            self.recorder.record(
                request_id=identifier,
                client=http.client(request.headers),
                model_digest=loaded.model_digest,
                inputs=inputs,
                outputs=outputs,
            )

    def _check_path(self, request: Request) -> None:
        name, version = request.path_params.get("name"), request.path_params.get("version")
        if name not in (None, self.identity.model):
            raise ProtocolError(f"the model here is {self.identity.model!r}, got {name!r}", status=404)
        if version not in (None, self.identity.version):
            raise ProtocolError(f"the version here is {self.identity.version!r}, got {version!r}", status=404)


class _Metrics:
    def __init__(self, identity: Identity, *, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        names, values = ("model", "version"), (identity.model, identity.version)
        self._requests = Counter("firstlight_requests", "Inference requests by status code", (*names, "code"), registry=self.registry)
        seconds = Histogram("firstlight_request_seconds", "Seconds from body to answer", names, buckets=_SECONDS, registry=self.registry)
        self._seconds, self._values = seconds.labels(*values), values
        self.rows = Counter("firstlight_rows", "Rows answered", names, registry=self.registry).labels(*values)
        depth = Gauge("firstlight_queue_requests", "Requests that wait for the worker", names, registry=self.registry)
        depth.labels(*values).set_function(lambda: engine.depth)
        ready = Gauge("firstlight_ready", "1 when the golden vectors came out again", names, registry=self.registry)
        ready.labels(*values).set_function(lambda: float(engine.state is State.READY))
        self._logged = Gauge("firstlight_inference_log_rows", "Inference-log rows by outcome", (*names, "outcome"), registry=self.registry)

    def request(self, *, status: int, seconds: float) -> None:
        self._requests.labels(*self._values, str(status)).inc()
        self._seconds.observe(seconds)

    def log(self, recorder: "Recorder") -> None:
        for outcome, rows in recorder.counts().items():
            self._logged.labels(*self._values, outcome).set(rows)
