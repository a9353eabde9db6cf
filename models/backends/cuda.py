"""A GPU: the exported program on a stream of its own, fed from pinned memory, one CUDA graph for each batch size it answers often.

A forward pass of this kind of model is some hundred small kernels, and starting each from Python takes longer than running it; a graph is
started once. A graph has fixed shapes: a batch is filled up with copies of its last row to the next captured size, and the rows of the
fill are dropped. That is right because a row's answer does not depend on the other rows of its batch, which batching over requests rests
on too. A model that cannot be captured runs without graphs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from models.backends.framed import Framed
from models.document import MODEL, OutputSpec
from models.errors import BackendUnavailable
from models.handoff_folder import HandOff
from models.program import input_order, on_device, opened, output_values, writes_in_place
from models.tensors import Array, held_as
from models.torch_tensors import array_of, tensor_of

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Batch sizes with a graph; captured when first met."""
_WARM_UPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lane:
    """Everything of one batch size: host memory the device copies from and to by itself, device memory, and the graph between."""

    rows: int
    sent: Mapping[str, torch.Tensor]
    """Pinned inputs."""
    taken: Mapping[str, torch.Tensor]
    """Inputs on the device."""
    given: Mapping[str, torch.Tensor]
    """Outputs on the device; written anew by every run of the graph."""
    received: Mapping[str, torch.Tensor]
    """Pinned outputs."""
    graph: Any


class CudaRunner(Framed):
    """The program on the first GPU. ``autocast`` computes matrix products and convolutions in bfloat16."""

    device = "cuda"

    def __init__(self, handoff: HandOff, *, autocast: bool = False) -> None:
        """Put the program on the GPU. Raises BackendUnavailable when there is none, HandOffError when the model is refused."""
        if not torch.cuda.is_available():
            raise BackendUnavailable("the backend 'cuda' needs a GPU that torch can use, there is none: use another")
        program = opened(handoff.read(MODEL))
        # the device copies are the runner's own, so a program that writes in place does no harm; but a graph would write again and again
        super().__init__(handoff, writes=False, batch_size=SIZES[-1])
        self.name = "cuda-bf16" if autocast else "cuda"
        self._autocast = autocast
        self._capturable = not writes_in_place(program)
        self._order = input_order(program, handoff.model)
        self._tree = program.call_spec.in_spec
        self._module = on_device(program, "cuda").module(check_guards=False)
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._lanes: dict[int, _Lane] = {}

    def compute(self, inputs: Mapping[str, Array], wanted: Sequence[OutputSpec]) -> Mapping[str, Array]:
        """Copy in, run, copy out, all on one stream; waits for the device once, at the end."""
        rows = len(next(iter(inputs.values())))
        lane = self._lane(next(size for size in SIZES if size >= rows)) if self._capturable else None
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            if lane is None:
                types = {spec.name: spec.dtype for spec in self.inputs}
                found = self._forward({name: tensor_of(array, types[name], device="cuda") for name, array in inputs.items()})
                return {spec.name: self._host(found[spec.name], spec) for spec in wanted}
            return self._replay(lane, inputs, wanted, rows=rows)

    def _replay(self, lane: _Lane, inputs: Mapping[str, Array], wanted: Sequence[OutputSpec], *, rows: int) -> dict[str, Array]:
        for name, array in inputs.items():
            target = lane.sent[name].numpy()
            target[:rows] = array
            target[rows:] = array[-1:]
            lane.taken[name].copy_(lane.sent[name], non_blocking=True)
        lane.graph.replay()
        for spec in wanted:
            lane.received[spec.name][:rows].copy_(lane.given[spec.name][:rows], non_blocking=True)
        self._stream.synchronize()
        return {spec.name: np.array(lane.received[spec.name].numpy()[:rows]) for spec in wanted}

    def _lane(self, rows: int) -> _Lane | None:
        if rows not in self._lanes:
            try:
                self._lanes[rows] = self._captured(rows)
            except RuntimeError:  # what cannot be captured: a shape that depends on values, a copy to the host
                self._capturable = False
                self._lanes.clear()
                torch.cuda.synchronize()
                return None
        return self._lanes[rows]

    def _captured(self, rows: int) -> _Lane:
        types = {spec.name: getattr(torch, spec.dtype) for spec in (*self.inputs, *self.outputs)}
        sent = {spec.name: _pinned((rows, *spec.shape[1:]), spec.dtype) for spec in self.inputs}
        golden = self.handoff.golden()[0]
        for name, tensor in sent.items():
            tensor.numpy()[:] = np.resize(golden[name], tensor.shape)
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            taken = {name: tensor.to("cuda", types[name]) for name, tensor in sent.items()}
            for _ in range(_WARM_UPS):  # libraries choose their algorithms and take their workspace now, not while it is recorded
                self._forward(taken)
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                given = self._forward(taken)
                given = {spec.name: given[spec.name].to(types[spec.name]) for spec in self.outputs}
        received = {spec.name: _pinned(tuple(given[spec.name].shape), spec.dtype) for spec in self.outputs}
        return _Lane(rows=rows, sent=sent, taken=taken, given=given, received=received, graph=graph)

    def _forward(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        args, kwargs = pytree.tree_unflatten([tensors[name] for name in self._order], self._tree)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self._autocast, cache_enabled=False):
            return output_values(self._module(*args, **kwargs), self.outputs)

    def _host(self, tensor: torch.Tensor, spec: OutputSpec) -> Array:
        return array_of(tensor.to(getattr(torch, spec.dtype)))


def _pinned(shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """Return pinned memory that numpy can write and read: where it holds bfloat16, the copy to or from the device converts."""
    return torch.empty(shape, dtype=getattr(torch, held_as(dtype)), pin_memory=True)
