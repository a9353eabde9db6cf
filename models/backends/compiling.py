"""Making a compiled model: in a process of its own with a time limit, published whole or not at all.

A lock per key (held by the system, gone with whoever held it) lets one process work while the others wait and then find its result. A
compilation that is killed leaves a scratch folder, which the next one removes; the process that compiles ends when the one that asked is
gone.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from firstlight.digest import sha256_bytes, sha256_file, write_atomic
from models.backends import COMPILED
from models.backends.compiled import FORMAT, MANIFEST, Compiled, Form, Manifest, key, made_for, remembered
from models.errors import BackendUnavailable, HandOffError
from models.handoff_folder import HandOff
from models.tensors import BFLOAT16

FILES = {"onnx": "model.onnx", "aot": "model.so"}
FORM = "form.json"
REFUSED = 3
"""Exit code of the compiling process when the hand-off itself is refused."""


def compile_backend(handoff: HandOff, name: str, *, folder: Path, seconds: float = 300.0) -> Compiled:
    """Return the compiled form of ``handoff`` for the backend ``name`` in ``folder``, made now or earlier.

    ``seconds`` bounds making it, and waiting for another process that makes it. Raises BackendUnavailable when it cannot be made here,
    HandOffError when the model is refused.
    """
    if name not in COMPILED:
        raise BackendUnavailable(f"the backends that are compiled are {list(COMPILED)}, found {name!r}: it needs no file")
    if name == "aot" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise BackendUnavailable("the backend 'aot' needs a C++ compiler (g++) to be made, there is none: install one, or do without")
    if name == "onnx" and any(spec.dtype == BFLOAT16 for spec in (*handoff.model.inputs, *handoff.model.outputs)):
        raise BackendUnavailable("ONNX Runtime must be able to take and give what the model does, it has no bfloat16 here: use another")
    until = time.monotonic() + seconds
    identity = key(handoff, name)
    _prepare(folder)
    with _alone(folder / "by-key" / f"{identity}.lock", until=until):
        return remembered(folder, handoff, name) or _make(handoff, name, folder=folder, identity=identity, until=until)


def compile_ahead(handoff: HandOff, names: Collection[str], *, folder: Path, seconds: float) -> threading.Thread:
    """Begin to compile the backends among ``names`` that need it, and return at once; who needs one asks :func:`compile_backend`.

    Nothing is raised: who asks later is told.
    """

    def work() -> None:
        for name in names:
            with suppress(HandOffError, OSError):
                if name in COMPILED:
                    compile_backend(handoff, name, folder=folder, seconds=seconds)

    thread = threading.Thread(target=work, name="compile-ahead", daemon=True)
    thread.start()
    return thread


def _make(handoff: HandOff, name: str, *, folder: Path, identity: str, until: float) -> Compiled:
    started = time.monotonic()
    for stale in folder.glob(f".making-{identity[:16]}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix=f".making-{identity[:16]}-"))
    try:
        _run(handoff, name, scratch, until=until)
        manifest = _manifest(handoff, name, scratch)
        digest = _publish(manifest, scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    write_atomic(folder / "by-key" / identity, digest.encode())
    return Compiled(backend=name, digest=digest, path=folder / digest, seconds=time.monotonic() - started)


def _manifest(handoff: HandOff, name: str, scratch: Path) -> Manifest:
    file = scratch / FILES[name]
    return Manifest(
        format=FORMAT,
        backend=name,
        model_digest=handoff.model_digest,
        file=file.name,
        sha256=sha256_file(file),
        size=file.stat().st_size,
        made_for=made_for(name),
        form=Form.model_validate_json((scratch / FORM).read_bytes()),
    )


def _publish(manifest: Manifest, scratch: Path, folder: Path) -> str:
    """Make the folder of this digest appear whole; one that is there already holds the same, unless somebody broke it."""
    ready = scratch / "ready"
    ready.mkdir(mode=0o700)
    os.rename(scratch / manifest.file, ready / manifest.file)
    write_atomic(ready / MANIFEST, manifest.to_bytes())
    digest = sha256_bytes(manifest.to_bytes())
    _sync(ready / manifest.file)
    with suppress(FileNotFoundError):
        os.rename(folder / digest, scratch / "before")
    os.rename(ready, folder / digest)
    _sync(folder)
    return digest


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _run(handoff: HandOff, name: str, scratch: Path, *, until: float) -> None:
    """Compile in a process group of its own; it ends when its standard input does, so it never outlives this process."""
    work = scratch / "work"
    work.mkdir()
    complaints = scratch / "complaints.txt"
    limit = max(0.0, until - time.monotonic())
    with open(complaints, "wb") as stream:
        process = subprocess.Popen(
            _command(handoff, name, scratch),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            cwd=Path(__file__).parent.parent.parent,
            env={**os.environ, "TMPDIR": str(work), "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"), "OMP_NUM_THREADS": "1"},
        )
    try:
        code = process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        raise BackendUnavailable(
            f"the backend {name!r} must be compiled within its time, it was not after {limit:.0f} s: allow more"
        ) from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
    if code == 0:
        return
    lines = complaints.read_text(errors="replace").strip().splitlines()
    said = lines[-1][:500] if lines else "it printed nothing"
    if code == REFUSED:
        raise HandOffError(said)
    raise BackendUnavailable(f"the backend {name!r} must be able to compile this model, it ended with code {code} ({said}): use another")


def _command(handoff: HandOff, name: str, scratch: Path) -> list[str]:
    arguments = [str(handoff.folder.absolute()), handoff.model_digest, name, str(scratch)]
    return [sys.executable, "-m", "models.backends.compiler", *arguments]


def _prepare(folder: Path) -> None:
    try:
        (folder / "by-key").mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise BackendUnavailable(
            f"the folder of compiled models must be writable, {folder} is not ({problem.strerror}): choose another"
        ) from None


@contextmanager
def _alone(lock: Path, *, until: float) -> Iterator[None]:
    with open(lock, "w") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BackendUnavailable(
                        "another process compiles this model and must be ready in time, it was not: try again"
                    ) from None
                time.sleep(0.1)
        yield
