"""Traces: one tree across processes when a collector is named, nothing at all when none is, never a request's trouble."""

import io
import json
import logging
import os
import socket
import subprocess
import sys
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from serving import process, tracing
from serving.errors import SettingsError
from tests.serving.collecting import collecting

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, PARENT = CALLER.split("-")[1:3]


@pytest.fixture
def collector():
    with collecting() as found:
        tracing.configure(found.url, service="test", model="vae")
        yield found
        tracing.shutdown()


def test_a_span_continues_its_callers_trace_and_the_next_process_continues_ours(collector):
    upstream = {"content-type": "x"}
    with tracing.span("infer", headers={"traceparent": CALLER, "tracestate": "lab=1"}, kind=tracing.SERVER, rows=3) as span:
        assert span.trace_id == TRACE
        with span.child("attempt", kind=tracing.CLIENT) as attempt:
            attempt.inject(upstream)
            attempt.answered(200)
        # what another process does with the headers it got
        with tracing.span("infer there", headers=upstream, kind=tracing.SERVER):
            pass
        span.set(cache="miss")
        span.answered(200)
    tracing.shutdown()
    (infer,), (attempt,), (there,) = collector.named("infer"), collector.named("attempt"), collector.named("infer there")
    assert {infer.trace_id, attempt.trace_id, there.trace_id} == {TRACE}
    assert (infer.parent_id, attempt.parent_id, there.parent_id) == (PARENT, infer.span_id, attempt.span_id)
    assert upstream == {"content-type": "x", "traceparent": f"00-{TRACE}-{attempt.span_id}-01", "tracestate": "lab=1"}
    assert infer.attributes == {"firstlight.rows": 3, "firstlight.cache": "miss", "http.response.status_code": 200}
    assert (infer.kind, attempt.kind) == (2, 3)  # SERVER, CLIENT in OTLP
    assert (infer.service, infer.resource["firstlight.model"]) == ("firstlight-test", "vae")
    assert collector.paths == {"/v1/traces"}


def test_headers_as_asgi_brings_them_are_read_and_written_too(collector):
    pairs = [(b"traceparent", CALLER.encode()), (b"accept", b"x")]
    with tracing.span("infer", headers=pairs) as span:
        span.inject(pairs)
    assert [name for name, _ in pairs] == [b"accept", b"traceparent"]
    assert pairs[1][1].decode().split("-")[1] == TRACE
    assert pairs[1][1].decode().split("-")[2] != PARENT


def test_a_stretch_measured_elsewhere_has_the_times_it_was_measured_with(collector):
    with tracing.span("infer") as span:
        span.record("forward", began=1_000_000_000.25, ended=1_000_000_000.75, rows=16)
    tracing.shutdown()
    (forward,), (infer,) = collector.named("forward"), collector.named("infer")
    assert forward.seconds == pytest.approx(0.5)
    assert (forward.parent_id, infer.parent_id) == (infer.span_id, "")


@pytest.mark.parametrize("given", ["", "nonsense", CALLER[:-4], CALLER.replace("0af7", "ZZZZ"), "00-" + "0" * 32 + CALLER[35:]])
def test_a_malformed_traceparent_begins_a_new_trace(collector, given):
    with tracing.span("infer", headers={"traceparent": given}) as span:
        assert len(span.trace_id) == 32
        assert span.trace_id not in (TRACE, "0" * 32)


def test_a_caller_that_does_not_sample_is_not_sampled_here(collector):
    headers = {"traceparent": CALLER[:-2] + "00"}
    with tracing.span("unsampled", headers=headers) as span:
        span.inject(headers)
    with tracing.span("sampled"):
        pass
    tracing.shutdown()
    collector.named("sampled")
    assert [span.name for span in collector.spans] == ["sampled"]
    assert headers["traceparent"].endswith("-00")


def test_an_error_leaves_the_block_and_marks_the_span(collector):
    with pytest.raises(ValueError, match="broken"), tracing.span("raised"):
        raise ValueError("broken")
    for status in (200, 404, 500, 0):
        with tracing.span(f"status {status}") as span:
            span.answered(status)
    tracing.shutdown()
    collector.named("status 0")
    errors = {span.name: span.is_error for span in collector.spans}
    assert errors == {"raised": True, "status 200": False, "status 404": False, "status 500": True, "status 0": True}


def test_a_collector_that_is_away_costs_spans_and_they_are_counted_and_nobody_waits(caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        tracing.configure(f"http://127.0.0.1:{taken.getsockname()[1]}", service="test")
        began = time.monotonic()
        for _ in range(2 * tracing.QUEUE_SPANS):
            with tracing.span("lost"):
                pass
        assert time.monotonic() - began < 5
        counts = tracing.counts()
        assert counts["sent"] == 0
        assert counts["dropped"] >= tracing.QUEUE_SPANS / 2
        began = time.monotonic()
        tracing.shutdown()
        assert time.monotonic() - began < 4


def test_a_collector_that_refuses_is_noted_once_and_counted(collector, caplog):
    collector.status = 400
    for _ in range(3):
        with tracing.span("refused"):
            pass
    deadline = time.monotonic() + 10
    while not tracing.counts()["failed"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert tracing.counts()["failed"] == 3
    assert [record.message for record in caplog.records if "collector" in record.message] == [
        "the trace collector does not take our spans; they are dropped"
    ]
    registry = CollectorRegistry()
    registry.register(tracing.Spans())
    assert 'firstlight_trace_spans_total{outcome="failed"} 3.0' in generate_latest(registry).decode()


def test_a_process_that_traces_nothing_imports_no_sdk_and_leaves_the_callers_headers_alone():
    code = f"""
import sys
from serving import tracing
tracing.configure(None, service="x")
headers = {{"traceparent": "{CALLER}"}}
with tracing.span("infer", headers=headers, kind=tracing.SERVER, model="m") as span:
    with span.child("attempt") as child:
        child.inject(headers)
        child.answered(500)
    span.record("x", began=0.0, ended=1.0)
tracing.shutdown()
assert headers == {{"traceparent": "{CALLER}"}}, headers
assert not tracing.is_on() and tracing.counts()["sent"] == 0
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True)
    assert done.stdout.strip() == "[]"


def test_log_lines_name_the_request_and_its_trace():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(process._JsonLines("test"))
    log = logging.getLogger("test-of-tracing")
    log.addHandler(handler)
    log.warning("before")
    tracing.about(request_id="r1", headers={"traceparent": CALLER})
    log.warning("during")
    with tracing.span("untraced") as span:
        tracing.about(request_id="r2", span=span)
        log.warning("without a trace")
    tracing.about(request_id="")
    log.removeHandler(handler)
    before, during, without = map(json.loads, stream.getvalue().splitlines())
    assert "request_id" not in before
    assert (during["request_id"], during["trace_id"]) == ("r1", TRACE)
    assert without["request_id"] == "r2"
    assert "trace_id" not in without


def test_a_trace_that_begins_here_is_in_the_log_lines_too(collector):
    with tracing.span("infer") as span:
        tracing.about(request_id="r", span=span)
        assert tracing.log_fields() == {"request_id": "r", "trace_id": span.trace_id}
    tracing.about(request_id="")


@pytest.mark.parametrize("wrong", ["127.0.0.1:4318", "grpc://x:4317", "http://", "", "http:// x"])
def test_an_address_that_is_none_is_refused_with_a_sentence(wrong):
    with pytest.raises(SettingsError, match="otlp_endpoint"):
        tracing.configure(wrong, service="x")
    assert not tracing.is_on()
