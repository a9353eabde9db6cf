"""One model under the supervisor: what should be true of it, its model servers, its routes, and the report of what is.

Everything is done from scratch each round: read what should be true, look at what is, do the difference, report. Nothing is remembered that a
restart would miss.
"""

import fcntl
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from firstlight.errors import FirstlightError
from rollout.reconciler import effective_traffic, lease_left
from rollout.spec import Desired, Observed, ServableVersion, Traffic
from rollout.store import Store
from serving import drilling, planning
from serving.adoption import Census, Record
from serving.control import ADDRESS_FILE, Control
from serving.drilling import Drills
from serving.errors import SettingsError
from serving.fleet import Fleet
from serving.leases import Clock, Lease
from serving.options import Options
from serving.refused import RefusedVersions
from serving.routes import Routes
from serving.steering import routes_for, traffic_of

_LOG = logging.getLogger(__name__)
_OBSERVE_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """What one keeper looks after."""

    environment: str
    model: str
    folder: Path
    """For its lock, its address, its list of children and its logs."""
    options: Options = field(default_factory=Options)
    ready_seconds: float = 60.0
    """Longest that a model server may take to become ready."""
    standby: bool = True
    """Keep a process warm for the next version."""
    clock: Clock = field(default_factory=Clock)


class Keeper:
    """The loop's body for one model."""

    def __init__(self, charge: Charge, *, store: Store) -> None:
        """Take the lock. Raises SettingsError when another supervisor has it."""
        self.charge, self._store = charge, store
        self._lock = _lock(charge)
        fleet = partial(Fleet, folder=charge.folder, ready_seconds=charge.ready_seconds)
        self._fleet = fleet(options=charge.options, standby=charge.standby)
        self._fresh = fleet(options=charge.options, standby=False, role="baseline")
        self._drills = self._make_drills(fleet(options=_alone(charge.options), standby=False, role="drill", restarts=False))
        self._refused = RefusedVersions(store, environment=charge.environment, model=charge.model)
        self._lease = Lease(charge.clock)
        self._way_back: tuple[int, str | None] = (-1, None)
        self._desired: Desired | None = None
        self._has_read = False
        self._gateway: Control | None = None
        self._told_until: float | None = None
        self._routes, self._in_flight = Routes(), dict[str, int]()
        # Looked at once in a round: routes and report speak of the same moment.
        self._urls, self._fresh_urls = dict[str, tuple[str, ...]](), dict[str, tuple[str, ...]]()
        self._observed: Observed | None = None

    def adopt(self, census: Census, *, same_boot: bool) -> None:
        """Take over what an earlier supervisor of this model left running."""
        self._fleet.adopt(census.children)
        self._fresh.adopt(census.children)
        if same_boot:
            self._lease.remember(census.lease)

    def settle(self, seconds: float) -> None:
        """Wait until every server that was taken over has been asked how it is."""
        self._fleet.settle(seconds)
        self._fresh.settle(seconds)

    def records(self) -> tuple[Record, ...]:
        """Return the processes that the next supervisor could take over."""
        return (*self._fleet.records(), *self._fresh.records())

    @property
    def lease(self) -> Mapping[str, Any]:
        """What the next supervisor must know of the canary's lease."""
        return self._lease.to_dict()

    @property
    def has_steered(self) -> bool:
        """Whether the present gateway has its routes."""
        return self._told_until is not None

    def tick(self, gateway: Control | None, *, gateway_url: str | None, problems: list[str]) -> None:
        """One round; ``gateway`` None: there is none now. Problems become sentences in the report; only a bug raises."""
        if gateway is not self._gateway:
            self._gateway, self._told_until = gateway, None
        target = self._read_target(problems)
        if target is None:  # nothing is known yet: what was taken over goes on as it is
            self._urls, self._fresh_urls = self._fleet.urls(), self._fresh.urls()
            self._report(None, gateway_url, problems)
            return
        states = self._fleet.states()
        answering = planning.servers(target, states=states)
        wanted = (*answering, *planning.rehearsed(target, previous=self._previous(), states=states))
        compared = planning.baselines(target, wanted=answering)
        problems += self._fleet.keep(wanted, find=self._find)
        problems += self._fresh.keep(compared, find=self._find)
        problems += [problem for fleet in (self._fleet, self._fresh) for problem in fleet.problems() if problem not in problems]
        for fleet in (self._fleet, self._fresh, self._drills.fleet):
            self._refused.tell(fleet.refused())
        if not self._fresh.is_starting and not self._drills.fleet.is_starting:
            self._fleet.keep_spare()
        self._rehearse(settled=self._settled(answering, compared))
        self._urls, self._fresh_urls = self._fleet.urls(), self._fresh.urls()
        true_now = self._steer(gateway, target, problems) if gateway is not None else None
        if true_now is not None:
            self._tidy(wanted, compared, true_now)
        self._report(true_now, gateway_url, problems)

    def addresses(self) -> list[str]:
        """Return the addresses of the model's servers that listen, ready or not."""
        return [*self._fleet.addresses(), *self._fresh.addresses()]

    def close(self) -> None:
        """Stop the model servers, say so, and give back the lock."""
        for fleet in (self._fleet, self._fresh, self._drills.fleet):
            fleet.begin_close()
        for fleet in (self._fleet, self._fresh, self._drills.fleet):
            fleet.close()
        (self.charge.folder / ADDRESS_FILE).unlink(missing_ok=True)
        self._report(None, None, ["the supervisor was stopped"], last=True)
        self._lock.close()

    def release(self) -> None:
        """Give back the lock and leave every process alone: somebody else may take them over."""
        self._lock.close()

    def _find(self, version: str) -> ServableVersion:
        return self._store.version(self.charge.model, version)

    def _make_drills(self, fleet: Fleet) -> Drills:
        how = self.charge.options.gateway
        last = None
        try:
            seen = self._store.observed(self.charge.environment, self.charge.model)
            last = drilling.Report.from_dict(seen.drill if seen else None)
        except FirstlightError as error:
            _LOG.warning("the last drill's report cannot be read", extra={"why": str(error)})
        return Drills(fleet, length=drilling.Length(seconds=how.drill_seconds, copies=how.drill_copies), last=last)

    def _read_target(self, problems: list[str]) -> Traffic | None:
        """Return what should be true; None when that could never be read yet."""
        try:
            self._desired, self._has_read = self._store.desired(self.charge.environment, self.charge.model), True
        except FirstlightError as error:
            problems.append(f"the desired state cannot be read, the last one stays true: {error}")
            if not self._has_read:
                return None
        if self._desired is None:
            return Traffic()
        held = self._lease.held(self._desired)
        target = effective_traffic(self._desired, self.charge.clock.wall(), held=held)
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

    def _settled(self, answering: tuple[str, ...], compared: tuple[str, ...]) -> bool:
        """Return whether everything that should answer does: a drill waits for that."""
        return bool(answering) and self._fleet.urls().keys() >= set(answering) and self._fresh.urls().keys() >= set(compared)

    def _rehearse(self, *, settled: bool) -> None:
        asked = self._desired.drill if self._desired else None
        self._drills.tick(asked, settled=settled, find=self._find, now=self.charge.clock.wall())

    def _steer(self, gateway: Control, target: Traffic, problems: list[str]) -> Traffic | None:
        """Set the routes where they differ, and return what the gateway says is true."""
        try:
            self._read_routes(gateway)
            wanted = self._wanted(target)
            until = self._until(wanted)
            if self._told_until is None or abs(until - self._told_until) > _OBSERVE_SECONDS or not self._routes.says(wanted):
                gateway.put_routes(wanted)
                self._told_until = until
                self._read_routes(gateway)
        except FirstlightError as error:
            problems.append(f"the gateway's routes cannot be set: {error}")
            return None
        if not self._routes.says(wanted):
            problems.append(f"the gateway must route {wanted.model_dump()}, it says {self._routes.model_dump()}")
        return traffic_of(self._routes)

    def _read_routes(self, gateway: Control) -> None:
        self._routes, self._in_flight = gateway.routes()
        if self._drills.shadow() is not None:
            self._drills.count(gateway.evidence())

    def _wanted(self, target: Traffic) -> Routes:
        urls, fresh = self._urls, self._fresh_urls
        traffic = planning.route(target, ready=urls.keys(), fresh=fresh.keys(), present=traffic_of(self._routes))
        return routes_for(
            traffic,
            urls=urls,
            fresh=fresh,
            desired=self._desired,
            options=self.charge.options.gateway,
            seconds=planning.canary_seconds(traffic, target=target, left=self._left()),
            drill=self._drills.shadow(),
        )

    def _left(self) -> float | None:
        if self._desired is None:
            return None
        return lease_left(self._desired, self.charge.clock.wall(), held=self._lease.held(self._desired))

    def _until(self, wanted: Routes) -> float:
        """Return until when the gateway is told to send the canary requests, by the steady clock."""
        return float("inf") if wanted.canary_seconds is None else self.charge.clock.steady() + wanted.canary_seconds

    def _tidy(self, wanted: tuple[str, ...], compared: tuple[str, ...], routed: Traffic) -> None:
        """Stop what nobody wants and no route and no request needs any more."""
        urls = self._routes.urls()
        self._fleet.drop_former(routed=urls)
        self._fresh.drop_former(routed=urls)
        self._fleet.drop(planning.removable(self._fleet.states(), wanted=wanted, routed=routed, in_flight=self._in_flight))
        unneeded = [version for version in self._fresh.states() if version not in compared]
        self._fresh.drop([version for version in unneeded if urls.isdisjoint(self._fresh.urls().get(version, ()))])

    def _report(self, traffic: Traffic | None, gateway_url: str | None, problems: list[str], *, last: bool = False) -> None:
        stable = self._desired.traffic.stable if self._desired else None
        drill = self._drills.report
        seen = Observed(
            environment=self.charge.environment,
            model=self.charge.model,
            generation=self._desired.generation if self._desired else 0,
            traffic=traffic,
            ready=() if last else tuple(sorted(self._urls)),
            gateway_url=gateway_url,
            heartbeat=self.charge.clock.wall(),
            problems=tuple(problems),
            baseline_ready=not last and stable in self._fresh_urls,
            drill=None if drill is None else drill.to_dict(),
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
    if before is None or abs(seen.heartbeat - before.heartbeat) >= _OBSERVE_SECONDS:
        return True
    return replace(seen, heartbeat=0.0) != replace(before, heartbeat=0.0)


def _alone(options: Options) -> Options:
    """Return how a rehearsed server behaves: one, gone with the supervisor, and its answers are nobody's, so no log has them."""
    return options.model_copy(
        update={"orphan_seconds": 0.0, "model": options.model.model_copy(update={"replicas": 1, "inference_log": None})}
    )


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
