"""Releases of a world that are broken on their way, as a plan says; callers ask all the while, and in the end every invariant is asked.

A plan names faults by the phase of the rollout in which they happen. The rollout is kept in a phase until its faults are over and the world has healed.
"""

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from firstlight import chain
from firstlight.errors import FirstlightError
from rollout.policy import AnswerRule, RolloutPolicy
from rollout.spec import Phase
from serving.options import GatewayOptions
from tests.chaos import invariants, witness
from tests.chaos.client import Callers
from tests.chaos.faults import FAULTS, Run
from tests.chaos.invariants import Excused, Happened
from tests.chaos.versions import GOOD, LEDGER_KEY, Kind
from tests.chaos.world import ENVIRONMENT, MODEL, World, until

PLACES = ("starting", "progressing/50", "progressing/100", "paused", "approving", "promoting", "watching")
"""Where a rollout of :func:`policy` can be."""
_ENDS = tuple(phase.value for phase in Phase if phase.is_final)
_PROMISED_SECONDS = 10.0
"""Beside the lease: within which the world equals the desired state again."""
_RELEASE_SECONDS = 600.0
_WAIT_SECONDS = GatewayOptions().wait_seconds
"""How long the gateway lets a request wait for somebody who answers."""
_LOG = logging.getLogger(__name__)
Plan = Mapping[str, Sequence[str]]


def policy(*, is_strict: bool, asks: bool, start_seconds: float) -> RolloutPolicy:
    """Return a policy of two steps that tens of requests can pass.

    A strict one allows half a percent of failed requests more than the control's: to show that takes longer than the rollout may take, so a canary
    that fails once in a hundred requests is turned back, as worse or as undecided. What is never judged here is whether a good one is let
    through at such a margin: that takes hours at this rate, and is the simulation's subject. ``start_seconds`` is how long this machine takes to bring a
    world up: a busy one gets longer leases.
    """
    return RolloutPolicy(
        steps=(50, 100),
        requests_per_step=10,
        step_deadline_seconds=(25.0 if is_strict else 150.0) + 3 * start_seconds,
        lease_seconds=lease_of(start_seconds),
        error_margin=0.005 if is_strict else 0.3,
        latency_quantile=0.75,
        latency_ratio_limit=4.0,
        answers={"score": AnswerRule(margin=0.5)},
        approval="before-promotion" if asks else "none",
        watch_seconds=2.0,
        replay=False,
    )


