"""A place for the driver of a rollout: a store, a supervisor that obeys at once, a gateway without processes, and a clock that is told to pass."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rollout.backends.local import LocalBackend
from rollout.backends.simulated import Behaviour, Reply, SimulatedGateway
from rollout.clock import Clock
from rollout.driver import Driver, Errand, Pace
from rollout.evidence import Reference
from rollout.judge import Answered
from rollout.meter import Reading
from rollout.policy import AnswerRule, RolloutPolicy
from rollout.spec import Observed, RolloutSpec, RolloutStatus, Traffic
from rollout.store import Store
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_release

HERE = (ENVIRONMENT, MODEL)
POLICY = RolloutPolicy(
    steps=(50, 100),
    requests_per_step=20,
    step_deadline_seconds=60.0,
    lease_seconds=60.0,
    baseline=False,
    watch_seconds=0.0,
    error_margin=0.05,
    quality_margin=0.3,
    agreement_minimum=5,
    flags_margin=0.2,
    answers={"score": AnswerRule(margin=0.5, tolerance=0.1)},
)
READING = Reading(canary="2", stable="1", numbers={"score": "score"}, replayed="replay-2-")
REFERENCE = Reference(quality=False, agreement=False, pairs=True, scales={"score": 1.0})


class Time:
    """A clock that passes when somebody sleeps, and whose wall may be set."""

    def __init__(self) -> None:
        self.steady, self.wall = 100.0, 1_000_000.0
        self.at_sleep: list[Callable[[], None]] = []

    def sleep(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += seconds
        for action in self.at_sleep:
            action()

    @property
    def clock(self) -> Clock:
        return Clock(wall=lambda: self.wall, steady=lambda: self.steady, sleep=self.sleep)


def healthy(number: int, row: int | None) -> Reply:
    return Reply(outputs={"score": math.sin(row if row is not None else number)})


@dataclass
class Here:
    """A store, a supervisor that makes true at once what the store says, a gateway, and live requests between two looks."""

    store: Store
    time: Time
    stable: Behaviour = healthy
    canary: Behaviour = healthy
    per_look: int = 60
    ready: set[str] = field(default_factory=lambda: {"1", "2"})
    routes: list[Traffic] = field(default_factory=list)
    gateway: SimulatedGateway = field(init=False)
    said: list[str] = field(default_factory=list)
    turn: int = 0
    asked: int = 0

    def __post_init__(self) -> None:
        self.gateway = SimulatedGateway(
            lambda: self.routes[-1] if self.routes else None,
            {"1": lambda number, row: self.stable(number, row), "2": lambda number, row: self.canary(number, row)},
        )
        self.supervise()
        self.time.at_sleep.append(self.supervise)

    def supervise(self) -> None:
        """Do what the supervisor does: routes as desired, the lease over when it is over, and a report."""
        desired = self.store.desired(*HERE)
        traffic = desired.traffic if desired else Traffic()
        if desired and desired.lease_until is not None and self.time.wall >= desired.lease_until:
            traffic = Traffic(stable=traffic.stable)
        if traffic.canary and traffic.canary not in self.ready:
            traffic = Traffic(stable=traffic.stable)
        if not self.routes or self.routes[-1] != traffic:
            self.routes.append(traffic)
        self.store.observe(
            Observed(
                environment=ENVIRONMENT,
                model=MODEL,
                generation=desired.generation if desired else 0,
                traffic=traffic,
                ready=tuple(sorted(self.ready)),
                heartbeat=self.time.wall,
                baseline_ready=True,
            )
        )

    # the driver's world

    def evidence(self) -> Mapping[str, Any]:
        return self.gateway.evidence()

    def pairs(self, after: int) -> Mapping[str, Any]:
        return self.gateway.pairs(after)

    def stir(self, status: RolloutStatus) -> None:
        rows = [self.turn + place for place in range(self.per_look)]
        self.turn += self.per_look
        self.asked += self.per_look
        self.gateway.ask(self.per_look, rows=rows or (None,), named="replay-2")

    def answered(self) -> Mapping[str, Answered]:
        return {}

    def state(self) -> dict[str, Any]:
        return {"turn": self.turn}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.turn = state["turn"]

    def driver(self, policy: RolloutPolicy = POLICY, *, store: Any = None, champion: Any = None) -> Driver:
        """Return a new process's driver of the same release."""
        store = store or self.store
        release = self.store.open_one(*HERE) or open_release(self.store, "2")
        return Driver(
            Errand(
                environment=ENVIRONMENT,
                model=MODEL,
                release_id=release.id,
                holder="test",
                spec=RolloutSpec(canary="2", stable="1", policy=policy),
                reading=READING,
                reference=REFERENCE,
            ),
            store=store,
            backend=lambda token: LocalBackend(
                store, *HERE, lease_seconds=policy.lease_seconds, by="test", token=token, shadow_percent=100, clock=lambda: self.time.wall
            ),
            world=self,
            champion=champion and champion(self, release.id),
            clock=self.time.clock,
            pace=Pace(poll=2.0, look=4.0, save=2.0, patience=30.0),
            tell=lambda status, said: self.said.append(said),
        )


@dataclass
class Move:
    """Moves the champion as a release does."""

    here: Here
    release: str

    def forward(self, spec: RolloutSpec, token: int) -> None:
        self.here.store.promote(
            *HERE, version="2", digest=DIGESTS["2"], release_id=self.release, expected_champion="1", by="flow", token=token
        )

    def back(self, spec: RolloutSpec, token: int, reason: str) -> None:
        self.here.store.rollback(*HERE, by="flow", reason=reason, to="1", expected_champion="2", token=token)


def weights(here: Here) -> list[int]:
    """The canary's share of the traffic, from route to route."""
    return [traffic.canary_weight for traffic in here.routes]
