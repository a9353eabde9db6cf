"""The worker processes of a scoring run: hired, given units of work, heard, and replaced or done without when they die."""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from firstlight.errors import RefusedError
from models.errors import HandOffError
from models.scored_parts import Piece
from models.scoring_worker import Post, Unit

_AHEAD = 2
"""Units a worker has at once: one it works on, one it finds when that is done."""
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
"""Of a worker: one thread, and a heap that keeps the memory of arrays for the next ones. By default glibc gives it back to the kernel, which
then hands it out page by page: a tenth of the processor's time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """A worker has seen how many rows the file of a unit has."""

    unit: Unit
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The part of a unit is there."""

    unit: Unit
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """A worker died."""

    blamed: Unit | None
    """What it was working on."""
    returned: tuple[Unit, ...]
    """What else it had."""
    why: str


Event = Told | Finished | Lost


@dataclass(slots=True, eq=False)
class _Worker:
    process: "subprocess.Popen[bytes]"
    log: Path
    units: dict[int, Unit] = field(default_factory=dict)
    begun: int | None = None
    heard: bytes = b""
    backend: str | None = None
    """None until it is ready."""


class Crew:
    """A context in which worker processes live; they die with it, and with this process."""

    def __init__(self, post: Post, *, size: int, folder: Path) -> None:
        """Name the work; ``folder`` is for what the workers print. Nobody is hired yet."""
        self._post, self._size, self._folder = post, size, folder
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._numbers = iter(range(1 << 62))
        self.backend = ""
        """What all of them run the model with; known once they are ready."""
        self.instead = ""
        """Why that is not the backend that was wanted."""

    def __enter__(self) -> Self:
        """Hire them, and wait until all are ready. Raises HandOffError when they refuse the model."""
        try:
            for _ in range(self._size):
                self._hire()
            while any(worker.backend is None for worker in self._workers):
                for event in self.wait():
                    raise HandOffError(f"a process that scores must start, it does not: {getattr(event, 'why', event)}")
        except BaseException:
            self._dismiss()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Dismiss them, whatever they are doing."""
        self._dismiss()

    @property
    def busy(self) -> bool:
        """Whether anybody has anything to do."""
        return any(worker.units for worker in self._workers)

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids."""
        return [worker.process.pid for worker in self._workers]

    def offer(self, units: "deque[Unit]", *, most: int | None = None) -> None:
        """Give the first of ``units`` to those who have least to do; with ``most``, only as long as fewer than so many are out."""
        while units and (most is None or sum(len(worker.units) for worker in self._workers) < most):
            worker = min(self._workers, key=lambda one: len(one.units))
            # what one has waiting another cannot take: near the end nothing waits
            if len(worker.units) >= (_AHEAD if len(units) > 2 * len(self._workers) else 1):
                return
            number, unit = next(self._numbers), units.popleft()
            worker.units[number] = unit
            self._tell(worker, {"number": number, "unit": asdict(unit)})

    def wait(self, seconds: float | None = None) -> Iterator[Event]:
        """Yield what happened since, waiting for the first. Raises what a worker refused to do: no room, or another model."""
        for key, _ in self._selector.select(seconds):
            worker: _Worker = key.data
            data = os.read(key.fd, 1 << 16)
            if not data:
                yield self._lost(worker)
                continue
            *lines, worker.heard = (worker.heard + data).split(b"\n")
            for line in lines:
                if (event := self._heard(worker, json.loads(line))) is not None:
                    yield event

    def _heard(self, worker: _Worker, line: dict[str, Any]) -> Event | None:
        if "failed" in line:
            raise (RefusedError if line["failed"] == "RefusedError" else HandOffError)(line["why"])
        if "ready" in line:
            worker.backend, self.instead = line["ready"], line["instead"]
            if self.backend and worker.backend != self.backend:
                raise RefusedError(f"all scores of a run must come from one backend, found {self.backend} and {worker.backend}: run again")
            self.backend = line["ready"]
            return None
        if "begun" in line:
            worker.begun = line["begun"]
            return None
        if "total" in line:
            return Told(unit=worker.units[line["unit"]], total=line["total"])
        return Finished(unit=worker.units.pop(line["unit"]), pieces=tuple(Piece(**piece) for piece in line["pieces"]))

    def _lost(self, worker: _Worker) -> Lost:
        """Take a dead worker off the list. One that the system killed is not replaced while others live: it was one too many."""
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        self._workers.remove(worker)
        code = worker.process.wait()
        why = f"signal {-code}" if code < 0 else _last_line(worker.log) or f"exit code {code}"
        _close(worker)
        blamed = worker.units.pop(worker.begun, None) if worker.begun is not None else None
        ready = worker.backend is not None
        if ready and (code != -signal.SIGKILL or not self._workers):
            self._hire()
        if not self._workers:
            raise RefusedError(f"a process that scores must start, it ended before it was ready ({why}): is there memory for it?")
        return Lost(blamed=blamed, returned=tuple(worker.units.values()), why=why)

    def _hire(self) -> None:
        log = self._folder / f".worker-{next(self._numbers)}.log"
        with open(log, "wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "models.scoring_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env={**os.environ, **ENVIRONMENT},
            )
        worker = _Worker(process=process, log=log)
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        self._tell(worker, asdict(self._post))

    def _tell(self, worker: _Worker, order: dict[str, Any]) -> None:
        assert worker.process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead, and its end is the next thing we hear of it
            worker.process.stdin.write(json.dumps(order).encode() + b"\n")
            worker.process.stdin.flush()

    def _dismiss(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            _close(worker)
        self._workers.clear()
        self._selector.close()


def _close(worker: _Worker) -> None:
    for stream in (worker.process.stdin, worker.process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):  # what was not written yet is for nobody
                stream.close()


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
