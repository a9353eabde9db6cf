"""A gateway and a model server as real processes, small enough that their bounds are soon reached, and shared by all tests here."""

import numpy as np
import pytest

from benchmarks.soak.callers import Caller
from benchmarks.soak.house import House

BODY_MB = 4
OPTIONS = {
    "model": {"workers": 1, "body_mb": BODY_MB, "queue_mb": 32, "queue_requests": 16, "cache_mb": 0},
    "gateway": {"body_mb": BODY_MB, "memory_mb": 48, "retry_mb": 1},
}
SIGNAL = {"signal": np.random.default_rng(1).normal(size=(3, 50)).astype(np.float32)}


@pytest.fixture(scope="session")
def house(tiny, tmp_path_factory):
    """The two processes. When all is over they are the ones that were started, and their memory is what the options allow."""
    folder = tmp_path_factory.mktemp("hard")
    handoff = tiny.write_tiny_handoff(folder / "handoff")
    with House(handoff, name="tiny", folder=folder / "house", options=OPTIONS) as made:
        yield made
        assert made.alive() == {"model": True, "gateway": True}
        memory = made.memory()
        assert memory["gateway"] < 250, memory
        assert memory["model"] < 350, memory
        crashes = [line for role in ("model", "gateway") for line in made.log(role) if "exception" in line]
        assert crashes == []


@pytest.fixture(params=["gateway", "model"])
def door(request):
    """Both can be reached, and both must hold."""
    return request.param


@pytest.fixture
def bystander(house, until):
    """Somebody who asks right questions through the gateway all the while, and must be answered every one."""
    with Caller(house, "gateway", SIGNAL) as caller:
        until(lambda: caller.seen.codes)
        yield caller.seen
    assert caller.seen.failures == []
    assert set(caller.seen.codes) == {200}, caller.seen.codes
