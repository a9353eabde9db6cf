"""Schema 3: rollouts that outlive their process, fences, rehearsals, experiments; baselines and leases in elapsed time."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_SQLITE = "CREATE TRIGGER drills_no_{verb} BEFORE {verb} ON drills BEGIN SELECT RAISE(ABORT, 'drills is append-only'); END"
_POSTGRES = "CREATE TRIGGER drills_no_change BEFORE UPDATE OR DELETE ON drills FOR EACH ROW EXECUTE FUNCTION rollout_append_only()"


def upgrade() -> None:
    """Widen desired and observed state, and add the tables of the rollout itself."""
    no = sa.text("false")
    op.add_column("desired_state", sa.Column("baseline", sa.Boolean, nullable=False, server_default=no))
    op.add_column("desired_state", sa.Column("lease_seconds", sa.Float))
    op.add_column("desired_state", sa.Column("sticky", sa.String))
    op.add_column("desired_state", sa.Column("shadow_percent", sa.Integer, nullable=False, server_default="0"))
    op.add_column("desired_state", sa.Column("drill", sa.String))
    op.add_column("observed_state", sa.Column("baseline_ready", sa.Boolean, nullable=False, server_default=no))
    op.add_column("observed_state", sa.Column("drill", sa.JSON))
    _rollouts()
    _drills()
    _experiments()


def _rollouts() -> None:
    op.create_table(
        "fences",
        sa.Column("environment", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("token", sa.Integer, nullable=False),
    )
    op.create_table(
        "rollouts",
        sa.Column("environment", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("release_id", sa.String, nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("status", sa.JSON),
        sa.Column("evidence", sa.JSON),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("abort", sa.Boolean, nullable=False),
        sa.Column("approved_by", sa.String),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    )


def _drills() -> None:
    op.create_table(
        "drills",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("seconds", sa.Float),
        sa.Column("answered", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(_SQLITE.format(verb=verb))
    else:
        op.execute(_POSTGRES)


def _experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("environment", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("a", sa.String, nullable=False),
        sa.Column("b", sa.String, nullable=False),
        sa.Column("share", sa.Integer, nullable=False),
        sa.Column("sticky", sa.String),
        sa.Column("until", sa.Float, nullable=False),
        sa.Column("begun_by", sa.String, nullable=False),
        sa.Column("begun_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("ended_by", sa.String),
        sa.Column("ended_because", sa.Text),
        sqlite_autoincrement=True,
    )
    not_ended = sa.text("ended_at IS NULL")
    op.create_index(
        "one_open_experiment", "experiments", ["environment", "model"], unique=True, sqlite_where=not_ended, postgresql_where=not_ended
    )
