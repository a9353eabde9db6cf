"""From an older schema of the store to ours: one Alembic revision for each schema, ``versions/schema_<number>.py``.

A revision is history and never changed: it names its own columns and does not look at ``rollout.tables``. Alembic is imported only
where a database is behind.
"""

import threading
from pathlib import Path

from sqlalchemy import Connection

from rollout.tables import METADATA, REVISION

_ALONE = threading.Lock()  # Alembic's ``op`` and ``context`` belong to the process, not to a thread


def revision(schema: int) -> str:
    """Return the revision that makes a schema.

    >>> revision(3)
    '0003'
    """
    return f"{schema:04d}"


def upgrade(connection: Connection, *, found: int, to: int) -> None:
    """Bring the database from schema ``found`` (0: it is empty) to ``to``, inside the caller's transaction.

    Nothing is committed here: a process that dies in it has changed nothing. Raises the database's errors.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, metadata=METADATA, version_table=REVISION.name)
    with _ALONE:
        # Stores of firstlight before Alembic have only their schema's number: that number says where to begin.
        command.stamp(config, revision(found) if found else "base", purge=True)
        command.upgrade(config, revision(to))
