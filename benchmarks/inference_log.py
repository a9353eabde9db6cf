"""What the inference log costs a spectrum, in CPU time of the process that answers: shared machines do not blur CPU time much.

Requests are offered at the rate of a model server at full load; the arrays are the reference model's (flux and ivar of 7,781 pixels in; two
numbers, ten latents and the reconstruction out). Measured twice over a warm recorder, the better one counts.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from serving import tracing
from serving.recorder import Recorder, input_digest

LIMIT_MICROSECONDS = 250.0
"""A spectrum must not cost more: a fifth of what the fastest backend takes for it."""
RATE = 1_400
"""Spectra a second."""
_PIXELS, _SPECTRA, _REQUESTS = 7_781, 4_096, 400


def main() -> int:
    """Measure, print a table, write results/inference_log.json; exit code 1 when a spectrum costs too much."""
    found = {
        "batch 1, digest computed here": _cost(1),
        "batch 1, digest from the cache": _cost(1, digest=True),
        "batch 16, digest computed here": _cost(16),
        "batch 16, digest from the cache": _cost(16, digest=True),
        "batch 256, digest computed here": _cost(256),
        "batch 1, a tenth sampled": _cost(1, sample=0.1),
        "batch 1, Protected (outputs only)": _cost(1, data_class="Protected"),
        "on the caller's side, a request": _callers_side(),
        "a request's tracing, switched off": _tracing_off(),
    }
    for name, cost in found.items():
        print(f"{name:<42} {cost:8.2f} µs")
    out = Path(__file__).parent / "results" / "inference_log.json"
    figures = {name: round(cost, 2) for name, cost in found.items()}
    out.write_text(json.dumps({"microseconds": figures, "spectra_a_second": RATE, "python": sys.version.split()[0]}, indent=2) + "\n")
    return 0 if max(found.values()) < LIMIT_MICROSECONDS else 1


def _cost(rows: int, *, digest: bool = False, sample: float = 1.0, data_class: str = "Public-External") -> float:
    """Return microseconds of CPU for one spectrum, without what offering at a steady pace costs by itself."""
    with tempfile.TemporaryDirectory() as folder:
        recorder = _recorder(folder, sample=sample, data_class=data_class)
        inputs, outputs = _arrays(rows)
        given = input_digest(inputs) if digest else None

        def ask() -> None:
            if recorder.wants():
                recorder.record(request_id="r" * 32, client="c", model_digest="d" * 64, inputs=inputs, outputs=outputs, input_digest=given)

        _paced(ask, rows=rows, spectra=_SPECTRA // 4)  # imports, first parts
        runs = [_paced(ask, rows=rows, spectra=_SPECTRA) - _paced(lambda: None, rows=rows, spectra=_SPECTRA) for _ in range(2)]
        recorder.close()
        counts = recorder.counts()
        if counts["dropped"] or counts["failed"]:
            sys.exit(f"every row must be written for a fair figure, got {counts}: the machine is too busy, try again")
    return min(runs) / _SPECTRA * 1e6


def _paced(work: Callable[[], None], *, rows: int, spectra: int) -> float:
    """Call ``work`` for ``spectra`` spectra at :data:`RATE`; return seconds of this process's CPU, the log's last gathering included."""
    began, start = time.process_time(), time.monotonic()
    for number in range(spectra // rows):
        work()
        time.sleep(max(0.0, start + (number + 1) * rows / RATE - time.monotonic()))
    time.sleep(1.0)
    return time.process_time() - began


def _callers_side() -> float:
    with tempfile.TemporaryDirectory() as folder:
        recorder, (inputs, outputs) = _recorder(folder), _arrays(1)
        began = time.thread_time()
        for _ in range(_REQUESTS):
            if recorder.wants():
                recorder.record(request_id="r" * 32, client="c", model_digest="d" * 64, inputs=inputs, outputs=outputs)
        cost = time.thread_time() - began
        recorder.close()
    return cost / _REQUESTS * 1e6


def _tracing_off() -> float:
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    began = time.thread_time()
    for _ in range(50_000):
        with tracing.span("infer", headers=headers, kind=tracing.SERVER, model="m") as span:
            tracing.about(request_id="r", headers=headers, span=span)
            span.answered(200)
    return (time.thread_time() - began) / 50_000 * 1e6


def _recorder(folder: str, *, sample: float = 1.0, data_class: str = "Public-External") -> Recorder:
    # A queue for everything: on a machine that others use the log's thread may come late, and what is asked here is its CPU time.
    return Recorder(folder, model="m", version="1", sample=sample, data_class=data_class, queue_mb=512)


def _arrays(rows: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    flux = generator.normal(size=(rows, _PIXELS)).astype(np.float32)
    ivar = generator.gamma(2, size=(rows, _PIXELS)).astype(np.float32)
    ivar[:, :300] = 0
    latent = generator.normal(size=(rows, 10)).astype(np.float32)
    return {"flux": flux, "ivar": ivar}, {"score": latent[:, 0], "redshift": latent[:, 1], "latent": latent, "reconstruction": flux}


if __name__ == "__main__":
    sys.exit(main())
