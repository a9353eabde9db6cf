"""A small trace collector: takes OTLP over HTTP as any collector does, and keeps what it was sent."""

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """One span as it arrived."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict
    resource: dict
    is_error: bool
    began: float
    seconds: float


class Collector:
    """What was sent so far."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.paths: set[str] = set()
        self.status = 200
        self.url = ""

    def named(self, name: str, *, count: int = 1, seconds: float = 10) -> list[Seen]:
        """Return the spans of this name once there are ``count`` of them."""
        deadline = time.monotonic() + seconds
        while len(found := [span for span in self.spans if span.name == name]) < count:
            assert time.monotonic() < deadline, f"{count} spans {name!r} must arrive, got {[span.name for span in self.spans]}"
            time.sleep(0.02)
        return found

    def of(self, trace_id: str, name: str) -> list[Seen]:
        """Return the spans of this name in one trace, once there is one."""
        deadline = time.monotonic() + 10
        while not (found := [span for span in self.spans if (span.trace_id, span.name) == (trace_id, name)]):
            assert time.monotonic() < deadline, f"a span {name!r} must arrive, got {[span.name for span in self.spans]}"
            time.sleep(0.02)
        return found

    def take(self, body: bytes) -> None:
        """Keep the spans of one export."""
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _plain(group.resource.attributes)
            for span in (span for scope in group.scope_spans for span in scope.spans):
                self.spans.append(
                    Seen(
                        service=str(resource["service.name"]),
                        name=span.name,
                        kind=span.kind,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        attributes=_plain(span.attributes),
                        resource=resource,
                        is_error=span.status.code == 2,
                        began=span.start_time_unix_nano / 1e9,
                        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                    )
                )


def _plain(pairs: object) -> dict:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free loopback port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.paths.add(self.path)
            if collector.status == 200:
                collector.take(body)
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
