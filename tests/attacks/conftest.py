"""A place for attacks: an environment of its own, a good hand-off to spoil, and what its ledger says afterwards."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from firstlight import settings as settings_module
from firstlight.settings import Settings
from tasks import doors
from tests.governance.conftest import finished, humans, release  # noqa: F401 - people with keys, and a release of theirs, as fixtures here too
from tests.models.tiny import write_tiny_handoff


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The settings of an environment that nothing has happened in."""
    monkeypatch.setenv("FIRSTLIGHT_STATE_DIR", str(tmp_path / "state"))
    settings_module.current.cache_clear()
    yield settings_module.current()
    settings_module.current.cache_clear()


@pytest.fixture
def ledger(here: Settings) -> Callable[[], list[tuple[str, str, str]]]:
    """What the ledger has: (what, model, detail) of every entry."""

    def read() -> list[tuple[str, str, str]]:
        with doors.store(here) as records:
            return [(entry.what, entry.model, entry.detail) for entry in records.ledger()]

    return read


@pytest.fixture(scope="session")
def good_handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good hand-off; do not change it, copy it."""
    return write_tiny_handoff(tmp_path_factory.mktemp("good") / "tiny")


@pytest.fixture
def spoiled(good_handoff: Path, tmp_path: Path) -> Path:
    """A copy of the good hand-off for an attacker."""
    return shutil.copytree(good_handoff, tmp_path / "spoiled")
