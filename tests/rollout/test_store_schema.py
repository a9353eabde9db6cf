"""A store of an earlier schema is brought up to ours with everything in it, in one transaction; and how a version is run is kept."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from typer.testing import CliRunner

from firstlight import chain, settings
from firstlight.cli import app, database_commands  # noqa: F401 - registers the command
from rollout.database import Database, bring_up
from rollout.errors import StoreRefused, UnknownVersion
from rollout.migrations import revision, upgrade
from rollout.tables import METADATA, REVISION, SCHEMA_VERSION
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_store, raw, servable

HERE = (ENVIRONMENT, MODEL)
OLDER = range(1, SCHEMA_VERSION)
FORK = multiprocessing.get_context("fork")


def make_old(url: str, schema: int) -> None:
    """Make a store as the firstlight of that schema left it, with a canary of 2 beside champion 1. Alembic's table came with schema 3."""
    engine = create_engine(url)
    with engine.begin() as connection:
        upgrade(connection, found=0, to=schema)
        if schema < 3:
            connection.execute(text("DROP TABLE rollout_revision"))
        for statement in OLD_DATA:
            connection.execute(text(statement.format(schema=schema)))
    engine.dispose()


OLD_DATA = (
    "INSERT INTO rollout_schema VALUES ({schema})",
    *(
        "INSERT INTO versions (model, version, folder, model_digest, handoff_digest, added_at) "
        f"VALUES ('{MODEL}', '{version}', '/handoffs/x', '{digest}', '{digest[::-1]}h', 1.0)"
        for version, digest in DIGESTS.items()
    ),
    f"INSERT INTO champions VALUES ('{ENVIRONMENT}', '{MODEL}', 1, '1', '{DIGESTS['1']}', NULL, 'promote', 'r', 'release r passed', 'flow', 2.0)",
    f"INSERT INTO desired_state (environment, model, generation, stable, canary, canary_weight, lease_until, changed_by, changed_at) "
    f"VALUES ('{ENVIRONMENT}', '{MODEL}', 4, '1', '2', 25, 60.0, 'flow', 3.0)",
    f"INSERT INTO observed_state (environment, model, generation, traffic, ready, gateway_url, heartbeat, problems) "
    f"VALUES ('{ENVIRONMENT}', '{MODEL}', 4, NULL, '[\"1\"]', NULL, 3.5, '[]')",
    f"INSERT INTO decisions (environment, model, what, digest, detail, made_by, at) "
    f"VALUES ('{ENVIRONMENT}', '{MODEL}', 'promote', 'd', 'champion 1 is version 1', 'flow', 2.0)",
    "INSERT INTO decisions (environment, model, what, digest, detail, made_by, at) VALUES ('other', 'm', 'traffic', 'd', 'é', 'ada', 1.5)",
)


def check_old_data(url: str) -> None:
    with open_store(url) as store:
        assert store.version(MODEL, "1") == servable("1")
        assert (store.version(MODEL, "1").backend, store.version(MODEL, "1").backend_digest) == ("eager", None)
        assert [line.version for line in store.history(*HERE)] == ["1"]
        assert [decision.detail for decision in store.decisions(*HERE)] == ["champion 1 is version 1"]
        assert [(entry.what, entry.by, entry.adopted, entry.seal) for entry in store.ledger()] == [
            ("promote", "flow", True, None),
            ("traffic", "ada", True, None),
        ]
        assert chain.broken([entry.to_dict() for entry in store.ledger()]) == []
        desired, seen = store.desired(*HERE), store.observed(*HERE)
        assert (desired.generation, desired.traffic.canary_weight, desired.lease_until) == (4, 25, 60.0)
        assert (desired.lease_seconds, desired.sticky, desired.shadow_percent, desired.drill) == (None, None, 0, None)
        assert (seen.ready, seen.baseline_ready, seen.drill) == (("1",), False, None)
        assert (store.rollout(*HERE), store.drills(*HERE), store.experiment(*HERE)) == (None, [], None)


def shape(connection: Connection) -> dict[str, Any]:
    """Everything a schema consists of, as the database tells it; columns in any order, for ALTER TABLE adds at the end."""
    asked = inspect(connection)
    tables = {
        name: {
            "columns": sorted((str(c["name"]), str(c["type"]), c["nullable"], str(c["default"])) for c in asked.get_columns(name)),
            "key": asked.get_pk_constraint(name)["constrained_columns"],
            "foreign": [key["name"] for key in asked.get_foreign_keys(name)],
            "unique": sorted(str(one["name"]) for one in asked.get_unique_constraints(name)),
            "checks": sorted(str(one["name"]) for one in asked.get_check_constraints(name)),
            "indexes": sorted(
                (str(one["name"]), one["unique"], *(str(option) for option in one["dialect_options"].values()))
                for one in asked.get_indexes(name)
            ),
        }
        for name in asked.get_table_names()
    }
    triggers = {
        "sqlite": "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger' ORDER BY name",
        "postgresql": "SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname, 2",
    }
    found = connection.execute(text(triggers[connection.dialect.name])).all()
    return {**tables, "triggers": [tuple(row) for row in found]}


