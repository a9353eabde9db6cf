"""One model under the supervisor: what should be true of it, its model servers, its routes, and the report of what is.

Everything is done from scratch each round: read what should be true, look at what is, do the difference, report. Nothing is remembered that a
restart would miss.
"""

import fcntl
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from firstlight.errors import FirstlightError
from rollout.reconciler import effective_traffic
from rollout.spec import Desired, Observed, Traffic
from rollout.store import Store
from serving import planning
from serving.control import ADDRESS_FILE, Control
from serving.errors import SettingsError
from serving.fleet import Fleet
from serving.options import GatewayOptions
from serving.routes import Routes, Shadow, Target

_LOG = logging.getLogger(__name__)
_OBSERVE_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """What one keeper looks after."""

    environment: str
    model: str
    folder: Path
    """For its lock, its address and its logs."""
    gateway: GatewayOptions = field(default_factory=GatewayOptions)


class Keeper:
    """The loop's body for one model."""

    def __init__(self, charge: Charge, *, store: Store, fleet: Fleet) -> None:
        """Take the lock. Raises SettingsError when another supervisor has it."""
        self.charge, self._store, self._fleet = charge, store, fleet
        self._lock = _lock(charge)
        self._way_back: tuple[int, str | None] = (-1, None)
        self._desired: Desired | None = None
        self._routed, self._in_flight = Traffic(), dict[str, int]()
        self._observed: Observed | None = None

    def tick(self, gateway: Control | None, *, gateway_url: str | None, problems: list[str]) -> None:
        """One round; ``gateway`` None: there is none now. Problems become sentences in the report; only a bug raises."""
        target = self._read_target(problems)
        states = self._fleet.states()
        wanted = (*planning.servers(target, states=states), *planning.rehearsed(target, previous=self._previous(), states=states))
        problems += self._fleet.keep(wanted, find=lambda version: self._store.version(self.charge.model, version))
        problems += [problem for problem in self._fleet.problems() if problem not in problems]
        self._fleet.keep_spare()
        true_now = self._steer(gateway, target, problems) if gateway is not None else None
        if true_now is not None:
            present = self._fleet.states()
            self._fleet.drop(planning.removable(present, wanted=wanted, routed=true_now, in_flight=self._in_flight))
        self._report(true_now, gateway_url, problems)

    def addresses(self) -> list[str]:
        """Return the addresses of the model's servers that listen, ready or not."""
        return self._fleet.addresses()

    def close(self) -> None:
        """Stop the model servers, say so, and give back the lock."""
        self._fleet.close()
        (self.charge.folder / ADDRESS_FILE).unlink(missing_ok=True)
        self._report(None, None, ["the supervisor was stopped"], last=True)
        self._lock.close()

    def _read_target(self, problems: list[str]) -> Traffic:
        try:
            self._desired = self._store.desired(self.charge.environment, self.charge.model)
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
                found = self._store.previous(self.charge.environment, self.charge.model)
            except FirstlightError:
                return self._way_back[1]
            self._way_back = (generation, found.version if found else None)
        return self._way_back[1]

    def _steer(self, gateway: Control, target: Traffic, problems: list[str]) -> Traffic | None:
        """Set the routes where they differ, and return what the gateway says is true."""
        urls = self._fleet.urls()
        traffic = planning.route(target, ready=urls.keys(), present=self._routed)
        generation = self._desired.generation if self._desired else 0
        wanted = routes_for(traffic, urls=urls, generation=generation, options=self.charge.gateway)
        try:
            now, self._in_flight = gateway.routes()
            if now != wanted:
                gateway.put_routes(wanted)
                now, self._in_flight = gateway.routes()
        except FirstlightError as error:
            problems.append(f"the gateway's routes cannot be set: {error}")
            return None
        if now != wanted:
            problems.append(f"the gateway must route {wanted.model_dump()}, it says {now.model_dump()}")
        self._routed = _traffic(now)
        return self._routed

    def _report(self, traffic: Traffic | None, gateway_url: str | None, problems: list[str], *, last: bool = False) -> None:
        seen = Observed(
            environment=self.charge.environment,
            model=self.charge.model,
            generation=self._desired.generation if self._desired else 0,
            traffic=traffic,
            ready=() if last else tuple(sorted(self._fleet.urls())),
            gateway_url=gateway_url,
            heartbeat=time.time(),
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


def _news(seen: Observed, before: Observed | None) -> bool:
    if before is None or seen.heartbeat - before.heartbeat >= _OBSERVE_SECONDS:
        return True
    return (seen.generation, seen.traffic, seen.ready, seen.problems) != (before.generation, before.traffic, before.ready, before.problems)


def routes_for(traffic: Traffic, *, urls: Mapping[str, tuple[str, ...]], generation: int, options: GatewayOptions) -> Routes:
    """Return the routes that make ``traffic`` true with the model servers at ``urls`` (by version, every replica)."""
    stable = _target(traffic.stable, urls) if traffic.stable else None
    canary = _target(traffic.canary, urls) if traffic.canary else None
    # A canary without weight learns from copies what will hit it; one with weight is measured by its own requests.
    shadow = (
        Shadow(target=canary, percent=options.shadow_percent) if canary and not traffic.canary_weight and options.shadow_percent else None
    )
    return Routes(
        generation=generation,
        stable=stable,
        canary=canary,
        canary_weight=traffic.canary_weight,
        sticky=options.sticky,
        shadow=shadow,
    )


def _target(version: str, urls: Mapping[str, tuple[str, ...]]) -> Target:
    first, *others = urls[version]
    return Target(version=version, url=first, replicas=tuple(others))


def _traffic(routes: Routes) -> Traffic:
    stable = routes.stable.version if routes.stable else None
    canary = routes.canary.version if routes.canary else None
    return Traffic(stable=stable, canary=canary, canary_weight=routes.canary_weight)


def _lock(charge: Charge) -> IO[str]:
    path = charge.folder / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
    except OSError as error:
        raise SettingsError(f"{charge.folder} must be writable, got {error.strerror!r}: choose another state folder") from error
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.close()
        raise SettingsError(
            f"{charge.model} in {charge.environment} must have one supervisor, and another one holds {path}: stop that one first"
        ) from error
    return stream
