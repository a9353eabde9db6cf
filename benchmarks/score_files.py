"""How fast is `firstlight score` over warm files, against the least that any way of scoring them must do?

    python benchmarks/score_files.py [--backend aot] [--spectra 6000] [--file-rows 500] [--repeats 5] [--handoff FOLDER] [--compiled FOLDER]

The limit is the model itself: the same backend in as many processes, each with its share of the same spectra already in memory and
nothing else to do. Both are measured in turns in the same run with a warm cache, and the ratio is taken round by round, so that it means
something on a busy machine. On one so busy that it does not, the processor time of both still does.
Without --handoff the reference model is trained for one epoch: what it learned does not change what it costs.
Starting the processes happens once, however many files follow: it is shown on its own and not counted.
The result goes to benchmarks/results/score_files.json.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

import spectra
from models import handoff
from models.backends import COMPILED, open_backend
from models.backends.compiling import compile_backend
from models.handoff import HandOff
from models.hardware import fingerprint
from models.scored_table import BATCH, columns
from models.scoring import Scored, cores, score_files
from models.scoring_crew import ENVIRONMENT
from models.training import Recipe, train
from spectra.sky import SkyRecipe, write_sky

_RESULTS = Path(__file__).parent / "results" / "score_files.json"


def main() -> None:
    """Write a sky, measure both ways in turns, print and keep the figures."""
    options = _options()
    if options.limit:
        return _compute(options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_sky(SkyRecipe(seed=1, spectra=options.spectra, file_rows=options.file_rows), folder / "sky")
        papers = handoff.load(options.handoff or _trained(files, folder / "handoff"))
        compiled = Path(options.compiled or folder / "compiled")
        digest = compile_backend(papers, options.backend, folder=compiled).digest if options.backend in COMPILED else None
        figures = _measure(papers, [str(file) for file in files], folder, options, compiled=compiled, digest=digest)
    told = {"backend": options.backend, "spectra": options.spectra, "file_rows": options.file_rows, "repeats": options.repeats}
    report = {"options": {**told, "files": len(files)}, "model": papers.model_digest, "machine": fingerprint("cpu", 1), **figures}
    _RESULTS.parent.mkdir(exist_ok=True)
    _RESULTS.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    print(json.dumps(report, indent=2, sort_keys=True))
    return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", default="aot")
    parser.add_argument("--spectra", type=int, default=6000)
    parser.add_argument("--file-rows", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--handoff", help="folder of the model to score with")
    parser.add_argument("--compiled", help="folder of compiled models, kept from one run to the next")
    parser.add_argument("--limit", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def _trained(files: list[Path], out: Path) -> Path:
    batch, _ = spectra.read_many(files[:4])
    return train(
        batch,
        Recipe(epochs=1, fault_rows=50, threads=1),
        out=out,
        trainer=("Benchmark", "benchmark@firstlight.example"),
        data_uri=str(files[0].parent),
        data_files=files[:4],
    )


# --- the limit ----------------------------------------------------------------------------------------------------------


def _compute(options: argparse.Namespace) -> None:
    """Be one process of the limit: for every line on standard input, run the model once over the spectra that are in memory."""
    facts = options.limit
    compiled = Path(facts["compiled"])
    runner = open_backend(handoff.load(facts["handoff"]), facts["backend"], compiled=compiled, digest=facts["digest"])
    batch, _ = spectra.read_many(facts["files"])
    inputs = {"flux": batch.flux, "ivar": batch.ivar}
    wanted = columns(runner.outputs)

    def once() -> int:
        for start in range(0, len(inputs["flux"]), BATCH):
            runner({name: array[start : start + BATCH] for name, array in inputs.items()}, wanted=wanted)
        return len(inputs["flux"])

    print(once(), flush=True)
    for _ in sys.stdin:
        print(once(), flush=True)


class Limit:
    """As many processes as cores, each with its share of the spectra."""

    def __init__(self, papers: HandOff, files: list[str], options: argparse.Namespace, *, compiled: Path, digest: str | None) -> None:
        """Start them and let each run once."""
        self._stack = contextlib.ExitStack()
        facts = {"handoff": str(papers.folder), "backend": options.backend, "compiled": str(compiled), "digest": digest}
        share = -(-len(files) // cores())
        self._processes = [
            self._stack.enter_context(_computing({**facts, "files": files[start : start + share]})) for start in range(0, len(files), share)
        ]
        self.rows = sum(int(_line(process)) for process in self._processes)

    def __call__(self) -> tuple[float, float]:
        """Run over all spectra; return the spectra a second of all processes together, and the processor seconds they took."""
        started, worked = time.perf_counter(), self._worked()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        counts = [int(_line(process)) for process in self._processes]
        return sum(counts) / (time.perf_counter() - started), self._worked() - worked

    def _worked(self) -> float:
        return sum(_processor_seconds(psutil.Process(process.pid)) for process in self._processes)

    def close(self) -> None:
        """End them."""
        self._stack.close()


@contextlib.contextmanager
def _computing(facts: dict[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    asked = [sys.executable, __file__, "--limit", json.dumps(facts)]
    environment = {**os.environ, **ENVIRONMENT}
    with subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process of the limit must answer, it ended with {process.wait()}")
    return line


# --- both in turns ------------------------------------------------------------------------------------------------------


class Watched:
    """One run of score_files: when its processes were ready, when it ended, what it needed."""

    def __init__(self) -> None:
        """Begin the clock."""
        self.began, self.ready = time.perf_counter(), 0.0
        self.peak = 0
        self.worked: list[float] = []
        """Processor seconds of this process and its workers, when they were ready and when the last file was done."""

    def __call__(self, done: int, total: int, rows: int) -> None:
        """Hear how far the run is."""
        self.ready = self.ready or time.perf_counter()
        if done not in (0, total):
            return
        workers = [child for child in psutil.Process().children() if "models.scoring_worker" in child.cmdline()]
        self.worked.append(sum(map(_processor_seconds, [psutil.Process(), *workers])))
        self.peak = max(self.peak, *(child.memory_info().rss for child in workers))


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _measure(
    papers: HandOff, files: list[str], folder: Path, options: argparse.Namespace, *, compiled: Path, digest: str | None
) -> dict[str, Any]:
    limit = Limit(papers, files, options, compiled=compiled, digest=digest)
    rounds: list[dict[str, float]] = []
    done: Scored | None = None
    for turn in range(options.repeats + 1):
        before, worked_before = limit()
        watched = Watched()
        done = score_files(
            papers,
            files,
            folder / "scores.parquet",
            version="1",
            backend=options.backend,
            backend_digest=digest,
            compiled=compiled,
            progress=watched,
        )
        ended = time.perf_counter()
        after, worked_after = limit()
        assert (done.rows, done.backend) == (limit.rows, options.backend), done
        if turn:  # the first turn warms the cache
            figures = {
                "limit": (before + after) / 2,
                "files": done.rows / (ended - watched.ready),
                "start_seconds": watched.ready - watched.began,
            }
            figures["limit_cpu_us"] = (worked_before + worked_after) / 2 / limit.rows * 1e6
            figures["files_cpu_us"] = (watched.worked[-1] - watched.worked[0]) / limit.rows * 1e6
            rounds.append({**figures, "worker_mib": watched.peak / 2**20, "load": os.getloadavg()[0]})
            print(
                {name: round(value, 2) for name, value in rounds[-1].items()},
                f"ratio {figures['files'] / figures['limit']:.3f}",
                flush=True,
            )
    limit.close()
    by_processor_time = [figures["limit_cpu_us"] / figures["files_cpu_us"] for figures in rounds]
    ratios = [figures["files"] / figures["limit"] for figures in rounds]
    read = [_read_seconds(files) for _ in range(3)]
    middle = {name: round(statistics.median(figures[name] for figures in rounds), 2) for name in rounds[0]}
    return {
        "spectra": limit.rows,
        "workers": cores(),
        "median": {**middle, "reading_cpu_microseconds_a_spectrum": round(statistics.median(read) / limit.rows * 1e6)},
        "ratio_by_processor_time": round(statistics.median(by_processor_time), 3),
        "ratio_files_to_limit": round(statistics.median(ratios), 3),
        "ratio_by_round": [round(ratio, 3) for ratio in ratios],
    }


def _read_seconds(files: list[str]) -> float:
    """Return the processor time of reading all files in pieces and doing nothing with them."""
    started = time.process_time()
    assert sum(len(batch) for file in files for batch, _ in spectra.pieces(file, size=4 * BATCH))
    return time.process_time() - started


if __name__ == "__main__":
    main()
