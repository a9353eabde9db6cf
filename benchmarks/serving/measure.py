"""One run: start everybody, let each have its turn at every point, round after round, then weigh, drain and stop them."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.bodies import Body
from benchmarks.serving.contenders import GATEWAY, PEER, Contender, missing
from benchmarks.serving.launch import ContenderError, Running, ask, compare, launch, version
from benchmarks.serving.limit import Limit
from benchmarks.serving.plan import BINARY, OTHERS_CORES, SLOW_SECONDS, Plan, Point
from benchmarks.serving.processes import Busy, Helper
from benchmarks.serving.subject import Subject

Say = Callable[[str], None]
Sample = dict[str, Any]

_STOP_SECONDS = 10.0
_DRAIN_AFTER_SECONDS = 0.25


class Load:
    """The load generator and the requests it sends."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        """``folder`` takes the encoded requests."""
        self._helper = Helper("benchmarks.serving.load")
        self._subject, self._folder = subject, folder
        self._requests: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._sequence = 0

    def measure(self, running: Running, at: Point, *, warm_seconds: float, seconds: float) -> Sample:
        """Return the figures of ``running``, which must be going, at ``at``. Raises ContenderError when it does not answer."""
        request = self._request(running.contender, at, port=running.port)
        job = {"concurrency": at.concurrency, "batch": at.batch, "warm_seconds": warm_seconds, "seconds": seconds}
        self._helper.ask({**request, **job, "host": "127.0.0.1", "port": running.port, "sequence": self._sequence})
        self._expect("opens")
        busy, ours = Busy(), psutil.Process()
        before = (running.cpu_seconds(), self._helper.cpu_seconds(), sum(ours.cpu_times()[:2]))
        self._expect("closes")
        cores, span = busy.cores(), busy.seconds()
        after = (running.cpu_seconds(), self._helper.cpu_seconds(), sum(ours.cpu_times()[:2]))
        spent = [now - then for now, then in zip(after, before, strict=True)]
        found = self._expect("result")
        self._sequence = found.pop("sequence")
        rows = max(1e-9, found["rows_per_second"] * found["seconds"])
        return {
            **{key: value for key, value in found.items() if key not in ("event", "client_seconds")},
            "cpu_ms_per_row": spent[0] * 1e3 / rows,
            "client_cores": spent[1] / span,
            "others_cores": max(0.0, cores - sum(spent) / span),
        }

    def close(self) -> None:
        """End the process."""
        self._helper.close()

    def _expect(self, event: str) -> dict[str, Any]:
        said = self._helper.hear()
        if said["event"] != event:
            raise ContenderError(said.get("reason", f"the load generator must say {event}, got {said}"))
        return said

    def _request(self, contender: Contender, at: Point, *, port: int) -> dict[str, Any]:
        key = (contender.name, at.form, at.batch)
        if key not in self._requests:
            form = contender.forms[at.form]
            body = form.body(self._subject.inputs(rows=at.batch))
            head = _head(form.path, body, port=port)
            path = self._folder / f"{contender.name}-{at.form}-{at.batch}"
            path.write_bytes(head + body.data)
            self._requests[key] = {"request_file": str(path), "mark_at": len(head) + body.mark_at, "mark_kind": body.mark_kind}
        return self._requests[key]


def _head(path: str, body: Body, *, port: int) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{port}", f"content-length: {len(body.data)}"]
    lines += [f"{name}: {value}" for name, value in body.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


class Field:
    """Everybody who was started, and what is known about who was not."""

    def __init__(self, subject: Subject, *, folder: Path, device: str = "cpu") -> None:
        """``folder`` takes everybody's files."""
        self.running: dict[str, Running] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self._subject, self._folder, self._device = subject, folder, device

    def start(self, contenders: Sequence[Contender], *, say: Say) -> None:
        """Start them one after the other; each is compared with the model itself and then stopped in time."""
        asked = self._subject.inputs(rows=3)
        wanted = self._subject.answers(asked)
        for contender in contenders:
            facts = self.facts[contender.name] = _facts(contender)
            reason = missing(contender)
            if contender.behind is not None and contender.behind not in self.running:
                reason = f"{contender.behind} does not run"
            if reason is None:
                reason = self._start(contender, asked, wanted)
            facts |= {"status": "skipped", "reason": reason} if reason else {"status": "measured"}
            say(f"{contender.title}: {reason or f'started in {self.running[contender.name].startup_seconds:.1f} s'}")

    def _start(self, contender: Contender, asked: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
        behind = self.running.get(contender.behind) if contender.behind else None
        if behind is not None:
            behind.__enter__()
        try:
            running = launch(contender, self._subject, folder=self._folder / contender.name, behind=behind, device=self._device)
        except (ContenderError, OSError, subprocess.CalledProcessError) as error:
            if behind is not None:
                behind.__exit__()
            return f"{error}"
        self.running[contender.name] = running
        with running:
            try:
                difference = compare(running, self._subject, dict(asked), dict(wanted))
            except (ContenderError, OSError, HTTPException) as error:
                self.running.pop(contender.name).tree.kill()
                return f"{type(error).__name__}: {error}"
        self.facts[contender.name] |= {
            "startup_seconds": round(running.startup_seconds, 2),
            "largest_difference": difference,
            "memory_start": running.memory_start,
        }
        if contender.kind == PEER:
            self.facts[contender.name]["version"] = version(contender)
        return None

    def trouble(self, name: str, reason: str) -> None:
        """Note that ``name`` gave no figure; leave it out from now on when it has ended."""
        self.facts[name].setdefault("problems", []).append(reason)
        if not self.running[name].tree.alive:
            self.facts[name] |= {"status": "failed", "reason": reason}
            self.running.pop(name).tree.kill()

    def weigh(self) -> None:
        """Note everybody's memory."""
        for name, running in self.running.items():
            self.facts[name]["memory_after_load"] = running.tree.memory()

    def drain(self, speeds: Mapping[str, float], *, plan: Plan, say: Say) -> None:
        """End everybody with requests in flight, gateways first. ``speeds``: rows a second by name."""
        for name in sorted(self.running, key=lambda name: self.running[name].contender.kind != GATEWAY):
            running = self.running[name]
            with running:
                drained = self.facts[name]["drain"] = _drain(running, self._subject, speed=speeds.get(name, 0.0), plan=plan)
            say(f"{running.contender.title}: drain {drained}")
            running.tree.kill()

    def close(self) -> None:
        """End whoever still runs."""
        for running in self.running.values():
            running.tree.kill()


def _facts(contender: Contender) -> dict[str, Any]:
    return {
        "title": contender.title,
        "kind": contender.kind,
        "workers": contender.workers,
        "backend": contender.backend.name,
        "behind": contender.behind,
        "as_deployed": contender.as_deployed,
        "note": contender.note,
    }


def _drain(running: Running, subject: Subject, *, speed: float, plan: Plan) -> dict[str, Any]:
    """Requests that take about a second together, SIGTERM while they are under way."""
    rows = max(plan.drain_rows, min(512, int(speed / plan.drain_requests) // 64 * 64))
    form = running.contender.forms[BINARY]
    body = form.body(subject.inputs(rows=rows))
    ended: list[float] = []
    lock = threading.Lock()

    def one() -> bool:
        try:
            good = ask(running.port, form.path, body)[0] == 200
        except (OSError, HTTPException):
            good = False
        with lock:
            ended.append(time.monotonic())
        return good

    with ThreadPoolExecutor(plan.drain_requests) as pool:
        asked = [pool.submit(one) for _ in range(plan.drain_requests)]
        time.sleep(_DRAIN_AFTER_SECONDS)
        told = time.monotonic()
        running.tree.terminate()
        gone = running.tree.wait_gone(_STOP_SECONDS)
        left = len(running.tree.processes())
        running.tree.kill()
        answered = sum(future.result() for future in asked)
    return {
        "requests": plan.drain_requests,
        "rows": rows,
        "answered": answered,
        "in_flight": sum(at > told for at in ended),
        "seconds_to_end": None if gone is None else round(gone, 2),
        "processes_left": left,
    }


def rounds(field: Field, limits: Mapping[str, Limit], load: Load, *, plan: Plan, say: Say) -> list[Sample]:
    """Return every sample: at each point the limits and everybody who takes part, one after the other; in every second round backwards."""
    samples: list[Sample] = []
    slow: set[tuple[str, Point]] = set()
    for turn in range(plan.rounds):
        for at in plan.points:
            if turn >= plan.rounds_of(at):
                continue
            entrants = [f"limit-{name}" for name in limits] if at.form == BINARY else []
            entrants += [name for name, running in field.running.items() if running.contender.takes_part(at)]
            for name in entrants if turn % 2 == 0 else reversed(entrants):
                if (name, at) in slow or (name not in field.running and not name.startswith("limit-")):
                    continue
                began = time.monotonic()
                sample = _sample(name, at, field, limits, load, plan=plan)
                if sample is None:
                    slow.add((name, at))
                    say(f"round {turn + 1}, {at.name}, {name}: {field.facts[name]['problems'][-1]}")
                    continue
                samples.append({"round": turn + 1, "contender": name, "point": at.name, **sample})
                if time.monotonic() - began > SLOW_SECONDS:
                    slow.add((name, at))
                say(f"round {turn + 1}, {at.name}, {name}: {_words(sample)}")
    return samples


def _sample(name: str, at: Point, field: Field, limits: Mapping[str, Limit], load: Load, *, plan: Plan) -> Sample | None:
    best: Sample | None = None
    for _ in range(1 + plan.repeats):
        try:
            sample = _measure(name, at, field, limits, load, plan=plan)
        except (ContenderError, OSError) as error:
            field.trouble(name, f"at {at.name}: {error}")
            return best
        if best is None or sample["others_cores"] < best["others_cores"]:
            best = sample
        if best["others_cores"] <= OTHERS_CORES:
            break
    return best


def _measure(name: str, at: Point, field: Field, limits: Mapping[str, Limit], load: Load, *, plan: Plan) -> Sample:
    seconds = plan.window(at)
    if name.startswith("limit-"):
        limit = limits[name.removeprefix("limit-")]
        return limit.measure(batch=at.batch, callers=at.concurrency, warm_seconds=plan.warm_seconds, seconds=seconds)
    with field.running[name] as running:
        return load.measure(running, at, warm_seconds=plan.warm_seconds, seconds=seconds)


def _words(sample: Sample) -> str:
    failed = f", FAILED {sample['failed']}" if sample["failed"] else ""
    noise = f", others {sample['others_cores']:.1f} cores" if sample["others_cores"] > OTHERS_CORES else ""
    return f"{sample['rows_per_second']:.0f} spectra/s, p50 {sample['p50_ms']:.1f} ms, p99 {sample['p99_ms']:.1f} ms{failed}{noise}"


def cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0))
