"""Fencing tokens as rows: whoever takes the next one shuts out everybody before. Every function works inside the caller's transaction.

After Kleppmann 2017, Designing Data-Intensive Applications, chapter 8: a lease alone does not stop a process that was asleep while
it ran out; a number that only grows, checked by the store in the same transaction, does.
"""

from sqlalchemy import Connection, and_, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from rollout.errors import Fenced
from rollout.tables import FENCES


def take(connection: Connection, environment: str, model: str) -> int:
    """Return the next token; from now on it is the only one."""
    token = newest(connection, environment, model) + 1
    taken = connection.execute(update(FENCES).where(_of(environment, model)).values(token=token))
    if not taken.rowcount:
        connection.execute(insert(FENCES).values(environment=environment, model=model, token=token))
    return token


def newest(connection: Connection, environment: str, model: str) -> int:
    """Return the token taken last; 0 before the first."""
    return connection.execute(select(FENCES.c.token).where(_of(environment, model))).scalar() or 0


def check(connection: Connection, environment: str, model: str, token: int | None) -> None:
    """Raise Fenced unless ``token`` is the newest. None is nobody's token: an operator, or a caller from before there were any."""
    if token is None:
        return
    found = newest(connection, environment, model)
    if found != token:
        raise Fenced(
            f"only the newest holder may act on {model!r} in {environment!r}, token {token} was followed by {found}; "
            "stop, somebody else goes on"
        )


def _of(environment: str, model: str) -> ColumnElement[bool]:
    return and_(FENCES.c.environment == environment, FENCES.c.model == model)
