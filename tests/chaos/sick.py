"""Model servers that are ill in a way that no exported program can be: the product's own server, with a fault put into the way of its answers.

``leak``: every answer leaves a megabyte behind, in a process that may have so much memory and no more (RLIMIT_AS, as a container's limit is), so that
it ends as such servers end. ``hundredth``: every hundredth request fails, whatever it asks.

Which version is ill stands in a file, ``FIRSTLIGHT_CHAOS_SICK``: {version: sickness}.
"""

import json
import os
import resource
from pathlib import Path
from typing import Any

FILE = "FIRSTLIGHT_CHAOS_SICK"
_LEAK_BYTES = 4 << 20
_ROOM_BYTES = 300 << 20


def infect(version: str) -> None:
    """Make this process, which is about to be the server of ``version``, as ill as the file says."""
    path = os.environ.get(FILE)
    sickness = json.loads(Path(path).read_text()).get(version, "") if path and Path(path).exists() else ""
    if sickness == "leak":
        _patch(_Leak())
    elif sickness == "hundredth":
        _patch(_Hundredth())


class _Leak:
    def __init__(self) -> None:
        self._kept: list[bytearray] = []
        self._limited = False

    def __call__(self) -> None:
        if not self._limited:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
            self._limited = True
        self._kept.append(bytearray(os.urandom(1) * _LEAK_BYTES))


class _Hundredth:
    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> None:
        self._count += 1
        if self._count % 100 == 0:
            raise RuntimeError("every hundredth request fails here")


def _patch(fault: Any) -> None:
    from serving.inference import Inference

    healthy = Inference._outputs

    async def ill(self: Inference, *arguments: Any, **more: Any) -> Any:
        found = await healthy(self, *arguments, **more)
        fault()
        return found

    Inference._outputs = ill  # type: ignore[method-assign]
