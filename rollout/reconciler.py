"""What the stored wish means now: a canary whose lease has lapsed is gone, without anybody having to say so."""

from rollout.spec import Desired, Traffic


def lease_left(desired: Desired, now: float, *, held: float = 0.0) -> float | None:
    """Return the seconds that are left of the canary's lease, at most 0 when it is over; None without a canary.

    ``now`` is the wall clock's time (unix seconds), ``held`` how long the lease has been what it is by a clock that never jumps: it is over when
    either says so, so a wall clock that is set back prolongs nothing.
    """
    if desired.lease_until is None:
        return None
    left = desired.lease_until - now
    return left if desired.lease_seconds is None else min(left, desired.lease_seconds - held)


def effective_traffic(desired: Desired, now: float, *, held: float = 0.0) -> Traffic:
    """Return the traffic to make true at ``now``: as desired, or stable alone once the lease has lapsed (:func:`lease_left`)."""
    left = lease_left(desired, now, held=held)
    return desired.traffic if left is None or left > 0 else Traffic(stable=desired.traffic.stable)
