"""The ways in which one handed-over model can be run, behind one interface; which one a version uses is measured and recorded.

Every backend starts from the same verified, inspected and rebuilt program, checks the form of what goes in and out, and never writes
into the arrays it is given. Compiled files are native code: they are loaded only under the sha256 that the version's own benchmark
recorded, and only on the machine and libraries they were made for (:mod:`models.backends.compiled`).
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from models.document import InputSpec, OutputSpec
from models.errors import BackendUnavailable
from models.handoff_folder import HandOff
from models.tensors import Array

__all__ = ["ALL", "AOT", "BF16", "COMPILED", "CUDA", "CUDA_BF16", "EAGER", "ONNX", "BackendUnavailable", "Runner", "open_backend"]

EAGER, BF16, ONNX, AOT, CUDA, CUDA_BF16 = "eager", "eager-bf16", "onnx", "aot", "cuda", "cuda-bf16"
COMPILED = (ONNX, AOT)
"""Backends that need a file made beforehand."""
ALL = (EAGER, BF16, ONNX, AOT, CUDA, CUDA_BF16)


class Runner(Protocol):
    """One open model. Not thread-safe: one worker uses it."""

    @property
    def name(self) -> str:
        """The backend."""
        ...

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        ...

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the model takes."""
        ...

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """What the model gives."""
        ...

    @property
    def handoff(self) -> HandOff | None:
        """The hand-off it was opened from."""
        ...

    def __call__(self, inputs: Mapping[str, Array], *, wanted: Collection[str] | None = None) -> dict[str, Array]:
        """Return the outputs by name for any number of rows; only those ``wanted`` (None: all). The inputs are read, never written.

        The answers are arrays of their own: none shares memory with an input. Raises InputRefused when names, dtypes, shapes or row
        counts are not the declared ones, ProgramError when the model fails.
        """
        ...


def open_backend(
    handoff: HandOff,
    name: str = EAGER,
    *,
    compiled: Path | None = None,
    digest: str | None = None,
    device: str = "cpu",
    threads: int | None = 1,
) -> Runner:
    """Return ``handoff`` (from :func:`models.handoff.load`) ready to run by the backend ``name``.

    ``compiled`` is the folder of compiled files and ``digest`` the sha256 that this version's file must have; both are needed for the
    backends in ``COMPILED`` only. ``threads`` is the number of CPU threads of the whole process; None leaves it.
    Raises BackendUnavailable when the backend cannot be had here (no file, another processor or library, not installed), HandOffError
    when the model is refused or the compiled file is not the one with this digest.
    """
    if name in (EAGER, BF16):
        from models.program import Program  # and torch with it

        return Program.load(handoff, device=device, threads=threads, autocast=name == BF16)
    if name in COMPILED:
        return _open_compiled(handoff, name, compiled=compiled, digest=digest, threads=threads)
    if name in (CUDA, CUDA_BF16):
        from models.backends.cuda import CudaRunner

        return CudaRunner(handoff, autocast=name == CUDA_BF16)
    raise BackendUnavailable(f"the backend must be one of {list(ALL)}, found {name!r}: choose one of these")


def _open_compiled(handoff: HandOff, name: str, *, compiled: Path | None, digest: str | None, threads: int | None) -> Runner:
    from models.backends.compiled import read

    manifest, data = read(compiled, digest, handoff=handoff, backend=name)
    if name == ONNX:
        from models.backends.onnx_session import OnnxRunner

        return OnnxRunner(handoff, manifest.form, data, threads=threads)
    from models.backends.aot import AotRunner

    return AotRunner(handoff, manifest.form, data, threads=threads)
