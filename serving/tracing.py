"""Traces: one tree of spans from the caller through the gateway to the model server, in OpenTelemetry's format (W3C traceparent, OTLP over HTTP).

How a request is traced::

    tracing.configure(options.otlp_endpoint, service="gateway")         # once, before the first request; None traces nothing
    with tracing.span("infer", headers=headers, kind=tracing.SERVER, model=name) as span:
        tracing.about(request_id=identifier, headers=headers, span=span)  # every log line of this task says which request it is about
        with span.child("attempt", kind=tracing.CLIENT, version=version) as attempt:
            attempt.inject(upstream_headers)                            # the next process continues this trace
            attempt.answered(status)
        span.record("queue", began=then, ended=now)                     # a stretch that was measured elsewhere, such as in a worker
    registry.register(tracing.Spans())                                  # firstlight_trace_spans_total{outcome}
    tracing.shutdown()                                                  # send what waits; at most two seconds

Until :func:`configure` was given an address, every call here is a no-op of well under a microsecond and the SDK is not imported; the caller's
traceparent is then left as it came, so a trace that passes through us unseen stays whole. Spans leave by the SDK's batch processor, in a
thread of its own, from a bounded queue: while the collector is away they are dropped and counted, and no request waits or fails.
Who samples: a caller's sampled flag is kept; for traces that begin here the standard OTEL_TRACES_SAMPLER variables count (default: all).
"""

import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Final, Self

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from serving.errors import SettingsError

SERVER: Final = "SERVER"
"""Kind of a span that answers somebody's request."""
CLIENT: Final = "CLIENT"
"""Kind of a span that waits for somebody's answer."""
INTERNAL: Final = "INTERNAL"
"""Kind of every other span."""

QUEUE_SPANS: Final = 4096
"""Spans that wait for the collector at most; further ones are dropped and counted."""

Headers = Mapping[str, str] | Iterable[tuple[bytes, bytes]]
"""Lower-case names and values, or the pairs of bytes of an ASGI scope."""
Value = str | int | float | bool
"""What an attribute may be."""

_LOG = logging.getLogger(__name__)
_SEND_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0
_DRAIN_SECONDS = 2.0
_PATH = "/v1/traces"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_CARRIED = ("traceparent", "tracestate")


class Span:
    """One stretch of work. This class is the one that does nothing; a configured process gets its subclass."""

    __slots__ = ()

    trace_id: str = ""
    """32 hex digits; empty when nothing is traced."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the span; an exception that leaves the block marks it as failed."""

    def child(self, name: str, *, kind: str = INTERNAL, **attributes: Value) -> "Span":
        """Return a span inside this one, begun now; use it as a context manager."""
        return self

    def record(self, name: str, *, began: float, ended: float, kind: str = INTERNAL, **attributes: Value) -> None:
        """Note a stretch inside this one that is over: ``began`` and ``ended`` are unix seconds (``time.time()``)."""

    def set(self, **attributes: Value) -> None:
        """Add attributes; they appear as ``firstlight.<name>``."""

    def answered(self, status: int) -> None:
        """Note the HTTP status of the answer; 500 and above, and 0 for no answer, mark the span as failed."""

    def failed(self, why: str) -> None:
        """Mark the span as failed."""

    def inject(self, headers: "MutableMapping[str, str] | list[tuple[bytes, bytes]]") -> None:
        """Put this span's traceparent (and the caller's tracestate) into the headers of the next request, in place of what is there."""


NOTHING: Final = Span()
"""What every call gives while nothing is traced."""


