"""What the gateway tells Prometheus. No label names a client: everybody who may read this page reads all of it."""

from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.routes import Routes, Target

CONTENT_TYPE = "text/plain; version=0.0.4"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class GatewayMetrics:
    """The gateway's counters."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = registry = CollectorRegistry()
        attempt = ("model", "version", "track")
        requests = Counter("firstlight_gateway_requests", "Inference requests by answer", ("model", "code"), registry=registry)
        seconds = Histogram(
            "firstlight_gateway_request_seconds", "Seconds from head to answer", ("model",), buckets=_SECONDS, registry=registry
        )
        attempts = Counter("firstlight_gateway_attempts", "Attempts by answer (0: none)", (*attempt, "code"), registry=registry)
        attempt_seconds = Histogram(
            "firstlight_gateway_attempt_seconds", "Seconds of an attempt", attempt, buckets=_SECONDS, registry=registry
        )
        retries = Counter("firstlight_gateway_retries", "Attempts after the first", ("model",), registry=registry)
        shadows = Counter("firstlight_gateway_shadow", "Copies sent to a shadow", ("model", "version", "outcome"), registry=registry)
        pairs = Counter("firstlight_gateway_pairs", "Answers compared with a shadow's", ("model", "version", "outcome"), registry=registry)
        refused = Counter("firstlight_gateway_refused", "Requests answered without asking a model", ("reason",), registry=registry)
        self._ejected = Gauge(
            "firstlight_gateway_ejected", "1 while a replica is left out", ("model", "version", "replica"), registry=registry
        )
        self._weight = Gauge("firstlight_gateway_weight_percent", "Percent of requests", attempt, registry=registry)
        self.connections = Gauge("firstlight_gateway_connections", "Callers' connections", registry=registry)
        self.held_bytes = Gauge("firstlight_gateway_held_bytes", "Bytes of bodies held or promised", registry=registry)
        self.access_file_problem = Gauge(
            "firstlight_gateway_access_file_problem",
            "1 while the access file cannot be used and an older state is in force",
            registry=registry,
        )
        # Looking a child up by its labels costs more than counting: each is looked up once.
        self._requests, self._seconds = cache(requests.labels), cache(seconds.labels)
        self._attempts, self._attempt_seconds = cache(attempts.labels), cache(attempt_seconds.labels)
        self._retries, self._shadows, self._refused = cache(retries.labels), cache(shadows.labels), cache(refused.labels)
        self._pairs = cache(pairs.labels)

    def request(self, model: str, *, status: int, seconds: float) -> None:
        """Count an inference request and its answer."""
        self._requests(model, str(status)).inc()
        self._seconds(model).observe(seconds)

    def attempt(self, model: str, version: str, track: str, *, status: int, seconds: float) -> None:
        """Count an attempt at a version."""
        self._attempts(model, version, track, str(status)).inc()
        self._attempt_seconds(model, version, track).observe(seconds)

    def retry(self, model: str) -> None:
        """Count a further attempt for the same request."""
        self._retries(model).inc()

    def shadow(self, model: str, version: str, outcome: str) -> None:
        """Count a copy: sent, dropped or failed."""
        self._shadows(model, version, outcome).inc()

    def pairs(self, model: str, version: str, outcome: str, count: int = 1) -> None:
        """Count pairs of answers: agrees, differs, failed, or requests that were not compared (uncompared)."""
        self._pairs(model, version, outcome).inc(count)

    def refused(self, reason: str) -> None:
        """Count a request that no model was asked about."""
        self._refused(reason).inc()

    def ejected(self, model: str, target: Target, replica: str, *, out: bool) -> None:
        """Say whether a replica is left out."""
        self._ejected.labels(model, target.version, replica).set(float(out))

    def routes(self, model: str, before: Routes, now: Routes) -> None:
        """Say who has which weight; forget who has none any more."""
        for version, track, _ in _weights(before):
            self._weight.remove(model, version, track)
        for target in asked(before):
            for url in target.urls:
                self._ejected.remove(model, target.version, url)
        for version, track, percent in _weights(now):
            self._weight.labels(model, version, track).set(percent)
        for target in asked(now):
            for url in target.urls:
                self._ejected.labels(model, target.version, url).set(0.0)

    def page(self) -> bytes:
        """Return all of it in Prometheus text format."""
        return generate_latest(self.registry)


def asked(routes: Routes) -> tuple[Target, ...]:
    """Return everybody who is asked for answers."""
    return (*routes.everybody, *((routes.baseline,) if routes.baseline is not None else ()))


def _weights(routes: Routes) -> list[tuple[str, str, int]]:
    weights: list[tuple[str, str, Any]] = []
    if routes.stable is not None:
        weights.append((routes.stable.version, "stable", 100 - routes.canary_weight - routes.baseline_weight))
    if routes.baseline is not None:
        weights.append((routes.baseline.version, "baseline", routes.baseline_weight))
    if routes.canary is not None:
        weights.append((routes.canary.version, "canary", routes.canary_weight))
    return weights
