"""What the supervisor should do next. Pure: the traffic wanted, the state of each server and the present routes in; processes and traffic out.

Capacity before traffic on the way out, traffic before capacity on the way back: a version gets requests only while it is ready,
and a server is stopped only when no route and no request in flight needs it any more.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum

from rollout.spec import Traffic

BACKOFF_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Wait before the n-th start after n failures in a row; the last value holds for all later ones."""
STEADY_SECONDS = 30.0
"""A server that was ready for this long has its failures forgotten."""
SHORTEST_SECONDS = 0.1
"""Shortest time for which a canary's share is set."""


class ServerState(StrEnum):
    """What the supervisor knows of one model server."""

    ABSENT = "absent"
    """No process."""
    STARTING = "starting"
    """A process that has not been ready yet."""
    READY = "ready"
    """Replayed its golden vectors and answers."""
    REFUSED = "refused"
    """Says that it cannot vouch for its version."""
    SILENT = "silent"
    """Was ready and does not answer its probe."""
    DEAD = "dead"
    """The process ended."""


def servers(target: Traffic, *, states: Mapping[str, ServerState]) -> tuple[str, ...]:
    """Return the versions that should have a process, stable first.

    A canary waits until stable is up, or has shown that it does not come up: started together, a canary that is faster by
    a moment would be alone with all the traffic.
    """
    if target.stable is None or target.canary is None:
        return target.versions
    waiting = states.get(target.stable, ServerState.ABSENT) in (ServerState.ABSENT, ServerState.STARTING)
    known = states.get(target.canary, ServerState.ABSENT) is not ServerState.ABSENT
    return (target.stable,) if waiting and not known else target.versions


def rehearsed(target: Traffic, *, previous: str | None, states: Mapping[str, ServerState]) -> tuple[str, ...]:
    """Return the version that a rollback would go to, when it should have a server too: going back then waits for no start.

    It is started once everything that should answer is ready, and kept from then on. It gets no request.
    """
    if previous is None or previous in target.versions or not target.versions:
        return ()
    has_server = states.get(previous, ServerState.ABSENT) not in (ServerState.ABSENT, ServerState.DEAD)
    settled = all(states.get(version) is ServerState.READY for version in target.versions)
    return (previous,) if settled or has_server else ()


def baselines(target: Traffic, *, wanted: Collection[str]) -> tuple[str, ...]:
    """Return the versions that should have a baseline's server: stable's, from the moment on in which the canary is started."""
    return (target.stable,) if target.baseline and target.stable is not None and target.canary in wanted else ()


def route(target: Traffic, *, ready: Collection[str], present: Traffic, fresh: Collection[str] = ()) -> Traffic:
    """Return the traffic to make true now, by versions that are ready; ``fresh`` are those whose baseline's server is.

    A baseline gets its share only beside stable and canary. While stable has no other server, the baseline's answers for it: the same version,
    replayed the same golden vectors. Wanted stable not ready at all: whoever carries the traffic now keeps it while it is ready (nothing is taken
    away before there is something better), be it stable or a canary that stands in for it, whose weight then does not count; else a canary with
    weight takes all, else nobody does.
    """
    canary = target.canary if target.canary in ready else None
    if target.stable is None:
        return _alone(canary, weight=target.canary_weight) if canary or present.stable not in ready else Traffic(stable=present.stable)
    if target.stable in ready or target.stable in fresh:
        compared = target.baseline and canary is not None and target.stable in ready and target.stable in fresh
        weight = target.canary_weight if canary else 0
        return Traffic(stable=target.stable, canary=canary, canary_weight=weight, baseline=compared)
    carrier = _carrier(present, ready=(*ready, *fresh))
    if carrier is not None and carrier != target.canary:
        return Traffic(stable=carrier)
    return _alone(canary, weight=100 if target.canary_weight or carrier is not None else 0)


def canary_seconds(traffic: Traffic, *, target: Traffic, left: float | None) -> float | None:
    """Return how long the gateway may send the canary of ``traffic`` requests without being told again; None: until it is told.

    That is what is ``left`` of the lease. But a canary that stands in for a stable that is sick has nobody to give its requests back to.
    """
    if left is None or traffic.canary is None or (traffic.stable is None and target.stable is not None):
        return None
    return max(left, SHORTEST_SECONDS)


def removable(existing: Collection[str], *, wanted: Collection[str], routed: Traffic, in_flight: Mapping[str, int]) -> tuple[str, ...]:
    """Return the versions whose server may be stopped: not wanted, not routed to, nothing in flight."""
    needed = {*wanted, *routed.versions}
    return tuple(sorted(version for version in existing if version not in needed and not in_flight.get(version)))


def backoff(failures: int) -> float:
    """Return the seconds to wait before starting a server that failed ``failures`` times in a row."""
    return BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]


def _carrier(present: Traffic, *, ready: Collection[str]) -> str | None:
    """Return the ready version that carries the traffic now: stable, or a canary that has all of it."""
    stood_in = present.canary if present.canary_weight == 100 else None
    return next((version for version in (present.stable, stood_in) if version is not None and version in ready), None)


def _alone(canary: str | None, *, weight: int) -> Traffic:
    return Traffic(canary=canary, canary_weight=weight) if canary and weight in (0, 100) else Traffic()
