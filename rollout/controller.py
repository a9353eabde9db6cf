"""The rollout's state machine. Pure: time and verdict come in, the next status goes out.

                    pass                                cannot tell                     fail
    starting        first step                          stay; at the deadline back      back
    progressing     next step; after the last promote   stay; at the deadline back      back
    promoting       succeeded                           stay; at the deadline back      back
    the three ends  unchanged                           unchanged                       unchanged

*Back* is all traffic on the old stable: FAILED after fail, UNDECIDED at a deadline. A verdict that is there wins over the
deadline. What the verdict is about depends on the phase: in STARTING whether the canary is ready (``analysis.readiness``), in
PROGRESSING its measurements (``analysis.assess``), in PROMOTING whether the store has moved the champion: *pass* it has, *fail*
it refused (somebody else was promoted), *cannot tell* it does not answer. Should the champion have moved although the answer was
lost, ``Store.propose`` refuses to go back: the champion is the only stable it accepts.

A model's first release has no stable version: one step of 100 %, judged against the policy's absolute limits; back is nobody.
"""

from dataclasses import replace

from firstlight.verdict import Verdict
from rollout.errors import RolloutError
from rollout.spec import Phase, RolloutSpec, RolloutStatus, Traffic


def begin(spec: RolloutSpec, now: float) -> RolloutStatus:
    """Return the status of a rollout that starts at ``now``: the canary is wanted, and gets no request yet."""
    return RolloutStatus(stable=spec.stable, canary=spec.canary, phase=Phase.STARTING, step=0, weight=0, started=now, step_started=now)


def advance(spec: RolloutSpec, status: RolloutStatus, verdict: Verdict, now: float, *, reasons: tuple[str, ...] = ()) -> RolloutStatus:
    """Return the next status. ``reasons`` explain the verdict and are kept in the status. Raises RolloutError when the status is another
    rollout's."""
    if (spec.stable, spec.canary) != (status.stable, status.canary):
        raise RolloutError(
            f"a status belongs to one rollout, got {status.canary!r} against {status.stable!r} for a spec of "
            f"{spec.canary!r} against {spec.stable!r}; begin again"
        )
    if status.phase.is_final:
        return status
    if verdict is Verdict.PASS:
        return _forward(spec, status, now)
    if verdict is Verdict.FAIL:
        return _back(status, Phase.FAILED, now, reasons or (f"a check failed while {status.phase.value} at {status.weight} %",))
    if deadline_passed(spec, status, now):
        waited = f"not decided within {spec.policy.step_deadline_seconds:g} s while {status.phase.value} at {status.weight} %"
        return _back(status, Phase.UNDECIDED, now, (waited, *reasons))
    return replace(status, reasons=reasons)


def deadline_passed(spec: RolloutSpec, status: RolloutStatus, now: float) -> bool:
    """Return whether the present phase and step have had their time."""
    return now - status.step_started >= spec.policy.step_deadline_seconds


def desired_traffic(status: RolloutStatus) -> Traffic:
    """Return the traffic that should be true in this status."""
    if status.phase is Phase.SUCCEEDED:
        return Traffic(stable=status.canary)
    if status.phase.is_final:
        return Traffic(stable=status.stable)
    return Traffic(stable=status.stable, canary=status.canary, canary_weight=status.weight)


def _forward(spec: RolloutSpec, status: RolloutStatus, now: float) -> RolloutStatus:
    step = status.step + 1 if status.phase is Phase.PROGRESSING else status.step
    if status.phase is Phase.PROMOTING:
        return replace(status, phase=Phase.SUCCEEDED, weight=0, step_started=now, reasons=())
    if step == len(spec.steps):
        return replace(status, phase=Phase.PROMOTING, step_started=now, reasons=())
    return replace(status, phase=Phase.PROGRESSING, step=step, weight=spec.steps[step], step_started=now, reasons=())


def _back(status: RolloutStatus, phase: Phase, now: float, reasons: tuple[str, ...]) -> RolloutStatus:
    return replace(status, phase=phase, weight=0, step_started=now, reasons=reasons)
