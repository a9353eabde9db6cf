"""Where the stores of the tests come from, and what is put into them. SQLite always, PostgreSQL where FIRSTLIGHT_TEST_POSTGRES names one.

The address is a database URL of a server on which databases may be made; the tests drop everything in the ones they make.
"""

import os
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

from rollout.spec import ServableVersion
from rollout.store import Store

ENVIRONMENT, MODEL = "test", "desi-vae"
DIGESTS = {"1": "a" * 64, "2": "b" * 64, "3": "c" * 64, "4": "d" * 64}


def raw(store: Store, statement: str) -> None:
    """Run SQL behind the store's back."""
    with store._database.writing() as connection:
        connection.execute(text(statement))


def postgres_url() -> str:
    """Return the test server's address with a driver that is here; skip without one, fail in CI."""
    address = os.environ.get("FIRSTLIGHT_TEST_POSTGRES")
    if not address:
        reason = "FIRSTLIGHT_TEST_POSTGRES names no PostgreSQL server"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"{reason}; CI must test the store on one")
        pytest.skip(reason)
    server = make_url(address).set(drivername="postgresql+psycopg")
    name = f"firstlight_test_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    _make_database(server, name)
    return server.set(database=name).render_as_string(hide_password=False)


def _make_database(server: URL, name: str) -> None:
    """Give every worker of a parallel run a database of its own."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if connection.execute(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name}).first() is None:
            connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()


def open_store(url: str, **options: Any) -> Store:
    return Store(url, **options)


def wipe_postgres(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


def servable(version: str, *, folder: str = "/handoffs/x") -> ServableVersion:
    digest = DIGESTS[version]
    return ServableVersion(model=MODEL, version=version, folder=folder, model_digest=digest, handoff_digest=digest[::-1] + "h")


def open_release(store: Any, version: str, *, environment: str = ENVIRONMENT, policy: str = "p") -> Any:
    digest = DIGESTS[version]
    return store.open_release(environment, MODEL, handoff_digest=digest[::-1] + "h", model_digest=digest, policy_digest=policy, by="flow")


def promote(store: Any, version: str, *, expected: str | None, environment: str = ENVIRONMENT) -> Any:
    """Take a version through its whole release."""
    release = open_release(store, version, environment=environment)
    champion = store.promote(
        environment, MODEL, version=version, digest=DIGESTS[version], release_id=release.id, expected_champion=expected, by="flow"
    )
    store.close_release(release.id, "promoted", "all gates passed")
    return champion
