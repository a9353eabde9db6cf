"""The processes of a world under test: ``python -m tests.chaos.online supervise|drive …``, and every process that such a supervisor starts.

They are the product's own, with two things a test can turn: the wall clock (``clocks``), and a model server that is ill (``sick``).
"""

import json
import signal
import stat
import sys
import threading
from pathlib import Path

from serving import __main__ as serving_main
from serving import options as documents
from serving import process
from serving.supervisor import Settings, Supervisor
from tests.chaos import clocks, sick

READY_SECONDS = 240.0
"""A test machine may be so busy that nothing starts within the minute that is enough elsewhere."""
_PYTHON = """#!/bin/sh
exec {python} -m tests.chaos.online child "$@"
"""


def supervise(words: dict[str, str]) -> None:
    """Be a supervisor, as ``python -m serving supervise`` is, until SIGTERM."""
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    state = Path(words["state"])
    sys.executable = str(_python(state))  # what it starts comes by :func:`child`
    process.log_as_json(process="supervise")
    settings = Settings(
        environment=words["environment"],
        models=(words["model"],),
        state=state,
        store_url=words["store"],
        port=int(words["port"]),
        options=documents.parse(words["options"]),
        ready_seconds=READY_SECONDS,
        clock=clocks.clock(),
    )
    with Supervisor(settings) as supervisor:
        process.announce("bound", role="supervisor", gateway_url=supervisor.url)
        process.log_to(settings.folder / "supervisor.log")
        supervisor.run(stop)


def child(arguments: list[str]) -> int:
    """Be what ``python <arguments>`` would be; a model server may be ill."""
    assert arguments[:2] == ["-m", "serving"], arguments
    healthy = serving_main._model

    def model(options, nursery=None):
        sick.infect(options.version)
        healthy(options, nursery=nursery)

    serving_main._model = model
    return serving_main.main(arguments[2:])


def _python(state: Path) -> Path:
    """Return an interpreter of our own: Python, by way of this module."""
    path = state / "python"
    path.write_text(_PYTHON.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def main(arguments: list[str]) -> int:
    """Run one process."""
    role, *rest = arguments
    if role == "child":
        return child(rest)
    if role == "supervise":
        supervise(json.loads(rest[0]))
        return 0
    from tests.chaos import driving  # a model server needs nothing of it

    return driving.main(json.loads(rest[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
