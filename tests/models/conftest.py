"""The tiny hand-off as a fixture, and a copy of it that a test may break."""

import shutil
from pathlib import Path

import pytest

from tests.models.tiny import write_tiny_handoff


@pytest.fixture(scope="session")
def tiny_handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good hand-off folder of another shape; do not change it, copy it."""
    return write_tiny_handoff(tmp_path_factory.mktemp("handoffs") / "tiny")


@pytest.fixture
def broken(tiny_handoff: Path, tmp_path: Path) -> Path:
    """A copy of the tiny hand-off for a test to break."""
    return shutil.copytree(tiny_handoff, tmp_path / "broken")
