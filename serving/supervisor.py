"""Makes the desired state of its models true: model servers, one gateway before them, routes that are set and then read back, an honest report.

A loop, five times a second; what it does for one model is in ``keeper``. Two supervisors of one model cannot run (file lock); children end by
themselves when it is killed. It holds the gateway's listening socket, so callers who come while a gateway is replaced wait and are answered.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.digest import write_atomic
from rollout.store import Store
from serving import access_keys, control, exposure, planning, process
from serving.child import Child
from serving.control import ADDRESS_FILE, READER_FILE, Control
from serving.errors import SettingsError
from serving.fleet import Fleet
from serving.keeper import Charge, Keeper
from serving.options import Options
from serving.planning import ServerState
from serving.process import GRACE_SECONDS
from serving.scrape_targets import ScrapeTargets

_LOG = logging.getLogger(__name__)
TICK_SECONDS = 0.2
_GATEWAY_SECONDS = 20.0
_BIND_SECONDS = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What one supervisor looks after."""

    environment: str
    models: tuple[str, ...]
    """One gateway answers for all of them; files that belong to no model lie in the first one's folder."""
    state: Path
    """The state folder; serving/ is made inside."""
    store_url: str
    host: str = "127.0.0.1"
    port: int = 0
    """Public port of the gateway; 0 takes a free one."""
    options: Options = field(default_factory=Options)
    """How gateway and model servers behave."""
    ready_seconds: float = 60.0
    """Longest that a model server may take to become ready."""
    standby: bool = True
    """Keep a process warm for each model's next version: about 0.4 GB that turn ten seconds of start into one."""

    def folder_of(self, model: str) -> Path:
        """Return where this supervisor keeps the lock, the address and the logs of ``model``."""
        return control.folder(self.state, environment=self.environment, model=model)

    @property
    def folder(self) -> Path:
        """Where it keeps what belongs to all models."""
        return self.folder_of(self.models[0])


