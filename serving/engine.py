"""Who computes what, and when: a bounded queue in front of workers, in the event loop, which itself never computes.

Batches form without a timer: an idle worker gets what waits at once, so a lone request waits for nobody, and requests that come while all
workers compute go together in the next batch. A worker takes only its share of what waits, so that its colleagues find something too.
A request of many rows is cut over idle workers, and takes turns with others when there are none.
Every request has a deadline; rows that were not begun by then are never computed. What a lost worker had is tried once more, alone.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

from serving.arena import Arena, Budget, Held
from serving.errors import DeadlineError, ModelFailedError, NotReadyError, OverloadedError
from serving.job import Chore, Job, Part
from serving.staff import Loaded, Result, Staff, Worker
from serving.tensors import Array
from serving.tracing import NOTHING, Span, current, log_fields_of

__all__ = ["Engine", "Loaded", "Observer", "State"]

_LOG = logging.getLogger(__name__)
_LEAST_ROWS = 4
"""A request is not cut into less: the hop to a worker costs as much as a row."""
_MOST_ROWS = 64
"""No part is larger: longer batches gain nothing on a processor, and everybody behind them waits."""
_TRIES = 2
_ALONE_SECONDS = 5.0


class State(StrEnum):
    """Where a version is on its way to answering."""

    LOADING = "loading"
    """Being verified, loaded and replayed; or every worker is lost and none is back yet."""
    READY = "ready"
    """The golden vectors came out again, and somebody is there who computes."""
    REFUSED = "refused"
    """Cannot be vouched for; stays so until the process ends."""


class Observer(Protocol):
    """Who counts."""

    def batch(self, *, rows: int, seconds: float) -> None:
        """Count one forward pass."""
        ...

    def restarted(self) -> None:
        """Count a worker that was lost."""
        ...


class Engine:
    """Answers with the workers of ``staff``."""

    def __init__(
        self, staff: Staff, *, queue_requests: int = 256, queue_bytes: int = 256 << 20, batch_rows: int = 32, wait_seconds: float = 30.0
    ) -> None:
        """``batch_rows`` is the most that requests are put together to; ``wait_seconds`` the deadline of those that name none."""
        self.reason = "the model is being verified and loaded"
        self.loaded: Loaded | None = None
        self.workers: list[Worker] = []
        self.budget = Budget(queue_bytes)
        self.observer: Observer | None = None
        self._staff, self._queue_requests, self._batch_rows, self.wait_seconds = staff, queue_requests, batch_rows, wait_seconds
        self._refused = False
        self._idle: list[Worker] = []
        self._waiting: deque[Job] = deque()
        self._again: deque[Part] = deque()
        self._chores: deque[Chore] = deque()
        self._depth = self._rows_waiting = self._rows_running = 0
        self._alone_since = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def arena(self) -> Arena:
        """The memory that bodies arrive in."""
        return self._staff.arena

    @property
    def state(self) -> State:
        """Return where the version is now."""
        if self._refused:
            return State.REFUSED
        if self.loaded is None or self._loop is None:
            return State.LOADING
        present = bool(self.workers) or (self._alone_since and self._loop.time() - self._alone_since < _ALONE_SECONDS)
        return State.READY if present else State.LOADING

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return self._depth

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being computed."""
        return self._depth > 0 or len(self._idle) < len(self.workers)

    def start(self) -> None:
        """Start loading; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._staff.start(self)

    def stop(self) -> None:
        """End the workers."""
        self._staff.stop()

    def hold(self) -> Held:
        """Return the holder of one request's memory."""
        return Held(self.arena, self.budget)

    def model(self) -> Loaded:
        """Return the model. Raises NotReadyError while there is none, with the reason."""
        if self.state is not State.READY or self.loaded is None:
            raise NotReadyError(self.reason)
        return self.loaded

    async def infer(
        self,
        inputs: Mapping[str, Array],
        *,
        rows: int,
        names: Sequence[str] | None = None,
        deadline: float | None = None,
        held: Held | None = None,
        gone: Callable[[], bool] | None = None,
        span: Span = NOTHING,
    ) -> Mapping[str, Array]:
        """Return the outputs ``names`` (None: all) for ``inputs`` that fit the signature: arrays of their own, [rows, ...] each.

        ``deadline`` is on the event loop's clock. Raises OverloadedError when too much waits, DeadlineError when it was not computed in time,
        ProtocolError on NaN input, ModelFailedError when the model failed or two workers were lost over it.
        """
        assert self._loop is not None
        loaded = self.model()
        outputs = [spec for spec in loaded.signature.outputs if names is None or spec.name in names]
        until = self._loop.time() + self.wait_seconds if deadline is None else deadline
        job = Job(inputs, outputs, rows, until, held, self._loop.create_future(), gone, span, about=current())
        if span is not NOTHING:
            job.came = time.time()
        self._enqueue(job)
        try:
            return await job.answer
        finally:
            self._leave(job)
            if job.timer is not None:
                job.timer.cancel()

    async def do(self, order: dict[str, Any], *, held: Held, deadline: float) -> dict[str, Any]:
        """Let a worker do what ``order`` says (:mod:`serving.paperwork`) and return its report, in memory of ``held``.

        Raises DeadlineError, and ModelFailedError when two workers were lost over it.
        """
        assert self._loop is not None
        chore = Chore(order, held, self._loop.create_future())
        held.keep()
        self._chores.append(chore)
        self._dispatch()
        try:
            async with asyncio.timeout_at(deadline):
                return await chore.answer
        except TimeoutError:
            raise DeadlineError("the answer must be there by the request's deadline, its JSON took longer") from None
        finally:
            chore.answer.cancel()

    def done(self, worker: Worker, chore: Chore, report: dict[str, Any]) -> None:
        """Hear what came of a chore."""
        chore.held.drop()
        if not chore.answer.done():
            chore.answer.set_result(report)
        self._idle.append(worker)
        self._dispatch()

    def undone(self, chore: Chore) -> None:
        """Hear that the worker that had ``chore`` is gone."""
        chore.tries += 1
        if chore.tries < _TRIES:
            self._chores.appendleft(chore)
            return
        chore.held.drop()
        if not chore.answer.done():
            chore.answer.set_exception(ModelFailedError("two workers were lost over this request; the server's log has the reason"))

    def opened(self, loaded: Loaded) -> None:
        """Hear what the model is."""
        self.loaded = loaded

    def refused(self, reason: str) -> None:
        """Hear that the model cannot be vouched for."""
        self._refused, self.reason = True, reason
        _LOG.error("model is refused: %s", reason)
        for job in list(self._waiting):
            self._settle(job, NotReadyError(reason))

    def joined(self, worker: Worker) -> None:
        """Hear of a worker that can begin."""
        self.workers.append(worker)
        self._idle.append(worker)
        self.reason = ""
        if len(self.workers) == 1:
            _LOG.info("model is ready", extra={"backend": worker.backend, "device": worker.device, "note": worker.note})
        self._dispatch()

    def finished(self, worker: Worker, parts: Sequence[Part], results: Sequence[Result], seconds: float) -> None:
        """Hear what came out of a batch."""
        if self.observer is not None:
            self.observer.batch(rows=sum(part.rows for part in parts), seconds=seconds)
        for part, result in zip(parts, results, strict=True):
            self._returned(part)
            job = part.job
            if job.span is not NOTHING:
                _trace(job, seconds=seconds, rows=part.rows)
            if job.answer.done():
                continue
            if isinstance(result, Exception):
                self._settle(job, result)
                continue
            job.take(part, result)
            if job.open == 0 and job.rest == 0:
                self._settle(job)
        self._idle.append(worker)
        self._dispatch()

    def failed(self, worker: Worker, parts: Sequence[Part], why: str) -> None:
        """Hear that the model failed on a batch: each part is tried alone, so that one bad request fails alone."""
        _LOG.warning("the model failed: %s", why, extra=log_fields_of(part.job.about for part in parts))
        for part in parts:
            self._returned(part)
            if len(parts) == 1:
                self._settle(part.job, ModelFailedError("the model failed on this request; the server's log has the reason"))
            else:
                self._again.append(part)
        self._idle.append(worker)
        self._dispatch()

    def lost(self, worker: Worker, parts: Sequence[Part], why: str) -> None:
        """Hear that a worker is gone: what it had is tried once more, alone."""
        if worker in self.workers:
            assert self._loop is not None
            self.workers.remove(worker)
            self._alone_since = 0.0 if self.workers else self._loop.time()
            self.reason = "" if self.workers else f"every worker is lost and none is back yet: {why}"
            if self.observer is not None:
                self.observer.restarted()
        if worker in self._idle:
            self._idle.remove(worker)
        if parts:
            _LOG.warning("a worker was lost over a batch: %s", why, extra=log_fields_of(part.job.about for part in parts))
        for part in parts:
            self._returned(part)
            part.tries += 1
            if part.tries < _TRIES:
                self._again.append(part)
            else:
                self._settle(part.job, ModelFailedError("two workers were lost over this request; the server's log has the reason"))
        self._dispatch()

    def _enqueue(self, job: Job) -> None:
        assert self._loop is not None
        if self._depth >= self._queue_requests and not self._idle:
            raise OverloadedError(f"at most {self._queue_requests} requests may wait, try again in a second")
        if job.deadline <= self._loop.time():
            raise DeadlineError("the deadline of the request must be in the future, it has passed")
        if len(self._waiting) > 2 * self._depth + 64:  # those who gave up are skipped when their turn comes; not too many of them
            self._waiting = deque(kept for kept in self._waiting if kept.waiting)
        self._waiting.append(job)
        job.waiting = True
        self._depth += 1
        self._rows_waiting += job.rows
        job.timer = self._loop.call_at(job.deadline, self._expire, job)
        self._dispatch()

    def _expire(self, job: Job) -> None:
        if not job.answer.done():
            self._settle(
                job, DeadlineError(f"the answer must be there by the request's deadline, {job.rest} of {job.rows} rows were not begun")
            )

    def _dispatch(self) -> None:
        while self._idle and self._chores:  # first: a request whose body is not read yet has waited as long as those in the queue
            chore = self._chores.popleft()
            if chore.answer.done():
                chore.held.drop()
            else:
                self._idle.pop().do(chore)
        while self._idle and (parts := self._batch()):
            for part in parts:
                part.job.open += 1
                self._rows_running += part.rows
                if part.job.held is not None:
                    part.job.held.keep()
            worker = self._idle.pop()
            try:
                worker.give(parts)
            except OverloadedError as error:
                for part in parts:
                    self._returned(part)
                    self._settle(part.job, error)
                self._idle.append(worker)

    def _batch(self) -> list[Part]:
        """Return what the next idle worker is to compute; [] when nothing waits."""
        while self._again:
            part = self._again.popleft()
            if not part.job.answer.done():
                return [part]
        share = self._share()
        parts: list[Part] = []
        rows = 0
        while (job := self._head()) is not None:
            if parts and rows + job.rest > share:
                break
            part = job.cut(self._cut(job.rest))
            self._rows_waiting -= part.rows
            parts.append(part)
            rows += part.rows
            if job.rest == 0:
                self._waiting.popleft()
                self._leave(job)
            else:  # the rest comes after those who wait behind it
                self._waiting.rotate(-1)
                break
            if rows >= share:
                break
        return parts

    def _share(self) -> int:
        """A fair part of all rows that are here, so that the next worker to become idle finds as much as this one."""
        here = self._rows_waiting + self._rows_running
        return min(self._batch_rows, max(1, -(-here // max(1, len(self.workers)))))

    def _cut(self, rest: int) -> int:
        """How many of ``rest`` rows of one request the next worker gets."""
        idle = len(self._idle) if self._depth == 1 else 1
        return min(rest, _MOST_ROWS, max(_LEAST_ROWS, -(-rest // idle)))

    def _head(self) -> Job | None:
        """Return the first that still wants an answer."""
        while self._waiting:
            job = self._waiting[0]
            if job.waiting and job.gone is not None and job.gone():
                self._settle(job, DeadlineError("the caller left"))
            if job.waiting and not job.answer.done():
                return job
            self._waiting.popleft()
            self._leave(job)
        return None

    def _leave(self, job: Job) -> None:
        if job.waiting:
            job.waiting = False
            self._depth -= 1
            self._rows_waiting -= job.rest

    def _returned(self, part: Part) -> None:
        part.job.open -= 1
        self._rows_running -= part.rows
        if part.job.held is not None:
            part.job.held.drop()

    def _settle(self, job: Job, error: Exception | None = None) -> None:
        if job.answer.done():
            return
        self._leave(job)
        if error is not None:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(job.found or {})


def _trace(job: Job, *, seconds: float, rows: int) -> None:
    now = time.time()
    job.span.record("queue", began=job.came, ended=max(job.came, now - seconds))
    job.span.record("compute", began=max(job.came, now - seconds), ended=now, rows=rows)
