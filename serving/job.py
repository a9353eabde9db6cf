"""One request on its way through the engine, and the parts of it that workers compute."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.arena import Held
from serving.signature import TensorSpec
from serving.tensors import Array
from serving.tracing import NOBODY, NOTHING, About, Span


@dataclass(eq=False, slots=True)
class Job:
    """The inputs of one request, the outputs somebody wants of it, and what is there of them."""

    inputs: Mapping[str, Array]
    outputs: Sequence[TensorSpec]
    rows: int
    deadline: float
    """On the event loop's clock; what is not begun by then is never computed."""
    held: Held | None
    """The memory the inputs lie in."""
    answer: "asyncio.Future[Mapping[str, Array]]"
    gone: Callable[[], bool] | None = None
    """Whether the caller has left."""
    span: Span = NOTHING
    came: float = 0.0
    """Unix seconds; only kept where the request is traced."""
    waiting: bool = False
    """Whether it has rows that a worker should begin."""
    begun: int = 0
    """Rows that were given to workers."""
    open: int = 0
    """Parts that workers have."""
    found: dict[str, Array] | None = None
    timer: asyncio.TimerHandle | None = None
    about: About = NOBODY
    """Which request it is, for the log."""

    @property
    def rest(self) -> int:
        """Rows that nobody has begun."""
        return self.rows - self.begun

    def cut(self, rows: int) -> "Part":
        """Return the next ``rows`` rows as a part."""
        part = Part(self, self.begun, self.begun + rows)
        self.begun += rows
        return part

    def take(self, part: "Part", outputs: Mapping[str, Array]) -> None:
        """Take the outputs of ``part``: ours to keep when it is the whole job, to be copied when it is not."""
        if part.rows == self.rows:
            self.found = {spec.name: outputs[spec.name] for spec in self.outputs}
            return
        if self.found is None:
            self.found = {spec.name: np.empty((self.rows, *spec.shape[1:]), _numpy(spec, outputs)) for spec in self.outputs}
        for name, whole in self.found.items():
            whole[part.start : part.stop] = outputs[name]


@dataclass(eq=False, slots=True)
class Chore:
    """Something else that a worker does for a request (:mod:`serving.paperwork`)."""

    order: dict[str, Any]
    held: Held
    answer: "asyncio.Future[dict[str, Any]]"
    tries: int = 0


@dataclass(eq=False, slots=True)
class Part:
    """Rows ``start`` to ``stop`` of a job."""

    job: Job
    start: int
    stop: int
    tries: int = 0
    """Workers that were lost over it."""

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start

    def inputs(self) -> Mapping[str, Array]:
        """Return these rows of the inputs, as views."""
        if self.rows == self.job.rows:
            return self.job.inputs
        return {name: array[self.start : self.stop] for name, array in self.job.inputs.items()}


def _numpy(spec: TensorSpec, outputs: Mapping[str, Array]) -> np.dtype[np.generic]:
    return outputs[spec.name].dtype
