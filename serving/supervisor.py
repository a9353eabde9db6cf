"""Makes the desired state true: one process per version, one gateway, routes that are set and then read back, and an honest report of what is.

A loop, five times a second, each round from scratch: read what should be true, look at what is, do the difference, report. Nothing is
remembered that a restart would miss. Two supervisors of one model cannot run (file lock); children end by themselves when it is killed.
"""

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from firstlight.digest import write_atomic
from firstlight.errors import FirstlightError
from rollout.reconciler import effective_traffic
from rollout.spec import Desired, Observed, Traffic
from rollout.store import Store
from serving import access_keys, control, exposure, planning, process
from serving.child import Child
from serving.control import ADDRESS_FILE, READER_FILE, Control
from serving.errors import SettingsError
from serving.fleet import Fleet
from serving.options import Options
from serving.planning import ServerState
from serving.process import GRACE_SECONDS
from serving.routes import Routes, Target

_LOG = logging.getLogger(__name__)
TICK_SECONDS = 0.2
_OBSERVE_SECONDS = 0.5
_GATEWAY_SECONDS = 20.0
_BIND_SECONDS = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What one supervisor looks after."""

    environment: str
    model: str
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
    """Keep a process warm for the next version: about 0.4 GB that turn ten seconds of start into one."""

    @property
    def folder(self) -> Path:
        """Where this supervisor keeps its lock, its address and the logs."""
        return control.folder(self.state, environment=self.environment, model=self.model)


class Supervisor:
    """The loop. Use as a context: on leaving it, nothing it started is left running."""

    def __init__(self, settings: Settings) -> None:
        """Take the lock and the public port. Raises SettingsError when either is taken."""
        self.settings = settings
        exposure.check(settings.host, settings.options.gateway)
        self._lock = _lock(settings)
        self._listener = _bind_patiently(settings)
        self._token = secrets.token_urlsafe(24)
        self._token_file = settings.folder / "control.token"
        write_atomic(self._token_file, self._token.encode())
        self._reader = access_keys.make()
        write_atomic(settings.folder / READER_FILE, self._reader.text.encode())
        self._store = Store(settings.store_url)
        self._fleet = Fleet(
            folder=settings.folder, options=settings.options, ready_seconds=settings.ready_seconds, standby=settings.standby
        )
        self._gateway: Child | None = None
        self._gateway_failures, self._gateway_not_before = 0, 0.0
        self._control: Control | None = None
        self._way_back: tuple[int, str | None] = (-1, None)
        self._desired: Desired | None = None
        self._routed, self._in_flight = Traffic(), dict[str, int]()
        self._observed: Observed | None = None

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
        """One round. Problems become sentences in the report; only a bug raises."""
        problems: list[str] = []
        target = self._read_target(problems)
        states = self._fleet.states()
        wanted = (*planning.servers(target, states=states), *planning.rehearsed(target, previous=self._previous(), states=states))
        problems += self._fleet.keep(wanted, find=lambda version: self._store.version(self.settings.model, version))
        problems += [problem for problem in self._fleet.problems() if problem not in problems]
        self._fleet.keep_spare()
        true_now = self._steer(target, problems) if self._gateway_ready(problems) else None
        if true_now is not None:
            present = self._fleet.states()
            self._fleet.drop(planning.removable(present, wanted=wanted, routed=true_now, in_flight=self._in_flight))
        self._report(true_now, problems)

    def close(self) -> None:
        """Stop the gateway, then the model servers, then give back port and lock."""
        if self._gateway is not None:
            self._gateway.terminate()
            if not self._gateway.wait(GRACE_SECONDS + 2):
                self._gateway.kill()
        self._fleet.close()
        (self.settings.folder / ADDRESS_FILE).unlink(missing_ok=True)
        self._report(None, ["the supervisor was stopped"], last=True)
        self._store.close()
        self._listener.close()
        self._lock.close()

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_target(self, problems: list[str]) -> Traffic:
        try:
            self._desired = self._store.desired(self.settings.environment, self.settings.model)
        except FirstlightError as error:
            problems.append(f"the desired state cannot be read, the last one stays true: {error}")
        if self._desired is None:
            return Traffic()
        target = effective_traffic(self._desired, time.time())
        if target != self._desired.traffic:
            problems.append(f"the lease of canary {self._desired.traffic.canary} lapsed: all traffic is on {target.stable or 'nobody'}")
        return target

    def _previous(self) -> str | None:
        """Return the version a rollback would go to; asked once for every generation of the desired state."""
        generation = self._desired.generation if self._desired else 0
        if self._way_back[0] != generation:
            try:
                found = self._store.previous(self.settings.environment, self.settings.model)
            except FirstlightError:
                return self._way_back[1]
            self._way_back = (generation, found.version if found else None)
        return self._way_back[1]

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
        if self._control is None:
            self._control = Control(f"http://127.0.0.1:{gateway.control_port}", token=self._token)
            self._leave_address(gateway)
        return True

    def _start_gateway(self) -> None:
        if time.monotonic() < self._gateway_not_before:
            return
        arguments = ["gateway", "--model", self.settings.model, "--fd", str(self._listener.fileno())]
        arguments += ["--token-file", str(self._token_file), "--parent", str(os.getpid())]
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
        if self._control is not None:
            self._control.close()
        self._gateway = self._control = None

    def _steer(self, target: Traffic, problems: list[str]) -> Traffic | None:
        """Set the routes where they differ, and return what the gateway says is true."""
        assert self._control is not None
        urls = self._fleet.urls()
        traffic = planning.route(target, ready=urls.keys(), present=self._routed)
        generation = self._desired.generation if self._desired else 0
        wanted = _routes(traffic, urls=urls, generation=generation)
        try:
            now, self._in_flight = self._control.routes()
            if now != wanted:
                self._control.put_routes(wanted)
                now, self._in_flight = self._control.routes()
        except FirstlightError as error:
            problems.append(f"the gateway's routes cannot be set: {error}")
            return None
        if now != wanted:
            problems.append(f"the gateway must route {wanted.model_dump()}, it says {now.model_dump()}")
        self._routed = _traffic(now)
        return self._routed

    def _report(self, traffic: Traffic | None, problems: list[str], *, last: bool = False) -> None:
        now = time.time()
        seen = Observed(
            environment=self.settings.environment,
            model=self.settings.model,
            generation=self._desired.generation if self._desired else 0,
            traffic=traffic,
            ready=() if last else tuple(sorted(self._fleet.urls())),
            gateway_url=self.url if self._control is not None and not last else None,
            heartbeat=now,
            problems=tuple(problems),
        )
        if not last and not _news(seen, self._observed):
            return
        # A report that cannot be written is seen by its reader as a heartbeat that stops.
        try:
            self._store.observe(seen)
            self._observed = seen
        except FirstlightError as error:
            _LOG.warning("the observed state could not be written", extra={"why": str(error)})

    def _leave_address(self, gateway: Child) -> None:
        address = {
            "gateway_url": self.url,
            "control_url": f"http://127.0.0.1:{gateway.control_port}",
            "token": self._token,
            "reader_key": self._reader.text,
            "pid": os.getpid(),
        }
        write_atomic(self.settings.folder / ADDRESS_FILE, json.dumps(address).encode())


def _news(seen: Observed, before: Observed | None) -> bool:
    if before is None or seen.heartbeat - before.heartbeat >= _OBSERVE_SECONDS:
        return True
    return (seen.generation, seen.traffic, seen.ready, seen.problems) != (before.generation, before.traffic, before.ready, before.problems)


def _routes(traffic: Traffic, *, urls: Mapping[str, str], generation: int) -> Routes:
    stable = Target(version=traffic.stable, url=urls[traffic.stable]) if traffic.stable else None
    canary = Target(version=traffic.canary, url=urls[traffic.canary]) if traffic.canary else None
    return Routes(generation=generation, stable=stable, canary=canary, canary_weight=traffic.canary_weight)


def _traffic(routes: Routes) -> Traffic:
    stable = routes.stable.version if routes.stable else None
    canary = routes.canary.version if routes.canary else None
    return Traffic(stable=stable, canary=canary, canary_weight=routes.canary_weight)


def _lock(settings: Settings) -> IO[str]:
    path = settings.folder / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
    except OSError as error:
        raise SettingsError(f"{settings.folder} must be writable, got {error.strerror!r}: choose another state folder") from error
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.close()
        raise SettingsError(
            f"{settings.model} in {settings.environment} must have one supervisor, and another one holds {path}: stop that one first"
        ) from error
    return stream


def _bind_patiently(settings: Settings) -> socket.socket:
    """Bind the public port; children of a killed supervisor may hold it for a few seconds more."""
    deadline = time.monotonic() + (_BIND_SECONDS if settings.port and (settings.folder / ADDRESS_FILE).exists() else 0)
    while True:
        with contextlib.suppress(SettingsError):
            return process.bind(host=settings.host, port=settings.port)
        if time.monotonic() >= deadline:
            return process.bind(host=settings.host, port=settings.port)
        time.sleep(0.2)
