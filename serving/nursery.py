"""The process in which a model is opened once and from which its workers are forked, so that they share torch's pages and the weights.

It has no thread but one, which is what makes forking safe. It hears ``{"open": ...}`` (with the shared memory) once, answers with what the
model is or why it is refused, and then forks a worker for every ``{"fork": true}`` (with the worker's end of its socket).
A model on a GPU is opened in each worker instead: CUDA does not survive a fork.
"""

import contextlib
import gc
import importlib
import logging
import mmap
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.errors import FirstlightError
from serving import worker
from serving.channel import Channel
from serving.errors import ModelRefusedError

if TYPE_CHECKING:
    from models.backends import Runner
    from models.handoff import HandOff

_LOG = logging.getLogger(__name__)
_NEEDED = (
    "governance.model_signature",
    "model_signing.verifying",
    "models.backends.aot",
    "models.backends.onnx_session",
    "models.golden",
    "models.handoff",
    "models.program",
    "torch.export.pt2_archive._package",
    "torch.export._trace",
    "torch.fx.experimental.validator",
    "torch._inductor.sizevars",
)
_LOOK_SECONDS = 0.5
Opened = tuple["Runner", str]
"""An open model, and a note that is empty unless it is not run as asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Which model to open, and everything the registry knows about it."""

    folder: str
    name: str
    model_digest: str | None = None
    """sha256 that model.pt2 must have; None trusts handoff.yaml."""
    handoff_digest: str | None = None
    backend: str = "eager"
    backend_digest: str | None = None
    """sha256 that the backend's compiled file must have."""
    compiled: str | None = None
    """Folder of compiled files."""
    version: str = ""
    signature: str | None = None
    """The pipeline's signature over the version."""
    trusted_keys: str | None = None
    """File of the keys that may have made it; None asks for none."""
    model_keys: str | None = None
    """File of the keys that may have signed the folder, and the compiled file's; None asks for no such signature."""

    @property
    def on_gpu(self) -> bool:
        """Whether the backend computes on a GPU."""
        return self.backend.startswith("cuda")

    def to_dict(self) -> dict[str, Any]:
        """Return the order as plain JSON values."""
        return asdict(self)


def run(descriptor: int, *, standby: bool = False) -> None:
    """Serve the HTTP process at the other end of ``descriptor`` until it is gone; on ``standby`` there is time to import things first."""
    # A signal to the whole group is the HTTP process's to understand: it drains, and closing its end is what ends this process.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    channel = Channel.inherited(descriptor)
    if standby:
        with _ending_with(channel):
            warm()
    message = channel.receive()
    if message is None:
        return
    with contextlib.closing(_Nursery(channel)) as nursery:
        with _ending_with(channel):
            nursery.open(Order(**message["open"]))
        nursery.loop()


@contextlib.contextmanager
def _ending_with(channel: Channel) -> Iterator[None]:
    """End this process when the other end goes, even in the middle of seconds of imports; the thread that looks is gone before any fork."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            if channel.is_over():
                os._exit(1)

    thread = threading.Thread(target=look, name="nursery-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def warm() -> None:
    """Import everything that opening a model needs: seconds of it, nearly all in torch's archive reader, and there not at the top."""
    for name in _NEEDED:
        with contextlib.suppress(ImportError):  # another torch has it elsewhere: the first model is opened more slowly, no more
            importlib.import_module(name)


class _Nursery:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        descriptor, log = channel.descriptors
        os.dup2(log, sys.stderr.fileno())
        os.close(log)
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        os.close(descriptor)
        self._opened: Callable[[], Opened] | None = None

    def open(self, order: Order) -> None:
        """Open the model and say what it is, or why it is refused."""
        with _refusals(self._channel):
            handoff = verified(order)
            if order.on_gpu:
                self._opened = partial(opened, order, handoff)
            else:
                here = opened(order, handoff)
                self._opened = lambda: here
            described = {
                "name": handoff.name,
                "model_digest": handoff.model_digest,
                "data_class": handoff.data_class,
                "inputs": [asdict(spec) for spec in worker.specs(handoff.model.inputs)],
                "outputs": [asdict(spec) for spec in worker.specs(handoff.model.outputs)],
            }
            self._ready_to_fork(described)

    def _ready_to_fork(self, described: dict[str, Any]) -> None:
        gc.collect()
        gc.freeze()  # a collection in a worker must not touch, and so copy, every page they share
        self._channel.send({"opened": described})

    def loop(self) -> None:
        """Fork workers and bury them until the other end is gone."""
        ears, bell = socket.socketpair()
        ears.setblocking(False)
        bell.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
        while True:
            readable, _, _ = select.select([self._channel.fileno(), ears.fileno()], [], [])
            if ears.fileno() in readable:
                ears.recv(4096)
                self._bury()
            if self._channel.fileno() in readable:
                message = self._channel.receive()
                if message is None:
                    signal.set_wakeup_fd(-1)
                    return
                self._fork(self._channel.descriptors[0])

    def close(self) -> None:
        """Close the socket; the workers have their own."""
        self._channel.close()

    def _fork(self, descriptor: int) -> None:
        child = os.fork()
        if child:
            os.close(descriptor)
            self._channel.send({"forked": child})
            return
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._channel.close()
        code = 1
        try:
            self._be_a_worker(Channel.inherited(descriptor))
            code = 0
        except Exception:
            _LOG.exception("a worker failed")
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _be_a_worker(self, channel: Channel) -> None:
        assert self._opened is not None, "a worker needs a model that was opened"
        with _refusals(channel):
            runner, note = self._opened()
            worker.vouch(runner)
            channel.send({"ready": os.getpid(), "backend": runner.name, "device": runner.device, "note": note})
            worker.work(channel, memory=self._memory, runner=runner)

    def _bury(self) -> None:
        while True:
            try:
                child, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not child:
                return
            with contextlib.suppress(OSError):
                self._channel.send({"ended": child, "code": os.waitstatus_to_exitcode(status)})


