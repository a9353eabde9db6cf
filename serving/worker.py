"""A worker process: one open model, one thread, tensors read from and written to shared memory. It dies with the socket to its server.

It vouches for itself first: the golden vectors are replayed here, with the backend that will answer. Then it takes batches,
``[id, [[rows, [offset of every input], [offset of every output, -1 where nobody wants it], request id], ...]]``, and gives
``[id, [null or a sentence for every item], seconds, "" or the failure of the whole batch]``. A row with NaN or infinity spoils its own item only.
What the model raises is written to the log with where it was raised and for which requests.
A message that is an object is paperwork (:mod:`serving.paperwork`).
"""

import contextlib
import logging
import math
import mmap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from serving import heap, paperwork
from serving import signature as signatures
from serving.channel import Channel
from serving.errors import ModelRefusedError, ProtocolError
from serving.signature import TensorSpec
from serving.tensors import Array
from serving.tracing import NOTHING, log_fields_of

if TYPE_CHECKING:
    from models.backends import Runner

_LOG = logging.getLogger(__name__)
_IDLE_SECONDS = 10.0


def work(channel: Channel, *, memory: mmap.mmap, runner: "Runner") -> None:
    """Answer batches until the other end is gone."""
    heap.keep()
    desk, whole = _Desk(memory, runner), memoryview(memory)
    channel.wait(_IDLE_SECONDS)
    while (message := _next(channel)) is not None:
        if isinstance(message, dict):
            with contextlib.suppress(OSError):
                channel.send(paperwork.perform(whole, message))
            continue
        began = time.perf_counter()
        try:
            found, failure = desk.answer(message[1]), ""
        except Exception as error:
            found, failure = [], f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            _LOG.warning("the model failed", exc_info=error, extra=log_fields_of((item[3], None, NOTHING) for item in message[1]))
        with contextlib.suppress(OSError):
            channel.send([message[0], found, time.perf_counter() - began, failure])


def vouch(runner: "Runner") -> None:
    """Replay the golden vectors. Raises ModelRefusedError that names the vector that does not come out again."""
    from firstlight.verdict import Verdict
    from models.golden import replay

    assert runner.handoff is not None
    report = replay(runner, runner.handoff)
    if report.verdict is not Verdict.PASS:
        reasons = "; ".join(report.reasons) or report.verdict
        raise ModelRefusedError(f"the golden vectors of {runner.handoff.folder} must come out again with {runner.name}: {reasons}")


def specs(tensors: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """Return what a hand-off declares about its inputs or outputs in this room's terms."""
    return tuple(TensorSpec(name=spec.name, dtype=spec.dtype, shape=tuple(spec.shape)) for spec in tensors)


class _Desk:
    def __init__(self, memory: mmap.mmap, runner: "Runner") -> None:
        self._memory, self._runner = memory, runner
        self._inputs, self._outputs = specs(runner.inputs), specs(runner.outputs)

    def answer(self, items: list[Any]) -> list[str | None]:
        given = [
            {spec.name: self._input(spec, at, rows) for spec, at in zip(self._inputs, places, strict=True)} for rows, places, *_ in items
        ]
        found = [_refusal(inputs) for inputs in given]
        good = [index for index, sentence in enumerate(found) if sentence is None]
        wanted = [spec for number, spec in enumerate(self._outputs) if any(items[index][2][number] >= 0 for index in good)]
        if good:
            outputs = self._runner(_stacked([given[index] for index in good]), wanted={spec.name for spec in wanted})
            self._write([items[index] for index in good], outputs)
        return found

    def _write(self, items: list[Any], outputs: dict[str, Array]) -> None:
        first = 0
        for rows, _, places, _ in items:
            for spec, at in zip(self._outputs, places, strict=True):
                if at >= 0:
                    self._array(spec, at, rows)[...] = outputs[spec.name][first : first + rows]
            first += rows

    def _array(self, spec: TensorSpec, at: int, rows: int) -> Array:
        shape = (rows, *spec.shape[1:])
        return np.frombuffer(self._memory, dtype=spec.held_as, count=math.prod(shape), offset=at).reshape(shape)

    def _input(self, spec: TensorSpec, at: int, rows: int) -> Array:
        """A tensor that follows one of another size may begin anywhere: compiled code wants it where such numbers begin."""
        array = self._array(spec, at, rows)
        return array if array.flags.aligned else array.copy()


def _stacked(parts: list[dict[str, Array]]) -> dict[str, Array]:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _refusal(inputs: dict[str, Array]) -> str | None:
    try:
        signatures.check_finite(inputs)
    except ProtocolError as error:
        return str(error)
    return None


def _next(channel: Channel) -> Any | None:
    """Wait for a message; when none comes for a while, give unused memory back to the system, once."""
    trimmed = False
    while True:
        try:
            message = channel.receive()
        except TimeoutError:
            if not trimmed:
                heap.give_back()
            trimmed = True
            channel.wait(None)
            continue
        if trimmed:
            channel.wait(_IDLE_SECONDS)
        return message
