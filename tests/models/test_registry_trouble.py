"""The registry in trouble: processes killed at every step of a registration, servers and files that are not there or not what they should be."""

import multiprocessing
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from firstlight.errors import TransientError
from models.registry import Registry, RegistryError, RegistryUnreachable
from tests.models.registering import check_one_version, client_of, counts, registry_in

FORK = multiprocessing.get_context("fork")


# --- kill -9 ----------------------------------------------------------------------------------------------------------


class DyingClient:
    """A client whose process is killed with -9 after it has answered so many calls."""

    def __init__(self, client: Any, calls: int) -> None:
        self._client, self._left = client, calls

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = method(*args, **kwargs)
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return call


def register_and_die(place: Path, folder: Path, calls: int, begins: Any) -> None:
    registry = registry_in(place)
    registry._made = DyingClient(client_of(registry), calls)
    begins.set()
    registry.register(folder)


def run_killed(place: Path, folder: Path, *, calls: int = 10**9, after: float | None = None) -> bool:
    """Register in a process that dies after ``calls`` calls or ``after`` seconds; say whether it was killed before its end."""
    begins = FORK.Event()
    process = FORK.Process(target=register_and_die, args=(place, folder, calls, begins))
    process.start()
    assert begins.wait(30)
    if after is not None:
        time.sleep(after)
        process.kill()
    process.join()
    code = process.exitcode
    process.close()
    return code == -signal.SIGKILL


def test_a_registration_killed_after_each_of_its_steps_ends_with_one_version(place: Path, tiny_handoff: Path) -> None:
    # When registering is killed after its first call to MLflow, again after its second, and so on until it gets through
    halves = 0
    for calls in range(1, 100):
        if not run_killed(place, tiny_handoff, calls=calls):
            break
        assert counts(place, "model_versions") <= 1
        halves += counts(place, "model_versions") == 0 < counts(place, "runs")
    # Then most kills hit a registration that was half made, and what there is in the end is there once
    assert halves > 5
    check_one_version(place, tiny_handoff)


def test_a_registration_killed_at_random_moments_ends_with_one_version(place: Path, tiny_handoff: Path) -> None:
    # Given the time one registration takes
    started = time.monotonic()
    registry_in(place).register(tiny_handoff, alias=None)
    longest = time.monotonic() - started
    # When it is killed at four moments of that time, one after the other on the same registry
    random.seed(20261123)
    client_of(registry_in(place)).delete_registered_model("tiny")
    for share in (0.1, 0.3, 0.5, 0.8):
        run_killed(place, tiny_handoff, after=share * random.uniform(0.8, 1.2) * longest)
    # Then the next call leaves one
    version = registry_in(place).register(tiny_handoff)
    found = client_of(registry_in(place)).search_model_versions("name = 'tiny'")
    assert [str(item.version) for item in found] == [version.version]


def test_a_set_up_that_was_killed_in_the_middle_is_done_again(migrated: Path, tiny_handoff: Path, place: Path) -> None:
    assert not list(migrated.parent.glob(".mlflow.db.new*"))
    assert registry_in(place).register(tiny_handoff).version == "1"


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.fixture
def failing_server() -> Iterator[str]:
    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Failing)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        yield taken.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http://127.0.0.1:{}", "postgresql://me:secret@127.0.0.1:{}/mlflow"])
def test_a_registry_that_does_not_answer_may_succeed_later_and_says_so_at_once(closed_port: int, tiny_handoff: Path, scheme: str) -> None:
    started = time.monotonic()
    with pytest.raises(TransientError, match="must answer") as trouble:
        Registry(scheme.format(closed_port)).register(tiny_handoff)
    assert time.monotonic() - started < 8
    assert "secret" not in str(trouble.value)
    assert "\n" not in str(trouble.value)


def test_a_server_in_trouble_may_succeed_later(failing_server: str, tiny_handoff: Path) -> None:
    with pytest.raises(RegistryUnreachable, match="503"):
        Registry(failing_server).register(tiny_handoff)


@pytest.mark.parametrize("content", [b"this is no database, but long enough to have a header" * 40], ids=["foreign"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, tiny_handoff: Path, content: bytes) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(content)
    with pytest.raises(RegistryError, match="not a database"):
        Registry(f"sqlite:///{file}").register(tiny_handoff)
    assert file.read_bytes() == content


@pytest.mark.parametrize("uri", ["sqlite:////proc/no/mlflow.db", "postgresql+nosuchdriver://localhost:1/x", "no uri"])
def test_a_registry_that_cannot_be_is_one_sentence(uri: str, tiny_handoff: Path) -> None:
    with pytest.raises((RegistryError, RegistryUnreachable), match="model registry at") as refusal:
        Registry(uri).register(tiny_handoff)
    assert "\n" not in str(refusal.value)


def test_artifacts_that_cannot_be_written_leave_no_version(place: Path, tiny_handoff: Path) -> None:
    # Given an artifact root below something that is a file
    (place / "artifacts").write_text("a file")
    # When registering, then it is refused
    with pytest.raises((RegistryError, RegistryUnreachable)) as refusal:
        registry_in(place).register(tiny_handoff)
    assert "\n" not in str(refusal.value)
    assert counts(place, "model_versions") == 0
    # and once the folder can be made, the same call succeeds and one run counts
    (place / "artifacts").unlink()
    check_one_version(place, tiny_handoff)
