"""The supervisor's side of its gateway: the listening socket, the secrets, the process; taken over from an earlier supervisor where that is possible."""

import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from firstlight.digest import write_atomic
from serving import access_keys, adoption, handover, planning, process
from serving.adoption import Census, Record
from serving.child import Child
from serving.control import READER_FILE, Control
from serving.errors import SettingsError
from serving.handover import HANDOVER_FILE, Handed
from serving.options import Options
from serving.planning import ServerState
from serving.process import GRACE_SECONDS

_LOG = logging.getLogger(__name__)
_GATEWAY_SECONDS = 20.0
_BIND_SECONDS = 15.0
_LIVE_PATH = "/v2/health/live"
_KEY_TO_ROUTES = "control.token"


class Place(Protocol):
    """Where a gateway stands, and how it behaves: the supervisor's settings."""

    @property
    def models(self) -> tuple[str, ...]: ...
    @property
    def folder(self) -> Path: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def options(self) -> Options: ...


class Front:
    """One gateway. After :meth:`open` the public address is taken; :meth:`tick` keeps a process behind it."""

    def __init__(self, place: Place, *, left: Census | None) -> None:
        """``left``: what an earlier supervisor left running. Takes its gateway's socket, and its process when it is what would be started now."""
        self.controls: dict[str, Control] = {}
        """By model; empty while no gateway answers."""
        self.is_new = False
        """Whether the gateway of this round is another one than before."""
        self._place, self._child, self._former = place, None, None
        self._listener: socket.socket | None = None
        self._failures, self._not_before = 0, 0.0
        self._had_port = next((record.port for record in left.children if record.role == "gateway"), 0) if left else 0
        self._handed = self._taken(handover.take(place.folder))
        self._token, self._reader = secrets.token_urlsafe(24), access_keys.make().text
        if left is not None and self._handed is not None:
            self._adopt(left, self._handed)

    _child: Child | None
    _former: Child | None

    def open(self) -> None:
        """Take the public address, and leave the secrets where the gateway and our own processes find them. Raises SettingsError."""
        self._listener = self._handed.listener if self._handed is not None else _bind_patiently(self._place, before=self._had_port)
        write_atomic(self._place.folder / _KEY_TO_ROUTES, self._token.encode())
        write_atomic(self._place.folder / READER_FILE, self._reader.encode())

    @property
    def url(self) -> str:
        """The public address."""
        assert self._listener is not None, "open() comes first"
        scheme = "http" if self._place.options.gateway.tls_certificate is None else "https"
        host = f"[{self._place.host}]" if ":" in self._place.host else self._place.host
        return f"{scheme}://{host}:{process.port_of(self._listener)}"

    def address(self) -> dict[str, str]:
        """Return what our own processes need to ask the present gateway."""
        url = next(iter(self.controls.values())).url
        return {"gateway_url": self.url, "control_url": url, "token": self._token, "reader_key": self._reader}

    def records(self) -> tuple[Record, ...]:
        """Return the processes that the next supervisor could take over."""
        return tuple(record for child in (self._child, self._former) if child is not None for record in self._record(child))

    def tick(self, problems: list[str]) -> bool:
        """Keep a gateway; return whether it answers. Problems become sentences."""
        self.is_new, gateway = False, self._child
        if gateway is None:
            self._start()
            return False
        state = gateway.state
        late = time.monotonic() - gateway.started > _GATEWAY_SECONDS and gateway.silent_for() > _GATEWAY_SECONDS / 2
        if state is ServerState.DEAD or (state is not ServerState.READY and late):
            self._failed(gateway, problems)
            return False
        if state is not ServerState.READY:
            problems.append(f"the gateway is {state}")
            return False
        if not self.controls:
            url = f"http://127.0.0.1:{gateway.control_port}"
            self.controls = {model: Control(url, token=self._token, model=model) for model in self._place.models}
            self.is_new = True
        return True

    def drop_former(self, *, routed: bool) -> None:
        """Stop a gateway that was taken over only until its successor has its routes."""
        if self._former is not None and self._former.ending is not None:
            self._former = None
        elif self._former is not None and routed:
            self._former.terminate()

    def close(self) -> None:
        """Stop the gateway and give the address back."""
        present = [child for child in (self._child, self._former) if child is not None]
        for child in present:
            child.terminate()
        for child in present:
            if not child.wait(GRACE_SECONDS + 2):
                child.kill()
        self._forget_controls()
        self._child = self._former = None
        if self._listener is not None:
            with contextlib.suppress(OSError):
                (self._place.folder / HANDOVER_FILE).unlink(missing_ok=True)
            self._listener.close()

    def release(self) -> None:
        """Give the address back and leave the gateway alone: somebody else may take it over."""
        self._forget_controls()
        listener = self._listener or (self._handed.listener if self._handed is not None else None)
        if listener is not None:
            listener.close()

    def _taken(self, handed: Handed | None) -> Handed | None:
        """Return the socket that was handed over when it listens where we shall listen; another one is given up."""
        if handed is None:
            return None
        address, port = handed.listener.getsockname()[:2]
        with contextlib.suppress(OSError):
            hosts = {found[4][0] for found in socket.getaddrinfo(self._place.host, None, proto=socket.IPPROTO_TCP)}
            if address in hosts and self._place.port in (0, port):
                return handed
        handed.listener.close()
        return None

    def _adopt(self, left: Census, handed: Handed) -> None:
        """Take the gateway over, as ours or until ours has its routes, and with it the secrets it knows."""
        record = next((one for one in left.children if one.role == "gateway" and one.being.pid == handed.pid), None)
        child = None if record is None or record.control_port is None else Child.adopt(record, ready_path=_LIVE_PATH)
        if record is None or child is None:
            return
        try:
            token, reader = ((self._place.folder / name).read_text().strip() for name in (_KEY_TO_ROUTES, READER_FILE))
            with Control(f"http://127.0.0.1:{record.control_port}", token=token, model=self._place.models[0]) as gateway:
                gateway.routes()
        except Exception as error:  # whatever is wrong with it: it answers callers until ours does, and then goes
            _LOG.warning("the gateway cannot be steered and is replaced", extra={"gateway_pid": child.pid, "why": str(error)})
            self._former = child
            return
        if record.fit != adoption.fitness(self._fitting()):
            _LOG.info("the gateway no longer fits and is replaced", extra={"gateway_pid": child.pid})
            self._former = child
            return
        self._child, self._token, self._reader = child, token, reader
        _LOG.info("gateway taken over", extra={"gateway_pid": child.pid})

    def _record(self, child: Child) -> tuple[Record, ...]:
        being = child.being
        if being is None or child.port is None:
            return ()
        fit = adoption.fitness(self._fitting()) if child is self._child else ""
        ready = child.state is ServerState.READY
        return (Record(role="gateway", being=being, fit=fit, port=child.port, control_port=child.control_port, ready=ready),)

    def _arguments(self) -> list[str]:
        models = [word for model in self._place.models for word in ("--model", model)]
        return ["gateway", *models, "--token-file", str(self._place.folder / _KEY_TO_ROUTES)]

    def _fitting(self) -> Sequence[str]:
        """Return all that a gateway is started with: the options of model servers do not concern it."""
        return [*self._arguments(), self._place.options.model_dump_json(exclude={"model", "s3"})]

    def _start(self) -> None:
        if time.monotonic() < self._not_before:
            return
        assert self._listener is not None, "open() comes first"
        options, folder, descriptor = self._place.options, self._place.folder, self._listener.fileno()
        arguments = [*self._arguments(), "--options", options.model_dump_json(), "--fd", str(descriptor), "--parent", str(os.getpid())]
        arguments += ["--children", str(folder), "--orphan-seconds", f"{options.orphan_seconds:g}"]
        self._child = Child(arguments, log=folder / "gateway.log", ready_path=_LIVE_PATH, keep_fds=(descriptor,))
        _LOG.info("gateway starts", extra={"gateway_pid": self._child.pid})

    def _failed(self, gateway: Child, problems: list[str]) -> None:
        why = gateway.reason or gateway.ending or "it does not answer"
        gateway.kill()
        steady = gateway.ready_since is not None and time.monotonic() - gateway.ready_since > planning.STEADY_SECONDS
        self._failures = 0 if steady else self._failures
        self._not_before = time.monotonic() + planning.backoff(self._failures)
        self._failures += 1
        problems.append(f"the gateway failed and is started again: {why}")
        _LOG.warning("gateway failed", extra={"why": why})
        self._forget_controls()
        self._child = None

    def _forget_controls(self) -> None:
        for known in self.controls.values():
            known.close()
        self.controls = {}


def _bind_patiently(place: Place, *, before: int) -> socket.socket:
    """Bind the public port, where any will do that of an earlier gateway (``before``, 0 for none); what is left of that one may hold it a while."""
    wanted = place.port or before
    deadline = time.monotonic() + (_BIND_SECONDS if before and wanted == before else 0)
    while True:
        with contextlib.suppress(SettingsError):
            return process.bind(host=place.host, port=wanted)
        if time.monotonic() >= deadline:
            return process.bind(host=place.host, port=place.port)
        time.sleep(0.2)
