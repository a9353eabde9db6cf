"""Several tenants on one gateway: the page of metrics as one of them may see it."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

from serving.grants import Caller


class _Visible:
    """A view of a registry; prometheus_client calls ``collect`` of it."""

    def __init__(self, registry: CollectorRegistry, caller: Caller) -> None:
        self._registry, self._caller = registry, caller

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            seen = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            seen.samples = [sample for sample in metric.samples if self._may_see(sample.labels)]
            if seen.samples:
                yield seen

    def _may_see(self, labels: dict[str, str]) -> bool:
        # What names no model counts the traffic of all tenants together.
        return self._caller.may_see(labels["model"]) if "model" in labels else any(grant.covers_everything for grant in self._caller.grants)


def exposition(registry: CollectorRegistry, caller: Caller) -> bytes:
    """Return the metrics of ``registry`` in Prometheus text format: of models that ``caller`` may see, and the rest for who may see every model."""
    return generate_latest(_Visible(registry, caller))  # type: ignore[arg-type]