@pytest.mark.parametrize("schema", OLDER)
def test_a_store_of_an_older_schema_keeps_its_data(store_url: str, schema: int) -> None:
    make_old(store_url, schema)
    assert bring_up(store_url) == (schema, SCHEMA_VERSION)
    assert bring_up(store_url) == (SCHEMA_VERSION, SCHEMA_VERSION)
    check_old_data(store_url)


def test_what_was_brought_up_is_what_is_made_new(store_url: str) -> None:
    # Given the shape of a store that was made new
    assert bring_up(store_url) == (0, SCHEMA_VERSION)
    engine = create_engine(store_url)
    with engine.begin() as connection:
        fresh = shape(connection)
        METADATA.drop_all(connection)
    # When one of schema 1 is brought up, then it is the same, and Alembic finds nothing left to do
    make_old(store_url, 1)
    bring_up(store_url)
    with engine.begin() as connection:
        assert shape(connection) == fresh
        context = MigrationContext.configure(connection, opts={"version_table": REVISION.name, "compare_server_default": True})
        assert context.get_current_revision() == revision(SCHEMA_VERSION)
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


def test_processes_that_open_an_old_store_at_once_bring_it_up_once(store_url: str) -> None:
    make_old(store_url, 1)
    begins, found = FORK.Barrier(3), FORK.Queue()
    processes = [FORK.Process(target=_bring_up_at_once, args=(store_url, begins, found)) for _ in range(3)]
    for process in processes:
        process.start()
    said = sorted(found.get(timeout=30) for _ in processes)
    for process in processes:
        process.join()
    assert said == [1, SCHEMA_VERSION, SCHEMA_VERSION]
    check_old_data(store_url)


def _bring_up_at_once(url: str, begins: Any, found: Any) -> None:
    begins.wait(20)
    found.put(bring_up(url)[0])


def test_threads_of_one_process_bring_up_stores_at_once(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / f'{number}.db'}" for number in range(4)]
    for url in urls:
        make_old(url, 1)
    threads = [threading.Thread(target=bring_up, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for url in urls:
        check_old_data(url)


def test_a_migration_killed_at_any_statement_has_changed_nothing(store_url: str) -> None:
    make_old(store_url, 1)
    for number in range(1, 200, 4):
        process = FORK.Process(target=_killed_at, args=(store_url, number))
        process.start()
        process.join(30)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        assert_schema(store_url, 1)
    assert number > 20, "the kills must have hit the migration"
    assert_schema(store_url, SCHEMA_VERSION)
    check_old_data(store_url)


def _killed_at(url: str, number: int) -> None:
    """Bring the store up and die at the given statement, as kill -9 would."""
    seen = iter(range(1, number))

    def count(*_: Any) -> None:
        if next(seen, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    bring_up(url)
    os._exit(0)


def assert_schema(url: str, schema: int) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version FROM rollout_schema")).scalars().all() == [schema]
        assert inspect(connection).has_table("experiments") == (schema >= 3)
    engine.dispose()


def test_a_migration_that_fails_half_way_has_changed_nothing(store_url: str) -> None:
    make_old(store_url, 2)
    engine = create_engine(store_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE experiments (mine INTEGER)"))
    engine.dispose()
    with pytest.raises(Exception, match="already exists"):
        Database(store_url)
    with engine.begin() as connection:
        assert not inspect(connection).has_table("fences")
        connection.execute(text("DROP TABLE experiments"))
    engine.dispose()
    check_old_data(store_url)


def test_the_command_says_from_what_to_what(tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRSTLIGHT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FIRSTLIGHT_STORE_URL", store_url)
    settings.current.cache_clear()
    make_old(store_url, 2)
    said = [CliRunner().invoke(app, ["db", "upgrade"]).output for _ in range(2)]
    settings.current.cache_clear()
    assert said == [
        f"the store of local was brought from schema 2 to schema {SCHEMA_VERSION}\n",
        f"the store of local is of schema {SCHEMA_VERSION}\n",
    ]


@pytest.mark.parametrize("number", [0, 99])
def test_a_schema_without_a_way_to_ours_is_refused(store: Any, store_url: str, number: int) -> None:
    raw(store, f"UPDATE rollout_schema SET version = {number}")
    store.close()
    with pytest.raises(StoreRefused, match=f"must have schema {SCHEMA_VERSION}, found {number}; use the firstlight that wrote it"):
        open_store(store_url)


def test_opening_a_store_that_is_up_to_date_does_not_import_alembic(tmp_path: Path) -> None:
    code = f"import sys; from rollout.store import Store; Store('sqlite:///{tmp_path}/a.db').close(); print('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_how_a_version_is_run_is_kept_and_not_lost_when_it_is_added_again(store: Any) -> None:
    store.set_backend(MODEL, "2", backend="aot", digest="e" * 64, signature="SIGNED")
    store.add_version(servable("2", folder="/elsewhere"))
    found = store.version(MODEL, "2")
    assert (found.backend, found.backend_digest, found.signature, found.folder) == ("aot", "e" * 64, "SIGNED", "/elsewhere")
    assert store.version_by_digest(MODEL, found.model_digest) == found
    with pytest.raises(UnknownVersion):
        store.set_backend(MODEL, "99", backend="aot", digest=None)
