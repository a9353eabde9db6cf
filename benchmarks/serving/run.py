"""A whole run, from nothing to a report: one JSON document with every sample, from which the page, the chart and the verdicts are made."""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.serving import choice as choices
from benchmarks.serving import gpu
from benchmarks.serving.choice import Choice
from benchmarks.serving.contenders import ours, peers, pick
from benchmarks.serving.limit import Limit
from benchmarks.serving.measure import Field, Load, Sample, Say, cores, rounds
from benchmarks.serving.plan import LEFT_OUT, Plan
from benchmarks.serving.subject import Backend, Subject
from models.hardware import choose_device, fingerprint

FORMAT = "firstlight/serving-benchmark/v1"


def run(
    subject: Subject, plan: Plan, *, command: str, only: Sequence[str] = (), choice: Choice | None = None, say: Say = print
) -> dict[str, Any]:
    """Return the report. ``only``: names of the contenders to measure (empty: all). ``choice`` None asks the model's own benchmark."""
    began = time.monotonic()
    count = cores()
    choice = choice or choices.choose(subject)
    say(f"backends here: {', '.join(backend.name for backend in choice.available)}; chosen: {choice.chosen.name}")
    wanted = pick((*ours(subject.papers.name, choice.served, workers=count), *peers(count)), only)
    wanted = tuple(contender for contender in wanted if not contender.name.startswith(plan.without))
    with tempfile.TemporaryDirectory(prefix="serving-benchmark-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        field = Field(subject, folder=folder)
        stack.callback(field.close)
        field.start(wanted, say=say)
        batches = [at.batch for at in plan.points]
        limits = {}
        for backend in choice.served:
            limits[backend.name] = limit = Limit(subject, backend, batches=batches, workers=count)
            stack.callback(limit.close)
        load = Load(subject, folder)
        stack.callback(load.close)
        samples = rounds(field, limits, load, plan=plan, say=say)
        field.weigh()
        kinds = choice.available if plan.in_process else ()
        in_process = _in_process(subject, kinds, batches=sorted(set(batches)), plan=plan, count=count, say=say)
        field.drain(_speeds(samples), plan=plan, say=say)
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "seconds": round(time.monotonic() - began),
        "machine": {**fingerprint(choose_device(), 1), "cores_used": count},
        "model": {
            "name": subject.papers.name,
            "digest": subject.papers.model_digest,
            "inputs": subject.input_shapes,
            "outputs": subject.output_shapes,
        },
        "choice": {"chosen": choice.chosen.name, "report": choice.report},
        "plan": {**asdict(plan), "points": [at.name for at in plan.points]},
        "left_out": {**LEFT_OUT, **dict.fromkeys(plan.without, "left out of a quick run")},
        "contenders": field.facts,
        "samples": [_rounded(sample) for sample in samples],
        "in_process": in_process,
        "gpu": gpu.measure(subject, plan=plan, say=say),
    }


def _in_process(
    subject: Subject, backends: Sequence[Backend], *, batches: Sequence[int], plan: Plan, count: int, say: Say
) -> list[dict[str, Any]]:
    """Every backend that runs here with one thread, with all cores as threads of one call, and with all cores as processes."""
    table = []
    for backend in backends:
        for workers, threads in dict.fromkeys(((1, 1), (1, count), (count, 1))):
            limit = Limit(subject, backend, batches=batches, workers=workers, threads=threads)
            try:
                for batch in batches:
                    found = limit.measure(batch=batch, callers=workers, warm_seconds=0.2, seconds=plan.seconds / 2)
                    row = {"backend": backend.name, "workers": workers, "threads": threads, "batch": batch}
                    table.append({**row, **_rounded({key: found[key] for key in ("rows_per_second", "p50_ms", "others_cores")})})
            finally:
                limit.close()
        say(f"in-process, {backend.name}: done")
    return table


def _speeds(samples: Sequence[Sample]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for sample in samples:
        found.setdefault(sample["contender"], []).append(sample["rows_per_second"])
    return {name: statistics.median(values) for name, values in found.items()}


def _rounded(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Four significant digits; NaN becomes null."""
    return {key: _short(value) if isinstance(value, float) else value for key, value in sample.items()}


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def write(report: Mapping[str, Any], path: Path) -> None:
    """Write ``report`` as JSON, one line a sample, so that two runs can be compared by eye."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**report, "samples": "SAMPLES", "in_process": "IN_PROCESS"}, indent=2, allow_nan=False)
    for name in ("samples", "in_process"):
        lines = ",\n    ".join(json.dumps(row) for row in report[name])
        text = text.replace(f'"{name.upper()}"', f"[\n    {lines}\n  ]" if lines else "[]", 1)
    path.write_text(text + "\n")
