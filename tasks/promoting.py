"""Promotion and the way back: the store's compare-and-set decides, the registry's aliases follow, the world is read back."""

import json
import time
from dataclasses import dataclass
from typing import Any

from firstlight import settings as settings_module
from firstlight.errors import FirstlightError
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from rollout.errors import StaleChampion
from rollout.records import Champion
from rollout.spec import Traffic
from rollout.store import Store
from tasks import registering, releases
from tasks.releases import OpenedRelease
from tasks.stages import stage

_READ_BACK_SECONDS = 30.0
_POLL_SECONDS = 0.1
_FRESH_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """How the champion moved."""

    champion: Champion | None
    seconds_until_true: float | None
    """From the decision until the gateway routed everything to it; None when nobody reported it in time."""
    refused: str = ""
    """Why it did not move."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        if self.champion is None:
            return {"verdict": Verdict.FAIL.value, "summary": "the champion did not move", "reasons": [self.refused]}
        moved = self.champion
        said = f"version {moved.version} is champion, previous is {moved.previous or 'none'}"
        world = f"; live after {self.seconds_until_true:.1f} s" if self.seconds_until_true is not None else ""
        reasons = [] if self.seconds_until_true is not None else ["nobody reported that the gateway follows: start `firstlight serve`"]
        return {
            "verdict": Verdict.PASS.value,
            "summary": said + world,
            "reasons": reasons,
            "version": moved.version,
            "model_digest": moved.digest,
            "previous": moved.previous,
            "sequence": moved.sequence,
            "seconds_until_true": self.seconds_until_true,
        }


@stage("promotion", "Move the champion")
def promote(release: OpenedRelease) -> Promotion:
    """Move the champion by compare-and-set, let the registry's aliases follow, and wait until the gateway does."""
    settings = settings_module.current()
    version = registering.version_of(release)
    with releases.store(settings) as records:
        try:
            champion = records.promote(
                release.environment,
                release.model,
                version=version,
                digest=release.model_digest,
                release_id=release.id,
                expected_champion=_judged_against(release),
                by=f"release {release.id}",
            )
        except StaleChampion as error:
            return Promotion(champion=None, seconds_until_true=None, refused=str(error))
        follow(settings, release.model, champion)
        return Promotion(champion=champion, seconds_until_true=_until_true(records, release.environment, release.model, _READ_BACK_SECONDS))


def _judged_against(release: OpenedRelease) -> str | None:
    """Return the stable version the canary was compared with: only that one may be replaced by it."""
    stable = json.loads(release.evidence("canary").read_bytes())["rollout"]["stable"]
    return None if stable is None else str(stable)


def follow(settings: Settings, model: str, champion: Champion) -> None:
    """Let the registry's aliases say what the store decided. Doing it twice changes nothing."""
    known = releases.registry(settings)
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
    """Make the previous champion (or ``to``) champion, and wait for the world to agree. Raises NoPrevious, UnknownVersion."""
    with releases.store(settings) as records:
        champion = records.rollback(settings.environment, model, by=by, reason=reason, to=to)
        seconds = (
            _until_true(records, settings.environment, model, wait_seconds) if _is_served(records, settings.environment, model) else None
        )
    world = (
        f"the gateway routes to it since {seconds:.1f} s after the decision"
        if seconds is not None
        else "nothing serves here now; `firstlight serve` will serve it"
    )
    try:
        follow(settings, model, champion)
    except FirstlightError as error:
        world += f"; the registry's aliases did not follow: {error}"
    return WentBack(version=champion.version, digest=champion.digest, world=world)


def _is_served(records: Store, environment: str, model: str) -> bool:
    seen = records.observed(environment, model)
    return seen is not None and time.time() - seen.heartbeat < _FRESH_SECONDS


def _until_true(records: Store, environment: str, model: str, wait_seconds: float) -> float | None:
    """Return the seconds until the observed traffic was the desired one, or None."""
    started = time.monotonic()
    while (waited := time.monotonic() - started) < wait_seconds:
        desired, seen = records.desired(environment, model), records.observed(environment, model)
        if desired and seen and seen.traffic == Traffic(stable=desired.traffic.stable) and seen.generation == desired.generation:
            return round(waited, 2)
        time.sleep(_POLL_SECONDS)
    return None
