"""The one address callers know. It splits requests by weight and hides the loss of a replica or a version from them.

Two sockets, one process: the public one speaks the Open Inference Protocol V2 to whoever may ask, the control one (loopback, bearer token) takes
routes, tells what was counted, and lets our own processes infer without an API key. What happens to an inference on its way is in ``forwarding``;
here is who may ask, what is answered without asking a model, and what is counted.
"""

import hmac
import json
import logging
import time
from collections.abc import Iterable, Mapping

from firstlight import __version__
from serving import http, protocol, tenancy, tracing
from serving.access import ANYBODY, Access, Action, Caller, unknown_model
from serving.access_log import AccessLog
from serving.access_log import Request as Line
from serving.attempt import Kept, Tried
from serving.control_api import ControlApi
from serving.errors import NotReadyError, OverloadedError, ProtocolError, Refused, UnreachableError
from serving.flow import Budget
from serving.forwarding import DEADLINE, Forwarding
from serving.gateway_metrics import CONTENT_TYPE, GatewayMetrics
from serving.http import CLIENT, MOST_ROWS, REQUEST_ID, ROWS, VERSION
from serving.incoming import HIGH, Incoming, Vanished, too_long
from serving.options import GatewayOptions
from serving.peer import Peer
from serving.protocol import HEADER_LENGTH
from serving.routes import Shadow, Target, sticky_key
from serving.served import Served, fetch
from serving.shadow import Copy, Live, Purpose, Shadows, answer_of
from serving.upstream import Upstream

_LOG = logging.getLogger(__name__)
_PASSED_ON = (
    *(HEADER_LENGTH, DEADLINE, CLIENT, "content-type", "content-encoding", "accept", "accept-encoding", "traceparent", "tracestate"),
)
_PASSED_BACK = (HEADER_LENGTH, "content-type", "content-encoding", "retry-after", "vary")
_JSON = (("content-type", "application/json"),)
_ALONE = ("ready", "infer")


