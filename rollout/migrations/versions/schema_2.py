"""Schema 2: how a version is run. What was there before runs eagerly and nobody vouches for it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the backend, its digest and the signature to every version."""
    op.add_column("versions", sa.Column("backend", sa.String, nullable=False, server_default="eager"))
    op.add_column("versions", sa.Column("backend_digest", sa.String))
    op.add_column("versions", sa.Column("signature", sa.Text))
