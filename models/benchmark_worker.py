"""``python -m models.benchmark_worker HANDOFF DEVICE THREADS``: one version in a process of its own, measured on request.

A process per version, because peak memory and the time to a first answer belong to a process. Its first line, unasked, is the time
from process start to the first answer. Then each line it reads ({"batch": 16}) is one call, and answered with its seconds and the
peak memory so far.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import psutil

from firstlight.errors import FirstlightError


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


def measure(folder: str, device: str, threads: int, answers: TextIO) -> None:
    """Load the version, answer once, then measure what is asked until the input ends."""
    from models.handoff_folder import load

    papers = load(folder)  # before torch is imported: what is refused is refused soon
    from models.program import MAX_ROWS, Program

    def say(**figures: Any) -> None:
        answers.write(json.dumps({**figures, "peak_bytes": peak_bytes(), "device_peak_bytes": _device_peak(device)}) + "\n")
        answers.flush()

    program = Program.load(papers, device=device, threads=threads, batch_size=MAX_ROWS)
    inputs = papers.golden()[0]
    program(_rows(inputs, 1))
    say(first_answer_seconds=time.time() - psutil.Process().create_time())
    rows: dict[str, np.ndarray] = {}
    for line in sys.stdin:
        batch = int(json.loads(line)["batch"])
        if len(next(iter(rows.values()), ())) != batch:
            rows = _rows(inputs, batch)
        started = time.perf_counter()
        program(rows)  # its answers are arrays in main memory: a GPU has finished when it returns
        say(seconds=time.perf_counter() - started)


def main() -> None:
    """Measure; whatever libraries print goes to stderr, only answers go to stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    folder, device, threads = sys.argv[1:]
    try:
        measure(folder, device, int(threads), answers)
    except FirstlightError as error:
        sys.exit(" ".join(str(error).split()))
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit("whoever asked is gone")


if __name__ == "__main__":
    main()
