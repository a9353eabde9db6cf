"""The ledger as rows: every state-changing action, and every refusal, chained and sealed inside the transaction of the action itself.

Writers are alone (``rollout.database``), so the last entry that one reads is the one it follows. Which key seals comes with the
connection: it is the database's, not the caller's.
"""

import logging
from collections.abc import Callable

from sqlalchemy import Connection, Row, Select, and_, func, insert, select

from firstlight import chain
from firstlight.chain import ChainKey
from rollout.errors import RolloutError
from rollout.records import Decision, LedgerEntry
from rollout.tables import LEDGER

KEY_SOURCE = "ledger_key"
"""Execution option of a writing connection: its :data:`KeySource`."""
KeySource = Callable[[str | None], ChainKey | None]
"""Gives the key with this id, which is in force (None: any, none is yet), or None when it is not to be had."""

DETAIL_CHARACTERS = 4000
"""An entry tells what happened; whole reports lie elsewhere, under their digest."""
NAME_CHARACTERS = 200
_CUT = " …"
_LOG = logging.getLogger(__name__)


def append(
    connection: Connection,
    environment: str,
    model: str,
    *,
    what: str,
    digest: str,
    detail: str,
    by: str,
    at: float,
    seal_with: ChainKey | None = None,
) -> int:
    """Chain one entry to the last, sealed with the key in force (or ``seal_with``); return its sequence.

    Where that key is not to be had the entry stands without a seal, which every check of the ledger will say: a way back must not
    fail for want of a key. Control characters are replaced and long text is cut.
    """
    last = connection.execute(_newest().limit(1)).one_or_none()
    key = seal_with or _key_in_force(connection, last)
    sequence: int = 1 if last is None else last.sequence + 1
    entry = {
        "sequence": sequence,
        "at": float(at),
        "environment": plain(environment, NAME_CHARACTERS),
        "model": plain(model, NAME_CHARACTERS),
        "what": plain(what, NAME_CHARACTERS),
        "digest": plain(digest, NAME_CHARACTERS),
        "detail": plain(detail, DETAIL_CHARACTERS),
        "by": plain(by, NAME_CHARACTERS),
        "adopted": False,
        "key_id": None if key is None else key.id,
    }
    previous = chain.GENESIS if last is None else last.entry_digest
    own = chain.entry_digest(previous, entry)
    stored = {("made_by" if name == "by" else name): value for name, value in entry.items()}
    linked = {"previous": previous, "entry_digest": own, "seal": None if key is None else chain.seal(own, key)}
    connection.execute(insert(LEDGER).values(**stored, **linked))
    return sequence


def found(connection: Connection, environment: str, model: str, *, what: str, digest: str, by: str) -> int | None:
    """Return the sequence of the last entry that says the same, or None."""
    same = {"what": (what, NAME_CHARACTERS), "digest": (digest, NAME_CHARACTERS), "made_by": (by, NAME_CHARACTERS)}
    wanted = [LEDGER.c[name] == plain(value, limit) for name, (value, limit) in same.items()]
    mine = select(LEDGER.c.sequence).where(LEDGER.c.environment == environment, LEDGER.c.model == model, *wanted)
    return connection.execute(mine.order_by(LEDGER.c.sequence.desc()).limit(1)).scalar()


def entries(connection: Connection, *, first: int, last: int | None) -> list[LedgerEntry]:
    """Return the entries from ``first`` to ``last`` (None: the end), both included, in order."""
    part = LEDGER.c.sequence >= first
    if last is not None:
        part = and_(part, LEDGER.c.sequence <= last)
    return [_entry(row) for row in connection.execute(select(LEDGER).where(part).order_by(LEDGER.c.sequence))]


def head(connection: Connection) -> LedgerEntry | None:
    """Return the last entry, or None."""
    row = connection.execute(_newest().limit(1)).one_or_none()
    return None if row is None else _entry(row)


def latest(connection: Connection) -> float | None:
    """Return the latest time of any entry, unix seconds: entries have the clocks of those who wrote them. None before the first."""
    found = connection.execute(select(func.max(LEDGER.c.at))).scalar()
    return None if found is None else float(found)


def decisions(connection: Connection, environment: str, model: str) -> list[Decision]:
    """Return every entry about this model in this environment, oldest first."""
    mine = select(LEDGER).where(LEDGER.c.environment == environment, LEDGER.c.model == model).order_by(LEDGER.c.sequence)
    return [
        Decision(
            number=row.sequence,
            environment=row.environment,
            model=row.model,
            what=row.what,
            digest=row.digest,
            detail=row.detail,
            by=row.made_by,
            at=row.at,
        )
        for row in connection.execute(mine)
    ]


def plain(value: str, limit: int) -> str:
    """Return ``value`` as text that any database, terminal and JSON takes, at most ``limit`` characters."""
    text = "".join(character if character.isprintable() else " " for character in value[: limit + 1])
    return text if len(text) <= limit else text[: limit - len(_CUT)] + _CUT


def rotate(connection: Connection, new: ChainKey, *, by: str, lost: bool, at: float) -> int:
    """Write down that ``new`` follows the key in force. Raises RolloutError when that is not at hand, or is ``new``."""
    last = connection.execute(_newest().limit(1)).one_or_none()
    before = _id_in_force(connection, last)
    if before is None or before == new.id:
        found = "no entry has a seal yet" if before is None else f"{new.id} is that key"
        raise RolloutError(f"a new key must follow another one, {found}; nothing to do")
    values = {"digest": chain.handover(before, new.id), "detail": f"ledger key {before} is followed by {new.id}", "by": by, "at": at}
    if lost:
        return append(connection, "", "", what=chain.REPLACEMENT, seal_with=new, **values)  # type: ignore[arg-type]
    if _key_in_force(connection, last) is None:
        raise RolloutError(f"the ledger's key {before} must be at hand to hand over, it is not; bring the key file, or say that it is lost")
    return append(connection, "", "", what=chain.ROTATION, **values)  # type: ignore[arg-type]


def _id_in_force(connection: Connection, last: Row[tuple[object, ...]] | None) -> str | None:
    """Return the id of the key that must seal the next entry; None when nothing was sealed yet."""
    sealed = last if last is None or last.key_id is not None else connection.execute(_sealed().limit(1)).one_or_none()
    if sealed is None:
        return None
    return str(sealed.detail).rpartition(" ")[2] if sealed.what == chain.ROTATION else str(sealed.key_id)


def _key_in_force(connection: Connection, last: Row[tuple[object, ...]] | None) -> ChainKey | None:
    source: KeySource | None = connection.get_execution_options().get(KEY_SOURCE)
    if source is None:
        return None
    wanted = _id_in_force(connection, last)
    key = source(wanted)
    if key is None:
        _LOG.warning(
            "the ledger's key %s must be at hand to seal, it is not; an entry goes without a seal, and a check will say so", wanted
        )
    return key


def _newest() -> Select[tuple[object, ...]]:
    return select(LEDGER).order_by(LEDGER.c.sequence.desc())


def _sealed() -> Select[tuple[object, ...]]:
    return _newest().where(LEDGER.c.key_id.is_not(None))


def _entry(row: Row[tuple[object, ...]]) -> LedgerEntry:
    values = dict(row._mapping)
    return LedgerEntry(by=values.pop("made_by"), **values)  # type: ignore[arg-type]
