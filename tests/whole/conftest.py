"""A place of its own for the processes of a test: state folder, policy, people and their keys."""

from collections.abc import Iterator

import pytest

from firstlight.cli import plane as plane_module
from tests.whole.house import House, built


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch, built(tmp_path_factory.mktemp("house")) as house:
        patch.setattr(plane_module, "_WORKER_POLL_SECONDS", "0.5")  # the worker looks for runs more often than a lab needs
        yield house
