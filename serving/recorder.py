"""What one model server answered, as rows of the inference log: who asked what, which bytes answered, and the summary features.

The caller's side is a coin (:meth:`Recorder.wants`) and a list append (:meth:`Recorder.record`); rows are made in the log's thread, for many
requests at once. Until the hand-off's class is known, and for good when it is Protected or Secrets, the log holds nothing that comes from the
inputs: no feature of theirs, no digest (which would tell whether two people asked about the same object).
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from blake3 import blake3
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from models.summary import VECTOR_LIMIT, summary_columns
from monitoring.inference_log import COLUMNS, is_remote
from monitoring.log_shipping import Spool
from monitoring.log_writing import Folder, InferenceLog, Sink
from serving.errors import SettingsError
from serving.options import ModelOptions, S3Options
from serving.tensors import Array

OPEN_CLASSES: Final = ("Public-Internal", "Public-External")
"""Hand-off classes whose inputs may leave a trace in the log; any other name logs none."""

TEXT_LIMIT: Final = 256
"""Longest text output that is logged, in characters; the rest is cut off."""

_HELD_BYTES_A_REQUEST: Final = 2_000
"""What the entry of a request holds besides its arrays, roughly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """One answered request."""

    request_id: str
    microseconds: int
    client: str
    model_digest: str
    rows: int
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    input_digest: str | None


class Recorder:
    """Writes what one model server answered."""

    def __init__(
        self,
        where: Path | str,
        *,
        model: str,
        version: str,
        environment: str = "local",
        data_class: str | None = None,
        sample: float = 1.0,
        flush_seconds: float = 5.0,
        queue_mb: int = 64,
        sink: Sink | None = None,
    ) -> None:
        """Log a share of ``sample`` requests below ``where``, a folder; at most ``flush_seconds`` of rows are lost when the process is killed.

        At most ``queue_mb`` megabytes of arrays wait for the thread. ``data_class`` None logs nothing of the inputs until :meth:`classify` names
        it. ``sink`` writes parts elsewhere than below ``where``.
        """
        self._model, self._version, self._environment, self._sample = model, version, environment, sample
        self.takes_inputs = False
        self.classify(data_class)
        self._log: InferenceLog[_Asked] = InferenceLog(
            sink or Folder(Path(where) / model), make=self._rows, flush_seconds=flush_seconds, queue_bytes=queue_mb << 20
        )

    @classmethod
    def by_options(cls, options: ModelOptions, *, s3: S3Options, model: str, version: str, environment: str) -> "Recorder | None":
        """Return the recorder that the options describe; None when they want no log. Raises SettingsError for an s3:// log without a spool."""
        if options.inference_log is None or options.inference_log_sample == 0:
            return None
        return cls(
            options.inference_log,
            model=model,
            version=version,
            environment=environment,
            sample=options.inference_log_sample,
            flush_seconds=options.flush_seconds,
            queue_mb=options.inference_log_queue_mb,
            sink=_spool(options, s3=s3, model=model) if is_remote(options.inference_log) else None,
        )

    def classify(self, data_class: str | None) -> None:
        """Take note of the hand-off's ``data_class``; ``takes_inputs`` says what follows from it, so that a caller need not copy them."""
        self.takes_inputs = data_class in OPEN_CLASSES

    def start(self) -> None:
        """Start the writing thread now instead of at the first request; call it after any fork."""
        self._log.start()

    def wants(self) -> bool:
        """Return whether the next request shall be recorded: a coin with the sampling rate."""
        return self._sample >= 1 or random.random() < self._sample

    def record(
        self,
        *,
        request_id: str,
        client: str,
        model_digest: str,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        input_digest: str | None = None,
        rows: int | None = None,
    ) -> None:
        """Queue the rows of one request; never blocks, never raises for a full queue.

        The arrays must belong to the log from now on (no views of memory that is used again); the first axis is the spectrum.
        ``inputs`` may be empty when ``takes_inputs`` is false. ``input_digest`` (:func:`input_digest`) is computed later when it is not given,
        ``rows`` is taken from the arrays.
        """
        kept = {name: array for name, array in outputs.items() if _is_logged(array)}
        taken = inputs if self.takes_inputs else {}
        asked = _Asked(
            request_id=request_id,
            microseconds=time.time_ns() // 1_000,
            client=client,
            model_digest=model_digest,
            rows=rows if rows is not None else next((len(array) for array in (*outputs.values(), *inputs.values())), 1),
            inputs=taken,
            outputs=kept,
            input_digest=input_digest if self.takes_inputs else None,
        )
        size = _HELD_BYTES_A_REQUEST + sum(array.nbytes for array in (*taken.values(), *kept.values()))
        self._log.offer(asked, rows=asked.rows, size=size)

    def counts(self) -> dict[str, int]:
        """Return rows by outcome since the start."""
        counts = self._log.counts()
        return {"written": counts.written, "dropped": counts.dropped, "failed": counts.failed}

    def waiting_bytes(self) -> int:
        """Return the bytes of parts on this machine that the object store has not got yet; 0 for a folder."""
        return self._log.waiting_bytes()

    def metrics(self) -> Collector:
        """Return firstlight_inference_log_rows_total{outcome} and …_spool_bytes for a Prometheus registry."""
        return _Metrics(self, labels={"model": self._model, "version": self._version})

    def close(self, *, timeout: float = 10.0) -> None:
        """Write what waits; returns after ``timeout`` seconds at the latest."""
        self._log.close(timeout=timeout)

    def _rows(self, group: Sequence[_Asked]) -> dict[str, Sequence[Any]]:
        """Return the columns of all requests of the group, one value per spectrum."""
        counts = [asked.rows for asked in group]
        total = sum(counts)
        inputs, outputs = _joined([asked.inputs for asked in group]), _joined([asked.outputs for asked in group])
        features: dict[str, Any] = {**summary_columns(_numbers(inputs), _numbers(outputs)), **_texts(outputs)}
        return {
            "request_id": _repeated([asked.request_id for asked in group], counts),
            "row": [row for count in counts for row in range(count)],
            "time": _repeated([asked.microseconds for asked in group], counts),
            "client": _repeated([asked.client for asked in group], counts),
            "environment": [self._environment] * total,
            "model": [self._model] * total,
            "version": [self._version] * total,
            "model_digest": _repeated([asked.model_digest for asked in group], counts),
            "input_digest": _repeated([_digest(asked) for asked in group], counts),
            **{f"{name}_value" if name in COLUMNS else name: column for name, column in features.items()},
        }


