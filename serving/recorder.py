"""Turns one answered request into rows of the inference log: who asked what, which bytes answered, and the summary features.

The work happens in the log's thread. The arrays are held until then, which the log bounds in bytes.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monitoring.inference_log import InferenceLog
from serving.tensors import Array

if TYPE_CHECKING:
    import pandas as pd


class Recorder:
    """Writes what one model server answered."""

    def __init__(self, folder: Path, *, model: str, version: str, flush_seconds: float = 5.0) -> None:
        """Log under ``folder``; at most ``flush_seconds`` of rows are lost when the process is killed."""
        self._model, self._version = model, version
        self._log = InferenceLog(folder, model=model, flush_seconds=flush_seconds)

    def record(self, *, request_id: str, client: str, model_digest: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Queue the rows of one request; never blocks, never raises for a full queue."""
        plain = {
            "request_id": request_id,
            "time": datetime.now(UTC),
            "client": client,
            "model": self._model,
            "version": self._version,
            "model_digest": model_digest,
        }
        size = sum(array.nbytes for array in (*inputs.values(), *outputs.values()))
        rows = len(next(iter(inputs.values())))
        self._log.offer(lambda: _frame(plain, inputs=inputs, outputs=outputs), rows=rows, size=size)

    def counts(self) -> dict[str, int]:
        """Return rows by outcome since the start."""
        counts = self._log.counts()
        return {"written": counts.written, "dropped": counts.dropped, "failed": counts.failed}

    def close(self) -> None:
        """Write what waits."""
        self._log.close()


def input_digest(inputs: Mapping[str, Array]) -> str:
    """Return the sha256 over the names, types, shapes and bytes of ``inputs``, independent of their order."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        array = inputs[name]
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _frame(plain: Mapping[str, object], *, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> "pd.DataFrame":
    import pandas as pd

    from models.summary import summarise

    features = summarise(inputs, outputs)
    columns = pd.DataFrame({**plain, "input_digest": input_digest(inputs)}, index=features.index)
    columns["time"] = columns["time"].astype("datetime64[us, UTC]")
    return pd.concat([columns, features], axis=1)
