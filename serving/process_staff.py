"""Workers that are processes, hired from a nursery: what the HTTP process does to start them, feed them, hear them and replace them."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from serving.arena import Arena, Piece
from serving.channel import Channel
from serving.errors import ProtocolError
from serving.job import Chore, Part
from serving.nursery import Order
from serving.signature import Signature, TensorSpec
from serving.staff import Listener, Loaded, Result
from serving.tensors import Array
from serving.tracing import log_fields_of

_LOG = logging.getLogger(__name__)
_BACKOFF_SECONDS = (0.0, 0.1, 0.5, 2.0, 5.0)
_STEADY_SECONDS = 30.0
_HANG_SECONDS = 120.0
_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


class Nursery:
    """The nursery process, from outside."""

    def __init__(self, *, standby: bool = False) -> None:
        """Start it; on ``standby`` it imports what a model needs before it is told which."""
        self.channel, theirs = Channel.pair()
        command = [sys.executable, "-m", "serving", "nursery", "--descriptor", str(theirs.fileno()), *(["--standby"] if standby else [])]
        self._process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, **_THREADS}
        )
        theirs.close()

    def close(self) -> None:
        """Let it end: it does when its socket closes."""
        self.channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(2)

    def code(self) -> int:
        """Wait for its end and return its exit code, negative for a signal."""
        self.channel.close()
        return self._process.wait(5)


class Processes:
    """The staff of a model server."""

    def __init__(self, order: Order, *, workers: int, arena: Arena, nursery: Nursery | None = None) -> None:
        """Hire ``workers`` for the model of ``order``; ``nursery`` is one that was warmed before."""
        self.arena = arena
        self._order, self._count = order, workers
        self._nursery: Nursery | None = nursery or Nursery()
        self._listener: Listener | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loaded: Loaded | None = None
        self._present: set[_Process] = set()
        self._failures, self._last_failure = 0, 0.0
        self._stopped = False

    def start(self, listener: Listener) -> None:
        """Open the model, then hire."""
        self._listener, self._loop = listener, asyncio.get_running_loop()
        self._enter(self._nursery or Nursery())

    def stop(self) -> None:
        """Close every socket: workers and nursery end when they have nothing more to hear."""
        if self._stopped:
            return
        self._stopped = True
        for process in list(self._present):
            process.leave()
        if self._nursery is not None and self._loop is not None:
            self._loop.remove_reader(self._nursery.channel.fileno())
        if self._nursery is not None:
            self._nursery.close()

    def _enter(self, nursery: Nursery) -> None:
        assert self._loop is not None
        self._nursery = nursery
        nursery.channel.wait(0)
        self._loop.add_reader(nursery.channel.fileno(), self._heard, nursery)
        with contextlib.suppress(OSError):  # an end that came already is heard by the reader
            nursery.channel.send({"open": self._order.to_dict()}, descriptors=(self.arena.fd, sys.stderr.fileno()))

    def _heard(self, nursery: Nursery) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            message = nursery.channel.receive()
            if message is None:
                self._nursery_ended(nursery)
            elif "opened" in message:
                self._loaded = _loaded(message["opened"])
                self._listener.opened(self._loaded)
                for _ in range(self._count - len(self._present)):
                    self._hire()
            elif "refused" in message:
                self._listener.refused(message["refused"])
            elif "ended" in message and not self._stopped:
                _LOG.warning("worker ended", extra={"worker_pid": message["ended"], "code": message["code"]})

    def _nursery_ended(self, nursery: Nursery) -> None:
        assert self._loop is not None
        assert self._listener is not None
        self._loop.remove_reader(nursery.channel.fileno())
        self._nursery = None
        if self._stopped:
            return
        code = nursery.code()
        _LOG.error("nursery ended", extra={"code": code})
        if self._loaded is None:
            self._listener.refused(
                f"the process that opens the model must stay alive, it ended with {code}: look into the log for its last words"
            )
        else:
            self._loop.call_later(self._patience(), self._new_nursery)

    def _new_nursery(self) -> None:
        if not self._stopped and self._nursery is None:
            self._enter(Nursery())

    def _hire(self) -> None:
        if self._stopped or self._nursery is None:
            return
        ours, theirs = Channel.pair()
        try:
            self._nursery.channel.send({"fork": True}, descriptors=(theirs.fileno(),))
        except OSError:  # its end is heard elsewhere, and the next nursery hires as many as are missing
            ours.close()
        else:
            self._present.add(_Process(ours, self))
        finally:
            theirs.close()

    def joined(self, process: "_Process") -> None:
        """Hear that a worker vouched for its model."""
        assert self._listener is not None
        self._listener.joined(process)

    def refused(self, process: "_Process", reason: str) -> None:
        """Hear that a worker cannot vouch for its model."""
        assert self._listener is not None
        self._present.discard(process)
        self._listener.refused(reason)

    def lost(self, process: "_Process", parts: Sequence[Part]) -> None:
        """Hear that a worker is gone, and hire another."""
        assert self._listener is not None
        assert self._loop is not None
        self._present.discard(process)
        if not self._stopped:
            self._listener.lost(process, parts, "its process ended")
            self._loop.call_later(self._patience(), self._hire)

    def _patience(self) -> float:
        now = time.monotonic()
        if now - self._last_failure > _STEADY_SECONDS:
            self._failures = 0
        self._last_failure = now
        wait = _BACKOFF_SECONDS[min(self._failures // max(1, self._count), len(_BACKOFF_SECONDS) - 1)]
        self._failures += 1
        return wait

    @property
    def listener(self) -> Listener:
        """The engine."""
        assert self._listener is not None
        return self._listener

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        assert self._loaded is not None
        return self._loaded.signature

    @cached_property
    def order(self) -> dict[str, int]:
        """The outputs' places in a message to a worker."""
        return {name: index for index, name in enumerate(self.signature.output_names)}

    @cached_property
    def nowhere(self) -> list[int]:
        """The places of outputs when nobody wants one."""
        return [-1] * len(self.order)


