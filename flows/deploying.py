"""``python -m flows.deploying prefect.yaml``: make the work pool and tell a Prefect server our deployments."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

WORK_POOL = "firstlight"


def deploy(declared: Path) -> int:
    """Deploy everything declared in the file; return Prefect's exit code. Doing it twice changes nothing."""
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", declared.name]
    return subprocess.run(command, cwd=declared.parent, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(deploy(Path(sys.argv[1]).absolute()))
