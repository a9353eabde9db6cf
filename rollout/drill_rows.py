"""Rehearsals of a cold start as rows: asked for in the desired state, written down for good. Inside the caller's transaction."""

from dataclasses import replace

from sqlalchemy import Connection, func, insert, select

from rollout import ledger_rows, traffic_rows
from rollout.errors import RolloutError
from rollout.records import Drill
from rollout.tables import DRILLS, LEDGER

_CLOCKS_APART_SECONDS = 60.0
"""How far the clocks of two machines may be apart; a rehearsal later than that lies in the future and tells nothing."""


def request(connection: Connection, environment: str, model: str, version: str, *, by: str, at: float) -> str:
    """Ask for a rehearsal of ``version``; return the request, ``<version>#<number>``. Raises UnknownVersion, RolloutError."""
    servable = traffic_rows.get_version(connection, model, version)
    wanted = traffic_rows.desired(connection, environment, model)
    if wanted is None:
        raise RolloutError(
            f"something of {model!r} must be served in {environment!r} before going back to it is rehearsed, nothing is; release a version first"
        )
    before = select(func.count()).select_from(LEDGER).where(LEDGER.c.environment == environment, LEDGER.c.model == model)
    number = connection.execute(before.where(LEDGER.c.what == "request-drill")).scalar_one() + 1
    asked = f"{version}#{number}"
    traffic_rows.put_desired(connection, replace(wanted, drill=asked), by=by, at=at)
    detail = f"rehearse the cold start of version {version}: request {asked}"
    ledger_rows.append(connection, environment, model, what="request-drill", digest=servable.model_digest, detail=detail, by=by, at=at)
    return asked


def record(connection: Connection, new: Drill, *, by: str, at: float) -> None:
    """Write a rehearsal down, once, and take back the request for it."""
    if new in all_of(connection, new.environment, new.model):
        return
    connection.execute(insert(DRILLS).values({name: getattr(new, name) for name in Drill.__slots__}))
    wanted = traffic_rows.desired(connection, new.environment, new.model)
    if wanted is not None and wanted.drill is not None and wanted.drill.rpartition("#")[0] == new.version:
        traffic_rows.put_desired(connection, replace(wanted, drill=None), by=by, at=at)
    took = f" in {new.seconds:.1f} s" if new.seconds is not None else ""
    detail = f"version {new.version} was rehearsed{took}: {new.verdict}: {new.reason}"
    ledger_rows.append(connection, new.environment, new.model, what="drill", digest=new.digest, detail=detail, by=by, at=at)


def all_of(connection: Connection, environment: str, model: str) -> list[Drill]:
    """Return every rehearsal, oldest first."""
    mine = select(DRILLS).where(DRILLS.c.environment == environment, DRILLS.c.model == model).order_by(DRILLS.c.number)
    return [Drill(**{name: row._mapping[name] for name in Drill.__slots__}) for row in connection.execute(mine)]


def fresh(connection: Connection, environment: str, model: str, version: str, *, not_before: float, now: float) -> Drill | None:
    """Return the last rehearsal of ``version`` since ``not_before``, whatever its verdict, or None."""
    since = [
        drill
        for drill in all_of(connection, environment, model)
        if drill.version == version and not_before <= drill.at <= now + _CLOCKS_APART_SECONDS
    ]
    return since[-1] if since else None
