"""The one address callers know. It splits requests by weight and hides the loss of a version from them.

Two sockets, one process: the public one speaks the Open Inference Protocol V2, the control one (loopback, bearer token) takes routes and gives
measurements. A request that fails on one version is tried on the other: inference is idempotent. The failure is charged to the version that caused it.
"""

import hmac
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from firstlight import __version__
from serving import http
from serving.errors import ProtocolError, UnreachableError
from serving.http import HANDLERS, REQUEST_ID, VERSION, failure, read_body
from serving.measurements import Attempt, Measurements
from serving.routes import Chooser, Routes, Target
from serving.upstream import Answer, Upstream

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 3
_CONTROL_BODY_BYTES = 1 << 16
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tried:
    target: Target
    answer: Answer | None
    """None when there was no answer at all."""

    @property
    def failed(self) -> bool:
        return self.answer is None or self.answer.status >= 500


class Gateway:
    """The application of both sockets."""

    def __init__(self, *, model: str, token: str, upstream: Upstream | None = None, body_bytes: int = http.BODY_BYTES) -> None:
        """Serve ``model``; control needs ``token``. Routes come later, by PUT /routes."""
        self.model, self._token, self._body_bytes = model, token, body_bytes
        self.routes, self.chooser = Routes(), Chooser()
        self.measurements = Measurements(time.time())
        self._upstream = upstream
        self._metrics = _Metrics()

    def app(self, *, control_port: int) -> ASGIApp:
        """Return the ASGI application for both sockets; what arrives on ``control_port`` is control."""
        public, control = self._public(), self._control()

        async def by_socket(scope: Scope, receive: Receive, send: Send) -> None:
            server = scope.get("server")
            chosen = control if server and server[1] == control_port else public
            await chosen(scope, receive, send)

        return by_socket

    def _public(self) -> Starlette:
        model = "/v2/models/{name}"
        routes = [
            Route("/v2", self.server_metadata),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/metrics", self.prometheus),
        ]
        for base in (model, model + "/versions/{version}"):
            routes += [
                Route(base, self.forward),
                Route(f"{base}/ready", self.forward),
                Route(f"{base}/infer", self.forward, methods=["POST"]),
            ]
        return Starlette(routes=routes, exception_handlers=HANDLERS, lifespan=self._lifespan)

    def _control(self) -> Starlette:
        routes = [
            Route("/routes", self.get_routes, methods=["GET"]),
            Route("/routes", self.put_routes, methods=["PUT"]),
            Route("/measurements", self.get_measurements),
        ]
        return Starlette(routes=routes, exception_handlers=HANDLERS)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._upstream = self._upstream or Upstream()
        yield
        await self._upstream.close()

    async def server_metadata(self, request: Request) -> Response:
        """Answer GET /v2."""
        return JSONResponse({"name": "firstlight-gateway", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """Answer GET /v2/health/live."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Answer GET /v2/health/ready: somebody would answer an inference."""
        if self.routes.targets:
            return JSONResponse({"ready": True})
        return failure("no version is ready yet", status=503, headers={"retry-after": "1"})

    async def prometheus(self, request: Request) -> Response:
        """Answer GET /metrics in Prometheus text format."""
        return Response(generate_latest(self._metrics.registry), media_type="text/plain; version=0.0.4")

    async def forward(self, request: Request) -> Response:
        """Answer a request about the model: by weight, or by the version in the path."""
        identifier = http.request_id(request.headers)
        if request.path_params["name"] != self.model:
            raise ProtocolError(f"the model here is {self.model!r}, got {request.path_params['name']!r}", status=404)
        body = await read_body(request, limit=self._body_bytes)
        headers = {**request.headers, REQUEST_ID: identifier}
        tried = await self._attempts(request, headers=headers, body=body)
        return self._answer(tried, identifier=identifier)

    async def _attempts(self, request: Request, *, headers: Mapping[str, str], body: bytes) -> list[_Tried]:
        tried: list[_Tried] = []
        pinned = request.path_params.get("version")
        while len(tried) < _ATTEMPTS:
            target = self._target(pinned, tried=tried)
            if target is None or _useless(target, tried=tried):
                break
            tried.append(await self._attempt(request, target, headers=headers, body=body))
            if not tried[-1].failed:
                break
        return tried

    def _target(self, pinned: str | None, *, tried: list[_Tried]) -> Target | None:
        if pinned is None:
            return self.chooser.choose(self.routes, avoid={attempt.target.url for attempt in tried})
        target = self.routes.target(pinned)
        if target is None:
            raise ProtocolError(
                f"the versions here are {', '.join(t.version for t in self.routes.targets) or 'none'}, got {pinned!r}", status=404
            )
        return target

    async def _attempt(self, request: Request, target: Target, *, headers: Mapping[str, str], body: bytes) -> _Tried:
        assert self._upstream is not None
        began, inference = time.perf_counter(), request.method == "POST"
        self.measurements.begin(target.version)
        answer = None
        try:
            answer = await self._upstream.send(request.method, target.url + request.url.path, headers=headers, body=body)
        except UnreachableError as error:
            _LOG.warning("attempt failed", extra={"version": target.version, "request_id": headers[REQUEST_ID], "why": str(error)})
        except BaseException:
            self.measurements.abandon(target.version)
            raise
        tried = _Tried(target=target, answer=answer)
        self._charge(tried, seconds=answer.seconds if answer else time.perf_counter() - began, inference=inference)
        return tried

    def _charge(self, tried: _Tried, *, seconds: float, inference: bool) -> None:
        version, answer = tried.target.version, tried.answer
        if not inference:
            self.measurements.abandon(version)
            return
        refused = answer is not None and 400 <= answer.status < 500
        attempt = Attempt(time.time(), seconds, failed=tried.failed, answered=answer is not None, refused=refused)
        self.measurements.end(version, attempt)
        self._metrics.attempt(version, status=answer.status if answer else 0, seconds=seconds)

    def _answer(self, tried: list[_Tried], *, identifier: str) -> Response:
        answered = next((attempt for attempt in reversed(tried) if attempt.answer is not None), None)
        if answered is None or answered.answer is None:
            why = "no version is ready" if not tried else "no version answered"
            return failure(f"{why}, try again in a second", status=503, headers={"retry-after": "1", REQUEST_ID: identifier})
        answer = answered.answer
        headers = {**answer.headers, VERSION: answered.target.version, REQUEST_ID: identifier}
        return Response(answer.body, status_code=answer.status, headers=headers)

    async def get_routes(self, request: Request) -> Response:
        """Answer GET /routes on the control socket: the routes, and what is in flight on each version."""
        self._authorise(request)
        return JSONResponse({**self.routes.model_dump(), "in_flight": self.measurements.in_flight()})

    async def put_routes(self, request: Request) -> Response:
        """Answer PUT /routes: the next request goes by the new routes, those in flight finish where they are."""
        self._authorise(request)
        try:
            routes = Routes.model_validate_json(await read_body(request, limit=_CONTROL_BODY_BYTES))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ProtocolError(f"routes must be valid: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
        if routes != self.routes:
            _LOG.info("routes changed", extra={"routes": routes.model_dump()})
        self.routes = routes
        self._metrics.weights(routes)
        return await self.get_routes(request)

    async def get_measurements(self, request: Request) -> Response:
        """Answer GET /measurements?since=<unix seconds>."""
        self._authorise(request)
        since = request.query_params.get("since", "0")
        try:
            moment = float(since)
        except ValueError:
            raise ProtocolError(f"'since' must be unix seconds, got {since[:40]!r}") from None
        return JSONResponse(self.measurements.since(moment))

    def _authorise(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise ProtocolError("control needs the bearer token of the state folder", status=401)


def _useless(target: Target, *, tried: list[_Tried]) -> bool:
    """Whether asking ``target`` again cannot help: it answered this very request with an error already."""
    earlier = [attempt for attempt in tried if attempt.target.url == target.url]
    return len(earlier) >= 2 or any(attempt.answer is not None for attempt in earlier)


class _Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._attempts = Counter(
            "firstlight_gateway_attempts", "Attempts by version and status (0: no answer)", ("version", "code"), registry=self.registry
        )
        self._seconds = Histogram(
            "firstlight_gateway_seconds", "Seconds of an attempt", ("version",), buckets=_SECONDS, registry=self.registry
        )
        self._weight = Gauge("firstlight_gateway_weight_percent", "Percent of requests", ("version", "track"), registry=self.registry)

    def attempt(self, version: str, *, status: int, seconds: float) -> None:
        self._attempts.labels(version, str(status)).inc()
        self._seconds.labels(version).observe(seconds)

    def weights(self, routes: Routes) -> None:
        self._weight.clear()
        if routes.stable is not None:
            self._weight.labels(routes.stable.version, "stable").set(100 - routes.canary_weight)
        if routes.canary is not None:
            self._weight.labels(routes.canary.version, "canary").set(routes.canary_weight if routes.stable else 100)
