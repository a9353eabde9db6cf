"""A process that has imported everything a release needs, and forks one flow process for every line on its standard input:
the address of a Prefect server and a hand-off.

It saves the tests ten seconds of imports a run. What it forks is a flow process like any other: started here by hand, not by a worker.
Prints the number of the process, then how it ended.
"""

import os
import sys
from pathlib import Path

import great_expectations  # noqa: F401
import mlflow  # noqa: F401
import torch  # noqa: F401
from prefect.context import refresh_global_settings_context

from firstlight import settings
from flows.release_model import release_model
from models.program import Program


def main() -> None:
    settings.current()
    Program.load(Path(sys.argv[1]), threads=1)  # torch imports more when it reads its first model; nothing is computed before the fork
    say = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    say.write("ready\n")
    for line in sys.stdin:
        server, handoff = line.split()
        child = os.fork()
        if child == 0:
            os.environ["PREFECT_API_URL"] = server
            refresh_global_settings_context()
            state = release_model(handoff, return_state=True)
            os._exit(0 if state.is_completed() else 1)
        say.write(f"{child}\n")
        _, status = os.waitpid(child, 0)
        say.write(f"{os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    main()
