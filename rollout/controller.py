"""The rollout's state machine. Pure: time, verdict and what happened come in, the next status goes out.

In every phase the rows are asked from above; the first that applies is the outcome, and without one the rollout stays as it is.

    before the promotion
    1  FAIL                 FAILED, back
    2  ABORT                ABORTED, back
    3  NEW_VERSION          SUPERSEDED, back
    4  LEASE_LAPSED         STARTING at the same step: stable has the traffic already (PAUSED stays paused, and resumes there)
    5  PAUSE                PAUSED: the weight stays, the deadline stands still
    6  RESUME               PAUSED returns to the phase it interrupted, with what was left of its deadline
    7  PASS                 STARTING to the step's weight; PROGRESSING to the next step, after the last to APPROVING where the policy
                            asks for a person and else to PROMOTING; APPROVING to PROMOTING when APPROVE comes with it.
                            Only while canary and stable are ready; PAUSED never.
    8  the deadline passed  UNDECIDED, back (STARTING and PROGRESSING; a person may take their time)
    PROMOTING
    1  PASS                 WATCHING; SUCCEEDED without an old stable, or where the policy watches for no time
    2  FAIL                 FAILED: the store refused, for somebody else was promoted
    3  LEASE_LAPSED         STARTING at the last step: nobody runs the canary any more, so it must not become champion from here
    4  canary not ready     FAILED, back
    5  ABORT                ABORTED, back
    6  the deadline passed  UNDECIDED, back
    WATCHING
    1  FAIL                 FAILED, back to the old stable
    2  canary not ready     FAILED, back
    3  ABORT                ABORTED, back
    4  watched long enough  SUCCEEDED, unless PAUSE comes with it
    an end                  unchanged

*Back* is all traffic on the old stable. It waits (the rollout stays, and says so) while that would be traffic to nothing: while
stable is not ready or STABLE_SICK and a canary with traffic answers, and after the promotion whenever the old stable is not ready.
The other events change nothing: a promotion that has begun is carried through before a pause or a new version counts.

What the verdict is about depends on the phase: in STARTING whether the canary is ready (``analysis.readiness``), in PROMOTING
whether the store has moved the champion (*pass* it has, *fail* it refused, *cannot tell* it does not answer), in all others
the measurements (``analysis.assess``); so the way back stays armed while a rollout is paused, waits for a person, or is watched.
Should the champion have moved although the answer was lost, ``Store.propose`` refuses to go back, with StaleChampion: that is
the *pass*. Going back from WATCHING is ``Store.rollback``.

A model's first release has no stable version: one step of 100 %, judged against the policy's absolute limits; back is nobody.

``now`` may jump. A jump forward ends a step at most; one back begins its deadline anew, so it is never prolonged by more than one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from firstlight.verdict import Verdict
from rollout.errors import RolloutError
from rollout.spec import Event, Phase, RolloutSpec, RolloutStatus, Traffic

_FOREMOST = (
    Event.ABORT,
    Event.NEW_VERSION,
    Event.LEASE_LAPSED,
    Event.STABLE_SICK,
    Event.PAUSE,
    Event.RESUME,
    Event.APPROVE,
    Event.NONE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """One look at the world: everything that decides but the status."""

    spec: RolloutSpec
    verdict: Verdict
    now: float
    event: Event
    reasons: tuple[str, ...]
    stable_ready: bool
    canary_ready: bool


def begin(spec: RolloutSpec, now: float) -> RolloutStatus:
    """Return the status of a rollout that starts at ``now``: the canary is wanted, and gets no request yet."""
    return RolloutStatus(stable=spec.stable, canary=spec.canary, phase=Phase.STARTING, step=0, weight=0, started=now, step_started=now)


def advance(
    spec: RolloutSpec,
    status: RolloutStatus,
    verdict: Verdict,
    now: float,
    *,
    event: Event = Event.NONE,
    reasons: tuple[str, ...] = (),
    stable_ready: bool = True,
    canary_ready: bool = True,
) -> RolloutStatus:
    """Return the next status. ``reasons`` explain the verdict and are kept in the status; ``now`` in unix seconds.

    ``stable_ready`` and ``canary_ready``: whether the version has a server that answers, read back from the world; without a stable
    version the first means nothing. Raises RolloutError when the status is another rollout's.
    """
    if (spec.stable, spec.canary) != (status.stable, status.canary):
        raise RolloutError(
            f"a status belongs to one rollout, got {status.canary!r} against {status.stable!r} for a spec of "
            f"{spec.canary!r} against {spec.stable!r}; begin again"
        )
    if status.phase.is_final:
        return status
    look = _Look(
        spec=spec,
        verdict=verdict,
        now=now,
        event=event,
        reasons=reasons,
        stable_ready=spec.stable is None or (stable_ready and event is not Event.STABLE_SICK),
        canary_ready=canary_ready,
    )
    status = replace(status, step_started=min(status.step_started, now))
    if status.phase is Phase.PROMOTING:
        return _promoting(status, look)
    if status.phase is Phase.WATCHING:
        return _watching(status, look)
    return _before_promotion(status, look)


def foremost(events: Iterable[Event]) -> Event:
    """Return the one event that counts when several happened: ending before going back, that before waiting, that before going on.

    >>> foremost([Event.PAUSE, Event.ABORT]).value
    'abort'
    """
    happened = set(events)
    return next((event for event in _FOREMOST if event in happened), Event.NONE)


def deadline_passed(spec: RolloutSpec, status: RolloutStatus, now: float) -> bool:
    """Return whether the present phase and step have had their time."""
    return now - status.step_started >= spec.policy.step_deadline_seconds


def desired_traffic(status: RolloutStatus, *, baseline: bool = False) -> Traffic:
    """Return the traffic that should be true in this status; with ``baseline`` a fresh server of stable's version stands beside the canary."""
    if status.phase in (Phase.WATCHING, Phase.SUCCEEDED):
        return Traffic(stable=status.canary)
    if status.phase.is_final:
        return Traffic(stable=status.stable)
    beside = baseline and status.stable is not None
    return Traffic(stable=status.stable, canary=status.canary, canary_weight=status.weight, baseline=beside)