def verified(order: Order) -> "HandOff":
    """Return the hand-off when it is the one the registry knows and signed, every byte of it. Raises ModelRefusedError, HandOffError.

    A folder that agrees with itself but not with the registry's digests was exchanged.
    """
    from models.handoff import load

    _require_signed(order)
    _require_vouched(order, Path(order.folder), "handoff.yaml", order.handoff_digest)
    handoff = load(order.folder)
    for what, wanted, found in (
        ("model name", order.name, handoff.name),
        ("model digest", order.model_digest, handoff.model_digest),
        ("hand-off digest", order.handoff_digest, handoff.digest),
    ):
        if wanted is not None and wanted != found:
            raise ModelRefusedError(f"the {what} of {order.folder} must be {wanted}, got {found}: restore the folder that was registered")
    return handoff


def _require_signed(order: Order) -> None:
    """Raise ModelRefusedError unless a trusted pipeline signed what the order says; not a byte of the model has been read by then."""
    if order.trusted_keys is None:
        return
    from governance.attestation import VersionStatement, read_trusted, verify_attestation
    from governance.errors import SignatureError

    if order.model_digest is None or order.handoff_digest is None:
        raise ModelRefusedError(f"version {order.version} of {order.name} must come with the digests that were signed, it has none")
    statement = VersionStatement(
        model=order.name,
        version=order.version,
        model_digest=order.model_digest,
        handoff_digest=order.handoff_digest,
        backend=order.backend,
        backend_digest=order.backend_digest,
    )
    try:
        verify_attestation(statement, order.signature, trusted=read_trusted(Path(order.trusted_keys)))
    except SignatureError as problem:
        raise ModelRefusedError(str(problem)) from problem


def _require_vouched(order: Order, folder: Path, name: str, digest: str | None) -> None:
    """Raise ModelRefusedError unless a key that counts today signed every file in ``folder``, the one that pins the others with ``digest``."""
    if order.model_keys is None:
        return
    from governance import model_keys, model_signature
    from governance.errors import SignatureError

    try:
        known = model_keys.read_model_keys(Path(order.model_keys))
        signed = model_signature.verify(folder, model_signature.read_signature(folder), trusted=known, today=datetime.now(UTC).date())
        signed.require(name, digest, where=folder)
    except SignatureError as problem:
        raise ModelRefusedError(str(problem)) from problem


def opened(order: Order, handoff: "HandOff") -> Opened:
    """Return ``handoff`` ready to run, and a note that is empty unless it is not run as asked. Raises HandOffError, ModelRefusedError.

    A compiled file that is not there costs speed, so the model is then run as it was handed over; one that is not the right one, or that nobody
    vouches for, is refused.
    """
    from models.backends import BackendUnavailable, open_backend

    compiled = Path(order.compiled) if order.compiled else None
    device = "cuda" if order.on_gpu else "cpu"
    if compiled is not None and order.backend_digest is not None and (folder := compiled / order.backend_digest).exists():
        _require_vouched(order, folder, "manifest.json", order.backend_digest)
    try:
        return open_backend(handoff, order.backend, compiled=compiled, digest=order.backend_digest, device=device, threads=1), ""
    except BackendUnavailable as problem:
        if order.backend == "eager":
            raise
        note = f"the backend {order.backend} cannot be had, so the model runs as it was handed over: {problem}"
    _LOG.warning(note)
    return open_backend(handoff, threads=1), note


@contextlib.contextmanager
def _refusals(channel: Channel) -> Iterator[None]:
    """Tell the other end why a model cannot be served, and go on."""
    try:
        yield
    except FirstlightError as error:
        channel.send({"refused": str(error)})
    except Exception as error:
        _LOG.exception("the model could not be opened")
        channel.send({"refused": f"the model could not be opened: {type(error).__name__}: {' '.join(str(error).split())[:300]}"})
