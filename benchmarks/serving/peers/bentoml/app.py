"""BentoML: bytes in as a file (its way to take bytes; it cannot batch them), bytes out; JSON arrays through its batcher."""

from pathlib import Path
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import ContentType
from same_work import SameWork, port, workers


@bentoml.service(
    workers=workers(), http={"host": "127.0.0.1", "port": port()}, traffic={"timeout": 120}, logging={"access": {"enabled": False}}
)
class Api:
    """Decode, run, encode."""

    def __init__(self) -> None:
        self.work = SameWork()

    @bentoml.api(route="/raw")
    def raw(self, body: Annotated[Path, ContentType("application/octet-stream")], /) -> bytes:
        return self.work.to_raw(self.work(self.work.from_raw(body.read_bytes())))

    @bentoml.api(route="/columns")
    def columns(self, flux: np.ndarray, ivar: np.ndarray) -> dict[str, Any]:
        return self.work.to_columns(self.work({"flux": flux, "ivar": ivar}))