def _before_promotion(status: RolloutStatus, look: _Look) -> RolloutStatus:
    ends = {Event.ABORT: Phase.ABORTED, Event.NEW_VERSION: Phase.SUPERSEDED}
    if look.verdict is Verdict.FAIL:
        return _failed(status, look, f"a check failed while {status.phase.value} at {status.weight} %")
    if look.event in ends:
        return _back(status, ends[look.event], look, _SAID[look.event])
    if look.event is Event.LEASE_LAPSED and status.phase is not Phase.STARTING:
        return _start_again(status, look)
    if look.event is Event.PAUSE and status.phase is not Phase.PAUSED:
        return _pause(status, look)
    if status.phase is Phase.PAUSED:
        return _resume(status, look) if look.event is Event.RESUME else _stay(status, look)
    forward = _forward(status, look) if look.verdict is Verdict.PASS and look.canary_ready and look.stable_ready else None
    if forward is not None:
        return forward
    if status.phase is not Phase.APPROVING and deadline_passed(look.spec, status, look.now):
        return _undecided(status, look)
    return _stay(status, look)


def _promoting(status: RolloutStatus, look: _Look) -> RolloutStatus:
    if look.verdict is Verdict.PASS:
        watched = status.stable is not None and look.spec.policy.watch_seconds > 0
        after, weight = (Phase.WATCHING, 100) if watched else (Phase.SUCCEEDED, 0)
        return replace(status, phase=after, weight=weight, step_started=look.now, reasons=())
    if look.verdict is Verdict.FAIL:  # somebody else's champion answers by now: nothing to wait for
        return _end(status, Phase.FAILED, look, look.reasons or ("the champion could not be moved",))
    if look.event is Event.LEASE_LAPSED:
        return _start_again(status, look)
    if not look.canary_ready:
        return _back(status, Phase.FAILED, look, f"version {status.canary} stopped being ready while it was promoted")
    if look.event is Event.ABORT:
        return _back(status, Phase.ABORTED, look, _SAID[look.event])
    return _undecided(status, look) if deadline_passed(look.spec, status, look.now) else _stay(status, look)


