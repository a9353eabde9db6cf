"""What Alembic runs for every command: the caller's connection and transaction, never one of its own."""

from alembic import context

_GIVEN = context.config.attributes
context.configure(
    connection=_GIVEN["connection"], target_metadata=_GIVEN["metadata"], version_table=_GIVEN["version_table"], transactional_ddl=True
)
context.run_migrations()