class Gateway:
    """The application of both sockets."""

    def __init__(
        self,
        models: Iterable[str],
        *,
        token: str,
        options: GatewayOptions | None = None,
        access: Access | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        """Serve ``models``; control needs ``token``. Routes come later, by PUT /routes. ``access`` None lets everybody ask."""
        self.options = how = options or GatewayOptions()
        self.served = {model: Served(model) for model in models}
        self.upstream, self.metrics, self.budget = Upstream(), GatewayMetrics(), Budget(how.memory_mb << 20)
        self.metrics.held_bytes.set_function(lambda: self.budget.used)
        if access is not None:
            self.metrics.access_file_problem.set_function(lambda: float(bool(access.problem)))
        self.shadows = Shadows(self.served, upstream=self.upstream, budget=self.budget, metrics=self.metrics)
        self.control = ControlApi(self.served, metrics=self.metrics, shadows=self.shadows)
        self._token, self._access, self._access_log = token, access, access_log
        self._body_bytes, self._retry_bytes = how.body_mb << 20, how.retry_mb << 20

    async def public(self, incoming: Incoming) -> None:
        """Answer a request of the public socket."""
        visit = _Visit(incoming, peer=incoming.connection.peer)
        await self._answer(visit, trusted=False)

    async def private(self, incoming: Incoming) -> None:
        """Answer a request of the control socket. Without the control token it is one like those of the public socket: our own release flow's."""
        visit = _Visit(incoming, peer=incoming.connection.peer)
        await self._answer(visit, trusted=self._has_token(incoming), control=True)

    async def _answer(self, visit: "_Visit", *, trusted: bool, control: bool = False) -> None:
        incoming = visit.incoming
        try:
            incoming.place()
            if incoming.problem is not None:
                raise incoming.problem
            if control and not trusted and not incoming.path.startswith("/v2"):
                raise ProtocolError("control needs the bearer token of the state folder", status=401)
            await self._dispatch(visit, trusted=trusted)
        except (ProtocolError, OverloadedError, NotReadyError, UnreachableError) as error:
            self._fail(visit, error)
        except Vanished:
            raise
        except Exception as error:
            _LOG.exception("a request failed", extra={"request_id": visit.identifier}, exc_info=error)
            visit.reason = "error"
            self._fail(visit, ProtocolError("the gateway failed on this request; its log has the reason", status=500))
        finally:
            # Probes come several times a second and ask nothing of anybody.
            if self._access_log is not None and not trusted and not incoming.path.startswith("/v2/health/"):
                self._access_log.write(visit.line())

    def _fail(self, visit: "_Visit", error: Exception) -> None:
        if visit.incoming.started:
            raise Vanished
        status, headers = 503, {"retry-after": str(getattr(error, "retry_after", 1))}
        if isinstance(error, ProtocolError):
            status, headers = error.status, dict(error.headers) if isinstance(error, Refused) else {}
        if isinstance(error, OverloadedError):
            visit.reason = "memory"
        visit.reason = visit.reason or (error.reason if isinstance(error, Refused) and error.reason else _REASONS.get(status, "request"))
        if isinstance(error, Refused) and visit.caller is None and error.who:
            visit.who = error.who
        self.metrics.refused(visit.reason)
        if visit.action is Action.INFER and visit.model in self.served and visit.caller is not None:
            self.metrics.request(visit.model, status=status, seconds=time.perf_counter() - visit.began)
        _send(visit, status, {**headers, "content-type": "application/json"}, protocol.error_body(str(error)))

    async def _dispatch(self, visit: "_Visit", *, trusted: bool) -> None:
        incoming = visit.incoming
        parts = incoming.path.split("/")
        if parts[1] == "v2" and len(parts) >= 4 and parts[2] == "models":
            await self._about_model(visit, parts[3], parts[4:], trusted=trusted)
            return
        if incoming.path == "/v2/health/live":
            _get(incoming)
            _send(visit, 200, dict(_JSON), b'{"live":true}')
        elif incoming.path == "/v2/health/ready":
            _get(incoming)
            self._ready(visit)
        elif incoming.path == "/v2":
            _get(incoming)
            self._admit(visit, Action.METADATA, None, trusted=trusted)
            _send(
                visit,
                200,
                dict(_JSON),
                json.dumps({"name": "firstlight-gateway", "version": __version__, "extensions": _EXTENSIONS}).encode(),
            )
        elif incoming.path == "/metrics":
            _get(incoming)
            caller = self._admit(visit, Action.METRICS, None, trusted=trusted)
            _send(visit, 200, {"content-type": CONTENT_TYPE}, tenancy.exposition(self.metrics.registry, caller))
        elif incoming.path == "/pairs" and trusted:
            status, body = await self.control.answer(incoming)
            _send(visit, status, dict(_JSON), body)
        elif incoming.path in ("/routes", "/evidence") and (trusted or self._access is not None):
            action = Action.ROUTES_WRITE if incoming.method == "PUT" else Action.ROUTES_READ
            self._admit(visit, action, self.control.model_of(incoming, default=trusted), trusted=trusted)
            status, body = await self.control.answer(incoming)
            _send(visit, status, dict(_JSON), body)
        else:
            raise ProtocolError("Not Found", status=404)

    def _ready(self, visit: "_Visit") -> None:
        if all(served.routes.targets for served in self.served.values()):
            _send(visit, 200, dict(_JSON), b'{"ready":true}')
            return
        raise NotReadyError("no version is ready yet")

    async def _about_model(self, visit: "_Visit", model: str, rest: list[str], *, trusted: bool) -> None:
        incoming, pinned = visit.incoming, None
        if len(rest) >= 2 and rest[0] == "versions":
            pinned, rest = rest[1], rest[2:]
        what = rest[0] if rest else ""
        if len(rest) > 1 or (rest and what not in _ALONE):
            raise ProtocolError("Not Found", status=404)
        visit.model = model
        caller = self._admit(visit, Action.INFER if what == "infer" else Action.METADATA, model, trusted=trusted)
        served = self.served.get(model)
        if served is None:
            raise unknown_model(model)
        if what != "infer":
            _get(incoming)
            await self._metadata(visit, served, pinned, what=what)
            return
        if incoming.method != "POST":
            raise Refused("an inference must be sent by POST", status=405, headers={"allow": "POST"}, reason="method")
        with tracing.span("gateway infer", headers=incoming.headers, kind=tracing.SERVER, model=model) as span:
            visit.trace = span.trace_id
            tracing.about(request_id=visit.identifier, headers=incoming.headers, span=span)
            await self._infer(visit, served, caller, pinned=pinned, span=span)
            span.answered(incoming.status)

    async def _infer(self, visit: "_Visit", served: Served, caller: Caller, *, pinned: str | None, span: tracing.Span) -> None:
        incoming, limit = visit.incoming, min(self._body_bytes, caller.limits.body_bytes or self._body_bytes)
        if (incoming.announced or 0) > limit:
            raise too_long(limit)
        kept = Kept(self.budget, max(self._retry_bytes, 4 * HIGH))
        way = Forwarding(
            incoming,
            served,
            upstream=self.upstream,
            metrics=self.metrics,
            kept=kept,
            headers=self._passed_on(visit, caller),
            answer_seconds=self.options.answer_seconds,
            wait_seconds=self.options.wait_seconds,
            body_bytes=limit,
            span=span,
        )
        try:
            incoming.go_on()
            routes = served.routes
            client = caller.name or incoming.headers.get(CLIENT, "") or visit.peer.address
            tried = await way.run(pinned=pinned, key=sticky_key(served.routes, incoming.headers, client=client))
            await self._pass_back(visit, served, way, tried)
            if tried is not None:
                self._pay(caller, visit, tried)
                if routes.shadow is not None:
                    self._copy(visit, Purpose.SHADOW, routes.shadow, way, tried)
                if routes.drill is not None:
                    self._copy(visit, Purpose.DRILL, routes.drill, way, tried)
        finally:
            way.close()

    async def _pass_back(self, visit: "_Visit", served: Served, way: Forwarding, tried: Tried | None) -> None:
        incoming = visit.incoming
        if tried is None:
            visit.reason = "unavailable"
            raise NotReadyError(f"no version {'answered' if way.tried else 'is ready'}, try again in a second")
        headers = {name: tried.headers[name] for name in _PASSED_BACK if name in tried.headers}
        headers.update({name: value for name, value in tried.headers.items() if name.startswith("x-firstlight-") and name != ROWS})
        headers[VERSION] = visit.version = tried.target.version
        headers[REQUEST_ID] = visit.identifier
        incoming.start(tried.status, headers.items(), length=tried.length, pieces=tried.pieces)
        if tried.rest is not None and not await way.pass_rest(tried):
            visit.reason = "broken"
            raise Vanished
        while incoming.is_slow:
            await incoming.signal.wait()
        incoming.finish()
        visit.status, visit.sent = tried.status, tried.length or 0
        self.metrics.request(served.model, status=tried.status, seconds=time.perf_counter() - visit.began)

    def _copy(self, visit: "_Visit", purpose: Purpose, shadow: Shadow, way: Forwarding, tried: Tried) -> None:
        """The caller has been answered: send somebody else the same request, perhaps."""
        target = self.shadows.wants(purpose, shadow, answered_by=tried.target.version)
        if target is not None:
            copy = _copy(visit, purpose, target, way, tried) if way.kept.is_whole and visit.incoming.complete else None
            self.shadows.offer(copy, purpose, model=visit.model, target=target)

    def _pay(self, caller: Caller, visit: "_Visit", tried: Tried) -> None:
        rows = tried.headers.get(ROWS, "")
        visit.rows = int(rows) if rows.isdigit() else None
        if self._access is not None and caller is not ANYBODY:
            unannounced = visit.incoming.received if visit.incoming.announced is None else 0
            self._access.charge(caller, now=time.time(), rows=visit.rows or 0, body_bytes=unannounced)

    async def _metadata(self, visit: "_Visit", served: Served, pinned: str | None, *, what: str) -> None:
        """Ask a version about the model; another one when it does not answer."""
        targets = served.routes.targets if pinned is None else tuple(filter(None, (served.routes.target(pinned),)))
        if pinned is not None and not targets:
            raise ProtocolError(f"there is no version {pinned!r} here", status=404)
        path = f"/v2/models/{served.model}{'/ready' if what else ''}"
        for target in targets:
            replica = served.replicas.choose(target.urls, now=time.monotonic())
            try:
                status, headers, body = await fetch(self.upstream, replica.url, path, seconds=5.0)
            except UnreachableError:
                continue
            back = {name: headers[name] for name in _PASSED_BACK if name in headers}
            visit.version = target.version
            _send(visit, status, {**back, VERSION: target.version}, body)
            return
        raise NotReadyError(f"no version {'answered' if targets else 'is ready'}, try again in a second")

    def _admit(self, visit: "_Visit", action: Action, model: str | None, *, trusted: bool) -> Caller:
        visit.action = action
        if trusted or self._access is None:
            visit.caller = ANYBODY
        else:
            visit.address = self._access.address(visit.incoming.headers, visit.peer)
            visit.caller = self._access.admit(visit.incoming.headers, action=action, model=model, now=visit.time, peer=visit.peer)
        return visit.caller

    def _has_token(self, incoming: Incoming) -> bool:
        given = incoming.headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode())

    def _passed_on(self, visit: "_Visit", caller: Caller) -> dict[str, str]:
        """Return the headers that go on to a model server: these and no others, so no credential ever does."""
        given = visit.incoming.headers
        headers = {name: given[name] for name in _PASSED_ON if name in given}
        headers[REQUEST_ID] = visit.identifier
        if caller is not ANYBODY:
            headers[CLIENT] = caller.name
        if caller.limits.rows is not None:
            headers[MOST_ROWS] = str(caller.limits.rows)
        return headers


