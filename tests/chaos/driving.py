"""The process that drives one release: ``rollout.driver`` as it is, between a real store and a real gateway, without Prefect.

Two doors for the test. In phases that the file ``hold`` names, what was measured is kept from the driver, so that it stays there while something is
broken; in ``promoting`` and ``watching``, which no measurement prolongs, it waits: just before the champion is moved, and before it looks.
"""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.errors import FirstlightError
from rollout.backends.local import LocalBackend
from rollout.driver import Driver, Errand, Pace
from rollout.errors import Fenced
from rollout.evidence import Reference
from rollout.judge import Answered
from rollout.meter import Reading
from rollout.policy import RolloutPolicy
from rollout.records import ReleaseStatus
from rollout.spec import Phase, RolloutSpec, RolloutStatus
from rollout.store import Store
from serving import control, process
from tests.chaos import clocks
from tests.chaos.versions import LEDGER_KEY, MODEL

ENVIRONMENT = "chaos"
FENCED, GAVE_UP = 3, 4
"""Exit codes: somebody else drives by now; an error that repeating may mend."""
_LOG = logging.getLogger(__name__)
_SCALE = 0.15
"""Standard deviation of the score on signals of unit variance; rounded."""
_THRESHOLD = 0.4
_BUSY_SECONDS = 5.0


@dataclass(slots=True)
class Held:
    """Phases in which the test keeps the driver, as the file says now."""

    file: Path
    store: Store
    token: int = 0
    """The driver's."""

    def wait(self, place: str) -> None:
        """Return when the driver is not kept in ``place`` any more, or another one has taken over: it must find that out."""
        while place in self and self._is_newest():
            time.sleep(0.05)

    def _is_newest(self) -> bool:
        try:
            record = self.store.rollout(ENVIRONMENT, MODEL)
        except FirstlightError:
            return True
        return record is None or record.token == self.token

    def __contains__(self, place: object) -> bool:
        try:
            return place in self.file.read_text().split()
        except FileNotFoundError:
            return False


class GatewayWorld:
    """What the gateway of a supervisor counts; nobody is made to ask, for callers ask all the time."""

    def __init__(self, state: Path, held: Held) -> None:
        self._state, self._held, self._place = state, held, ""

    def evidence(self) -> Mapping[str, Any]:
        if self._place in self._held:
            raise FirstlightError(f"the test keeps what was measured from the driver while it is {self._place}")
        with control.find(self._state, environment=ENVIRONMENT, model=MODEL) as gateway:
            return gateway.evidence()

    def pairs(self, after: int) -> Mapping[str, Any]:
        with control.find(self._state, environment=ENVIRONMENT, model=MODEL) as gateway:
            return gateway.pairs(after=after)

    def stir(self, status: RolloutStatus) -> None:
        self._place = place_of(status)
        if status.phase is Phase.WATCHING:  # it ends by the clock, whatever was measured
            self._held.wait(self._place)

    def answered(self) -> Mapping[str, Answered]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is nothing to remember."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """Moves the champion of the test's model."""

    store: Store
    release_id: str
    digest: str
    held: Held

    def forward(self, spec: RolloutSpec, token: int) -> None:
        self.held.wait(Phase.PROMOTING.value)
        expected, by = spec.stable, f"release {self.release_id}"
        which = {"version": spec.canary, "digest": self.digest, "release_id": self.release_id}
        self.store.promote(ENVIRONMENT, MODEL, **which, expected_champion=expected, by=by, token=token)

    def back(self, spec: RolloutSpec, token: int, reason: str) -> None:
        by = f"release {self.release_id}"
        to, expected = spec.stable, spec.canary
        self.store.rollback(ENVIRONMENT, MODEL, by=by, reason=reason, to=to, expected_champion=expected, token=token)


def place_of(status: RolloutStatus) -> str:
    """Return the phase, with its weight while it progresses: ``starting``, ``progressing/50`` …"""
    return f"{status.phase.value}/{status.weight}" if status.phase is Phase.PROGRESSING else status.phase.value


def reference(policy: RolloutPolicy, *, control_is_there: bool) -> Reference:
    """Return what there is to measure: the gateway's counts and, with a stable version, pairs of answers."""
    return Reference(
        control=control_is_there,
        quality=False,
        agreement=False,
        pairs=control_is_there,
        scales=dict.fromkeys(policy.answers, _SCALE),
    )


def drive(words: dict[str, str]) -> int:
    """Drive one release to its end, and close it."""
    clock = clocks.clock()
    policy = RolloutPolicy.model_validate_json(words["policy"])
    with Store(words["store"], clock=clock.wall, busy_seconds=_BUSY_SECONDS, ledger_key=LEDGER_KEY) as store:
        held = Held(file=Path(words["hold"]), store=store)
        champion, version = store.champion(ENVIRONMENT, MODEL), store.version(MODEL, words["version"])
        spec = _spec(store, words["release"], version.version, champion.version if champion else None, policy)
        errand = Errand(
            environment=ENVIRONMENT,
            model=MODEL,
            release_id=words["release"],
            holder=f"driver {os.getpid()}",
            spec=spec,
            reading=Reading(
                canary=spec.canary, stable=spec.stable, baseline=policy.baseline, numbers={name: name for name in policy.answers}
            ),
            reference=reference(policy, control_is_there=spec.stable is not None),
        )

        def backend(token: int) -> LocalBackend:
            held.token = token
            how = {"lease_seconds": policy.lease_seconds, "shadow_percent": policy.shadow_percent, "token": token}
            return LocalBackend(store, ENVIRONMENT, MODEL, by=f"release {words['release']}", clock=clock.wall, **how)

        driver = Driver(
            errand,
            store=store,
            backend=backend,
            world=GatewayWorld(Path(words["state"]), held),
            champion=Move(store=store, release_id=words["release"], digest=version.model_digest, held=held),
            clock=clock,
            pace=Pace(poll=0.2, look=0.5, save=2.0, patience=60.0),
            tell=lambda status, said: _LOG.info("rollout", extra={"place": place_of(status), "said": said}),
        )
        ended = driver.run()
        _close(store, words["release"], ended.status)
    return 0


def _spec(store: Store, release_id: str, version: str, champion: str | None, policy: RolloutPolicy) -> RolloutSpec:
    """Return what this release has to do. One that has moved the champion already goes on against the version it replaced."""
    for line in store.history(ENVIRONMENT, MODEL):
        if line.release_id == release_id:
            return RolloutSpec(canary=version, stable=line.previous, policy=policy)
    return RolloutSpec(canary=version, stable=champion, policy=policy)


def _close(store: Store, release_id: str, status: RolloutStatus) -> None:
    has_promoted = any(line.release_id == release_id for line in store.history(ENVIRONMENT, MODEL))
    unproved = ReleaseStatus.CANNOT_TELL if status.phase is Phase.UNDECIDED else ReleaseStatus.FAILED
    end = ReleaseStatus.PROMOTED if has_promoted else unproved
    store.close_release(release_id, end, f"{status.phase.value}: {'; '.join(status.reasons)}"[:300])


def main(words: dict[str, str]) -> int:
    """Drive; say in one sentence why not."""
    process.log_as_json(process="drive")
    try:
        return drive(words)
    except Fenced as error:
        _LOG.warning("fenced", extra={"why": str(error)})
        return FENCED
    except FirstlightError as error:
        _LOG.warning("gave up", extra={"why": f"{type(error).__name__}: {error}"})
        return GAVE_UP


__all__ = ["FENCED", "GAVE_UP", "drive", "main", "place_of", "reference"]
