"""The limit: the same model, backend and number of workers without a server. Arrays in memory go in, arrays in memory come out.

``python -m benchmarks.serving.limit HANDOFF BACKEND [--compiled FOLDER --digest SHA256 --threads N --device D]`` is one worker: it reads jobs as
JSON lines and calls the model for so many seconds on inputs that change from call to call. A limit of n workers is n of these processes at once,
each with one torch thread, like the workers of our server; so what they lose to each other (memory, turbo, caches) is in the limit. No request is
received, checked, queued, digested or answered, and no load generator shares the processor: a server cannot pass it except by joining small requests.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.serving.load import figures, finished
from benchmarks.serving.processes import Busy, Helper
from benchmarks.serving.subject import Backend, Subject, held_out, take

if TYPE_CHECKING:
    from models.backends import Runner

_TAIL_SECONDS = 0.3
"""Every worker computes a little beyond its window, so that no other worker has the machine to itself at the end of its own."""


class Limit:
    """So many workers of one backend."""

    def __init__(
        self, subject: Subject, backend: Backend, *, batches: Sequence[int], workers: int, threads: int = 1, device: str = "cpu"
    ) -> None:
        """Start them; they load the model, prepare inputs of each of ``batches`` rows, and wait."""
        self.workers = workers
        sizes = ",".join(map(str, sorted(set(batches))))
        arguments = [str(subject.folder), backend.name, "--batches", sizes, "--threads", str(threads), "--device", device]
        if backend.folder is not None and backend.digest is not None:
            arguments += ["--compiled", str(backend.folder), "--digest", backend.digest]
        env = {"OMP_NUM_THREADS": str(threads)}
        self._helpers = [Helper("benchmarks.serving.limit", *arguments, env=env) for _ in range(workers)]
        for helper in self._helpers:
            helper.hear()

    def measure(self, *, batch: int, callers: int, warm_seconds: float, seconds: float) -> dict[str, Any]:
        """Return the figures of ``callers`` callers with one batch each: no more than there are workers compute at once."""
        used = self._helpers[: min(callers, self.workers)]
        busy, began = Busy(), [helper.cpu_seconds() for helper in used]
        for helper in used:
            helper.ask({"batch": batch, "warm_seconds": warm_seconds, "seconds": seconds})
        answers = [helper.hear() for helper in used]
        cores, span = busy.cores(), busy.seconds()
        spent = [helper.cpu_seconds() - before for helper, before in zip(used, began, strict=True)]
        return {
            "rows_per_second": sum(answer["rows_per_second"] for answer in answers),
            "p50_ms": float(np.median([answer["p50_ms"] for answer in answers])),
            "p99_ms": max(answer["p99_ms"] for answer in answers),
            "answered": sum(answer["answered"] for answer in answers),
            "seconds": seconds,
            "cpu_ms_per_row": sum(answer["cpu_seconds"] for answer in answers) * 1e3 / max(1, sum(answer["rows"] for answer in answers)),
            "others_cores": max(0.0, cores - sum(spent) / span),
            "failed": {},
        }

    def close(self) -> None:
        """End the workers."""
        for helper in self._helpers:
            helper.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Be one worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("handoff")
    parser.add_argument("backend")
    parser.add_argument("--batches", required=True, help="rows of the inputs to prepare: 1,16,256")
    parser.add_argument("--compiled", type=Path)
    parser.add_argument("--digest")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    from models.backends import open_backend
    from models.handoff import load

    papers = load(options.handoff)
    run = open_backend(
        papers, options.backend, compiled=options.compiled, digest=options.digest, device=options.device, threads=options.threads
    )
    # 512 rows of flux and ivar are 32 MB: no input stays warm in the processor's cache
    held = held_out(papers)
    turns = {
        batch: [take(held, rows=batch, seed=seed) for seed in range(max(2, min(64, 512 // batch)))]
        for batch in map(int, options.batches.split(","))
    }
    _say({"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        _say(_measure(run, turns[job["batch"]], job))


def _measure(run: "Runner", turns: Sequence[Mapping[str, Any]], job: Mapping[str, Any]) -> dict[str, Any]:
    calls, worked, turn = [], 0.0, 0
    began = time.monotonic()
    opens = began + job["warm_seconds"]
    closes = opens + job["seconds"]
    while (now := time.monotonic()) < closes + _TAIL_SECONDS:
        before = time.process_time()
        run(turns[turn % len(turns)])
        calls.append(finished(now, time.monotonic()))
        worked += time.process_time() - before
        turn += 1
    found = figures(calls, opens, closes, rows=job["batch"])
    return {**found, "cpu_seconds": worked, "rows": turn * job["batch"]}


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
