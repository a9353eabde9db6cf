"""One model version behind the Open Inference Protocol V2. Live at once; ready only when the golden vectors came out again.

Refusing is not crashing: a version that cannot be vouched for stays live and unready and says why, so that whoever looks finds the reason.
Inference is plain ASGI (:mod:`serving.inference`); the paths that describe and watch the server are Starlette's.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from firstlight import __version__
from serving import heap, http, openapi, tracing
from serving.engine import Engine, State
from serving.errors import ProtocolError
from serving.http import HANDLERS, VERSION
from serving.inference import Inference
from serving.model_metrics import ModelMetrics
from serving.remembered import Remembered

if TYPE_CHECKING:
    from serving.recorder import Recorder

EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")
"""Extensions of the protocol that this server speaks."""
_IDLE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who this process answers as."""

    model: str
    version: str


class ModelServer:
    """The application around one engine."""

    def __init__(
        self,
        identity: Identity,
        *,
        engine: Engine,
        recorder: "Recorder | None" = None,
        body_bytes: int = http.BODY_BYTES,
        cache_bytes: int = 0,
    ) -> None:
        """``recorder`` None writes no inference log; ``body_bytes`` bounds a request; ``cache_bytes`` 0 remembers no answer."""
        self.identity, self.engine, self.recorder, self.body_bytes = identity, engine, recorder, body_bytes
        remembered = Remembered(cache_bytes)
        self.metrics = ModelMetrics(model=identity.model, version=identity.version, engine=engine, remembered=remembered)
        if recorder is not None:
            self.metrics.registry.register(recorder.metrics())
        self.metrics.registry.register(tracing.Spans())
        engine.observer = self.metrics
        self.headers = {VERSION: identity.version}
        self._inference = Inference(
            model=identity.model,
            version=identity.version,
            engine=engine,
            metrics=self.metrics,
            recorder=recorder,
            remembered=remembered if cache_bytes else None,
            body_bytes=body_bytes,
        )

    def app(self) -> ASGIApp:
        """Return the ASGI application."""
        model, version = self.identity.model, self.identity.version
        inference = self._inference.answer
        paths = frozenset((f"/v2/models/{model}/infer", f"/v2/models/{model}/versions/{version}/infer"))
        described = self._described()

        async def by_path(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"] in paths and scope["method"] == "POST":
                await inference(scope, receive, send)
            else:
                await described(scope, receive, send)

        return by_path

    def _described(self) -> Starlette:
        model, versioned = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
        paths: list[Route] = [
            Route("/v2", self.server_metadata),
            Route("/v2/", self.server_metadata),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2/repository/index", self.repository_index, methods=["POST"]),
            Route("/metrics", self.prometheus),
            Route("/openapi.json", self.openapi),
            Route("/docs", self.docs),
        ]
        for base in (model, versioned):
            paths += [
                Route(base, self.model_metadata),
                Route(f"{base}/ready", self.ready),
                Route(f"{base}/config", self.model_config),
                Route(f"{base}/stats", self.statistics),
                Route(f"{base}/infer", self.infer_elsewhere, methods=["POST"]),
            ]
        return Starlette(routes=paths, exception_handlers=HANDLERS, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        heap.keep()
        self.engine.start()
        if self.recorder is not None:
            self.recorder.start()
        tidying = asyncio.create_task(self._tidy())
        yield
        tidying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tidying
        self.engine.stop()
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)

    async def _tidy(self) -> None:
        """Give memory back when nothing has been asked for a while."""
        while True:
            before = self._inference.count
            await asyncio.sleep(_IDLE_SECONDS)
            if self._inference.count == before and not self.engine.busy:
                self.engine.arena.trim()
                heap.give_back()

    async def server_metadata(self, request: Request) -> Response:
        """Answer GET /v2."""
        return JSONResponse({"name": "firstlight", "version": __version__, "extensions": list(EXTENSIONS)}, headers=self.headers)

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
            "parameters": {"model_digest": loaded.model_digest, "backend": self._backend()},
        }
        return JSONResponse(body, headers=self.headers)

    async def model_config(self, request: Request) -> Response:
        """Answer GET …/config: Triton's model configuration, as far as there is one here."""
        self._check_path(request)
        loaded = self.engine.model()

        def entries(kind: str) -> list[dict[str, Any]]:
            return [
                {"name": spec.name, "data_type": f"TYPE_{'STRING' if spec.kind == 'BYTES' else spec.kind}", "dims": list(spec.shape)}
                for spec in getattr(loaded.signature, kind)
            ]

        body = {
            "name": self.identity.model,
            "platform": "pytorch_export",
            "backend": self._backend(),
            "max_batch_size": 0,
            "input": entries("inputs"),
            "output": entries("outputs"),
        }
        return JSONResponse(body, headers=self.headers)

    async def statistics(self, request: Request) -> Response:
        """Answer GET …/stats: Triton's counters, as far as there are such here; /metrics has more."""
        self._check_path(request)
        entry = {"name": self.identity.model, "version": self.identity.version, **self.metrics.statistics()}
        return JSONResponse({"model_stats": [entry]}, headers=self.headers)

    async def repository_index(self, request: Request) -> Response:
        """Answer POST /v2/repository/index: the one model that is here."""
        ready = self.engine.state is State.READY
        entry = {"name": self.identity.model, "version": self.identity.version, "state": "READY" if ready else "UNAVAILABLE"}
        return JSONResponse([entry if ready else {**entry, "reason": self.engine.reason}], headers=self.headers)

    async def prometheus(self, request: Request) -> Response:
        """Answer GET /metrics in Prometheus text format."""
        return Response(generate_latest(self.metrics.registry), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        """Answer GET /openapi.json: this server, with this model's tensors."""
        loaded = self.engine.loaded
        document = openapi.document(self.identity.model, self.identity.version, signature=loaded.signature if loaded else None)
        return JSONResponse(document, headers=self.headers)

    async def docs(self, request: Request) -> Response:
        """Answer GET /docs: the same for people; the page loads nothing from anywhere."""
        loaded = self.engine.loaded
        page = openapi.page(self.identity.model, self.identity.version, signature=loaded.signature if loaded else None)
        return Response(page, media_type="text/html; charset=utf-8", headers={**self.headers, **openapi.PAGE_HEADERS})

    async def infer_elsewhere(self, request: Request) -> Response:
        """Answer an inference that is not for the model and version that are here: 404."""
        self._check_path(request)
        raise ProtocolError("the path must be written as it is, without encoded characters", status=404)

    def _backend(self) -> str:
        return self.engine.workers[0].backend if self.engine.workers else ""

    def _check_path(self, request: Request) -> None:
        name, version = request.path_params.get("name"), request.path_params.get("version")
        if name not in (None, self.identity.model):
            raise ProtocolError(f"the model here is {self.identity.model!r}, got {name!r}", status=404)
        if version not in (None, self.identity.version):
            raise ProtocolError(f"the version here is {self.identity.version!r}, got {version!r}", status=404)