class _Visit:
    """What is known of one request, for its answer and its line in the access log."""

    __slots__ = (
        "action",
        "address",
        "began",
        "caller",
        "identifier",
        "incoming",
        "model",
        "peer",
        "reason",
        "rows",
        "sent",
        "status",
        "time",
        "trace",
        "version",
        "who",
    )

    def __init__(self, incoming: Incoming, *, peer: Peer) -> None:
        self.incoming, self.peer, self.address = incoming, peer, peer.address
        self.began, self.time = time.perf_counter(), time.time()
        self.identifier = http.request_id(incoming.headers)
        self.caller: Caller | None = None
        self.action: Action | None = None
        self.model = self.version = self.reason = self.who = self.trace = ""
        self.status = self.sent = 0
        self.rows: int | None = None

    def line(self) -> Line:
        incoming = self.incoming
        return Line(
            time=self.time,
            request_id=self.identifier,
            client=self.caller.name if self.caller else self.who,
            address=self.address,
            method=incoming.method,
            path=incoming.path,
            status=self.status or incoming.status,
            seconds=time.perf_counter() - self.began,
            bytes_in=incoming.received,
            bytes_out=self.sent,
            action=self.action.value if self.action else "",
            model=self.model,
            version=self.version,
            rows=self.rows,
            proof=self.caller.proof if self.caller else "",
            reason=self.reason or ("" if incoming.finished else "left"),
            trace_id=self.trace or tracing.trace_of(incoming.headers),
        )