def lease_of(start_seconds: float) -> float:
    """Return the lease for a machine that takes so long to bring a world up: 4 s on one that is idle, never more than a minute."""
    return round(min(max(4.0, start_seconds / 2), 60.0), 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How one release ended."""

    version: str
    kind: str
    place: str
    missed: tuple[str, ...]
    """Faults that were planned and not done: the rollout did not get there, or there was nothing to do them to."""


@dataclass(slots=True)
class Campaign:
    """A world, its callers, and what was done so far. Use as a context."""

    world: World
    happened: list[Happened] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    started_seconds: float = 0.0
    """How long this machine, as busy as it is, takes to bring a world up: what a process that is started again may take as well."""
    callers: Callers = field(init=False)

    def __enter__(self) -> "Campaign":
        began = time.monotonic()
        self._first_champion()
        self.world.start()
        until(self.world.as_desired, 240, "the world is up")
        self.started_seconds = time.monotonic() - began
        self.callers = Callers(self.world.url, MODEL)
        self.callers.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.callers.__exit__(None, None, None)

    def release(self, kind: Kind, plan: Plan) -> Ended:
        """Release a new version of this kind while what ``plan`` says is done; return how it ended."""
        rules = policy(is_strict=not kind.is_good, asks=Phase.APPROVING.value in plan, start_seconds=self.started_seconds)
        version = self.world.add(kind)
        servable = self.world.store.version(MODEL, version)
        digests = {"handoff_digest": servable.handoff_digest, "model_digest": servable.model_digest, "policy_digest": "p"}
        opened = self.world.store.open_release(ENVIRONMENT, MODEL, **digests, by="campaign")
        run = Run(
            release_id=opened.id,
            version=version,
            lease_seconds=rules.lease_seconds,
            drive=lambda: self.world.drive(opened.id, version, rules),
        )
        pending = {place: list(faults) for place, faults in plan.items() if faults}
        place, missed = self._through(run, pending)
        missed += [f"{fault} in {place}" for place, faults in pending.items() for fault in faults]
        ended = Ended(version=version, kind=kind.name, place=place, missed=tuple(missed))
        self.ended.append(ended)
        _LOG.info("release ended: %s", ended)
        return ended

    def check(self) -> tuple[list[str], Excused]:
        """Return every sentence about what did not hold, and what callers met and may meet."""
        store, written = self.world.store, witness.seen(self.world.database.url)
        wrong, excused = invariants.failed_requests(
            self.callers.asked, self.happened, callers=self.callers.count, wait_seconds=_WAIT_SECONDS
        )
        wrong += invariants.champions(store.history(ENVIRONMENT, MODEL), written)
        wrong += invariants.ready_before_traffic(written)
        wrong += invariants.healed_in_time(self.happened, seconds=self.bound_seconds)
        wrong += invariants.audit(store.decisions(ENVIRONMENT, MODEL), written)
        wrong += [str(one) for one in chain.broken([entry.to_dict() for entry in store.ledger()], keys=(LEDGER_KEY,))]
        return wrong, excused

    @property
    def bound_seconds(self) -> float:
        """A lease, ten seconds, and what this machine takes to start processes while it is as busy as it was."""
        return lease_of(self.started_seconds) + _PROMISED_SECONDS + 2 * self.started_seconds

    def _first_champion(self) -> None:
        store, version = self.world.store, self.world.add(GOOD)
        servable = store.version(MODEL, version)
        digests = {"handoff_digest": servable.handoff_digest, "model_digest": servable.model_digest, "policy_digest": "p"}
        opened = store.open_release(ENVIRONMENT, MODEL, **digests, by="campaign")
        which = {"version": version, "digest": servable.model_digest, "release_id": opened.id}
        store.promote(ENVIRONMENT, MODEL, **which, expected_champion=None, by="campaign")
        store.close_release(opened.id, "promoted", "the first")

    def _through(self, run: Run, pending: dict[str, list[str]]) -> tuple[str, list[str]]:
        """Drive to an end; return it, and the faults that had no victim."""
        missed: list[str] = []
        self.world.hold_file.write_text("\n".join(pending))
        run.drive()
        deadline = time.monotonic() + _RELEASE_SECONDS + 10 * self.started_seconds
        while (place := self.world.place(run.release_id)) not in _ENDS:
            assert time.monotonic() < deadline, f"the rollout of {run.version} must end, it is {place}; see {self.world.folder}"
            for fault in pending.pop(place, []):
                missed += [] if self._strike(fault, place, run) else [f"{fault} in {place} (nobody there)"]
            self.world.hold_file.write_text("\n".join(pending))
            self._order(place, pending)
            self._keep_driven(run)
            time.sleep(0.05)
        until(lambda: self._is_closed(run), 60 + self.bound_seconds, "the release is closed")
        until(self.world.as_desired, self.bound_seconds, f"the world is as desired after {place}")
        return place, missed

    def _strike(self, fault: str, place: str, run: Run) -> bool:
        what, _, victim = fault.partition(" ")
        answered, at = self.world.shares(), time.monotonic()
        was_there = FAULTS[fault](self.world, run)
        mended = time.monotonic()
        healed: float | None = None
        with contextlib.suppress(AssertionError):
            until(lambda: self._keep_driven(run) and self.world.as_desired(), 3 * self.bound_seconds, "healed")
            healed = time.monotonic()
        done = Happened(at=at, what=what, victim=victim, place=place, answered=answered, mended=mended, healed=healed)
        if was_there:
            self.happened.append(done)
        _LOG.info(
            "%s in %s: %s, healed in %s s", fault, place, "done" if was_there else "nobody there", healed and round(healed - mended, 2)
        )
        return was_there

    def _order(self, place: str, pending: dict[str, list[str]]) -> None:
        """Be the person who pauses, resumes and approves."""
        what = ""
        if place.startswith(Phase.PROGRESSING.value) and Phase.PAUSED.value in pending:
            what = "pause"
        elif place == Phase.PAUSED.value:
            what = "resume"
        elif place == Phase.APPROVING.value:
            what = "approve"
        if what:
            with contextlib.suppress(FirstlightError):  # it ended meanwhile, or the store is away: asked again
                self.world.store.order(ENVIRONMENT, MODEL, what, by="ada", reason="a test")

    def _keep_driven(self, run: Run) -> bool:
        """Start a driver where there is none, as Prefect would a crashed flow; always true."""
        if self.world.pid("driver") is None and not self._is_closed(run):
            run.drive()
            time.sleep(0.2)
        return True

    def _is_closed(self, run: Run) -> bool:
        try:
            return self.world.store.release(run.release_id).status.value != "open"
        except FirstlightError:
            return False


__all__ = ["PLACES", "Campaign", "Ended", "Plan", "policy"]
