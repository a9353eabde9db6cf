"""The champion history as rows. Every function works inside the caller's transaction, alone among writers."""

from sqlalchemy import Connection, Row, Select, insert, select

from rollout import experiment_rows, ledger_rows, traffic_rows
from rollout.errors import NoPrevious, StaleChampion, UnknownVersion
from rollout.records import Champion
from rollout.spec import Traffic
from rollout.tables import CHAMPIONS


def champion(connection: Connection, environment: str, model: str) -> Champion | None:
    """Return the present champion, or None before the first."""
    row = connection.execute(_history(environment, model).order_by(CHAMPIONS.c.sequence.desc()).limit(1)).one_or_none()
    return None if row is None else _champion(row)


def history(connection: Connection, environment: str, model: str) -> list[Champion]:
    """Return every champion there was, oldest first."""
    return [_champion(row) for row in connection.execute(_history(environment, model).order_by(CHAMPIONS.c.sequence))]


def promoted_by(connection: Connection, environment: str, model: str, release_id: str) -> Champion | None:
    """Return the line that ``release_id`` wrote, or None."""
    row = connection.execute(_history(environment, model).where(CHAMPIONS.c.release_id == release_id)).one_or_none()
    return None if row is None else _champion(row)


def promote(
    connection: Connection,
    environment: str,
    model: str,
    *,
    version: str,
    digest: str,
    release_id: str,
    expected_champion: str | None,
    by: str,
    at: float,
) -> Champion:
    """Move the champion by compare-and-set. Raises StaleChampion, UnknownVersion."""
    now = champion(connection, environment, model)
    done = promoted_by(connection, environment, model, release_id)
    if done is not None:
        return _same_again(done, now)
    check_champion(now, expected_champion, model=model)
    servable = traffic_rows.get_version(connection, model, version)
    if servable.model_digest != digest:
        raise UnknownVersion(
            f"version {version!r} of {model!r} must be the bytes that were judged, it is {servable.model_digest[:12]} "
            f"and {digest[:12]} was judged; "
            "release the right version"
        )
    return _append(
        connection,
        Champion(
            environment=environment,
            model=model,
            sequence=(now.sequence if now else 0) + 1,
            version=version,
            digest=digest,
            previous=_previous_for(version, now),
            action="promote",
            release_id=release_id,
            reason=f"release {release_id} passed",
            by=by,
            at=at,
        ),
    )


def roll_back(connection: Connection, environment: str, model: str, *, by: str, reason: str, to: str | None, at: float) -> Champion:
    """Go back to the champion before, or to one that was champion once. Raises NoPrevious, UnknownVersion."""
    lines = history(connection, environment, model)
    now, target = _target(lines, to, model=model, environment=environment)
    return _append(
        connection,
        Champion(
            environment=environment,
            model=model,
            sequence=now.sequence + 1,
            version=target.version,
            digest=target.digest,
            # its own predecessor, never the version we flee from: rolling back twice goes back two
            previous=target.previous,
            action="rollback",
            release_id=None,
            reason=reason,
            by=by,
            at=at,
        ),
    )


def check_champion(now: Champion | None, expected: str | None, *, model: str) -> None:
    """Raise StaleChampion unless the present champion is the expected version."""
    found = now.version if now else None
    if found != expected:
        since = f" since {now.action} {now.sequence} by {now.by}" if now else ""
        raise StaleChampion(f"the champion of {model!r} must still be {expected!r}, it is {found!r}{since}; decide again against that one")


def _same_again(done: Champion, now: Champion | None) -> Champion:
    if now == done:
        return done
    present = now.version if now else None
    raise StaleChampion(
        f"release {done.release_id!r} made {done.version!r} champion once and {present!r} has taken its place since; "
        "open a new attempt to promote it again"
    )


def _previous_for(version: str, now: Champion | None) -> str | None:
    if now is None:
        return None
    return now.previous if now.version == version else now.version


def _target(lines: list[Champion], to: str | None, *, model: str, environment: str) -> tuple[Champion, Champion]:
    wanted = to if to is not None else (lines[-1].previous if lines else None)
    if wanted is None or not lines:
        raise NoPrevious(
            f"there must be an earlier champion of {model!r} in {environment!r} to go back to, there is none; release a version instead"
        )
    if wanted == lines[-1].version:
        raise NoPrevious(f"a rollback must go to another version, {wanted!r} is the champion of {model!r} already; nothing to do")
    once = [line for line in lines if line.version == wanted]
    if not once:
        known = sorted({line.version for line in lines})
        raise UnknownVersion(
            f"a rollback goes to a version that was champion of {model!r} once, {wanted!r} never was; choose one of {known}"
        )
    return lines[-1], once[-1]


def _append(connection: Connection, line: Champion) -> Champion:
    """Write the history line, the desired state and the decision: together they are the move of the champion."""
    values = {name: getattr(line, name) for name in Champion.__slots__ if name != "by"}
    connection.execute(insert(CHAMPIONS).values(made_by=line.by, **values))
    traffic = Traffic(stable=line.version)
    because = f"version {line.version} became champion"
    experiment_rows.close_any(connection, line.environment, line.model, by=line.by, because=because, at=line.at)
    traffic_rows.change_traffic(connection, line.environment, line.model, traffic, lease_until=None, by=line.by, at=line.at)
    detail = f"champion {line.sequence} is version {line.version}: {line.reason}"
    ledger_rows.append(
        connection, line.environment, line.model, what=line.action, digest=line.digest, detail=detail, by=line.by, at=line.at
    )
    return line


def _history(environment: str, model: str) -> Select[tuple[object, ...]]:
    return select(CHAMPIONS).where(CHAMPIONS.c.environment == environment, CHAMPIONS.c.model == model)


def _champion(row: Row[tuple[object, ...]]) -> Champion:
    values = dict(row._mapping)
    return Champion(by=values.pop("made_by"), **values)  # type: ignore[arg-type]
