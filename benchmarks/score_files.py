"""How fast is `firstlight score` over warm files, against the least that any way of scoring them must do?

    python benchmarks/score_files.py [--spectra 2000] [--repeats 5] [--handoff FOLDER]

The limit is the model itself: the same program over the same spectra, already in memory, on the same cores. Both are measured in turns
in the same run with a warm cache, and the ratio is taken round by round, so that it means something on a busy machine.
Without --handoff the reference model is trained for one epoch: what it learned does not change what it costs.
The result goes to benchmarks/results/score_files.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import spectra
from models import handoff
from models.benchmark_worker import peak_bytes
from models.handoff import HandOff
from models.hardware import choose_device, fingerprint
from models.program import Program
from models.scoring import BATCH, score_batch, score_files, workers
from models.training import Recipe, train
from spectra.sky import SkyRecipe, write_sky

_RESULTS = Path(__file__).parent / "results" / "score_files.json"


def main() -> None:
    """Write a sky, measure both ways in turns, print and keep the figures."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_sky(SkyRecipe(seed=1, spectra=options.spectra), folder / "sky")
        batch, _ = spectra.read_many(files)
        papers = handoff.load(options.handoff or _trained(batch, files, folder / "handoff"))
        figures = _measure(papers, batch, [str(file) for file in files], folder, repeats=options.repeats)
    machine = {**fingerprint(choose_device(), 1), "load": [round(value, 2) for value in os.getloadavg()]}
    report = {"options": {**vars(options), "files": len(files)}, "model": papers.model_digest, "machine": machine, **figures}
    _RESULTS.parent.mkdir(exist_ok=True)
    _RESULTS.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    print(json.dumps(report, indent=2, sort_keys=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--spectra", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--handoff", help="folder of the model to score with")
    return parser.parse_args()


def _trained(batch: spectra.SpectrumBatch, files: list[Path], out: Path) -> Path:
    return train(
        batch,
        Recipe(epochs=1, fault_rows=50, threads=1),
        out=out,
        trainer=("Benchmark", "benchmark@firstlight.example"),
        data_uri=str(files[0].parent),
        data_files=files,
    )


def _measure(papers: HandOff, batch: spectra.SpectrumBatch, files: list[str], folder: Path, *, repeats: int) -> dict[str, Any]:
    program = Program.load(papers, device=choose_device(), threads=1, batch_size=BATCH)
    pool = workers(program.device)
    out = folder / "scores.parquet"
    ways: dict[str, Callable[[], Any]] = {
        "model": lambda: score_batch(program, batch, pool=pool),
        "read": lambda: [spectra.read(file) for file in files],
        "files": lambda: score_files(papers, files, out, version="1"),
        "start": lambda: Program.load(papers, device=choose_device(), batch_size=BATCH),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn:  # the first turn warms the cache
                seconds[name].append(time.perf_counter() - started)
    pool.shutdown()
    return _figures(seconds, rows=len(batch))


def _figures(seconds: dict[str, list[float]], *, rows: int) -> dict[str, Any]:
    """Starting the program happens once, however many files follow; it is shown on its own and not counted as throughput."""
    running = [whole - start for whole, start in zip(seconds["files"], seconds["start"], strict=True)]
    ratios = [model / whole for model, whole in zip(seconds["model"], running, strict=True)]
    middle = {name: statistics.median(values) for name, values in {**seconds, "files without start": running}.items()}
    return {
        "spectra": rows,
        "median_seconds": {name: round(value, 3) for name, value in middle.items()},
        "spectra_per_second": {"files": round(rows / middle["files without start"]), "model": round(rows / middle["model"])},
        "ratio_files_to_model": round(statistics.median(ratios), 3),
        "ratio_by_round": [round(ratio, 3) for ratio in ratios],
        "peak_mib": round(peak_bytes() / 2**20),
    }


if __name__ == "__main__":
    main()