class _Real(Span):
    __slots__ = ("_process", "_span", "_state", "trace_id")

    def __init__(self, process: "_Process", span: Any) -> None:
        self._process, self._span = process, span
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.failed(type(error).__name__)  # its text may quote what was asked, and traces leave this machine
        self._span.end()

    def child(self, name: str, *, kind: str = INTERNAL, **attributes: Value) -> Span:
        return self._process.begin(name, kind=kind, parent=self._process.context_of(self._span), attributes=attributes)

    def record(self, name: str, *, began: float, ended: float, kind: str = INTERNAL, **attributes: Value) -> None:
        parent = self._process.context_of(self._span)
        self._process.begin(name, kind=kind, parent=parent, attributes=attributes, at=int(began * 1e9)).end(int(ended * 1e9))

    def end(self, at: int | None = None) -> None:
        self._span.end(at)

    def set(self, **attributes: Value) -> None:
        self._span.set_attributes(_named(attributes))

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500 or status == 0:
            self.failed(f"status {status}")

    def failed(self, why: str) -> None:
        self._span.set_status(self._process.error, why[:300])

    def inject(self, headers: "MutableMapping[str, str] | list[tuple[bytes, bytes]]") -> None:
        carrier: dict[str, str] = {}
        self._process.propagator.inject(carrier, context=self._process.context_of(self._span))
        if isinstance(headers, list):
            headers[:] = [pair for pair in headers if pair[0].decode("latin-1") not in _CARRIED]
            headers.extend((name.encode(), value.encode()) for name, value in carrier.items())
            return
        for name in _CARRIED:
            headers.pop(name, None)
        headers.update(carrier)


