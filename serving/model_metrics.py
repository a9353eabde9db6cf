"""What a model server counts, in Prometheus' terms. Every metric carries the model's name and version."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.engine import Engine, State
from serving.remembered import Outcome, Remembered

_LOG = logging.getLogger(__name__)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ModelMetrics:
    """The registry of one model server; the engine's observer."""

    def __init__(self, *, model: str, version: str, engine: Engine, remembered: Remembered) -> None:
        self.registry = CollectorRegistry()
        self._names, self._values = ("model", "version"), (model, version)
        self._engine = engine
        self._requests = Counter("firstlight_requests", "Inference requests by status code", (*self._names, "code"), registry=self.registry)
        self._codes: dict[int, Any] = {}
        self._good, self._bad = {"count": 0, "ns": 0}, {"count": 0, "ns": 0}
        self._rows_answered = self._batches = 0
        self._seconds = self._histogram("firstlight_request_seconds", "Seconds from head to answer", _SECONDS)
        self._rows = self._counter("firstlight_rows", "Rows answered")
        self._batch_rows = self._histogram("firstlight_batch_rows", "Rows of one forward pass", _ROWS)
        self._batch_seconds = self._histogram("firstlight_batch_seconds", "Seconds of one forward pass", _SECONDS)
        self._restarts = self._counter("firstlight_worker_restarts", "Workers that were lost and replaced")
        cache = Counter(
            "firstlight_cache_requests", "Requests by what the result cache did", (*self._names, "outcome"), registry=self.registry
        )
        self._outcomes = {outcome: cache.labels(*self._values, outcome) for outcome in Outcome}
        self._gauge("firstlight_queue_requests", "Requests that wait for a worker", lambda: engine.depth)
        self._gauge("firstlight_queue_bytes", "Bytes of inputs arriving, waiting and being computed", lambda: engine.budget.held)
        self._gauge("firstlight_cache_bytes", "Bytes of remembered answers", lambda: remembered.size)
        self._gauge("firstlight_workers", "Workers that can compute", lambda: len(engine.workers))
        self._gauge(
            "firstlight_ready", "1 when the golden vectors came out again and somebody computes", lambda: engine.state is State.READY
        )
        self._gauge(
            "firstlight_backend_missing",
            "1 when the model is not run by the backend its benchmark chose, because that cannot be had here",
            lambda: any(worker.note for worker in engine.workers),
        )
        self.registry.register(_ModelInfo(engine, names=self._names, values=self._values))
        self.registry.register(_Gpus(names=self._names, values=self._values))

    def request(self, *, status: int, seconds: float) -> None:
        """Count one answer."""
        counter = self._codes.get(status)
        if counter is None:
            counter = self._codes[status] = self._requests.labels(*self._values, str(status))
        counter.inc()
        self._seconds.observe(seconds)
        tally = self._good if status < 400 else self._bad
        tally["count"] += 1
        tally["ns"] += int(seconds * 1e9)

    def answered(self, *, rows: int, outcome: Outcome | None) -> None:
        """Count the rows of one good answer, and how the cache helped (None: it is off)."""
        self._rows.inc(rows)
        self._rows_answered += rows
        if outcome is not None:
            self._outcomes[outcome].inc()

    def batch(self, *, rows: int, seconds: float) -> None:
        """Count one forward pass."""
        self._batches += 1
        self._batch_rows.observe(rows)
        self._batch_seconds.observe(seconds)

    def restarted(self) -> None:
        """Count a worker that was lost."""
        self._restarts.inc()

    def statistics(self) -> dict[str, Any]:
        """Return the counters that Triton's statistics extension names and that mean something here."""
        return {
            "inference_count": self._rows_answered,
            "execution_count": self._batches,
            "inference_stats": {"success": dict(self._good), "fail": dict(self._bad)},
        }

    def _counter(self, name: str, meaning: str) -> Any:
        return Counter(name, meaning, self._names, registry=self.registry).labels(*self._values)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Any:
        return Histogram(name, meaning, self._names, buckets=buckets, registry=self.registry).labels(*self._values)

    def _gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        Gauge(name, meaning, self._names, registry=self.registry).labels(*self._values).set_function(lambda: float(value()))


class _ModelInfo(Collector):
    def __init__(self, engine: Engine, *, names: tuple[str, ...], values: tuple[str, ...]) -> None:
        self._engine, self._names, self._values = engine, names, values

    def collect(self) -> Iterator[GaugeMetricFamily]:
        names = (*self._names, "model_digest", "backend", "device")
        info = GaugeMetricFamily("firstlight_model_info", "Which bytes answer, and how they are run", labels=names)
        if self._engine.loaded is not None:
            for backend, device in sorted({(worker.backend, worker.device) for worker in self._engine.workers}):
                info.add_metric((*self._values, self._engine.loaded.model_digest, backend, device), 1)
        yield info


class _Gpus(Collector):
    """Memory and load of every GPU, from NVIDIA's own library where there is one; nothing elsewhere."""

    def __init__(self, *, names: tuple[str, ...], values: tuple[str, ...]) -> None:
        self._names, self._values = (*names, "gpu"), values
        self._nvml: Any = None
        with contextlib.suppress(Exception):  # the library or the driver is not there: no GPU to speak of
            import pynvml  # type: ignore[import-not-found]

            pynvml.nvmlInit()
            self._nvml = pynvml

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if self._nvml is None:
            return
        memory = GaugeMetricFamily("firstlight_gpu_memory_bytes", "Memory of a GPU in use", labels=self._names)
        load = GaugeMetricFamily("firstlight_gpu_utilisation_ratio", "Share of time a GPU computes", labels=self._names)
        try:
            for index in range(self._nvml.nvmlDeviceGetCount()):
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                memory.add_metric((*self._values, str(index)), self._nvml.nvmlDeviceGetMemoryInfo(handle).used)
                load.add_metric((*self._values, str(index)), self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        except Exception as error:
            _LOG.warning("the GPU cannot be asked: %s", error)
        yield memory
        yield load
