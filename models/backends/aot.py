"""AOTInductor: the model compiled to a native library, weights inside, loaded from verified bytes in memory without a compiler.

``torch.compile`` is no backend here: it generates the same code, but in the serving process, with a C++ compiler there, and again after
every start (79 s under load, ../shared/design measurements); nothing it adds is wanted by a program whose graph is fixed.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence

import torch

from models.backends.compiled import Form
from models.backends.framed import Framed
from models.document import OutputSpec
from models.errors import BackendUnavailable
from models.handoff_folder import HandOff
from models.tensors import Array
from models.torch_tensors import array_of, tensor_of

_MFD_EXEC = 0x0010


class AotRunner(Framed):
    """A compiled library. Holds Python's lock while it computes: give it a process, not a thread."""

    name = "aot"

    def __init__(self, handoff: HandOff, form: Form, data: bytes, *, threads: int | None) -> None:
        """Load the library in ``data``. Raises BackendUnavailable when this system cannot."""
        super().__init__(handoff, writes=form.writes)
        if threads is not None:
            torch.set_num_threads(threads)
        self._inputs = [(item.name, item.dtype) for item in form.inputs]
        self._outputs = [item.name for item in form.outputs]
        try:
            self._library = torch._C._aoti.AOTIModelContainerRunnerCpu(_in_memory(data), 1)
        except Exception as problem:
            raise BackendUnavailable(
                f"the compiled library must load into torch {torch.__version__}, it does not: {problem!s:.300}"
            ) from problem

    def compute(self, inputs: Mapping[str, Array], wanted: Sequence[OutputSpec]) -> Mapping[str, Array]:
        """Run the library; it gives every output."""
        with torch.inference_mode():
            found = self._library.run([tensor_of(inputs[name], dtype) for name, dtype in self._inputs])
        if len(found) != len(self._outputs):
            raise RuntimeError(f"{len(found)} outputs instead of {len(self._outputs)}")
        return {name: array_of(tensor) for name, tensor in zip(self._outputs, found, strict=True)}


def _in_memory(data: bytes) -> str:
    """Return a path at which the dynamic loader finds ``data`` and nobody can change it: an anonymous file, sealed.

    Its descriptor stays open as long as the process: the loader knows a library by its path, and would take the next one that got the
    same number for this one.
    """
    try:
        handle = os.memfd_create("firstlight-model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | _MFD_EXEC)
    except OSError:  # a kernel before 6.3 knows no such flag, and needs none
        handle = os.memfd_create("firstlight-model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    return f"/proc/self/fd/{handle}"