class Supervisor:
    """The loop. Use as a context: on leaving it, nothing it started is left running."""

    def __init__(self, settings: Settings) -> None:
        """Take the locks and the public port. Raises SettingsError when one of them is taken."""
        self.settings = settings
        if not settings.models or len(set(settings.models)) < len(settings.models):
            raise SettingsError(f"a supervisor must look after one or more models, each once, got {', '.join(settings.models) or 'none'}")
        exposure.check(settings.host, settings.options.gateway)
        exposure.check_files(settings.options.gateway)
        self._store = Store(settings.store_url)
        self._keepers: list[Keeper] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_keepers)
            for model in settings.models:
                self._keepers.append(self._keeper(model))
            self._listener = _bind_patiently(settings)
            undo.pop_all()
        self._token = secrets.token_urlsafe(24)
        self._token_file = settings.folder / "control.token"
        write_atomic(self._token_file, self._token.encode())
        self._reader = access_keys.make()
        write_atomic(settings.folder / READER_FILE, self._reader.text.encode())
        self._gateway: Child | None = None
        self._gateway_failures, self._gateway_not_before = 0, 0.0
        self._controls: dict[str, Control] = {}
        self._targets = ScrapeTargets(settings.state, environment=settings.environment, model=settings.models[0])

    @property
    def url(self) -> str:
        """The gateway's public address; it outlives the gateway's process, because this process holds the socket."""
        scheme = "http" if self.settings.options.gateway.tls_certificate is None else "https"
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"{scheme}://{host}:{process.port_of(self._listener)}"

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set."""
        while not stop.is_set():
            began = time.monotonic()
            self.tick()
            stop.wait(max(0.0, TICK_SECONDS - (time.monotonic() - began)))

    def tick(self) -> None:
        """One round for the gateway and for every model."""
        problems: list[str] = []
        is_ready = self._gateway_ready(problems)
        for keeper in self._keepers:
            gateway = self._controls.get(keeper.charge.model) if is_ready else None
            keeper.tick(gateway, gateway_url=self.url if self._controls else None, problems=list(problems))
        self._targets.tell(gateway=self.url, servers=[url for keeper in self._keepers for url in keeper.addresses()])

    def close(self) -> None:
        """Stop the gateway, then the model servers, then give back port and locks."""
        if self._gateway is not None:
            self._gateway.terminate()
            if not self._gateway.wait(GRACE_SECONDS + 2):
                self._gateway.kill()
        self._forget_controls()
        self._close_keepers()
        self._targets.clear()
        self._listener.close()

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _keeper(self, model: str) -> Keeper:
        settings, folder = self.settings, self.settings.folder_of(model)
        fleet = Fleet(folder=folder, options=settings.options, ready_seconds=settings.ready_seconds, standby=settings.standby)
        charge = Charge(environment=settings.environment, model=model, folder=folder, gateway=settings.options.gateway)
        return Keeper(charge, store=self._store, fleet=fleet)

    def _close_keepers(self) -> None:
        for keeper in self._keepers:
            keeper.close()
        self._store.close()

    def _gateway_ready(self, problems: list[str]) -> bool:
        gateway = self._gateway
        if gateway is None:
            self._start_gateway()
            return False
        state = gateway.state
        stuck = (
            state is not ServerState.READY
            and time.monotonic() - gateway.started > _GATEWAY_SECONDS
            and gateway.silent_for() > _GATEWAY_SECONDS / 2
        )
        if state is ServerState.DEAD or stuck:
            self._gateway_failed(gateway, problems)
            return False
        if state is not ServerState.READY:
            problems.append(f"the gateway is {state}")
            return False
        if not self._controls:
            url = f"http://127.0.0.1:{gateway.control_port}"
            self._controls = {model: Control(url, token=self._token, model=model) for model in self.settings.models}
            self._leave_address(url)
        return True

    def _start_gateway(self) -> None:
        if time.monotonic() < self._gateway_not_before:
            return
        arguments = ["gateway", *(word for model in self.settings.models for word in ("--model", model))]
        arguments += ["--fd", str(self._listener.fileno()), "--token-file", str(self._token_file), "--parent", str(os.getpid())]
        arguments += ["--options", self.settings.options.model_dump_json()]
        log = self.settings.folder / "gateway.log"
        self._gateway = Child(arguments, log=log, ready_path="/v2/health/live", keep_fds=(self._listener.fileno(),))
        _LOG.info("gateway starts", extra={"gateway_pid": self._gateway.pid})

    def _gateway_failed(self, gateway: Child, problems: list[str]) -> None:
        why = gateway.reason or f"its process ended with {gateway.exit_code}"
        gateway.kill()
        steady = gateway.ready_since is not None and time.monotonic() - gateway.ready_since > planning.STEADY_SECONDS
        self._gateway_failures = 0 if steady else self._gateway_failures
        self._gateway_not_before = time.monotonic() + planning.backoff(self._gateway_failures)
        self._gateway_failures += 1
        problems.append(f"the gateway failed and is started again: {why}")
        _LOG.warning("gateway failed", extra={"why": why})
        self._forget_controls()
        self._gateway = None

    def _forget_controls(self) -> None:
        for known in self._controls.values():
            known.close()
        self._controls = {}

    def _leave_address(self, control_url: str) -> None:
        address = {
            "gateway_url": self.url,
            "control_url": control_url,
            "token": self._token,
            "reader_key": self._reader.text,
            "pid": os.getpid(),
        }
        for model in self.settings.models:
            write_atomic(self.settings.folder_of(model) / ADDRESS_FILE, json.dumps(address).encode())


def _bind_patiently(settings: Settings) -> socket.socket:
    """Bind the public port; children of a killed supervisor may hold it for a few seconds more."""
    deadline = time.monotonic() + (_BIND_SECONDS if settings.port and (settings.folder / ADDRESS_FILE).exists() else 0)
    while True:
        with contextlib.suppress(SettingsError):
            return process.bind(host=settings.host, port=settings.port)
        if time.monotonic() >= deadline:
            return process.bind(host=settings.host, port=settings.port)
        time.sleep(0.2)
