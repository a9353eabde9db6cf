"""Promotion, the watch after it, and the way back: the store's compare-and-set decides, the registry's aliases follow, the world is read back."""

from dataclasses import dataclass
from typing import Any

from firstlight import settings as settings_module
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from rollout.driver import Ended
from rollout.records import Champion
from rollout.spec import Phase, RolloutSpec
from rollout.store import Store
from tasks import canary, doors, returning
from tasks.releases import OpenedRelease
from tasks.stages import stage

_READ_BACK_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """How the champion moved."""

    ended: Ended
    champion: Champion | None
    """The line that this release wrote; None when the champion did not move."""
    seconds_until_true: float | None
    """From the decision until the gateway routed everything to it; None when nobody reported it in time."""

    @property
    def verdict(self) -> Verdict:
        """Pass when the candidate is champion and stayed it while it was watched."""
        if self.ended.status.phase is Phase.SUCCEEDED:
            return Verdict.PASS
        return Verdict.FAIL if self.champion is None or self.ended.status.phase is Phase.FAILED else Verdict.CANNOT_TELL

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        reasons = list(self.ended.status.reasons)
        watched = {"watched": self.ended.status.phase.value, "timeline": self.ended.points}
        if self.champion is None:
            return {"verdict": self.verdict.value, "summary": "the champion did not move", "reasons": reasons, **watched}
        moved = self.champion
        said = f"version {moved.version} is champion, previous is {moved.previous or 'none'}"
        if self.verdict is not Verdict.PASS:
            said = f"version {moved.version} was champion and went back while it was watched: {'; '.join(reasons[:1])}"
        elif self.seconds_until_true is None:
            reasons.append("nobody reported that the gateway follows: start `firstlight serve`")
        else:
            said += f"; live after {self.seconds_until_true:.1f} s"
        return {
            "verdict": self.verdict.value,
            "summary": said,
            "reasons": reasons,
            "version": moved.version,
            "model_digest": moved.digest,
            "previous": moved.previous,
            "sequence": moved.sequence,
            "seconds_until_true": self.seconds_until_true,
            **watched,
        }


@stage("promotion", "Move the champion")
def promote(release: OpenedRelease) -> Promotion:
    """Move the champion by compare-and-set, let the registry's aliases follow, and watch it for as long as the policy says.

    A canary that has lost its lease since its steps passed is taken through them again first, with what was seen of it.
    """
    settings = settings_module.current()
    with doors.store(settings) as records:
        move = _Move(release, settings, records)
        with canary.driving(release, settings, records, champion=move) as (driver, _):
            ended = driver.run()
        return Promotion(ended=ended, champion=move.line(), seconds_until_true=move.seconds_until_true)


class _Move:
    """Moves the champion for the driver."""

    def __init__(self, release: OpenedRelease, settings: Settings, records: Store) -> None:
        self._release, self._settings, self._records = release, settings, records
        self.seconds_until_true: float | None = None

    def line(self) -> Champion | None:
        """Return the line in the history of champions that this release wrote."""
        lines = self._records.history(self._release.environment, self._release.model)
        return next((line for line in lines if line.release_id == self._release.id), None)

    def forward(self, spec: RolloutSpec, token: int) -> None:
        """Make the candidate champion; again for the same release is the same."""
        release = self._release
        champion = self._records.promote(
            release.environment,
            release.model,
            version=spec.canary,
            digest=release.model_digest,
            release_id=release.id,
            expected_champion=spec.stable,
            by=f"release {release.id}",
            token=token,
        )
        returning.follow(self._settings, release.model, champion)
        self.seconds_until_true = returning.until_true(self._records, release.environment, release.model, _READ_BACK_SECONDS)

    def back(self, spec: RolloutSpec, token: int, reason: str) -> None:
        """Make the old stable champion again."""
        release = self._release
        champion = self._records.rollback(
            release.environment,
            release.model,
            by=f"release {release.id}",
            reason=reason,
            to=spec.stable,
            expected_champion=spec.canary,
            token=token,
        )
        returning.follow(self._settings, release.model, champion)
