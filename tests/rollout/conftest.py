"""Stores for the tests: every test that takes ``store`` runs on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollout.store import Store
from tests.rollout.place import Here, Time
from tests.rollout.stores import DIGESTS, open_store, postgres_url, promote, servable, wipe_postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    url = postgres_url()
    wipe_postgres(url)
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Any]:
    """An empty store that can serve versions 1 to 4."""
    opened = open_store(store_url)
    for version in DIGESTS:
        opened.add_version(servable(version))
    yield opened
    opened.close()


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    """The same on SQLite alone, for what is about files and threads."""
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as opened:
        for version in DIGESTS:
            opened.add_version(servable(version))
        yield opened


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    """A place for a driver, where version 1 is champion."""
    time = Time()
    with Store(f"sqlite:///{tmp_path / 'state.db'}", clock=lambda: time.wall) as opened:
        for version in DIGESTS:
            opened.add_version(servable(version))
        promote(opened, "1", expected=None)
        yield Here(store=opened, time=time)
