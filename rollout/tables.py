"""The store's schema, as a new database gets it; ``migrations`` brings an older one to the very same.

SQLAlchemy Core, the same on SQLite and PostgreSQL. ``SCHEMA_VERSION`` is written into the database, where a firstlight of any age
looks for it; Alembic's own table says the same as a revision. The champion of (environment, model) is not a column somebody can set twice: it is the history line with the highest
sequence, and (environment, model, sequence) is unique. History and ledger refuse UPDATE and DELETE by trigger, and the ledger is a hash chain
(``firstlight.chain``) besides, for those whom a trigger does not stop.
"""

from sqlalchemy import (
    DDL,
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)

SCHEMA_VERSION = 4

METADATA = MetaData()

SCHEMA = Table("rollout_schema", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))

REVISION = Table(
    "rollout_revision", METADATA, Column("version_num", String(32)), PrimaryKeyConstraint("version_num", name="rollout_revision_pkc")
)
"""Alembic's, under a name of our own: MLflow may keep its ``alembic_version`` in the same database."""

_NO = text("false")

DESIRED = Table(
    "desired_state",
    METADATA,
    Column("environment", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("stable", String),
    Column("canary", String),
    Column("canary_weight", Integer, nullable=False),
    Column("lease_until", Float),
    Column("changed_by", String, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("baseline", Boolean, nullable=False, server_default=_NO),
    Column("lease_seconds", Float),
    Column("sticky", String),
    Column("shadow_percent", Integer, nullable=False, server_default="0"),
    Column("drill", String),
    CheckConstraint("canary_weight BETWEEN 0 AND 100", name="desired_weight_is_percent"),
    CheckConstraint("(canary IS NULL) = (lease_until IS NULL)", name="desired_canary_holds_a_lease"),
)

OBSERVED = Table(
    "observed_state",
    METADATA,
    Column("environment", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("traffic", JSON(none_as_null=True)),
    Column("ready", JSON, nullable=False),
    Column("gateway_url", String),
    Column("heartbeat", Float, nullable=False),
    Column("problems", JSON, nullable=False),
    Column("baseline_ready", Boolean, nullable=False, server_default=_NO),
    Column("drill", JSON(none_as_null=True)),
)

VERSIONS = Table(
    "versions",
    METADATA,
    Column("model", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("folder", Text, nullable=False),
    Column("model_digest", String, nullable=False),
    Column("handoff_digest", String, nullable=False),
    Column("added_at", Float, nullable=False),
    Column("backend", String, nullable=False, server_default="eager"),
    Column("backend_digest", String),
    Column("signature", Text),
)

RELEASES = Table(
    "releases",
    METADATA,
    Column("id", String, primary_key=True),
    Column("environment", String, nullable=False),
    Column("model", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("handoff_digest", String, nullable=False),
    Column("model_digest", String, nullable=False),
    Column("policy_digest", String, nullable=False),
    Column("opened_by", String, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("closed_at", Float),
    Column("summary", Text, nullable=False),
)
_STILL_OPEN = text("status = 'open'")
Index("one_open_release", RELEASES.c.environment, RELEASES.c.model, unique=True, sqlite_where=_STILL_OPEN, postgresql_where=_STILL_OPEN)

CHAMPIONS = Table(
    "champions",
    METADATA,
    Column("environment", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("version", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("previous", String),
    Column("action", String, nullable=False),
    Column("release_id", String),
    Column("reason", Text, nullable=False),
    Column("made_by", String, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("environment", "model", "release_id", name="a_release_promotes_once"),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"], name="champion_is_servable"),
    CheckConstraint("(action = 'promote') = (release_id IS NOT NULL)", name="only_a_release_promotes"),
)

LEDGER = Table(
    "ledger",
    METADATA,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("environment", String, nullable=False),
    Column("model", String, nullable=False),
    Column("what", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("detail", Text, nullable=False),
    Column("made_by", String, nullable=False),
    Column("adopted", Boolean, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("entry_digest", String(64), nullable=False),
    Column("key_id", String(16)),
    Column("seal", String(64)),
    UniqueConstraint("previous", name="ledger_has_one_line"),
    CheckConstraint("(key_id IS NULL) = (seal IS NULL)", name="ledger_seal_names_its_key"),
    CheckConstraint("sequence > 0", name="ledger_begins_with_one"),
)
Index("ledger_of_a_model", LEDGER.c.environment, LEDGER.c.model)

DECISION_IDS = Table(
    "decision_ids",
    METADATA,
    Column("year", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("release_id", String, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("release_id", name="a_release_has_one_decision_id"),
)

INCIDENTS = Table(
    "incidents",
    METADATA,
    Column("year", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("environment", String, nullable=False),
    Column("model", String, nullable=False),
    Column("cause", String, nullable=False),
    Column("severity", String, nullable=False),
    Column("state", String, nullable=False),
    Column("summary", Text, nullable=False),
    Column("evidence_digest", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("release_id", String),
    Column("opened_by", String, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("acknowledged_by", String),
    Column("acknowledged_at", Float),
    Column("resolved_by", String),
    Column("resolved_at", Float),
    Column("resolved_because", Text),
)
_NOT_RESOLVED = text("resolved_at IS NULL")
Index(
    "one_open_incident",
    INCIDENTS.c.environment,
    INCIDENTS.c.model,
    INCIDENTS.c.cause,
    unique=True,
    sqlite_where=_NOT_RESOLVED,
    postgresql_where=_NOT_RESOLVED,
)

STEPS = Table(
    "rollout_steps",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("release_id", String, nullable=False, index=True),
    Column("point", JSON, nullable=False),
    sqlite_autoincrement=True,
)

FENCES = Table(
    "fences",
    METADATA,
    Column("environment", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("token", Integer, nullable=False),
)

ROLLOUTS = Table(
    "rollouts",
    METADATA,
    Column("environment", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("release_id", String, nullable=False),
    Column("token", Integer, nullable=False),
    Column("holder", String, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("status", JSON(none_as_null=True)),
    Column("evidence", JSON(none_as_null=True)),
    Column("paused", Boolean, nullable=False),
    Column("abort", Boolean, nullable=False),
    Column("approved_by", String),
    Column("said", Text, nullable=False),
    Column("updated_at", Float, nullable=False),
)

DRILLS = Table(
    "drills",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("environment", String, nullable=False),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("verdict", String, nullable=False),
    Column("seconds", Float),
    Column("answered", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
    sqlite_autoincrement=True,
)

EXPERIMENTS = Table(
    "experiments",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("environment", String, nullable=False),
    Column("model", String, nullable=False),
    Column("name", String, nullable=False),
    Column("a", String, nullable=False),
    Column("b", String, nullable=False),
    Column("share", Integer, nullable=False),
    Column("sticky", String),
    Column("until", Float, nullable=False),
    Column("begun_by", String, nullable=False),
    Column("begun_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("ended_by", String),
    Column("ended_because", Text),
    sqlite_autoincrement=True,
)
_NOT_ENDED = text("ended_at IS NULL")
Index(
    "one_open_experiment", EXPERIMENTS.c.environment, EXPERIMENTS.c.model, unique=True, sqlite_where=_NOT_ENDED, postgresql_where=_NOT_ENDED
)

_SQLITE_APPEND_ONLY = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
_POSTGRES_FUNCTION = """
CREATE OR REPLACE FUNCTION rollout_append_only() RETURNS trigger AS $$
BEGIN RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME; END
$$ LANGUAGE plpgsql
"""
_POSTGRES_APPEND_ONLY = """
CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION rollout_append_only()
"""


def _append_only(table: Table) -> None:
    for verb in ("UPDATE", "DELETE"):
        statement = DDL(_SQLITE_APPEND_ONLY.format(table=table.name, verb=verb))  # type: ignore[no-untyped-call]
        event.listen(table, "after_create", statement.execute_if(dialect="sqlite"))
    for template in (_POSTGRES_FUNCTION, _POSTGRES_APPEND_ONLY):
        statement = DDL(template.format(table=table.name) if template is _POSTGRES_APPEND_ONLY else template)  # type: ignore[no-untyped-call]
        event.listen(table, "after_create", statement.execute_if(dialect="postgresql"))


for _table in (CHAMPIONS, LEDGER, STEPS, DRILLS, DECISION_IDS):
    _append_only(_table)