class _Process:
    """The SDK as one process uses it."""

    def __init__(self, endpoint: str, *, service: str, about: Mapping[str, str]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        tally = self.tally = _Tally()

        class Exporter(OTLPSpanExporter):
            def export(self, spans: Any) -> SpanExportResult:
                tally.taken(len(spans))
                result = SpanExportResult.FAILURE
                try:
                    result = super().export(spans)
                finally:
                    tally.left(len(spans), sent=result is SpanExportResult.SUCCESS)
                return result

        class Processor(BatchSpanProcessor):
            def on_end(self, span: ReadableSpan) -> None:
                if span.context is not None and span.context.trace_flags.sampled and tally.admit():
                    super().on_end(span)

        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # one line of ours says it instead of one a batch
        url = endpoint.rstrip("/")
        exporter = Exporter(endpoint=url if url.endswith(_PATH) else url + _PATH, timeout=_TIMEOUT_SECONDS)
        named = {"service.name": f"firstlight-{service}", "service.namespace": "firstlight", **_named(about)}
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(
            Processor(exporter, max_queue_size=2 * QUEUE_SPANS, schedule_delay_millis=_SEND_SECONDS * 1e3, max_export_batch_size=512)
        )
        self._tracer = self._provider.get_tracer("firstlight")
        self._kinds = {SERVER: SpanKind.SERVER, CLIENT: SpanKind.CLIENT, INTERNAL: SpanKind.INTERNAL}
        self.error, self.context_of, self.propagator = StatusCode.ERROR, set_span_in_context, TraceContextTextMapPropagator()

    def begin(self, name: str, *, kind: str, parent: Any, attributes: Mapping[str, Value], at: int | None = None) -> _Real:
        span = self._tracer.start_span(
            name,
            context=parent,
            kind=self._kinds[kind],
            attributes=_named(attributes),
            start_time=at,
            record_exception=False,
            set_status_on_exception=False,
        )
        return _Real(self, span)

    def caller(self, headers: Headers | None) -> Any:
        """Return the context that the caller sent; an empty one when there is none or it is malformed."""
        from opentelemetry.context import Context

        return self.propagator.extract(_carried(headers), context=Context())

    def end(self) -> None:
        ending = threading.Thread(target=self._provider.shutdown, name="trace-drain", daemon=True)
        ending.start()
        ending.join(_DRAIN_SECONDS)
        self.tally.is_over = True


class _Tally:
    """What became of the spans of this process. The queue is bounded here, before the SDK's, because the SDK does not count what it drops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = self._sent = self._dropped = self._failed = 0
        self._away = False
        self.is_over = False
        """Whether the process has stopped to trace: a sender that hangs on has nothing more to say in the log."""

    def admit(self) -> bool:
        """Return whether one more span may wait; a refused one is counted."""
        with self._lock:
            if self._waiting >= QUEUE_SPANS:
                self._dropped += 1
                return False
            self._waiting += 1
            return True

    def taken(self, spans: int) -> None:
        """Note that ``spans`` are on their way."""
        with self._lock:
            self._waiting -= spans

    def left(self, spans: int, *, sent: bool) -> None:
        """Note what came of them, and say it in the log when that changed."""
        with self._lock:
            changed, self._away = self._away is sent, not sent
            self._sent += spans if sent else 0
            self._failed += 0 if sent else spans
        if changed and not self.is_over:
            _LOG.warning("the trace collector answers again" if sent else "the trace collector does not take our spans; they are dropped")

    def counts(self) -> dict[str, int]:
        with self._lock:
            return {"sent": self._sent, "dropped": self._dropped, "failed": self._failed}


class Spans(Collector):
    """firstlight_trace_spans_total by outcome, for a process's Prometheus registry; nothing while nothing is traced."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the metric."""
        if _process is not None:
            family = CounterMetricFamily("firstlight_trace_spans", "Spans by what became of them", labels=("outcome",))
            for outcome, spans in counts().items():
                family.add_metric((outcome,), spans)
            yield family


_process: _Process | None = None


def configure(endpoint: str | None, *, service: str, **about: str) -> None:
    """Send this process's spans to the collector at ``endpoint`` (``http://host:4318``) from now on; None changes nothing.

    ``about`` describes the process (``model="desi-vae", version="3"``). Call it after any fork: the sender is a thread.
    Raises SettingsError when ``endpoint`` is no http address. Whether anybody listens there is not asked.
    """
    global _process
    if endpoint is None:
        return
    if not re.fullmatch(r"https?://[^\s/]+\S*", endpoint):
        raise SettingsError(
            f"the trace collector must be an address such as http://127.0.0.1:4318, got {endpoint!r}: correct otlp_endpoint"
        )
    shutdown()
    _process = _Process(endpoint, service=service, about=about)


def shutdown() -> None:
    """Send what waits and trace nothing from now on; returns within two seconds, whoever listens."""
    global _process
    ending, _process = _process, None
    if ending is not None:
        ending.end()


def span(name: str, *, headers: Headers | None = None, kind: str = INTERNAL, **attributes: Value) -> Span:
    """Return a span begun now, under the caller's one when ``headers`` carry a traceparent; use it as a context manager."""
    if _process is None:
        return NOTHING
    return _process.begin(name, kind=kind, parent=_process.caller(headers), attributes=attributes)


def is_on() -> bool:
    """Return whether spans are sent; lets a caller skip work that only a trace needs, such as reading clocks."""
    return _process is not None


def counts() -> dict[str, int]:
    """Return the spans of this process by what became of them: sent, dropped (the queue was full), failed (the collector did not take them)."""
    return {"sent": 0, "dropped": 0, "failed": 0} if _process is None else _process.tally.counts()


About = tuple[str, Headers | None, Span]
"""A request, as :func:`about` was told of it."""
NOBODY: Final[About] = ("", None, NOTHING)
_about: ContextVar[About] = ContextVar("firstlight_request", default=NOBODY)


def about(*, request_id: str, headers: Headers | None = None, span: Span = NOTHING) -> None:
    """Say which request the log lines of this task (and of tasks it starts) are about. Costs a fraction of a microsecond."""
    _about.set((request_id, headers, span))


def current() -> About:
    """Return this task's request, for lines that are written about it elsewhere: where its batch is computed."""
    return _about.get()


def log_fields_of(requests: Iterable[About]) -> dict[str, Any]:
    """Return what a line about all ``requests`` says of them: that of the only one, or ``request_ids``."""
    known = list({identifier: (identifier, headers, span) for identifier, headers, span in requests if identifier}.values())
    return log_fields(known[0]) if len(known) == 1 else {"request_ids": [identifier for identifier, _, _ in known]} if known else {}


def log_fields(request: About | None = None) -> dict[str, Any]:
    """Return ``request_id`` and, when it belongs to a trace, ``trace_id`` of ``request`` (None: this task's); empty outside of one."""
    identifier, headers, span = _about.get() if request is None else request
    if not identifier:
        return {}
    trace = span.trace_id or trace_of(headers)
    return {"request_id": identifier, "trace_id": trace} if trace else {"request_id": identifier}


def trace_of(headers: Headers | None) -> str:
    """Return the 32 hex digits of the trace that a request belongs to, or an empty text."""
    found = _TRACEPARENT.match(_carried(headers).get("traceparent", ""))
    return found[1] if found else ""


def _carried(headers: Headers | None) -> dict[str, str]:
    if headers is None:
        return {}
    if isinstance(headers, Mapping):
        return {name: headers[name] for name in _CARRIED if name in headers}
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name in (b"traceparent", b"tracestate")}


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"firstlight.{name}": value for name, value in attributes.items()}
