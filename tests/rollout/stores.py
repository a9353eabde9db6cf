"""Where the stores of the tests come from, and what is put into them. SQLite always, PostgreSQL where FIRSTLIGHT_TEST_POSTGRES names one.

The address is a database URL. Without psycopg the asyncpg driver that Prefect brings is used through SQLAlchemy's greenlet bridge.
"""

import asyncio
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.util import greenlet_spawn

from rollout.spec import ServableVersion
from rollout.store import Store

ENVIRONMENT, MODEL = "test", "desi-vae"
DIGESTS = {"1": "a" * 64, "2": "b" * 64, "3": "c" * 64, "4": "d" * 64}


class OverAsyncpg:
    """A Store whose every call runs on a loop of its own, because its driver is asynchronous."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        try:
            self._store = self._run(lambda: Store(url, **options))
        except BaseException:
            self._runner.close()
            raise

    def _run(self, call: Callable[[], Any]) -> Any:
        return self._runner.run(greenlet_spawn(call))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return lambda *args, **kwargs: self._run(lambda: method(*args, **kwargs))

    def execute(self, statement: str) -> None:
        self._run(lambda: raw(self._store, statement))

    def close(self) -> None:
        self._run(self._store.close)
        self._runner.close()


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
    driver = "psycopg" if importlib.util.find_spec("psycopg") else "asyncpg"
    return make_url(address).set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)


def open_store(url: str, **options: Any) -> Any:
    return OverAsyncpg(url, **options) if "asyncpg" in url else Store(url, **options)


def wipe_postgres(url: str) -> None:
    def wipe() -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        engine.dispose()

    asyncio.run(greenlet_spawn(wipe)) if "asyncpg" in url else wipe()


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
