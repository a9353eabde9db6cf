"""Incidents as rows: something a person must look at, one for each cause until it is resolved. Works inside the caller's transaction."""

import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from rollout.decision_ids import identifier
from rollout.errors import IncidentClosed, UnknownIncident
from rollout.ledger_rows import append
from rollout.records import Incident, IncidentState, Severity
from rollout.tables import INCIDENTS

_ID = re.compile(r"INC-(\d{4})-(\d{3,9})")


def open_one(connection: Connection, new: Incident) -> Incident:
    """Return the open incident of this cause; where there is none, ``new`` (its id is given here) becomes it. Raises ValueError."""
    _check(new)
    same = (INCIDENTS.c.environment == new.environment) & (INCIDENTS.c.model == new.model) & (INCIDENTS.c.cause == new.cause)
    row = connection.execute(select(INCIDENTS).where(same, INCIDENTS.c.resolved_at.is_(None))).one_or_none()
    if row is not None:
        return _incident(row)
    year = datetime.fromtimestamp(new.opened_at, UTC).year
    number = (connection.execute(select(func.max(INCIDENTS.c.number)).where(INCIDENTS.c.year == year)).scalar() or 0) + 1
    values: dict[str, Any] = {name: getattr(new, name) for name in Incident.__slots__ if name != "id"}
    connection.execute(
        insert(INCIDENTS).values(**{**values, "severity": new.severity.value, "state": new.state.value}, year=year, number=number)
    )
    opened = get(connection, identifier("INC", year, number))
    _tell(connection, opened, "open-incident", f"{new.severity}: {new.summary}", by=new.opened_by, at=new.opened_at)
    return opened


def acknowledge(connection: Connection, wanted: str, *, by: str, at: float) -> Incident:
    """Write down that somebody looks at it; again changes nothing. Raises UnknownIncident, IncidentClosed."""
    now = get(connection, wanted)
    if now.state is IncidentState.ACKNOWLEDGED:
        return now
    if now.state is IncidentState.RESOLVED:
        raise IncidentClosed(f"an incident must be open to be acknowledged, {wanted} was resolved by {now.resolved_by}; nothing to do")
    _change(connection, wanted, state=IncidentState.ACKNOWLEDGED.value, acknowledged_by=by, acknowledged_at=at)
    _tell(connection, now, "acknowledge-incident", f"{by} looks at it", by=by, at=at)
    return get(connection, wanted)


def resolve(connection: Connection, wanted: str, *, reason: str, by: str, at: float) -> Incident:
    """Write down that its cause is gone; again changes nothing. Raises UnknownIncident, IncidentClosed for a reason that says nothing."""
    now = get(connection, wanted)
    if now.state is IncidentState.RESOLVED:
        return now
    if not reason.strip():
        raise IncidentClosed(f"an incident is resolved with a reason, {wanted} was given none; say what was done about {now.cause}")
    _change(connection, wanted, state=IncidentState.RESOLVED.value, resolved_by=by, resolved_at=at, resolved_because=reason)
    _tell(connection, now, "resolve-incident", reason, by=by, at=at)
    return get(connection, wanted)


def get(connection: Connection, wanted: str) -> Incident:
    """Return one incident. Raises UnknownIncident."""
    row = connection.execute(select(INCIDENTS).where(_at(wanted))).one_or_none()
    if row is None:
        raise UnknownIncident(
            f"an incident must have been opened before it is used, none is called {wanted}; see firstlight incidents list"
        )
    return _incident(row)


def all_of(connection: Connection, environment: str | None, model: str | None, *, open_only: bool) -> list[Incident]:
    """Return incidents, oldest first."""
    wanted = select(INCIDENTS).order_by(INCIDENTS.c.year, INCIDENTS.c.number)
    for column, value in ((INCIDENTS.c.environment, environment), (INCIDENTS.c.model, model)):
        wanted = wanted if value is None else wanted.where(column == value)
    if open_only:
        wanted = wanted.where(INCIDENTS.c.resolved_at.is_(None))
    return [_incident(row) for row in connection.execute(wanted)]


def _check(new: Incident) -> None:
    for name in ("cause", "summary", "owner", "opened_by"):
        if not getattr(new, name).strip():
            raise ValueError(f"an incident must have a {name.replace('_', ' ')}, got none")


def _at(wanted: str) -> ColumnElement[bool]:
    parts = _ID.fullmatch(wanted)
    if parts is None:
        raise UnknownIncident(
            f"an incident is called INC-<year>-<number>, as INC-2026-001, got {wanted[:60]!r}; see firstlight incidents list"
        )
    return (INCIDENTS.c.year == int(parts[1])) & (INCIDENTS.c.number == int(parts[2]))


def _change(connection: Connection, wanted: str, **values: Any) -> None:
    connection.execute(update(INCIDENTS).where(_at(wanted)).values(**values))


def _tell(connection: Connection, incident: Incident, what: str, said: str, *, by: str, at: float) -> None:
    detail = f"{incident.id} ({incident.cause}): {said}"
    append(connection, incident.environment, incident.model, what=what, digest=incident.evidence_digest, detail=detail, by=by, at=at)


def _incident(row: Row[tuple[object, ...]]) -> Incident:
    values = dict(row._mapping)
    made = identifier("INC", values.pop("year"), values.pop("number"))  # type: ignore[arg-type]
    severity, state = Severity(str(values.pop("severity"))), IncidentState(str(values.pop("state")))
    return Incident(id=made, severity=severity, state=state, **values)  # type: ignore[arg-type]
