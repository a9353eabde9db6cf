"""``python -m models.benchmark_worker HANDOFF --backend B``: one version in a process of its own, measured on request.

A process per version and backend, because peak memory and the time to a first answer belong to a process. Its first line, unasked, is the
time from process start to the first answer, and how its golden vectors came out. Then each line it reads ({"batch": 16}) is one call, and
answered with its seconds and the peak memory so far; {"answer": FILE, "to": FILE} answers the rows in a file.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import psutil

from firstlight.errors import FirstlightError
from models import golden
from models.backends import EAGER, BackendUnavailable, Runner, open_backend
from models.errors import HandOffError
from models.handoff_folder import HandOff, load
from models.tensors import read_tensors, write_tensors


def peak_bytes() -> int:
    """Return the largest resident memory this program ever had.

    The high-water mark of the address space where Linux tells it: what getrusage says also counts the parent a process was forked from.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return next((int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:")), 0)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _rows(inputs: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    return {name: np.resize(values, (count, *values.shape[1:])) for name, values in inputs.items()}


def _device_peak(device: str) -> int | None:
    if device == "cpu":
        return None
    import torch

    return int(torch.cuda.max_memory_allocated())


def _opened(papers: HandOff, wanted: argparse.Namespace) -> tuple[Runner, str]:
    """Return the runner and why it is not the one that was asked for, or ""."""
    try:
        return open_backend(papers, wanted.backend, compiled=wanted.compiled, digest=wanted.digest, threads=wanted.threads), ""
    except BackendUnavailable as problem:
        if wanted.strict:
            raise
        return open_backend(papers, threads=wanted.threads), str(problem)


def measure(wanted: argparse.Namespace, answers: TextIO) -> None:
    """Load the version, answer once, then measure what is asked until the input ends."""
    papers = load(wanted.folder)
    runner, instead = _opened(papers, wanted)
    inputs = papers.golden()[0]

    def say(**figures: Any) -> None:
        answers.write(json.dumps({**figures, "peak_bytes": peak_bytes(), "device_peak_bytes": _device_peak(runner.device)}) + "\n")
        answers.flush()

    runner(_rows(inputs, 1))
    first = time.time() - psutil.Process().create_time()
    found = golden.replay(runner, papers)
    say(first_answer_seconds=first, backend=runner.name, device=runner.device, instead=instead, golden=found.to_dict())
    rows: dict[str, np.ndarray] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "answer" in asked:
            given = read_tensors(Path(asked["answer"]).read_bytes(), where="the rows to answer")
            try:
                Path(asked["to"]).write_bytes(write_tensors(runner(given)))
                say(refused="")
            except HandOffError as problem:  # rows that this model does not take
                say(refused=str(problem))
            continue
        batch = int(asked["batch"])
        if len(next(iter(rows.values()), ())) != batch:
            rows = _rows(inputs, batch)
        started = time.perf_counter()
        runner(rows)  # its answers are arrays in main memory: a GPU has finished when it returns
        say(seconds=time.perf_counter() - started)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.benchmark_worker")
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default=EAGER)
    parser.add_argument("--compiled", type=Path)
    parser.add_argument("--digest")
    parser.add_argument("--strict", action="store_true", help="do not run eagerly where the backend cannot be had")
    return parser.parse_args()


def main() -> None:
    """Measure; whatever libraries print goes to stderr, only answers go to stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        measure(_arguments(), answers)
    except FirstlightError as error:
        sys.exit(" ".join(str(error).split()))
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit("whoever asked is gone")


if __name__ == "__main__":
    main()