class _Process:
    """One worker process, from outside."""

    def __init__(self, channel: Channel, staff: Processes) -> None:
        self.backend, self.device, self.note = "", "", ""
        self._channel, self._staff = channel, staff
        self._parts: Sequence[Part] = ()
        self._chore: Chore | None = None
        self._pieces: list[Piece] = []
        self._answers: list[tuple[int, int]] = []
        """Where the outputs of every part begin and end."""
        self._number = 0
        self._handle: int | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        channel.wait(0)
        self._loop.add_reader(channel.fileno(), self._heard)

    def give(self, parts: Sequence[Part]) -> None:
        self._parts, self._number = parts, self._number + 1
        items = self._items(parts)
        self._watch = self._loop.call_later(_HANG_SECONDS, self._hangs)
        with contextlib.suppress(OSError):  # an end that came already is heard by the reader
            self._channel.send([self._number, items])

    def do(self, chore: Chore) -> None:
        self._chore = chore
        self._watch = self._loop.call_later(_HANG_SECONDS, self._hangs)
        with contextlib.suppress(OSError):  # an end that came already is heard by the reader
            self._channel.send(chore.order)

    def leave(self) -> None:
        """Let the worker end."""
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        self._release()

    def _inputs(self, part: Part) -> list[int]:
        inputs = part.inputs()
        return [self._place(inputs[spec.name]) for spec in self._staff.signature.inputs]

    def _place(self, array: Array) -> int:
        at = self._staff.arena.offset_of(array)
        if at is not None:
            return at
        piece = self._staff.arena.take(array.nbytes)
        self._pieces.append(piece)
        np.frombuffer(piece.view, dtype=array.dtype, count=array.size).reshape(array.shape)[...] = array
        return piece.offset

    def _items(self, parts: Sequence[Part]) -> list[Any]:
        """Lay out the answers of all parts one behind the other in one piece of memory."""
        sizes = [sum(_aligned(part.rows * spec.row_bytes) for spec in part.job.outputs) for part in parts]
        piece = self._staff.arena.take(sum(sizes))
        self._pieces.append(piece)
        at, items = piece.offset, []
        for part, size in zip(parts, sizes, strict=True):
            items.append([part.rows, self._inputs(part), self._places(part, at), part.job.about[0]])
            self._answers.append((at, at + size))
            at += size
        return items

    def _places(self, part: Part, at: int) -> list[int]:
        places = self._staff.nowhere.copy()
        for spec in part.job.outputs:
            places[self._staff.order[spec.name]] = at
            at += _aligned(part.rows * spec.row_bytes)
        return places

    def _heard(self) -> None:
        with contextlib.suppress(BlockingIOError):
            message = self._channel.receive()
            if message is None:
                self._ended()
            elif isinstance(message, list):
                self._answered(message)
            elif self._chore is not None:
                self._did(message)
            elif "ready" in message:
                self.backend, self.device, self.note = message["backend"], message["device"], message["note"]
                with contextlib.suppress(OSError):
                    self._handle = os.pidfd_open(message["ready"])
                self._staff.joined(self)
            else:
                self._loop.remove_reader(self._channel.fileno())
                self._channel.close()
                self._staff.refused(self, message["refused"])

    def _did(self, report: dict[str, Any]) -> None:
        chore, self._chore = self._chore, None
        if self._watch is not None:
            self._watch.cancel()
        assert chore is not None
        self._staff.listener.done(self, chore, report)

    def _answered(self, message: list[Any]) -> None:
        number, found, seconds, failure = message
        assert number == self._number, "a worker answers what it was asked"
        parts, pieces, answers = self._parts, self._pieces, self._answers
        self._parts, self._pieces, self._answers = (), [], []
        if self._watch is not None:
            self._watch.cancel()
        try:
            if failure:
                self._staff.listener.failed(self, parts, failure)
            else:
                results = [self._result(*each) for each in zip(parts, answers, found, strict=True)]
                self._staff.listener.finished(self, parts, results, seconds)
        finally:
            for piece in pieces:
                piece.free()

    def _result(self, part: Part, place: tuple[int, int], refusal: str | None) -> Result:
        if refusal is not None:
            return ProtocolError(refusal)
        block: memoryview | bytes = self._staff.arena.memory[place[0] : place[1]]
        if part.rows == part.job.rows:
            block = bytes(block)  # one copy, and everything that is made of it is the caller's
        outputs: dict[str, Array] = {}
        at = 0
        for spec in part.job.outputs:
            count = part.rows * spec.row_items
            outputs[spec.name] = np.frombuffer(block, dtype=spec.held_as, count=count, offset=at).reshape(part.rows, *spec.shape[1:])
            at += _aligned(part.rows * spec.row_bytes)
        return outputs

    def _hangs(self) -> None:
        about = log_fields_of(part.job.about for part in self._parts)
        _LOG.error("a worker has computed one batch for %g s and is ended", _HANG_SECONDS, extra=about)
        if self._handle is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def _ended(self) -> None:
        parts, self._parts = self._parts, ()
        chore, self._chore = self._chore, None
        self.leave()
        if chore is not None:
            self._staff.listener.undone(chore)
        self._staff.lost(self, parts)

    def _release(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        for piece in self._pieces:
            piece.free()
        self._pieces, self._answers = [], []
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _aligned(size: int) -> int:
    return (size + 63) & ~63


def _loaded(described: dict[str, Any]) -> Loaded:
    def specs(key: str) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=spec["name"], dtype=spec["dtype"], shape=tuple(spec["shape"])) for spec in described[key])

    return Loaded(
        name=described["name"],
        model_digest=described["model_digest"],
        signature=Signature(inputs=specs("inputs"), outputs=specs("outputs")),
        data_class=described["data_class"],
    )


def cores() -> int:
    """Return how many cores this process may use, by its affinity and its control group's quota."""
    allowed = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, max(1, round(int(quota) / int(period))))
    return allowed
