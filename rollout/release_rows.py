"""Releases as rows: one open per (environment, model). Every function works inside the caller's transaction."""

from dataclasses import replace

from sqlalchemy import Connection, Row, func, insert, select, update

from rollout.errors import ReleaseClosed, ReleaseRunning, UnknownRelease
from rollout.ledger_rows import append
from rollout.records import Release, ReleaseStatus
from rollout.tables import CHAMPIONS, RELEASES


def open_release(
    connection: Connection, environment: str, model: str, *, handoff_digest: str, model_digest: str, policy_digest: str, by: str, at: float
) -> Release:
    """Return the open release of these bytes, new or continued. Raises ReleaseRunning when another one is open."""
    running = open_one(connection, environment, model)
    if running is not None:
        return _continued(
            connection, running, handoff_digest=handoff_digest, model_digest=model_digest, policy_digest=policy_digest, by=by, at=at
        )
    attempt = _attempts(connection, model, model_digest) + 1
    new = Release(
        id=release_id(model, model_digest, attempt),
        environment=environment,
        model=model,
        attempt=attempt,
        status=ReleaseStatus.OPEN,
        handoff_digest=handoff_digest,
        model_digest=model_digest,
        policy_digest=policy_digest,
        opened_by=by,
        opened_at=at,
    )
    connection.execute(insert(RELEASES).values({name: getattr(new, name) for name in Release.__slots__}))
    append(connection, environment, model, what="open-release", digest=model_digest, detail=f"release {new.id} opened", by=by, at=at)
    return new


def release_id(model: str, model_digest: str, attempt: int) -> str:
    """Return the id of an attempt.

    >>> release_id("desi-vae", "0123456789abcdef", 2)
    'desi-vae-0123456789ab-2'
    """
    return f"{model}-{model_digest[:12]}" + (f"-{attempt}" if attempt > 1 else "")


def open_one(connection: Connection, environment: str, model: str) -> Release | None:
    """Return the open release, or None."""
    mine = select(RELEASES).where(RELEASES.c.environment == environment, RELEASES.c.model == model)
    row = connection.execute(mine.where(RELEASES.c.status == ReleaseStatus.OPEN.value)).one_or_none()
    return None if row is None else _release(row)


def get(connection: Connection, identifier: str) -> Release:
    """Return one release. Raises UnknownRelease."""
    row = connection.execute(select(RELEASES).where(RELEASES.c.id == identifier)).one_or_none()
    if row is None:
        raise UnknownRelease(f"a release must have been opened before it is used, none is called {identifier!r}; see the list of releases")
    return _release(row)


def all_of(connection: Connection, environment: str, model: str) -> list[Release]:
    """Return every release, oldest first."""
    mine = select(RELEASES).where(RELEASES.c.environment == environment, RELEASES.c.model == model)
    return [_release(row) for row in connection.execute(mine.order_by(RELEASES.c.opened_at, RELEASES.c.attempt))]


def close(connection: Connection, identifier: str, status: ReleaseStatus, *, summary: str, by: str, at: float) -> Release:
    """End a release; the same end again is a no-op. Raises ReleaseClosed, UnknownRelease."""
    now = get(connection, identifier)
    if now.status == status and status is not ReleaseStatus.OPEN:
        return now
    _check_end(connection, now, status)
    values = {"status": status.value, "summary": summary, "closed_at": at}
    connection.execute(update(RELEASES).where(RELEASES.c.id == identifier).values(**values))
    detail = f"release {identifier} ended: {status.value}" + (f": {summary}" if summary else "")
    append(connection, now.environment, now.model, what="close-release", digest=now.model_digest, detail=detail, by=by, at=at)
    return replace(now, status=status, summary=summary, closed_at=at)


def check_may_promote(connection: Connection, identifier: str, environment: str, model: str, *, digest: str) -> None:
    """Raise ReleaseClosed unless the release is open and is about these bytes in this environment."""
    now = get(connection, identifier)
    if now.status is not ReleaseStatus.OPEN:
        raise ReleaseClosed(f"release {identifier!r} must be open to promote, it ended as {now.status.value!r}; open a new attempt")
    if (now.environment, now.model, now.model_digest) != (environment, model, digest):
        raise ReleaseClosed(
            f"release {identifier!r} may promote model {now.model_digest[:12]} of {now.model!r} in {now.environment!r} and nothing else, "
            f"asked for {digest[:12]} of {model!r} in {environment!r}; open a release for that"
        )


def _check_end(connection: Connection, now: Release, status: ReleaseStatus) -> None:
    if status is ReleaseStatus.OPEN:
        raise ReleaseClosed(
            f"a release ends as promoted, failed, cannot-tell or error, got 'open' for {now.id!r}; open a new attempt instead"
        )
    if now.status is not ReleaseStatus.OPEN:
        raise ReleaseClosed(
            f"release {now.id!r} must be open to be ended as {status.value!r}, it ended as {now.status.value!r}; open a new attempt"
        )
    promoted = connection.execute(select(CHAMPIONS.c.sequence).where(CHAMPIONS.c.release_id == now.id)).first() is not None
    if promoted != (status is ReleaseStatus.PROMOTED):
        found = "it did" if promoted else "it did not"
        raise ReleaseClosed(
            f"release {now.id!r} may end as {status.value!r} only if that is what happened; asked whether it moved the champion: {found}"
        )


def _continued(
    connection: Connection, running: Release, *, handoff_digest: str, model_digest: str, policy_digest: str, by: str, at: float
) -> Release:
    if (running.handoff_digest, running.model_digest) != (handoff_digest, model_digest):
        raise ReleaseRunning(
            f"one release of {running.model!r} may run in {running.environment!r} at a time, {running.id!r} (opened by "
            f"{running.opened_by}) is open; "
            "let it end, or end it, first",
            release_id=running.id,
        )
    if running.policy_digest != policy_digest:
        connection.execute(update(RELEASES).where(RELEASES.c.id == running.id).values(policy_digest=policy_digest))
        detail = f"release {running.id} goes on under policy {policy_digest[:12]} instead of {running.policy_digest[:12]}"
        append(connection, running.environment, running.model, what="policy-changed", digest=model_digest, detail=detail, by=by, at=at)
    return replace(running, policy_digest=policy_digest)


def _attempts(connection: Connection, model: str, model_digest: str) -> int:
    """Count over all environments and by the twelve digits that the id shows, so that an id is unique in the store."""
    same = RELEASES.c.model_digest.startswith(model_digest[:12], autoescape=True)
    return connection.execute(select(func.count()).select_from(RELEASES).where(RELEASES.c.model == model, same)).scalar_one()


def _release(row: Row[tuple[object, ...]]) -> Release:
    values = dict(row._mapping)
    return Release(**{**values, "status": ReleaseStatus(str(values["status"]))})  # type: ignore[arg-type]
