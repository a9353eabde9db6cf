"""An ASGI application behind a real socket, and the tiny hand-off of tests/models/tiny.py (loaded by path, as its docstring says)."""

import contextlib
import importlib.util
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from serving import process
from serving.wire import Connection

_TINY = Path(__file__).parent.parent / "models" / "tiny.py"


@contextlib.contextmanager
def behind_a_socket(app) -> Iterator[httpx.Client]:
    """Serve ``app`` from a thread; yield a client; drain and stop."""
    listener = process.bind()
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", http=Connection, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{process.port_of(listener)}", timeout=20, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def wait_until(condition, seconds=20.0, every=0.02):
    """Return the first true value of ``condition()``; fail after ``seconds`` with the last one."""
    deadline = time.monotonic() + seconds
    value = condition()
    while not value:
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(every)
        value = condition()
    return value


@pytest.fixture(scope="session")
def serve_app():
    """Return :func:`behind_a_socket`."""
    return behind_a_socket


@pytest.fixture(scope="session")
def until():
    """Return :func:`wait_until`."""
    return wait_until


@pytest.fixture(scope="session")
def tiny():
    """Return the module tests/models/tiny.py."""
    if "tiny" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tiny", _TINY)
        module = importlib.util.module_from_spec(spec)
        sys.modules["tiny"] = module
        spec.loader.exec_module(module)
    return sys.modules["tiny"]
