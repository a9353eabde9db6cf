"""The way back, and what it shares with the way forward: aliases that follow the store, and waiting for the world to agree."""

import time
from dataclasses import dataclass

from firstlight.errors import FirstlightError
from firstlight.settings import Settings
from rollout.records import Champion
from rollout.spec import Traffic
from rollout.store import Store
from tasks import doors, refusals, vouching

_POLL_SECONDS = 0.1
_FRESH_SECONDS = 5.0


def follow(settings: Settings, model: str, champion: Champion) -> None:
    """Let the registry's aliases say what the store decided. Doing it twice changes nothing."""
    known = doors.registry(settings)
    known.point(model, "champion", champion.version)
    known.point(model, "previous", champion.previous)
    if known.aliases(model).get("candidate") == champion.version:
        known.point(model, "candidate", None)


@dataclass(frozen=True, kw_only=True, slots=True)
class WentBack:
    """How a rollback ended."""

    version: str
    digest: str
    world: str
    """Sentence: whether what answers agrees already."""


def go_back(settings: Settings, model: str, *, reason: str, by: str, to: str | None, wait_seconds: float) -> WentBack:
    """Make the previous champion (or ``to``) champion, and wait for the world to agree.

    A version that no model server would load is refused before anything moves. Raises NoPrevious, UnknownVersion, SignatureError.
    """
    with doors.store(settings) as records:
        _require_loadable(settings, records, model, to, by=by)
        champion = records.rollback(settings.environment, model, by=by, reason=reason, to=to)
        world = _wait_for_world(records, settings.environment, model, wait_seconds)
    try:
        follow(settings, model, champion)
    except FirstlightError as error:
        world += f"; the registry's aliases did not follow: {error}"
    return WentBack(version=champion.version, digest=champion.digest, world=world)


def _require_loadable(settings: Settings, records: Store, model: str, to: str | None, *, by: str) -> None:
    champion = records.champion(settings.environment, model)
    target = to or (champion.previous if champion else None)
    if target is not None:  # the store says it where there is nothing to go back to
        version = records.version(model, target)
        with refusals.recorded(settings, refusals.MODEL, model=model, digest=version.model_digest, by=by):
            vouching.require_version(settings, version)


def _wait_for_world(records: Store, environment: str, model: str, wait_seconds: float) -> str:
    """Return one sentence on whether what answers agrees with the store."""
    if not _is_served(records, environment, model):
        return "nothing serves here now; `firstlight serve` will serve it"
    seconds = until_true(records, environment, model, wait_seconds)
    if seconds is None:
        return f"the gateway did not follow within {wait_seconds:.0f} s: look at `firstlight status`"
    return f"the gateway routes to it since {seconds:.1f} s after the decision"


def _is_served(records: Store, environment: str, model: str) -> bool:
    seen = records.observed(environment, model)
    return seen is not None and abs(time.time() - seen.heartbeat) < _FRESH_SECONDS


def until_true(records: Store, environment: str, model: str, wait_seconds: float) -> float | None:
    """Return the seconds until the observed traffic was the desired one, or None."""
    started = time.monotonic()
    while (waited := time.monotonic() - started) < wait_seconds:
        desired, seen = records.desired(environment, model), records.observed(environment, model)
        if desired and seen and seen.traffic == Traffic(stable=desired.traffic.stable) and seen.generation == desired.generation:
            return round(waited, 2)
        time.sleep(_POLL_SECONDS)
    return None
