"""``python -m benchmarks.soak --minutes 60 --full-minutes 10``: held load, then a queue kept full, and what memory and answers were.

First a few callers ask all the time, and now and then others vanish, dawdle, send bombs and nonsense, and open a thousand connections. Then
so many ask that the queue is never empty. Somebody who asks one right question after the other must be answered all the while (in the second
part possibly by 503 with Retry-After). Every second the memory of each process is noted; the slope over the last half of the first part says
whether it grows. (The gateway remembers 100,000 attempts of a version: until then it grows by right.) Figures, with the machine they belong
to, go to benchmarks/results/soak.json, the chart to soak.svg.

``--handoff`` names a model with its own inputs (the first rows of its golden vectors are asked); without it a small model is made.
"""

import argparse
import contextlib
import json
import random
import socket
import struct
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak.callers import Caller, Idle, Seen, bomb, crowd, question, request
from benchmarks.soak.chart import draw
from benchmarks.soak.house import House
from models import handoff
from models.hardware import fingerprint
from serving.tensors import Array

_RESULTS = Path(__file__).parent.parent / "results"
_ROWS = 16
_MANY = 256
"""Rows of a question when the queue is kept full."""
_CALLERS = 4
_OPTIONS = {"model": {"queue_requests": 8, "queue_mb": 64, "body_mb": 16, "cache_mb": 0}, "gateway": {"body_mb": 16, "memory_mb": 96}}
_KEPT_SAMPLES = 40
_FLAT_MIB_AN_HOUR = 40.0
"""Growth of one process that is still called flat: allocators wander by some megabytes."""


class Samples:
    """The memory of every process over time."""

    def __init__(self, house: House) -> None:
        """Note nothing yet."""
        self._house, self._began = house, time.monotonic()
        self.taken: list[tuple[float, dict[str, float]]] = []

    def take(self) -> None:
        """Note what is."""
        self.taken.append((time.monotonic() - self._began, self._house.memory()))

    def slopes(self, start: float, stop: float) -> dict[str, float]:
        """Return MiB an hour of every process between two times: the straight line through all samples."""
        chosen = [(at, memory) for at, memory in self.taken if start <= at < stop]
        names = set.intersection(*(set(memory) for _, memory in chosen)) if len(chosen) > 10 else set()
        times = np.array([at for at, _ in chosen]) / 3600
        return {name: float(np.polyfit(times, [memory[name] for _, memory in chosen], 1)[0]) for name in sorted(names)}


