"""Traffic as the gateway is told it, and as it tells it: versions become the addresses of their servers, and back. Pure."""

from collections.abc import Mapping

from rollout.spec import Desired, Traffic
from serving.options import GatewayOptions
from serving.routes import Routes, Shadow, Target

Urls = Mapping[str, tuple[str, ...]]
"""Addresses by version, one for each replica that is ready."""


def routes_for(
    traffic: Traffic,
    *,
    urls: Urls,
    options: GatewayOptions,
    fresh: Urls | None = None,
    desired: Desired | None = None,
    seconds: float | None = None,
    drill: Shadow | None = None,
) -> Routes:
    """Return the routes that make ``traffic`` true with the model servers at ``urls``, and the baseline's at ``fresh``.

    Every version of ``traffic`` is ready there; stable's may be in ``fresh`` alone, and then answers from there. What ``desired`` says of callers
    that stay on one side and of copies stands above the ``options``. ``seconds`` bounds the canary's share (``Routes.canary_seconds``).
    """
    fresh = fresh or {}
    stable = _target(traffic.stable, urls if traffic.stable in urls else fresh) if traffic.stable else None
    canary = _target(traffic.canary, urls) if traffic.canary else None
    baseline = _target(traffic.stable, fresh) if traffic.baseline and traffic.stable else None
    percent = (desired.shadow_percent if desired else 0) or options.shadow_percent
    return Routes(
        generation=desired.generation if desired else 0,
        stable=stable,
        canary=canary,
        canary_weight=traffic.canary_weight,
        canary_seconds=seconds,
        baseline=baseline,
        sticky=(desired.sticky if desired else None) or options.sticky,
        shadow=Shadow(target=canary, percent=percent, control=baseline or stable) if canary and percent else None,
        drill=drill,
    )


def traffic_of(routes: Routes) -> Traffic:
    """Return the traffic that ``routes`` make."""
    stable = routes.stable.version if routes.stable else None
    canary = routes.canary.version if routes.canary else None
    return Traffic(stable=stable, canary=canary, canary_weight=routes.canary_weight, baseline=routes.baseline is not None)


def _target(version: str, urls: Urls) -> Target:
    first, *others = urls[version]
    return Target(version=version, url=first, replicas=tuple(others))
