"""Promotion and the way back: the store's compare-and-set decides, the registry's aliases follow, the world is read back."""

import json
from dataclasses import dataclass
from typing import Any

from firstlight import settings as settings_module
from firstlight.verdict import Verdict
from rollout.errors import StaleChampion
from rollout.records import Champion
from tasks import doors, registering, returning
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
    with doors.store(settings) as records:
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
        returning.follow(settings, release.model, champion)
        return Promotion(
            champion=champion, seconds_until_true=returning.until_true(records, release.environment, release.model, _READ_BACK_SECONDS)
        )


def _judged_against(release: OpenedRelease) -> str | None:
    """Return the stable version the canary was compared with: only that one may be replaced by it."""
    stable = json.loads(release.evidence("canary").read_bytes())["rollout"]["stable"]
    return None if stable is None else str(stable)