def main() -> None:
    """Hold both loads, and keep the figures."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        papers = handoff.load(options.handoff or _small(folder / "handoff"))
        inputs = {tensor: np.resize(array, (_ROWS, *array.shape[1:])) for tensor, array in papers.golden()[0].items()}
        with House(papers.folder, name=papers.name, folder=folder / "house", options=_OPTIONS) as house:
            report = _soak(house, inputs, options, output=papers.model.outputs[0].name)
            report["logs_kib"] = {path.name: path.stat().st_size >> 10 for path in (folder / "house").glob("*.log")}
    report = {"options": {**vars(options), "rows": _ROWS, "serving": _OPTIONS}, "machine": fingerprint("cpu", 1), **report}
    _RESULTS.mkdir(exist_ok=True)
    draw(report, _RESULTS / "soak.svg")
    report["memory_mib"] = report["memory_mib"][:: max(1, len(report["memory_mib"]) // _KEPT_SAMPLES)]
    (_RESULTS / "soak.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name != "memory_mib"}, indent=2, sort_keys=True))
    raise SystemExit(0 if report["holds"] else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--full-minutes", type=float, default=10)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between an answer and its caller's next question")
    parser.add_argument("--handoff", help="folder of the model to serve")
    return parser.parse_args()


def _small(folder: Path) -> Path:
    from tests.models.tiny import write_tiny_handoff

    return write_tiny_handoff(folder)


def _soak(house: House, inputs: Mapping[str, Array], options: argparse.Namespace, *, output: str) -> dict[str, Any]:
    samples = Samples(house)
    one, many = ({name: np.resize(array, (rows, *array.shape[1:])) for name, array in inputs.items()} for rows in (1, _MANY))
    held, full = options.minutes * 60, options.full_minutes * 60
    with Caller(house, "gateway", one, pause=0.2, output=output) as bystander:
        with crowd(house, "gateway", inputs, size=_CALLERS, pause=options.pause, output=output) as asked:
            _hold(house, samples, inputs, seconds=held)
        first = bystander.seen
        bystander.seen = Seen()
        with crowd(house, "gateway", many, size=48, output=output) as pressed:
            _watch(samples, seconds=full)
        waiting = bystander.seen
        bystander.seen = Seen()
        _watch(samples, seconds=5)
        after = bystander.seen
    slopes = samples.slopes(held / 2, held)
    alive = house.alive()
    verdicts = {
        "every right question of the held load answered 200": set(asked.codes) == {200} and not asked.failures,
        "bystander of the held load answered 200": set(first.codes) == {200} and not first.failures,
        "full queue answered 200 or 503 with Retry-After": set(pressed.codes) <= {200, 503}
        and not pressed.failures
        and pressed.without_retry_after == 0,
        "queue was full": pressed.codes[503] > 0,
        "bystander of the full queue was answered, if only by 503": set(waiting.codes) <= {200, 503} and waiting.codes[200] > 0,
        "answered at once when the crowd was gone": set(after.codes) == {200},
        "no process ended": all(alive.values()),
        f"no process grows by {_FLAT_MIB_AN_HOUR:g} MiB an hour": bool(slopes) and max(slopes.values()) < _FLAT_MIB_AN_HOUR,
    }
    thin = max(1, len(samples.taken) // 400)
    return {
        "holds": all(verdicts.values()),
        "verdicts": verdicts,
        "slope_mib_an_hour": {name: round(value, 1) for name, value in slopes.items()},
        "peak_mib": {name: round(max(memory.get(name, 0) for _, memory in samples.taken)) for name in samples.taken[-1][1]},
        "held_load": _told(asked),
        "bystander": _told(first),
        "full_queue": _told(pressed),
        "bystander_of_the_full_queue": _told(waiting),
        "held_until_seconds": round(held),
        "memory_mib": [[round(at), {name: round(value, 1) for name, value in memory.items()}] for at, memory in samples.taken[::thin]],
    }


def _told(seen: Seen) -> dict[str, Any]:
    times = np.array(seen.seconds or [np.nan]) * 1e3
    return {
        "codes": {str(code): count for code, count in sorted(seen.codes.items())},
        "failures": seen.failures[:5],
        "p50_ms": round(float(np.median(times)), 1),
        "p99_ms": round(float(np.quantile(times, 0.99)), 1),
    }


def _watch(samples: Samples, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        samples.take()
        time.sleep(1)


def _hold(house: House, samples: Samples, inputs: Mapping[str, Array], *, seconds: float) -> None:
    """Sample, and every few seconds do one of the things that no client should."""
    chance, end = random.Random(1), time.monotonic() + seconds
    packed = bomb(256 << 20)
    headers, body = question(inputs)
    whole = request(house.path, headers, body)
    with contextlib.ExitStack() as stack:
        dawdling: list[socket.socket] = []
        while time.monotonic() < end:
            samples.take()
            trick = chance.randrange(12)
            if trick == 0:
                _vanish(house, whole, chance)
            elif trick == 1:
                _send(house, request(house.path, {"content-encoding": "gzip"}, packed))
            elif trick == 2:
                _send(house, bytes(chance.randrange(256) for _ in range(2000)))
            elif trick == 3:
                with Idle(house, "gateway", 1000):
                    time.sleep(1)
            elif trick == 4:
                dawdling.append(stack.enter_context(house.connect("gateway")))
                dawdling[-1].sendall(whole[: chance.randrange(20, len(whole))])
                if len(dawdling) > 50:
                    dawdling.pop(0).close()
            time.sleep(1)


def _vanish(house: House, whole: bytes, chance: random.Random) -> None:
    for _ in range(20):
        connection = house.connect("gateway")
        connection.sendall(whole[: chance.randrange(1, len(whole) + 1)])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def _send(house: House, data: bytes) -> None:
    with house.connect("gateway") as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.recv(4096)


if __name__ == "__main__":
    main()
