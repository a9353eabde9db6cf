"""An eye inside the database that is not the product's: triggers that write down every row of what should be true, and who was made champion.

A row that the product writes and its witness are in one transaction, so the witness has seen exactly what was committed, in that order, whatever was
killed. The audit trail is compared with it.
"""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, create_engine, text

from rollout.tables import CHAMPIONS, DESIRED, FENCES, OBSERVED, RELEASES, ROLLOUTS

_SEEN = (DESIRED, OBSERVED, CHAMPIONS, FENCES, RELEASES, ROLLOUTS)
_LEFT_OUT = ("evidence", "spec", "said")
_DOCUMENTS = ("traffic", "ready", "status")
_SQLITE = """
CREATE TRIGGER witness_{table}_{verb} AFTER {verb} ON {table}
BEGIN INSERT INTO witness (what, verb, seen) VALUES ('{table}', '{verb}', json_object({pairs})); END
"""
_POSTGRES_FUNCTION = """
CREATE OR REPLACE FUNCTION witness() RETURNS trigger AS $$
BEGIN
INSERT INTO witness (what, verb, seen) VALUES (TG_TABLE_NAME, TG_OP, (to_jsonb(NEW) - 'evidence' - 'spec' - 'said')::text);
RETURN NEW;
END
$$ LANGUAGE plpgsql
"""
_POSTGRES = "CREATE TRIGGER witness_{table} AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION witness()"


@dataclass(frozen=True, slots=True)
class Written:
    """One row as it was written."""

    table: str
    is_new: bool
    """Inserted; else it was changed."""
    row: dict[str, Any]


def watch(url: str) -> None:
    """Begin to write down what happens in the store behind ``url``, whose tables are there."""
    engine = create_engine(url)
    is_sqlite = engine.dialect.name == "sqlite"
    with engine.begin() as connection:
        number = "INTEGER PRIMARY KEY AUTOINCREMENT" if is_sqlite else "BIGSERIAL PRIMARY KEY"
        connection.execute(text(f"CREATE TABLE witness (number {number}, what TEXT NOT NULL, verb TEXT NOT NULL, seen TEXT NOT NULL)"))
        statements = [one for table in _SEEN for one in _sqlite(table)] if is_sqlite else [_POSTGRES_FUNCTION, *map(_postgres, _SEEN)]
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def seen(url: str) -> list[Written]:
    """Return every row that was written, in the order in which it was."""
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT what, verb, seen FROM witness ORDER BY number")).all()
    engine.dispose()
    return [Written(table=row.what, is_new=row.verb == "INSERT", row=_plain(json.loads(row.seen))) for row in rows]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """SQLite keeps JSON as text, and a truth as a number."""
    return {
        name: json.loads(value) if name in _DOCUMENTS and isinstance(value, str) and value[:1] in "[{n" else value
        for name, value in row.items()
    }


def _sqlite(table: Table) -> list[str]:
    pairs = ", ".join(f"'{column.name}', NEW.{column.name}" for column in table.columns if column.name not in _LEFT_OUT)
    return [_SQLITE.format(table=table.name, verb=verb, pairs=pairs) for verb in ("INSERT", "UPDATE")]


def _postgres(table: Table) -> str:
    return _POSTGRES.format(table=table.name)
