"""Ids of release decisions, ``DEC-YYYY-NNN``: one a release, in order, without gaps. Works inside the caller's transaction."""

from sqlalchemy import Connection, func, insert, select

from rollout import release_rows
from rollout.ledger_rows import append
from rollout.tables import DECISION_IDS


def allocate(connection: Connection, release_id: str, *, year: int, by: str, at: float) -> str:
    """Return the release's id, the next one of ``year`` where it has none yet. Raises UnknownRelease."""
    row = connection.execute(select(DECISION_IDS).where(DECISION_IDS.c.release_id == release_id)).one_or_none()
    if row is not None:
        return identifier("DEC", row.year, row.number)
    release = release_rows.get(connection, release_id)
    number = (connection.execute(select(func.max(DECISION_IDS.c.number)).where(DECISION_IDS.c.year == year)).scalar() or 0) + 1
    connection.execute(insert(DECISION_IDS).values(year=year, number=number, release_id=release_id, at=at))
    new = identifier("DEC", year, number)
    detail = f"the decision on release {release_id} is {new}"
    append(connection, release.environment, release.model, what="decision-id", digest=release.model_digest, detail=detail, by=by, at=at)
    return new


def identifier(kind: str, year: int, number: int) -> str:
    """Return an id as people write it.

    >>> identifier("DEC", 2026, 7)
    'DEC-2026-007'
    """
    return f"{kind}-{year}-{number:03d}"
