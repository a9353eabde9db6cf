"""Makes the desired state of its models true: model servers, one gateway before them, routes that are set and then read back, an honest report.

A loop, five times a second; what it does for one model is in ``keeper``, what concerns the gateway in ``front``. Two supervisors of one model
cannot run (file lock). When it is killed, its children go on answering for a while, and the next supervisor takes them over (``adoption``): no
process is started again, no caller notices. It holds the gateway's listening socket, so callers who come while a gateway is replaced wait and are
answered. A supervisor that is told to stop leaves nothing running.
"""

import contextlib
import json
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from firstlight.digest import write_atomic
from governance.ledger_keys import KeyRing
from rollout.clock import Clock
from rollout.store import Store
from serving import adoption, control, exposure
from serving.adoption import Census
from serving.control import ADDRESS_FILE
from serving.errors import SettingsError
from serving.following import signature
from serving.front import Front
from serving.keeper import Charge, Keeper
from serving.options import Options
from serving.scrape_targets import ScrapeTargets

_LOG = logging.getLogger(__name__)
TICK_SECONDS = 0.2
_SETTLE_SECONDS = 2.5
_SAY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What one supervisor looks after."""

    environment: str
    models: tuple[str, ...]
    """One gateway answers for all of them; files that belong to no model lie in the first one's folder."""
    state: Path
    """The state folder; serving/ is made inside."""
    store_url: str
    ledger_keys: Path | None = None
    """The keys that seal what is written into the store's ledger."""
    host: str = "127.0.0.1"
    port: int = 0
    """Public port of the gateway; 0 takes a free one."""
    options: Options = field(default_factory=Options)
    """How gateway and model servers behave."""
    ready_seconds: float = 60.0
    """Longest that a model server may take to become ready."""
    standby: bool = True
    """Keep a process warm for each model's next version: about 0.4 GB that turn ten seconds of start into one."""
    clock: Clock = field(default_factory=Clock)
    """What leases, reports and the store's record are timed by."""

    def folder_of(self, model: str) -> Path:
        """Return where this supervisor keeps the lock, the address and the logs of ``model``."""
        return control.folder(self.state, environment=self.environment, model=model)

    @property
    def folder(self) -> Path:
        """Where it keeps what belongs to all models."""
        return self.folder_of(self.models[0])


class Supervisor:
    """The loop. Use as a context: on leaving it, nothing it started or took over is left running."""

    def __init__(self, settings: Settings) -> None:
        """Take the locks, what an earlier supervisor left running, and the public port.

        Raises SettingsError when one cannot be had; what runs then goes on, for the next one to take over.
        """
        self.settings = settings
        if not settings.models or len(set(settings.models)) < len(settings.models):
            raise SettingsError(f"a supervisor must look after one or more models, each once, got {', '.join(settings.models) or 'none'}")
        exposure.check(settings.host, settings.options.gateway)
        exposure.check_files(settings.options.gateway)
        self._me, self._began = adoption.myself(), time.monotonic()
        keys = None if settings.ledger_keys is None else KeyRing(settings.ledger_keys, may_make=False)
        self._store = Store(settings.store_url, clock=settings.clock.wall, ledger_key=keys)
        self._keepers: list[Keeper] = []
        self._left: dict[str, tuple[Census, tuple[int, ...] | None]] = {}
        self._problems: tuple[str, ...] = ()
        with contextlib.ExitStack() as undo:
            undo.callback(self._store.close)
            for model in settings.models:
                self._keepers.append(self._keeper(model))
                undo.callback(self._keepers[-1].release)
            found = [self._found(keeper) for keeper in self._keepers]
            self._front = Front(settings, left=found[0])
            undo.callback(self._front.release)
            self._leave_census()  # from here on, what was not taken over sees that nobody wants it
            self._front.open()
            undo.pop_all()
        self._targets = ScrapeTargets(settings.state, environment=settings.environment, model=settings.models[0])
        for keeper in self._keepers:
            keeper.settle(_SETTLE_SECONDS)

    @property
    def url(self) -> str:
        """The gateway's public address; it outlives the gateway's process, because this process holds the socket."""
        return self._front.url

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set."""
        while not stop.is_set():
            began = time.monotonic()
            self.tick()
            stop.wait(max(0.0, TICK_SECONDS - (time.monotonic() - began)))

    def tick(self) -> None:
        """One round for the gateway and for every model."""
        problems = list(self._problems if time.monotonic() - self._began < _SAY_SECONDS else ())
        is_ready = self._front.tick(problems)
        if is_ready and self._front.is_new:
            self._leave_address()
        for keeper in self._keepers:
            gateway = self._front.controls.get(keeper.charge.model) if is_ready else None
            keeper.tick(gateway, gateway_url=self.url if self._front.controls else None, problems=list(problems))
        self._front.drop_former(routed=all(keeper.has_steered for keeper in self._keepers))
        self._leave_census()
        self._targets.tell(gateway=self.url, servers=[url for keeper in self._keepers for url in keeper.addresses()])

    def close(self) -> None:
        """Stop the gateway, then the model servers, then give back port and locks."""
        self._front.close()
        self._close_keepers()
        self._targets.clear()

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _keeper(self, model: str) -> Keeper:
        settings = self.settings
        charge = Charge(
            environment=settings.environment,
            model=model,
            folder=settings.folder_of(model),
            options=settings.options,
            ready_seconds=settings.ready_seconds,
            standby=settings.standby,
            clock=settings.clock,
        )
        return Keeper(charge, store=self._store)

    def _found(self, keeper: Keeper) -> Census | None:
        """Let ``keeper`` take over what an earlier supervisor of its model left running, and return its list; None when there is none to use."""
        try:
            census = adoption.read(keeper.charge.folder)
        except SettingsError as error:
            self._problems = (*self._problems, f"what an earlier supervisor left running cannot be taken over: {error}")
            _LOG.warning("nothing is taken over", extra={"why": str(error)})
            return None
        if census is not None:
            keeper.adopt(census, same_boot=adoption.same_boot(census.supervisor, self._me))
        return census

    def _close_keepers(self) -> None:
        for keeper in self._keepers:
            keeper.close()
            with contextlib.suppress(OSError):
                (keeper.charge.folder / adoption.CHILDREN_FILE).unlink(missing_ok=True)
        self._store.close()

    def _leave_census(self) -> None:
        """Write down what could be taken over, where that changed or somebody changed the file."""
        for keeper in self._keepers:
            model, folder = keeper.charge.model, keeper.charge.folder
            front = self._front.records() if keeper is self._keepers[0] else ()
            census = Census(supervisor=self._me, children=(*front, *keeper.records()), lease=keeper.lease)
            path = folder / adoption.CHILDREN_FILE
            if self._left.get(model) == (census, signature(path)):
                continue
            try:
                adoption.write(folder, census)
            except OSError as error:  # a full disk costs the next supervisor its inheritance, and nobody an answer
                _LOG.warning("the list of children could not be written", extra={"why": str(error)})
                continue
            self._left[model] = (census, signature(path))

    def _leave_address(self) -> None:
        address = {**self._front.address(), "pid": os.getpid()}
        for model in self.settings.models:
            write_atomic(self.settings.folder_of(model) / ADDRESS_FILE, json.dumps(address).encode())
