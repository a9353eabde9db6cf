"""Schema 1: desired and observed state, versions, releases, champions, decisions, timelines."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_APPEND_ONLY = ("champions", "decisions", "rollout_steps")
_SQLITE = "CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
_FUNCTION = """
CREATE OR REPLACE FUNCTION rollout_append_only() RETURNS trigger AS $$
BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END
$$ LANGUAGE plpgsql
"""
_POSTGRES = "CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION rollout_append_only()"


def upgrade() -> None:
    """Make the first schema in an empty database."""
    op.create_table("rollout_schema", sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))
    _state()
    _releases()
    _record()
    if op.get_bind().dialect.name == "sqlite":
        for table in _APPEND_ONLY:
            for verb in ("UPDATE", "DELETE"):
                op.execute(_SQLITE.format(table=table, verb=verb))
        return
    op.execute(_FUNCTION)
    for table in _APPEND_ONLY:
        op.execute(_POSTGRES.format(table=table))


def _state() -> None:
    op.create_table(
        "desired_state",
        sa.Column("environment", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("stable", sa.String),
        sa.Column("canary", sa.String),
        sa.Column("canary_weight", sa.Integer, nullable=False),
        sa.Column("lease_until", sa.Float),
        sa.Column("changed_by", sa.String, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
        sa.CheckConstraint("canary_weight BETWEEN 0 AND 100", name="desired_weight_is_percent"),
        sa.CheckConstraint("(canary IS NULL) = (lease_until IS NULL)", name="desired_canary_holds_a_lease"),
    )
    op.create_table(
        "observed_state",
        sa.Column("environment", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("traffic", sa.JSON),
        sa.Column("ready", sa.JSON, nullable=False),
        sa.Column("gateway_url", sa.String),
        sa.Column("heartbeat", sa.Float, nullable=False),
        sa.Column("problems", sa.JSON, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("version", sa.String, primary_key=True),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("model_digest", sa.String, nullable=False),
        sa.Column("handoff_digest", sa.String, nullable=False),
        sa.Column("added_at", sa.Float, nullable=False),
    )


def _releases() -> None:
    op.create_table(
        "releases",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("handoff_digest", sa.String, nullable=False),
        sa.Column("model_digest", sa.String, nullable=False),
        sa.Column("policy_digest", sa.String, nullable=False),
        sa.Column("opened_by", sa.String, nullable=False),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.Column("closed_at", sa.Float),
        sa.Column("summary", sa.Text, nullable=False),
    )
    still_open = sa.text("status = 'open'")
    op.create_index(
        "one_open_release", "releases", ["environment", "model"], unique=True, sqlite_where=still_open, postgresql_where=still_open
    )
    op.create_table(
        "champions",
        sa.Column("environment", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("previous", sa.String),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("release_id", sa.String),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("environment", "model", "release_id", name="a_release_promotes_once"),
        sa.ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"], name="champion_is_servable"),
        sa.CheckConstraint("(action = 'promote') = (release_id IS NOT NULL)", name="only_a_release_promotes"),
    )


def _record() -> None:
    op.create_table(
        "decisions",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("what", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rollout_steps",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("release_id", sa.String, nullable=False, index=True),
        sa.Column("point", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
