"""One thread that owns the model: it loads it, vouches for it, and answers one job after the other.

The event loop never waits for a number to be computed. The queue is bounded in jobs and in bytes, because a queue that
grows answers everybody too late. One worker with one torch thread: two OpenMP threads beside another process fell from 250 to
10 spectra per second (design/serving.md). Jobs lie in the queue as arrays, so that a later batcher can take several at once.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from firstlight.errors import FirstlightError
from serving import signature as signatures
from serving.errors import ModelRefusedError, NotReadyError, OverloadedError
from serving.signature import Signature
from serving.tensors import Array

if TYPE_CHECKING:
    from models.document import InputSpec, OutputSpec
    from models.program import Program

_LOG = logging.getLogger(__name__)


class State(StrEnum):
    """Where a version is on its way to answering."""

    LOADING = "loading"
    """Being verified, loaded and replayed."""
    READY = "ready"
    """The golden vectors came out again."""
    REFUSED = "refused"
    """Cannot be vouched for; stays so until the process ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model that was verified and replayed."""

    name: str
    model_digest: str
    signature: Signature
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True, slots=True)
class _Job:
    inputs: Mapping[str, Array]
    size: int
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Mapping[str, Array]]"


class Engine:
    """Answers with the model that ``load`` returns, from the moment it returned."""

    def __init__(self, load: Callable[[], Loaded], *, queue_jobs: int = 64, queue_bytes: int = 256 << 20) -> None:
        """``load`` runs in the worker thread; when it raises, the engine is refused for good."""
        self.state, self.reason = State.LOADING, "the model is being verified and loaded"
        self.loaded: Loaded | None = None
        self._load, self._queue_bytes = load, queue_bytes
        self._jobs: queue.Queue[_Job | None] = queue.Queue(queue_jobs)
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start loading."""
        self._thread.start()

    def stop(self, *, timeout: float = 5.0) -> None:
        """Let the worker finish what waits and end."""
        if self._thread.is_alive() and self.state is State.READY:
            self._jobs.put(None)
            self._thread.join(timeout)

    @property
    def depth(self) -> int:
        """Jobs that wait."""
        return self._jobs.qsize()

    def model(self) -> Loaded:
        """Return the model. Raises NotReadyError while there is none, with the reason."""
        if self.state is not State.READY or self.loaded is None:
            raise NotReadyError(self.reason)
        return self.loaded

    async def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the outputs for ``inputs`` that fit the signature. Raises OverloadedError when too much waits, ProtocolError on NaN input."""
        loop = asyncio.get_running_loop()
        job = _Job(inputs, sum(array.nbytes for array in inputs.values()), loop, loop.create_future())
        self._enqueue(job)
        return await job.answer

    def _enqueue(self, job: _Job) -> None:
        with self._lock:
            if self._waiting_bytes and self._waiting_bytes + job.size > self._queue_bytes:
                raise OverloadedError(f"at most {self._queue_bytes} bytes of inputs may wait, try again in a second")
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                raise OverloadedError(f"at most {self._jobs.maxsize} requests may wait, try again in a second") from None
            self._waiting_bytes += job.size

    def _run(self) -> None:
        try:
            self.loaded = self._load()
        except FirstlightError as error:
            self.state, self.reason = State.REFUSED, str(error)
        except Exception as error:
            self.state, self.reason = State.REFUSED, f"the model could not be loaded: {type(error).__name__}: {error}"
        else:
            self.state, self.reason = State.READY, ""
        _LOG.info("model is %s %s", self.state, self.reason)
        while self.loaded is not None and (job := self._jobs.get()) is not None:
            self._answer(job, run=self.loaded.run)

    def _answer(self, job: _Job, *, run: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> None:
        with self._lock:
            self._waiting_bytes -= job.size
        if job.answer.cancelled():
            return
        try:
            signatures.check_finite(job.inputs)
            outputs = run(job.inputs)
        except Exception as error:
            _settle(job, error=error)
            return
        _settle(job, outputs=outputs)


def warm() -> None:
    """Import everything that :func:`verify` and the first request need: seconds of it, nearly all in torch's archive reader."""
    import pandas  # noqa: F401
    import uvicorn  # noqa: F401

    import serving.model_server
    import serving.recorder  # noqa: F401


def verify(folder: str, *, name: str, model_digest: str | None, handoff_digest: str | None, threads: int = 1) -> Loaded:
    """Load the hand-off in ``folder`` and replay its golden vectors. Raises ModelRefusedError when anything does not fit.

    The digests are those the registry knows: a folder that agrees with itself but not with them was exchanged.
    """
    from firstlight.verdict import Verdict
    from models.golden import replay
    from models.handoff import load
    from models.program import Program

    handoff = load(folder)
    for what, wanted, found in (
        ("model name", name, handoff.name),
        ("model digest", model_digest, handoff.model_digest),
        ("hand-off digest", handoff_digest, handoff.digest),
    ):
        if wanted is not None and wanted != found:
            raise ModelRefusedError(f"the {what} of {folder} must be {wanted}, got {found}: restore the folder that was registered")
    program = Program.load(handoff, threads=threads)
    report = replay(program, handoff)
    if report.verdict is not Verdict.PASS:
        raise ModelRefusedError(f"the golden vectors of {folder} must come out again: {'; '.join(report.reasons) or report.verdict}")
    return Loaded(name=handoff.name, model_digest=handoff.model_digest, signature=_signature(program), run=program)


def _signature(program: "Program") -> Signature:
    return Signature(inputs=tuple(map(_spec, program.inputs)), outputs=tuple(map(_spec, program.outputs)))


def _spec(spec: "InputSpec | OutputSpec") -> signatures.TensorSpec:
    return signatures.TensorSpec(name=spec.name, dtype=spec.dtype, shape=tuple(spec.shape))


def _settle(job: _Job, *, outputs: Mapping[str, Array] | None = None, error: Exception | None = None) -> None:
    def set_answer() -> None:
        if job.answer.done():
            return
        if error is not None:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(outputs or {})

    # A loop that is already closed has no caller left to tell.
    if not job.loop.is_closed():
        job.loop.call_soon_threadsafe(set_answer)
