"""One rollout from its first look to its end: the loop around the pure decisions. It has no Prefect in it and outlives nothing it must.

Every round says what should be true, looks, decides (``controller.advance``, ``analysis.assess``), saves and obeys. What happens when
something dies:

* this process (kill -9): the next one claims the rollout, which takes the next fencing token, and goes on from the saved status and
  evidence; when the lease had lapsed meanwhile, from STARTING with the evidence kept;
* this process was only asleep: its old token is refused (``Fenced``), it stops at once and touches nothing;
* the store: asked again until the lease would be over by our own steady clock; then we stop acting, because traffic is back on stable
  by then, and begin again when the store answers. What could not be saved is saved then;
* the gateway: its totals begin at zero and ``Meter`` knows it; while it does not answer nothing is decided;
* the wall clock: time that passes is asked of a steady clock.

On the way back the order is traffic first (proposed and read back), then the canary, then the record.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Protocol

from firstlight.digest import finite
from firstlight.errors import FirstlightError, TransientError
from firstlight.verdict import Verdict
from rollout import analysis, controller
from rollout.analysis import Assessment, Check
from rollout.backends.base import ServingBackend
from rollout.clock import Clock, SteadyTime, resumed
from rollout.errors import Fenced, LeaseLapsed, StaleChampion, StaleGeneration, StoreBusy, StoreUnreachable
from rollout.evidence import Evidence, Reference
from rollout.judge import Judge, World
from rollout.lease import Lease
from rollout.meter import Reading
from rollout.records import RolloutRecord
from rollout.spec import Event, Phase, RolloutSpec, RolloutStatus, Traffic
from rollout.store import Store
from rollout.timeline import Point, Timeline, is_worth_keeping, point

_ORDERED = (Event.PAUSE, Event.RESUME, Event.ABORT, Event.APPROVE)
_LEASED = (Phase.PROGRESSING, Phase.PAUSED, Phase.APPROVING, Phase.PROMOTING)
_JUDGED = (Phase.PROGRESSING, Phase.PAUSED, Phase.APPROVING, Phase.WATCHING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Errand:
    """What is to be rolled out, and how it is read."""

    environment: str
    model: str
    release_id: str
    holder: str
    """Who drives: for people who look at the record."""
    spec: RolloutSpec
    reading: Reading
    reference: Reference
    """What there is to measure; a rollout that is taken over keeps the one it began with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How often things are done, in seconds."""

    poll: float = 0.25
    """Between two rounds while nothing can be measured."""
    look: float = 0.25
    """Between two looks."""
    save: float = 2.0
    """Between two saves while nothing changed but counts."""
    patience: float = 600.0
    """How long a store that does not answer is asked again after the lease is over; then the error is raised."""


class ChampionMove(Protocol):
    """How the champion is moved, with the token of whoever may."""

    def forward(self, spec: RolloutSpec, token: int) -> None:
        """Make the canary champion. Raises StaleChampion when somebody else was faster, Fenced, and the store's errors."""
        ...

    def back(self, spec: RolloutSpec, token: int, reason: str) -> None:
        """Make the old stable champion again. Raises like :meth:`forward`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How far the rollout was driven."""

    status: RolloutStatus
    assessment: Assessment
    evidence: Evidence
    points: list[dict[str, Any]]
    """Of the whole release, also those of earlier processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    assessment: Assessment
    stable_ready: bool = True
    canary_ready: bool = True


class Driver:
    """Drives one rollout. :meth:`run` may be called again to go on."""

    def __init__(
        self,
        errand: Errand,
        *,
        store: Store,
        backend: Callable[[int], ServingBackend],
        world: World,
        champion: ChampionMove | None = None,
        clock: Clock | None = None,
        pace: Pace | None = None,
        tell: Callable[[RolloutStatus, str], None] = lambda status, said: None,
    ) -> None:
        """Claim the rollout: from here on an earlier holder can do nothing. Raises the store's errors.

        ``backend`` makes the way to the serving world for a fencing token; ``champion`` is needed to go beyond PROMOTING; ``tell`` hears of
        every change, and of every trouble, in a sentence.
        """
        self.errand, self._store, self._world, self._champion = errand, store, world, champion
        self._clock, self._pace, self._tell = clock or Clock(), pace or Pace(), tell
        self.judge = Judge(errand.spec, errand.reading, errand.reference)
        record = store.claim_rollout(errand.environment, errand.model, release_id=errand.release_id, holder=errand.holder, spec=errand.spec)
        self.token = record.token
        self._backend = backend(record.token)
        self._lease = Lease(self._backend, self._clock, seconds=errand.spec.policy.lease_seconds, poll_seconds=self._pace.poll)
        self._timeline = Timeline(store, errand.release_id)
        self._kept: Point | None = None
        self._unkept: list[Point] = []
        self._saved_at = -1e9
        self._silent_since: float | None = None
        self._lapsed = False
        self._ending: RolloutStatus | None = None
        self.assessment = Assessment(checks=())
        self._time, self.status = self._restored(record)

    def run(self, *, until: Collection[Phase] = ()) -> Ended:
        """Drive until the rollout has ended, or stands in one of ``until``.

        Raises Fenced when another process has taken over, and the store's errors when it stayed silent for longer than our patience.
        """
        while not self.status.phase.is_final and self.status.phase not in until:
            try:
                self._round()
                self._silent_since = None
            except (StoreBusy, StoreUnreachable) as error:
                self._bear(error)
        return Ended(status=self.status, assessment=self.assessment, evidence=self.judge.evidence, points=self._timeline.to_rows())

    def retreat(self) -> None:
        """Say that all traffic goes back to stable now, without waiting for the lease: for a process that ends in an error.

        What was saved stays, so that the next process starts again with the evidence. Raises what ``ServingBackend.apply`` raises.
        """
        if self.status.phase not in (Phase.WATCHING, Phase.SUCCEEDED):
            self._backend.apply(Traffic(stable=self.errand.spec.stable))

    # one round

    def _round(self) -> None:
        if self._ending is not None:
            self._go_back(self._ending)
            return
        record = self._store.rollout(self.errand.environment, self.errand.model)
        if record is None or record.token != self.token:
            raise Fenced(f"a rollout is driven by one process, another one has taken over {self.errand.release_id}: this one stops")
        if self._lease.is_over:
            self._lose_lease()
        event, by = self._event(record)
        if event is not Event.LEASE_LAPSED:
            event = self._hold(event)
        look = self._look(event)
        if self._lapsed:  # it may have been found out just now, by asking for the promotion
            event = controller.foremost((event, Event.LEASE_LAPSED))
        after = controller.advance(
            self.errand.spec,
            self.status,
            look.assessment.verdict,
            self._time.now(),
            event=event,
            reasons=look.assessment.reasons,
            stable_ready=look.stable_ready,
            canary_ready=look.canary_ready,
        )
        self._note(after, event, by)
        if after.phase.is_final and after.phase is not Phase.SUCCEEDED:
            self._ending = after
            self._go_back(after)
        else:
            self._go_on(after, event)

    def _event(self, record: RolloutRecord) -> tuple[Event, str]:
        """Return what counts of what happened since the last round, and who did it."""
        ordered = {Event.ABORT: record.abort, Event.APPROVE: record.approved_by is not None}
        events = {event for event, is_wanted in ordered.items() if is_wanted}
        is_paused = self.status.phase is Phase.PAUSED
        if record.paused is not is_paused:
            events.add(Event.RESUME if is_paused else Event.PAUSE)
        if self._lapsed:
            events.add(Event.LEASE_LAPSED)
        if self.judge.control_is_sick:
            events.add(Event.STABLE_SICK)
        event = controller.foremost(events)
        return event, record.said if event in _ORDERED else ""

    def _hold(self, event: Event) -> Event:
        """Say what should be true; somebody who changed it without our token has the last word."""
        if self.status.phase is Phase.PROMOTING and self._champion is not None:
            return event  # the move says it
        try:
            self._lease.say(self._wanted(self.status))
        except (StaleChampion, StaleGeneration) as error:
            self._tell(self.status, str(error))
            return Event.ABORT if self.status.phase is Phase.WATCHING else Event.NEW_VERSION
        return event

    def _look(self, event: Event) -> _Look:
        """Look at what the present phase asks; a world that nobody reports on is not ready to go anywhere."""
        spec, is_known = self.errand.spec, self._backend.current() is not None
        stable_ready = spec.stable is None or (is_known and self._backend.is_ready(spec.stable))
        canary_ready = self._backend.is_ready(spec.canary)
        if self.status.phase is Phase.STARTING:
            self._see(in_step=False)  # what the gateway counted before there was a canary is no evidence
            self._clock.sleep(self._pace.poll)
            ready = canary_ready and (not self._has_baseline or self._backend.is_baseline_ready())
            self.assessment = analysis.readiness(spec.canary, ready=ready, problems=self._backend.problems)
        elif self.status.phase is Phase.PROMOTING and event is Event.LEASE_LAPSED:
            self.assessment = self._moved_before()
        elif self.status.phase is Phase.PROMOTING and (event is Event.ABORT or (is_known and not canary_ready)):
            said = "a person ended the rollout" if event is Event.ABORT else f"version {spec.canary} is not ready any more"
            self.assessment = _one("promotion", Verdict.CANNOT_TELL, f"the champion is not moved: {said}")
        elif self.status.phase is Phase.PROMOTING:
            self.assessment = self._moved()
        else:
            self.assessment = self._measured()
        return _Look(assessment=self.assessment, stable_ready=stable_ready, canary_ready=canary_ready or not is_known)

    def _moved(self) -> Assessment:
        if self._champion is None:
            raise ValueError("a driver that moves no champion stops at PROMOTING: run(until={Phase.PROMOTING})")
        try:
            self._champion.forward(self.errand.spec, self.token)
        except StaleChampion as error:
            return _one("promotion", Verdict.FAIL, str(error))
        except LeaseLapsed as error:
            self._lose_lease()
            return _one("promotion", Verdict.CANNOT_TELL, str(error))
        return _one("promotion", Verdict.PASS, f"version {self.errand.spec.canary} is champion")

    def _moved_before(self) -> Assessment:
        """Return whether the champion had moved before the lease was over, and only the answer was lost."""
        now, canary = self._store.champion(self.errand.environment, self.errand.model), self.errand.spec.canary
        if now is not None and (now.version, now.release_id) == (canary, self.errand.release_id):
            return _one("promotion", Verdict.PASS, f"version {canary} is champion")
        return _one("promotion", Verdict.CANNOT_TELL, "the lease lapsed before the champion was moved")

    def _measured(self) -> Assessment:
        """Return what all evidence amounts to; *cannot tell* while the gateway does not answer, or does not route as it should."""
        in_step = self._lease.is_true()
        trouble = self._see(in_step=in_step)
        self._clock.sleep(self._pace.look if in_step and not trouble else self._pace.poll)
        if trouble:
            return _one("gateway", Verdict.CANNOT_TELL, trouble)
        found = self.judge.assess(self.status)
        if found.verdict is Verdict.PASS and not in_step:
            return _one("gateway", Verdict.CANNOT_TELL, "; ".join(["the gateway does not route as it should yet", *self._backend.problems]))
        return found

    def _see(self, *, in_step: bool) -> str:
        """Add what is new to the evidence, after some requests of our own where the step's traffic is true; return why it could not be done."""
        try:
            if in_step:
                self._world.stir(self.status)
            self.judge.measure(self._world, in_step=in_step, now=self._time.now())
        except FirstlightError as error:
            return str(error)
        return ""

    # what follows from it

    def _go_on(self, after: RolloutStatus, event: Event) -> None:
        before, self.status = self.status, after
        self._lapsed = self._lapsed and event is not Event.LEASE_LAPSED
        is_new = (before.phase, before.weight) != (after.phase, after.weight)
        if is_new:
            if after.phase is Phase.PROGRESSING and before.weight != after.weight:
                self.judge.at_new_step()
            self._tell(after, self.assessment.summary)
            self._save()
        elif self._clock.steady() - self._saved_at >= self._pace.save:
            self._save()

    def _go_back(self, after: RolloutStatus) -> None:
        """Traffic first, then the canary, then the record. Begun again from the top when the store fails in between."""
        before, away = self.status, tuple[str, ...]()
        try:
            if before.phase is Phase.WATCHING and self._champion is not None:
                self._champion.back(self.errand.spec, self.token, "; ".join(after.reasons) or after.phase.value)
            elif before.weight:
                self._lease.say(replace(self._wanted(before), canary_weight=0))
                away = () if self._lease.read_back() else ("the gateway did not confirm within a lease that traffic is back",)
            self._lease.say(self._wanted(after))
            self._lease.read_back()
        except (StaleChampion, StaleGeneration) as error:
            away = (f"somebody else has said by now what should answer: {error}",)
        self.status, self._ending = replace(after, reasons=(*after.reasons, *away)), None
        self._tell(self.status, "; ".join(self.status.reasons))
        self._unkept.append(self._point(self.status, Event.NONE, ""))
        self._save()

    def _bear(self, error: TransientError) -> None:
        """Ask a silent store again; once the canary's lease is over there is nothing to act on until it answers."""
        now = self._clock.steady()
        if self._silent_since is None:
            self._silent_since = now
            self._tell(self.status, f"{error}; asked again, the lease lasts {self._lease.seconds_left:.0f} s")
        if self._lease.is_over:
            self._lose_lease()
            self._tell(
                self.status, "the store stayed silent for a whole lease: traffic is back on stable by now, nothing is done until it answers"
            )
        if now - self._silent_since > self.errand.spec.policy.lease_seconds + self._pace.patience:
            raise error
        self._clock.sleep(self._pace.poll)

    def _lose_lease(self) -> None:
        self._lapsed = True
        self._lease.begin_again()

    # memory

    def _restored(self, record: RolloutRecord) -> tuple[SteadyTime, RolloutStatus]:
        """Return time and status to go on from: those of an earlier process as far as the store let them count, else new ones."""
        spec, saved, status = self.errand.spec, record.evidence or {}, record.status
        if "at" not in saved:
            time = SteadyTime(self._clock)
            return time, controller.begin(spec, time.now())
        self.judge = Judge.restored(spec, self.errand.reading, saved)
        self._world.restore(saved["world"])
        time = resumed(self._clock, at=saved["at"], wall=saved["wall"], longest=spec.policy.lease_seconds)
        if status is None:
            return time, controller.begin(spec, time.now())
        self._lapsed = status.phase in _LEASED and not self._is_out()
        return time, status

    def _is_out(self) -> bool:
        """Return whether our canary is still in traffic, as the store has it."""
        wanted = self._store.desired(self.errand.environment, self.errand.model)
        if wanted is None or wanted.traffic.canary != self.errand.spec.canary or wanted.lease_until is None:
            return False
        return self._clock.wall() < wanted.lease_until

    def _save(self) -> None:
        """Write down what is not written yet: points, status, evidence. Raises Fenced and the store's errors; then nothing is lost here."""
        while self._unkept:
            self._timeline.append(self._unkept[0])
            del self._unkept[0]
        document = {
            **self.judge.to_dict(),
            "world": self._world.state(),
            "at": self._time.now(),
            "wall": self._clock.wall(),
            "assessment": self.assessment.to_dict(),
            "outlook": self._outlook(),
        }
        self._store.save_rollout(
            self.errand.environment, self.errand.model, token=self.token, status=self.status, evidence=finite(document)
        )
        self._saved_at = self._clock.steady()

    def _note(self, after: RolloutStatus, event: Event, by: str) -> None:
        """Keep the look as a point when it is worth keeping; it is written with the next save."""
        has_effect = (after.phase, after.weight) != (self.status.phase, self.status.weight)
        new = self._point(self.status, event if has_effect else Event.NONE, by if has_effect else "")
        if is_worth_keeping(new, self._kept):
            self._kept = new
            self._unkept.append(new)

    def _point(self, status: RolloutStatus, event: Event, by: str) -> Point:
        now, outlook = self._time.now(), self._outlook()
        return point(status, self.judge.evidence, self.assessment, now=now, event=event, by=by, outlook=outlook)

    def _outlook(self) -> str:
        return self.assessment.outlook(self.judge.rate) if self.status.phase in _JUDGED else self.assessment.summary

    def _wanted(self, status: RolloutStatus) -> Traffic:
        return controller.desired_traffic(status, baseline=self.errand.spec.policy.baseline)

    @property
    def _has_baseline(self) -> bool:
        return self.errand.spec.policy.baseline and self.errand.spec.stable is not None


def _one(name: str, verdict: Verdict, reason: str) -> Assessment:
    return Assessment(checks=(Check(name=name, verdict=verdict, reason=reason),))
