"""Schema 4: the decisions become a hash chain, the ledger; ids of decisions; incidents.

Every decision of before is an entry, in its order, marked as adopted: nobody sealed it when it was made. The ``decisions`` table goes,
for two records of one thing would differ one day. The chain is that of ``firstlight.chain`` as of this schema, written out here.
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_SQLITE = "CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
_POSTGRES = "CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION rollout_append_only()"


def upgrade() -> None:
    """Make the ledger out of the decisions, and the tables of incidents and decision ids."""
    ledger = _ledger()
    _adopt(ledger)
    op.drop_table("decisions")
    _decision_ids()
    _incidents()
    for table in ("ledger", "decision_ids"):
        if op.get_bind().dialect.name == "sqlite":
            for verb in ("UPDATE", "DELETE"):
                op.execute(_SQLITE.format(table=table, verb=verb))
        else:
            op.execute(_POSTGRES.format(table=table))


def _ledger() -> sa.Table:
    table = op.create_table(
        "ledger",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("what", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
        sa.Column("adopted", sa.Boolean, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("entry_digest", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(16)),
        sa.Column("seal", sa.String(64)),
        sa.UniqueConstraint("previous", name="ledger_has_one_line"),
        sa.CheckConstraint("(key_id IS NULL) = (seal IS NULL)", name="ledger_seal_names_its_key"),
        sa.CheckConstraint("sequence > 0", name="ledger_begins_with_one"),
    )
    op.create_index("ledger_of_a_model", "ledger", ["environment", "model"])
    return table


def _adopt(ledger: sa.Table) -> None:
    """Chain the decisions there are, in the order of their numbers."""
    names = ("at", "environment", "model", "what", "digest", "detail", "made_by")
    columns = [sa.column(name, sa.Float if name == "at" else sa.String) for name in names]
    decisions = sa.table("decisions", sa.column("number", sa.Integer), *columns)
    previous = "0" * 64
    rows = op.get_bind().execute(sa.select(*columns).order_by(decisions.c.number)).all()
    for sequence, row in enumerate(rows, start=1):
        values = {**row._mapping, "at": float(row.at), "sequence": sequence, "adopted": True, "key_id": None}
        by = values.pop("made_by")
        plain = json.dumps({**values, "by": by, "previous": previous}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(plain.encode()).hexdigest()
        op.get_bind().execute(sa.insert(ledger).values(**values, made_by=by, previous=previous, entry_digest=digest, seal=None))
        previous = digest


def _decision_ids() -> None:
    op.create_table(
        "decision_ids",
        sa.Column("year", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("release_id", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("release_id", name="a_release_has_one_decision_id"),
    )


def _incidents() -> None:
    op.create_table(
        "incidents",
        sa.Column("year", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("cause", sa.String, nullable=False),
        sa.Column("severity", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("evidence_digest", sa.String, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("release_id", sa.String),
        sa.Column("opened_by", sa.String, nullable=False),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.Column("acknowledged_by", sa.String),
        sa.Column("acknowledged_at", sa.Float),
        sa.Column("resolved_by", sa.String),
        sa.Column("resolved_at", sa.Float),
        sa.Column("resolved_because", sa.Text),
    )
    still_there = sa.text("resolved_at IS NULL")
    op.create_index(
        "one_open_incident",
        "incidents",
        ["environment", "model", "cause"],
        unique=True,
        sqlite_where=still_there,
        postgresql_where=still_there,
    )