def _watching(status: RolloutStatus, look: _Look) -> RolloutStatus:
    if look.verdict is Verdict.FAIL:
        return _failed(status, look, "a check failed after the promotion")
    if not look.canary_ready:
        return _back(status, Phase.FAILED, look, f"version {status.canary} stopped being ready after its promotion")
    if look.event is Event.ABORT:
        return _back(status, Phase.ABORTED, look, _SAID[look.event])
    if look.event is not Event.PAUSE and look.now - status.step_started >= look.spec.policy.watch_seconds:
        return replace(status, phase=Phase.SUCCEEDED, weight=0, step_started=look.now, reasons=())
    return _stay(status, look)


_SAID = {Event.ABORT: "ended by a person", Event.NEW_VERSION: "another version is to be released"}


def _forward(status: RolloutStatus, look: _Look) -> RolloutStatus | None:
    """Return the next phase and step after a *pass*; None when a person must agree first."""
    spec, now = look.spec, look.now
    if status.phase is Phase.APPROVING:
        return replace(status, phase=Phase.PROMOTING, step_started=now, reasons=()) if look.event is Event.APPROVE else None
    step = status.step + 1 if status.phase is Phase.PROGRESSING else status.step
    if step >= len(spec.steps):
        waits = spec.policy.approval == "before-promotion" and look.event is not Event.APPROVE
        return replace(status, phase=Phase.APPROVING if waits else Phase.PROMOTING, step_started=now, reasons=())
    return replace(status, phase=Phase.PROGRESSING, step=step, weight=spec.steps[step], step_started=now, reasons=())


def _start_again(status: RolloutStatus, look: _Look) -> RolloutStatus:
    said = ("the lease lapsed, so stable has all the traffic: the canary is started again at its step", *look.reasons)
    if status.phase is Phase.PAUSED:
        return replace(status, paused_from=Phase.STARTING, weight=0, spent_seconds=0.0, reasons=said)
    return replace(status, phase=Phase.STARTING, weight=0, step_started=look.now, reasons=said)


def _pause(status: RolloutStatus, look: _Look) -> RolloutStatus:
    spent = look.now - status.step_started
    return replace(
        status, phase=Phase.PAUSED, paused_from=status.phase, spent_seconds=spent, step_started=look.now, reasons=("paused by a person",)
    )


def _resume(status: RolloutStatus, look: _Look) -> RolloutStatus:
    return replace(
        status,
        phase=status.paused_from or Phase.STARTING,
        paused_from=None,
        spent_seconds=0.0,
        step_started=look.now - status.spent_seconds,
        reasons=look.reasons,
    )


def _failed(status: RolloutStatus, look: _Look, said: str) -> RolloutStatus:
    return _back(status, Phase.FAILED, replace(look, reasons=look.reasons[1:]), *(look.reasons[:1] or (said,)))


def _undecided(status: RolloutStatus, look: _Look) -> RolloutStatus:
    waited = f"not decided within {look.spec.policy.step_deadline_seconds:g} s while {status.phase.value} at {status.weight} %"
    return _back(status, Phase.UNDECIDED, look, waited)


def _back(status: RolloutStatus, phase: Phase, look: _Look, said: str) -> RolloutStatus:
    """All traffic on the old stable, or wait while that would be traffic to nothing."""
    carries = status.phase is Phase.WATCHING or (status.weight > 0 and look.canary_ready)
    if carries and not look.stable_ready:
        held = f"going back ({phase.value}) waits until version {status.stable} is ready: nothing would answer"
        return replace(status, reasons=(held, said, *look.reasons))
    return _end(status, phase, look, (said, *look.reasons))


def _end(status: RolloutStatus, phase: Phase, look: _Look, reasons: tuple[str, ...]) -> RolloutStatus:
    return replace(status, phase=phase, weight=0, step_started=look.now, reasons=reasons, paused_from=None, spent_seconds=0.0)


def _stay(status: RolloutStatus, look: _Look) -> RolloutStatus:
    return replace(status, reasons=look.reasons)
