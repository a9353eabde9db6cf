"""One door to the database: engine, transactions with one writer at a time, and its errors as sentences.

SQLite: WAL, foreign keys, a busy timeout, ``BEGIN IMMEDIATE`` for writers, ``synchronous=FULL`` so that a promotion that was
reported outlives a power cut. PostgreSQL: writers take one advisory transaction lock. So on both, what a writer reads inside
its transaction is still true when it commits, and compare-and-set needs no retry loop.

Nobody waits for ever: a server that does not answer is given up (``watchdog``), and one that is stopped in the middle of writing
loses its transaction, so that it does not stop the others (PostgreSQL; a stopped writer on SQLite holds the file until it ends).
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, insert, inspect, select, text, update
from sqlalchemy.engine import URL, make_url

from rollout.errors import StoreBusy, StoreRefused, StoreUnreachable
from rollout.migrations import revision, upgrade
from rollout.tables import METADATA, REVISION, SCHEMA, SCHEMA_VERSION
from rollout.watchdog import Watchdog

BUSY_SECONDS = 10.0
"""How long a writer waits for another one before it gives up with StoreBusy."""
_ANSWER_SECONDS = 5.0
"""How long a server may take for what it is asked, beside waiting for other writers; then it counts as unreachable."""
_READ_ONLY_TRANSACTION = "25006"
"""PostgreSQL's SQLSTATE (Appendix A of its manual)."""
_POSTGRES_LOCK = 0x66697273  # "firs": any constant that nothing else in the database uses


class Database:
    """An engine that hands out transactions. Raises StoreRefused or StoreUnreachable when it cannot be opened."""

    def __init__(self, url: str, *, busy_seconds: float = BUSY_SECONDS, writer_options: Mapping[str, Any] | None = None) -> None:
        """Open it, and make or bring up its tables. ``writer_options`` are execution options of every writing connection."""
        self._writer_options = {**(writer_options or {}), "writes": True}
        self._url = _parsed(url)
        self._busy_seconds = busy_seconds
        self._engine = self._make_engine()
        self.found = SCHEMA_VERSION
        """The schema that was there before this opened it; 0: none."""
        try:
            self.found = self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent read-only view."""
        with self._translated(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction that commits as a whole or not at all, alone among writers."""
        with self._translated(), self._engine.connect().execution_options(**self._writer_options) as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text(_limits(self._busy_seconds)))
                connection.execute(select(text(f"pg_advisory_xact_lock({_POSTGRES_LOCK})")))
            yield connection

    def _make_engine(self) -> Engine:
        if self._url.get_backend_name() != "sqlite":
            limit = self._busy_seconds + _ANSWER_SECONDS
            patience = {} if "connect_timeout" in self._url.query else {"connect_timeout": max(2, round(limit))}
            server = create_engine(self._url, connect_args=patience)
            Watchdog(limit).guard(server)
            return server
        engine = create_engine(self._url, connect_args={"timeout": self._busy_seconds})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _prepare(self) -> int:
        """Make the tables, or bring them up to ours; return the schema that was there."""
        with self.reading() as connection:
            found = self._schema(connection)
        if found == SCHEMA_VERSION:
            return found
        with self.writing() as connection:
            found = self._schema(connection)  # another process may have been faster
            if found == 0:
                METADATA.create_all(connection)
                connection.execute(insert(SCHEMA).values(version=SCHEMA_VERSION))
                connection.execute(insert(REVISION).values(version_num=revision(SCHEMA_VERSION)))
            elif found < SCHEMA_VERSION:  # one transaction: a process that dies in it has changed nothing
                upgrade(connection, found=found, to=SCHEMA_VERSION)
                connection.execute(update(SCHEMA).values(version=SCHEMA_VERSION))
        return found

    def _schema(self, connection: Connection) -> int:
        """Return the schema that is there, 0 when there is none. Raises StoreRefused for one that cannot be brought up to ours."""
        if not inspect(connection).has_table(SCHEMA.name):
            return 0
        found = connection.execute(select(SCHEMA.c.version)).scalar()
        if found is None or not 1 <= found <= SCHEMA_VERSION:
            raise StoreRefused(
                f"the rollout store {self._name} must have schema {SCHEMA_VERSION}, found {found!r}; use the firstlight that wrote it"
            )
        return int(found)

    @property
    def _name(self) -> str:
        return self._url.render_as_string(hide_password=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise _as_sentence(error, self._name, self._busy_seconds) from error
        except OSError as error:  # an asynchronous driver lets a refused connection through as it is
            raise StoreUnreachable(
                f"the rollout store {self._name} must answer, it does not ({error}); see that the server runs"
            ) from error


def bring_up(url: str) -> tuple[int, int]:
    """Make the store behind ``url``, or bring it up to our schema; return the schema that was there (0: none) and the one that is.

    Opening a store does the same. Raises StoreRefused, StoreBusy, StoreUnreachable.
    """
    database = Database(url)
    database.close()
    return database.found, SCHEMA_VERSION


def _limits(busy_seconds: float) -> str:
    """Return what a writer on PostgreSQL may take: waiting for another one, for one statement, and silent in the middle."""
    wait, work = int(busy_seconds * 1000), int(_ANSWER_SECONDS * 1000)
    limits = {"lock_timeout": wait, "statement_timeout": wait + work, "idle_in_transaction_session_timeout": work}
    return "; ".join(f"SET LOCAL {name} = {milliseconds}" for name, milliseconds in limits.items())


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect().import_dbapi()
    except exc.ArgumentError as error:
        raise StoreRefused(
            f"the store's address must be a database URL, got {url!r}; for example sqlite:////var/lib/firstlight/state.db"
        ) from error
    except ModuleNotFoundError as error:
        name = parsed.render_as_string(hide_password=True)
        raise StoreRefused(f"the store {name} needs the Python package {error.name!r}, it is not installed; install it") from error
    return parsed


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin_sqlite
    cursor = connection.cursor()
    for pragma in ("foreign_keys=ON", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error):  # a read-only database can still be read
            raise
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _as_sentence(error: exc.DBAPIError, name: str, busy_seconds: float) -> Exception:
    """Return what to raise instead of the driver's ``error``; an error we do not know is returned as it is."""
    said = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    low = said.lower()
    if "locked" in low or "lock timeout" in low:
        return StoreBusy(
            f"the rollout store {name} must be free to write within {busy_seconds:g} s, another writer held it ({said}); try again"
        )
    if getattr(error.orig, "sqlstate", None) == _READ_ONLY_TRANSACTION:
        return StoreUnreachable(
            f"the rollout store {name} must accept changes, it does not ({said}), as a standby after a failover; "
            "nothing was changed, try again when it is writable"
        )
    if "readonly" in low or "read-only" in low:
        return StoreRefused(
            f"the rollout store {name} must be writable, it is read-only ({said}); give this user write access to the file and its folder"
        )
    if "malformed" in low or "not a database" in low or "disk image" in low:
        return StoreRefused(
            f"the rollout store {name} must be an intact database, it is damaged ({said}); restore it from a backup or move it away"
        )
    if "full" in low or "no space" in low:
        return StoreUnreachable(
            f"the rollout store {name} needs free disk space, there is none ({said}); nothing was changed, free some and try again"
        )
    if "unable to open" in low or "disk i/o" in low or isinstance(error, exc.InterfaceError | exc.OperationalError):
        return StoreUnreachable(
            f"the rollout store {name} must answer, it does not ({said}); see that the folder or server is there and allowed"
        )
    return error