_EXTENSIONS = ["binary_tensor_data"]
_REASONS = {400: "request", 404: "path", 405: "method", 408: "timeout", 413: "size", 431: "size", 503: "unavailable"}


def _get(incoming: Incoming) -> None:
    if incoming.method not in ("GET", "HEAD"):
        raise Refused("this must be asked for by GET", status=405, headers={"allow": "GET"}, reason="method")


def _send(visit: _Visit, status: int, headers: Mapping[str, str], body: bytes) -> None:
    visit.status, visit.sent = status, len(body)
    visit.incoming.answer(status, [*headers.items(), (REQUEST_ID, visit.identifier)], body)


def _copy(visit: _Visit, purpose: Purpose, target: Target, way: Forwarding, tried: Tried) -> Copy:
    # A long answer went by piece by piece: nothing but its beginning is here. A drill is compared with nothing.
    is_whole = tried.rest is None and purpose is Purpose.SHADOW
    return Copy(
        purpose=purpose,
        model=way.served.model,
        path=way.served.path,
        target=target,
        headers=way.headers,
        pieces=tuple(way.kept.pieces),
        size=way.kept.size,
        live=Live(
            request_id=visit.identifier,
            track=tried.track,
            version=tried.target.version,
            answer=answer_of(tried.status, tried.headers, tried.pieces if is_whole else ()),
            is_whole=is_whole,
        ),
    )
