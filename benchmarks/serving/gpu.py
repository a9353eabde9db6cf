"""With a GPU: what share of the device's own throughput arrives at the caller, by batch size and precision.

The limit is one process that calls the model on the device with arrays in this machine's memory (copies both ways are part of it);
against it stands our model server with the same backend, eight callers.
"""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.serving.contenders import MODEL, Contender, ours
from benchmarks.serving.limit import Limit
from benchmarks.serving.measure import Field, Load, Say
from benchmarks.serving.plan import BINARY, Plan, Point
from benchmarks.serving.subject import Backend, Subject
from models.backends import CUDA, CUDA_BF16
from models.hardware import choose_device

BATCHES = (1, 16, 64, 256)
CALLERS = 8


def measure(subject: Subject, *, plan: Plan, say: Say) -> dict[str, Any]:
    """Return {"status": "measured", "rows": […]}, or {"status": "skipped", "reason": …} where there is no GPU."""
    if choose_device() != "cuda":
        return {"status": "skipped", "reason": "torch finds no CUDA device on this machine"}
    rows: list[dict[str, Any]] = []
    for name in (CUDA, CUDA_BF16):
        backend = Backend(name=name)
        contender = next(found for found in ours(subject.papers.name, (backend,), workers=1) if found.kind == MODEL)
        rows += _fractions(subject, contender, plan=plan, say=say)
    return {"status": "measured", "rows": rows}


def _fractions(subject: Subject, contender: Contender, *, plan: Plan, say: Say) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="serving-benchmark-gpu-", ignore_cleanup_errors=True) as name:
        field, load = Field(subject, folder=Path(name)), Load(subject, Path(name))
        limit = Limit(subject, contender.backend, batches=BATCHES, workers=1, device="cuda")
        try:
            field.start([contender], say=say)
            if contender.name not in field.running:
                return [{"backend": contender.backend.name, "problem": field.facts[contender.name]["reason"]}]
            for batch in BATCHES:
                for turn in range(plan.rounds):
                    device = limit.measure(batch=batch, callers=1, warm_seconds=plan.warm_seconds, seconds=plan.seconds)
                    at = Point(BINARY, batch, CALLERS)
                    with field.running[contender.name] as running:
                        served = load.measure(running, at, warm_seconds=plan.warm_seconds, seconds=plan.seconds)
                    figures = {"device": device["rows_per_second"], "served": served["rows_per_second"]}
                    rows.append({"backend": contender.backend.name, "batch": batch, "round": turn + 1, **figures})
        finally:
            limit.close()
            load.close()
            field.close()
    return rows
