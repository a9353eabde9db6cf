"""Waivers of this environment: which count for a release, copies of them in its folder, and what the ledger says of those that do not."""

import json
from datetime import UTC, datetime
from pathlib import Path

from firstlight.settings import Settings
from governance import approvers as approvers_room
from governance import waiver
from governance.subject import Person
from governance.waiver import WaiverDecision, WaiverInForce
from rollout.store import Store
from tasks import doors, policy
from tasks.releases import OpenedRelease

REFUSED = "refused-waiver"
"""What the ledger calls a waiver that does not count."""


def of_model(settings: Settings, model: str, *, trainer: Person | None = None) -> WaiverDecision:
    """Judge every waiver in the state folder about ``model``, by the approvers and the policy in force now. Raises ApproversError."""
    found, unreadable = waiver.collect(settings.state)
    if not found and not unreadable:
        return WaiverDecision(in_force=(), turned_down=())
    known, _ = approvers_room.read_approvers(settings.approvers_path)
    judged = waiver.judge_waivers(
        found,
        environment=settings.environment,
        model=model,
        approvers=known,
        policy=policy.read(settings.policy_path).risk,
        now=datetime.now(UTC),
        trainer=trainer,
    )
    bad = tuple(waiver.NotInForce(id=one.source, who=one.source, why=one.why, digest=one.digest) for one in unreadable)
    return WaiverDecision(in_force=judged.in_force, turned_down=(*judged.turned_down, *bad))


def for_release(settings: Settings, release: OpenedRelease) -> tuple[WaiverInForce, ...]:
    """Return the waivers that count for a release, having put copies of them, and of no others, into its folder, and the refused into the ledger."""
    decision = of_model(settings, release.model, trainer=Person(name=release.trainer_name, email=release.trainer_email))
    _copy(settings.state, Path(release.folder), decision.in_force)
    if decision.turned_down:
        with doors.store(settings) as records:
            record_refused(settings, records, release.model, decision)
    return decision.in_force


def record_refused(settings: Settings, records: Store, model: str, decision: WaiverDecision) -> None:
    """Write every waiver that does not count, and did not just end, into the ledger, once."""
    for one in decision.turned_down:
        if not one.ended:
            records.record(
                settings.environment,
                model,
                what=REFUSED,
                digest=one.digest,
                detail=f"{one.id}: {one.why}",
                by=f"claims {one.who}",
                once=True,
            )


def no_longer_in_force(settings: Settings, release: OpenedRelease) -> list[str]:
    """Return a sentence for every waiver the release's risk was accepted by and that does not count now."""
    try:
        used = [one for one in json.loads(release.evidence("risk").read_bytes()).get("waivers", []) if one["used"]]
    except (OSError, ValueError):
        return []
    if not used:
        return []
    decision = of_model(settings, release.model, trainer=Person(name=release.trainer_name, email=release.trainer_email))
    counted = {one.id for one in decision.in_force}
    whys = {one.id: one.why for one in decision.turned_down}
    return [f"waiver {one['id']}: {whys.get(one['id'], 'it is not there any more')}" for one in used if one["id"] not in counted]


def _copy(state: Path, folder: Path, in_force: tuple[WaiverInForce, ...]) -> None:
    """Let the release folder hold exactly the waivers that count for it."""
    wanted = {one.digest for one in in_force}
    place = folder / waiver.FOLDER
    for path in place.glob("*.json"):
        path.unlink()
        path.with_name(f"{path.name}.sig").unlink(missing_ok=True)
    for one in waiver.collect(state)[0]:
        if one.digest in wanted:
            waiver.store(folder, one)