class _Metrics(Collector):
    def __init__(self, recorder: Recorder, *, labels: Mapping[str, str]) -> None:
        self._recorder, self._labels = recorder, labels

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        names, values = (*self._labels, "outcome"), tuple(self._labels.values())
        rows = CounterMetricFamily("firstlight_inference_log_rows", "Rows of the inference log by what became of them", labels=names)
        for outcome, count in self._recorder.counts().items():
            rows.add_metric((*values, outcome), count)
        yield rows
        spool = GaugeMetricFamily("firstlight_inference_log_spool_bytes", "Parts that wait for the object store", labels=names[:-1])
        spool.add_metric(values, self._recorder.waiting_bytes())
        yield spool


def input_digest(inputs: Mapping[str, Array]) -> str:
    """Return the blake3 over the names, types, shapes and bytes of ``inputs``, independent of their order: 64 hex digits."""
    digest = blake3()
    for name in sorted(inputs):
        array = inputs[name]
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(_bytes(array))
    return digest.hexdigest()


def _bytes(array: Array) -> Any:
    if array.dtype.kind == "O":  # BYTES tensors: the length before every element keeps two of them apart
        elements = [element if isinstance(element, bytes) else str(element).encode() for element in array.reshape(-1)]
        return b"".join(len(element).to_bytes(8, "little") + element for element in elements)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _digest(asked: _Asked) -> str | None:
    if asked.input_digest is None and asked.inputs:
        return input_digest(asked.inputs)
    return asked.input_digest


def _is_logged(array: Array) -> bool:
    """Whether an output is a number, a short vector or a text for each spectrum; a reconstruction is no summary."""
    return array.ndim == 1 or (array.ndim == 2 and array.shape[1] <= VECTOR_LIMIT)


def _joined(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return each name's arrays one below the other. Raises ValueError where the requests do not agree on names or shapes."""
    if len(parts) == 1:
        return dict(parts[0])
    if any(part.keys() != parts[0].keys() for part in parts):
        raise ValueError("requests of one model must have the same names")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _numbers(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if array.dtype.kind in "fiub"}


def _texts(outputs: Mapping[str, Array]) -> dict[str, list[str]]:
    flat = {name: array.reshape(-1) for name, array in outputs.items() if array.dtype.kind in "OSU" and array.size == len(array)}
    return {name: [_text(value) for value in values] for name, values in flat.items()}


def _text(value: Any) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))[:TEXT_LIMIT]


def _repeated(values: Sequence[Any], counts: Sequence[int]) -> list[Any]:
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]


def _spool(options: ModelOptions, *, s3: S3Options, model: str) -> Spool:
    if options.inference_log_spool is None:
        raise SettingsError(
            f"an inference log in an object store needs a folder where parts wait, got none for {options.inference_log}: set inference_log_spool"
        )
    assert options.inference_log is not None
    return Spool(
        options.inference_log_spool,
        model=model,
        prefix=options.inference_log,
        upload=_uploading(s3),
        max_bytes=options.inference_log_spool_mb << 20,
    )


def _uploading(s3: S3Options) -> Callable[[], Callable[[Path, str], None]]:
    def open_store() -> Callable[[Path, str], None]:
        from spectra.object_store import ObjectStore  # boto3 with it: only where there is an object store

        # The keys come from boto3's own variables or files (AWS_…): a secret belongs on no command line.
        ca_bundle = None if s3.ca_bundle is None else str(s3.ca_bundle)
        return ObjectStore(endpoint_url=s3.endpoint_url, path_style=s3.path_style, ca_bundle=ca_bundle, region=s3.region).upload

    return open_store
