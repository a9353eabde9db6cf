"""A store of an earlier schema is brought up to ours with everything in it, in one transaction; and how a version is run is kept."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import inspect

from rollout.database import Database
from rollout.errors import StoreRefused, UnknownVersion
from rollout.tables import MIGRATIONS, SCHEMA_VERSION
from tests.rollout.stores import ENVIRONMENT, MODEL, open_store, promote, raw, servable

AGO = tuple(f"ALTER TABLE versions DROP COLUMN {name}" for name in ("backend", "backend_digest", "signature"))
"""What makes schema 1 of schema 2."""


def take_back(store: Any, statements: Sequence[str] = AGO) -> None:
    for statement in (*statements, "UPDATE rollout_schema SET version = 1"):
        raw(store, statement)
    store.close()


def columns(store: Any) -> list[tuple[str, str, bool]]:
    with store._database.reading() as connection:
        return [(column["name"], str(column["type"]), column["nullable"]) for column in inspect(connection).get_columns("versions")]


def test_a_store_of_schema_1_keeps_its_data_and_its_versions_run_eagerly(store: Any, store_url: str) -> None:
    # Given a store as schema 1 had it, with a champion
    promote(store, "1", expected=None)
    promote(store, "2", expected="1")
    fresh = columns(store)
    history, decisions = store.history(ENVIRONMENT, MODEL), store.decisions(ENVIRONMENT, MODEL)
    take_back(store)
    # When this firstlight opens it, twice
    for _ in range(2):
        with open_store(store_url) as opened:
            # Then everything is there, in the very tables a new store has
            assert columns(opened) == fresh
            assert opened.version(MODEL, "1") == servable("1")
            assert (opened.version(MODEL, "1").backend, opened.version(MODEL, "1").backend_digest) == ("eager", None)
            assert (opened.history(ENVIRONMENT, MODEL), opened.decisions(ENVIRONMENT, MODEL)) == (history, decisions)


def test_processes_that_open_an_old_store_at_once_bring_it_up_once(store: Any, store_url: str) -> None:
    take_back(store)
    problems: list[Exception] = []

    def open_it() -> None:
        try:
            open_store(store_url).close()
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with open_store(store_url) as opened:
        assert opened.version(MODEL, "3") == servable("3")


def test_a_migration_that_dies_half_way_has_changed_nothing(store: Any, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_back(store)
    monkeypatch.setitem(MIGRATIONS, 1, (MIGRATIONS[1][0], "ALTER TABLE nowhere ADD COLUMN x INTEGER"))
    with pytest.raises(Exception, match="nowhere"):
        Database(store_url)
    monkeypatch.undo()
    with open_store(store_url) as opened:
        assert opened.version(MODEL, "1").backend == "eager"


def test_a_schema_without_a_way_to_ours_is_refused(store: Any, store_url: str) -> None:
    raw(store, "UPDATE rollout_schema SET version = 0")
    store.close()
    with pytest.raises(StoreRefused, match=f"must have schema {SCHEMA_VERSION}, found 0"):
        open_store(store_url)


def test_every_schema_but_ours_has_a_way_to_the_next() -> None:
    assert set(MIGRATIONS) == set(range(1, SCHEMA_VERSION))


def test_how_a_version_is_run_is_kept_and_not_lost_when_it_is_added_again(store: Any) -> None:
    store.set_backend(MODEL, "2", backend="aot", digest="e" * 64, signature="SIGNED")
    store.add_version(servable("2", folder="/elsewhere"))
    found = store.version(MODEL, "2")
    assert (found.backend, found.backend_digest, found.signature, found.folder) == ("aot", "e" * 64, "SIGNED", "/elsewhere")
    assert store.version_by_digest(MODEL, found.model_digest) == found
    with pytest.raises(UnknownVersion):
        store.set_backend(MODEL, "99", backend="aot", digest=None)
