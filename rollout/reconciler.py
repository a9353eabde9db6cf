"""What the stored wish means now: a canary whose lease has lapsed is gone, without anybody having to say so."""

from rollout.spec import Desired, Traffic


def effective_traffic(desired: Desired, now: float) -> Traffic:
    """Return the traffic to make true at ``now`` (unix seconds): as desired, or stable alone once the lease has lapsed."""
    if desired.lease_until is not None and now >= desired.lease_until:
        return Traffic(stable=desired.traffic.stable)
    return desired.traffic
