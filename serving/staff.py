"""Those who compute, as the engine sees them: who is there, what each is given, and what comes back. And a staff of threads.

Threads are for a model that is a Python function (a test, a notebook). A model server's staff is processes (:mod:`serving.process_staff`).
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from firstlight.errors import FirstlightError, RefusedError
from serving import paperwork
from serving import signature as signatures
from serving.arena import Arena
from serving.job import Chore, Part
from serving.signature import Signature
from serving.tensors import Array
from serving.tracing import log_fields_of

_LOG = logging.getLogger(__name__)

Result = Mapping[str, Array] | RefusedError
"""What one part of a batch got: a refusal of just this part, or outputs by name. Those of a part that is a whole job are arrays of their own;
those of another part belong to the worker and are gone when ``finished`` returns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model that was verified; ``run`` only where it runs in this process."""

    name: str
    model_digest: str
    signature: Signature
    data_class: str = "Public-Internal"
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None


class Worker(Protocol):
    """Somebody who computes one batch at a time."""

    backend: str
    device: str
    note: str
    """Empty unless the model is not run in the way that was asked for."""

    def give(self, parts: Sequence[Part]) -> None:
        """Take a batch; never blocks. ``finished``, ``failed`` or ``lost`` is called later."""
        ...

    def do(self, chore: Chore) -> None:
        """Take a chore; never blocks. ``done`` or ``undone`` is called later."""
        ...


class Listener(Protocol):
    """The engine, as a staff sees it. Everything is called in the event loop."""

    def opened(self, loaded: Loaded) -> None:
        """Say what the model is."""
        ...

    def refused(self, reason: str) -> None:
        """Say that the model cannot be vouched for; final."""
        ...

    def joined(self, worker: Worker) -> None:
        """Present a worker that vouched for its model."""
        ...

    def finished(self, worker: Worker, parts: Sequence[Part], results: Sequence[Result], seconds: float) -> None:
        """Bring the results of a batch, which took ``seconds`` to compute."""
        ...

    def failed(self, worker: Worker, parts: Sequence[Part], why: str) -> None:
        """Say that the model failed on a batch; the worker is well."""
        ...

    def done(self, worker: Worker, chore: Chore, report: dict[str, Any]) -> None:
        """Bring the report on a chore."""
        ...

    def undone(self, chore: Chore) -> None:
        """Say that the worker that had ``chore`` is lost; ``lost`` follows."""
        ...

    def lost(self, worker: Worker, parts: Sequence[Part], why: str) -> None:
        """Say that a worker is gone, and what it was given and did not answer."""
        ...


class Staff(Protocol):
    """Opens the model, hires workers, and replaces those that are lost."""

    arena: Arena

    def start(self, listener: Listener) -> None:
        """Begin; call it in the event loop."""
        ...

    def stop(self) -> None:
        """End every worker."""
        ...


class Threads:
    """Workers that are threads of this process."""

    def __init__(self, load: Callable[[], Loaded], *, workers: int = 1, arena: Arena | None = None) -> None:
        """``load`` runs in the first worker's thread; when it raises, the model is refused for good."""
        self.arena = arena or Arena(span=1 << 30, hot_bytes=1 << 20)
        self._load, self._count = load, workers
        self._workers: list[_Thread] = []

    def start(self, listener: Listener) -> None:
        """Load the model, then hire all workers."""
        loop = asyncio.get_running_loop()

        def begin() -> None:
            try:
                loaded = self._load()
                assert loaded.run is not None
            except Exception as error:
                _LOG.warning("the model is refused", exc_info=error)
                sentence = (
                    str(error) if isinstance(error, FirstlightError) else f"the model could not be loaded: {type(error).__name__}: {error}"
                )
                _tell(loop, listener.refused, sentence)
                return
            _tell(loop, self._hire, loaded, listener)

        threading.Thread(target=begin, name="load", daemon=True).start()

    def stop(self) -> None:
        """End every worker once it is done with what it has."""
        for worker in self._workers:
            worker.jobs.put(None)

    def _hire(self, loaded: Loaded, listener: Listener) -> None:
        listener.opened(loaded)
        for _ in range(self._count):
            worker = _Thread(loaded, listener, memory=self.arena.memory)
            self._workers.append(worker)
            listener.joined(worker)


class _Thread:
    backend, device, note = "python", "cpu", ""

    def __init__(self, loaded: Loaded, listener: Listener, *, memory: memoryview) -> None:
        assert loaded.run is not None
        self._memory = memory
        self.jobs: queue.SimpleQueue[Sequence[Part] | Chore | None] = queue.SimpleQueue()
        self._run, self._listener, self._loop = loaded.run, listener, asyncio.get_running_loop()
        threading.Thread(target=self._work, name="worker", daemon=True).start()

    def give(self, parts: Sequence[Part]) -> None:
        self.jobs.put(parts)

    def do(self, chore: Chore) -> None:
        self.jobs.put(chore)

    def _work(self) -> None:
        while (parts := self.jobs.get()) is not None:
            if isinstance(parts, Chore):
                _tell(self._loop, self._listener.done, self, parts, paperwork.perform(self._memory, parts.order))
                continue
            began = time.perf_counter()
            try:
                results = [self._result(part) for part in parts]
            except Exception as error:
                _LOG.warning("the model failed", exc_info=error, extra=log_fields_of(part.job.about for part in parts))
                _tell(self._loop, self._listener.failed, self, parts, f"{type(error).__name__}: {error}")
                continue
            _tell(self._loop, self._listener.finished, self, parts, results, time.perf_counter() - began)

    def _result(self, part: Part) -> Result:
        inputs = part.inputs()
        try:
            signatures.check_finite(inputs)
        except RefusedError as error:
            return error
        return self._run(inputs)


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *values: object) -> None:
    # A loop that is already closed has nobody left to tell.
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *values)
