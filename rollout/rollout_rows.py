"""The running rollout as a row: who drives it, how far it is, what people want of it. Works inside the caller's transaction."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from firstlight.digest import sha256_json
from rollout import fence_rows, ledger_rows
from rollout.errors import NoRollout
from rollout.records import ReleaseStatus, RolloutRecord
from rollout.spec import Phase, RolloutSpec, RolloutStatus
from rollout.tables import RELEASES, ROLLOUTS

_SILENT_SECONDS = 60.0
"""A rollout that was told to end, and whose holder has said nothing for so long, is over."""
ORDERS = {
    "pause": {"paused": True},
    "resume": {"paused": False},
    "abort": {"abort": True},
}


def get(connection: Connection, environment: str, model: str) -> RolloutRecord | None:
    """Return the running rollout or the last one, or None before the first."""
    row = connection.execute(select(ROLLOUTS).where(_of(environment, model))).one_or_none()
    if row is None:
        return None
    values = dict(row._mapping)
    status = values.pop("status")
    return RolloutRecord(**values, status=None if status is None else RolloutStatus.from_dict(status))


def claim(
    connection: Connection, environment: str, model: str, *, release_id: str, holder: str, spec: RolloutSpec, at: float
) -> RolloutRecord:
    """Take the next token. The same release goes on from what was saved, as far as that is about the same versions and steps."""
    before = get(connection, environment, model)
    token, plain = fence_rows.take(connection, environment, model), spec_json(spec)
    new = RolloutRecord(environment=environment, model=model, release_id=release_id, token=token, holder=holder, spec=plain, updated_at=at)
    if before is not None and before.release_id == release_id:
        new = replace(_continued(before, plain), token=token, holder=holder, spec=plain, updated_at=at)
    connection.execute(delete(ROLLOUTS).where(_of(environment, model)))
    connection.execute(insert(ROLLOUTS).values(**_values(new)))
    detail = f"{holder} drives the rollout of version {spec.canary} for release {release_id}, with token {token}"
    ledger_rows.append(connection, environment, model, what="claim-rollout", digest=sha256_json(plain), detail=detail, by=holder, at=at)
    return new


def save(
    connection: Connection, environment: str, model: str, *, status: RolloutStatus, evidence: Mapping[str, Any] | None, at: float
) -> RolloutRecord:
    """Keep how far it is; a change of phase, step or weight is logged, once. Raises NoRollout."""
    before = get(connection, environment, model)
    if before is None:
        raise NoRollout(f"a rollout must have been claimed before it is saved, none of {model!r} in {environment!r} was; claim it first")
    new = replace(before, status=status, evidence=evidence, updated_at=at)
    values = {"status": status.to_dict(), "evidence": None if evidence is None else dict(evidence), "updated_at": at}
    connection.execute(update(ROLLOUTS).where(_of(environment, model)).values(**values))
    if before.status is None or _place(before.status) != _place(status):
        detail = f"version {status.canary} against {status.stable or 'nobody'}: {status.phase.value} at {status.weight} %"
        detail += f": {'; '.join(status.reasons)}" if status.reasons else ""
        place = sha256_json({"canary": status.canary, "stable": status.stable, "place": list(_place(status))})
        ledger_rows.append(connection, environment, model, what="rollout", digest=place, detail=detail, by=before.holder, at=at)
    return new


def order(connection: Connection, environment: str, model: str, what: str, *, by: str, reason: str, at: float) -> RolloutRecord:
    """Write down what a person wants; the same again changes nothing. Raises NoRollout, and ValueError for an order there is not."""
    if what not in (*ORDERS, "approve"):
        raise ValueError(f"an order is one of {', '.join((*ORDERS, 'approve'))}, got {what!r}")
    now = get(connection, environment, model)
    if now is None or (now.status is not None and now.status.phase.is_final):
        found = "there has been none" if now is None or now.status is None else f"the last one ended as {now.status.phase.value}"
        raise NoRollout(f"a rollout of {model!r} must run in {environment!r} to {what} it, {found}; see firstlight status")
    wanted = {"approved_by": now.approved_by or by} if what == "approve" else ORDERS[what]
    if what == "approve":
        _check_asks(now)
    if all(getattr(now, name) == value for name, value in wanted.items()):
        return now
    said = f"{what} by {by}: {reason}" if reason else f"{what} by {by}"
    connection.execute(update(ROLLOUTS).where(_of(environment, model)).values(**wanted, said=said, updated_at=at))
    digest = sha256_json({"release": now.release_id, "order": what})
    detail = f"release {now.release_id}: {said}"
    ledger_rows.append(connection, environment, model, what=f"{what}-rollout", digest=digest, detail=detail, by=by, at=at)
    return replace(now, **wanted, said=said, updated_at=at)  # type: ignore[arg-type]


def running(connection: Connection, environment: str, model: str, *, at: float) -> RolloutRecord | None:
    """Return the rollout that uses the traffic, or None: it ended, its release did, or it was told to end and its holder is silent."""
    now = get(connection, environment, model)
    if now is None or (now.status is not None and now.status.phase.is_final):
        return None
    if now.abort and abs(at - now.updated_at) > _SILENT_SECONDS:
        return None
    watching = now.status is not None and now.status.phase is Phase.WATCHING
    release = connection.execute(select(RELEASES.c.status).where(RELEASES.c.id == now.release_id)).scalar()
    return now if watching or release in (None, ReleaseStatus.OPEN.value) else None


def spec_json(spec: RolloutSpec) -> dict[str, Any]:
    """Return the plain JSON form of what is to be done."""
    return {"canary": spec.canary, "stable": spec.stable, "policy": spec.policy.model_dump(mode="json")}


def _continued(before: RolloutRecord, spec: Mapping[str, Any]) -> RolloutRecord:
    """Other versions: nothing of it counts. Other steps: the evidence does, how far it was does not."""
    then = before.spec
    if (then["canary"], then["stable"]) != (spec["canary"], spec["stable"]):
        return replace(before, status=None, evidence=None, approved_by=None)
    if then["policy"].get("steps") != spec["policy"].get("steps"):
        return replace(before, status=None, approved_by=None)
    return before


def _check_asks(now: RolloutRecord) -> None:
    phase = now.status.phase if now.status else None
    asks = phase is Phase.APPROVING or (phase is Phase.PAUSED and now.status is not None and now.status.paused_from is Phase.APPROVING)
    if not asks and now.approved_by is None:
        found = phase.value if phase else "being started"
        raise NoRollout(
            f"a rollout must ask for a person before one may approve, that of {now.model!r} in {now.environment!r} is {found}; "
            "wait until it asks, and look at its evidence then"
        )


def _place(status: RolloutStatus) -> tuple[str, int, int]:
    return status.phase.value, status.step, status.weight


def _values(record: RolloutRecord) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in RolloutRecord.__slots__}
    evidence = None if record.evidence is None else dict(record.evidence)
    return {**values, "spec": dict(record.spec), "status": record.status.to_dict() if record.status else None, "evidence": evidence}


def _of(environment: str, model: str) -> ColumnElement[bool]:
    return and_(ROLLOUTS.c.environment == environment, ROLLOUTS.c.model == model)
