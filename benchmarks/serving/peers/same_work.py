"""The work that every peer does: the same exported program, one torch thread, arrays in, arrays out. Nothing is verified here.

Runs in the peers' own environments, so it needs torch and numpy only. Forms a peer may use on the wire:

* raw: all inputs, then all outputs, as little-endian float32, one tensor after the other in declared order;
* columns: a JSON object with one nested list for every tensor.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

Array = Any
RAW, COLUMNS = "application/octet-stream", "application/json"


class SameWork:
    """One open program. Calls from several threads are safe: torch's modules are read only here."""

    def __init__(self, form: Mapping[str, Any] | None = None) -> None:
        """``form`` is {model: path of the .pt2, inputs: {name: shape after rows}, outputs: likewise}; default: the one in PEER_FORM."""
        form = form or json.loads(os.environ["PEER_FORM"])
        torch.set_num_threads(1)
        self.inputs: dict[str, list[int]] = dict(form["inputs"])
        self.outputs: dict[str, list[int]] = dict(form["outputs"])
        self._module = torch.export.load(Path(form["model"])).module(check_guards=False)
        self._row_bytes = 4 * sum(int(np.prod(shape)) for shape in self.inputs.values())

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs for ``inputs``, each (rows, …) float32."""
        tensors = {name: torch.from_numpy(np.require(inputs[name], np.float32, "C")) for name in self.inputs}
        with torch.inference_mode():
            answer = self._module(**tensors)
        return {name: answer[name].numpy() for name in self.outputs}

    def from_raw(self, body: bytes) -> dict[str, Array]:
        """Return the inputs in a raw body, as views on a writable copy (torch warns about memory it must not write to)."""
        rows, left = divmod(len(body), self._row_bytes)
        if left or not rows:
            raise ValueError(f"the body must hold whole rows of {self._row_bytes} bytes, got {len(body)}")
        values, at, inputs = np.frombuffer(bytearray(body), "<f4"), 0, {}
        for name, shape in self.inputs.items():
            size = rows * int(np.prod(shape))
            inputs[name] = values[at : at + size].reshape(rows, *shape)
            at += size
        return inputs

    def to_raw(self, outputs: Mapping[str, Array]) -> bytes:
        """Return all outputs as one raw body."""
        return b"".join(np.ascontiguousarray(outputs[name], "<f4").tobytes() for name in self.outputs)

    def from_columns(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """Return the inputs in a decoded JSON object."""
        return {name: np.asarray(values[name], np.float32) for name in self.inputs}

    def to_columns(self, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return the outputs as nested lists."""
        return {name: outputs[name].tolist() for name in self.outputs}

    def together(self, many: "list[dict[str, Array]]") -> list[dict[str, Array]]:
        """Return the outputs of several requests that were computed as one batch."""
        if len(many) == 1:
            return [self(many[0])]
        joined = self({name: np.concatenate([one[name] for one in many]) for name in self.inputs})
        ends = np.cumsum([len(next(iter(one.values()))) for one in many])[:-1]
        parts = {name: np.split(array, ends) for name, array in joined.items()}
        return [{name: parts[name][at] for name in self.outputs} for at in range(len(many))]


def port() -> int:
    """Return the port to listen on."""
    return int(os.environ["PEER_PORT"])


def workers() -> int:
    """Return how many processes shall compute."""
    return int(os.environ["PEER_WORKERS"])
