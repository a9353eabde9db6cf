"""The embedded plane: everything a flow needs around it, as processes of this machine on loopback.

Prefect's server with UI, a worker, the serving supervisor, and MLflow's UI. A command takes what it needs with ``Plane``; what is
already running (under ``make up``, or an address in the settings) is used, what is not is started and stopped again.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx

from firstlight.cli.processes import Children, choose_port
from firstlight.digest import sha256_bytes, write_json
from firstlight.errors import RefusedError
from firstlight.settings import PRIVATE, ROOT, Settings, environment_without_keys

WORK_POOL = "firstlight"
"""The work pool named in prefect.yaml: of type `process` on our own server, of type `kubernetes` in a cluster."""

_WAIT_SERVER_SECONDS = 120.0
_WORKER_POLL_SECONDS = "2"


class Plane:
    """Processes of one environment on this machine. Use as a context manager."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.api_url = settings.prefect_api_url
        self.addresses: dict[str, str] = {}
        self._signing = {name: os.environ[name] for name in PRIVATE if name in os.environ}
        self.children = Children(environment=environment_without_keys(settings), logs=settings.folder("logs"))

    def __enter__(self) -> "Plane":
        return self

    def __exit__(self, *_: object) -> None:
        self._marker("prefect").unlink(missing_ok=True) if "prefect" in self.addresses else None
        self.children.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a process that talks to this plane's Prefect server."""
        assert self.api_url, "orchestration() comes first"
        return {
            "PREFECT_API_URL": self.api_url,
            "PREFECT_HOME": str(self.settings.folder("prefect")),
            "PREFECT_WORKER_QUERY_SECONDS": _WORKER_POLL_SECONDS,
            "PREFECT_LOGGING_LEVEL": "INFO",
        }

    def orchestration(self, *, port: int = 0, schedules: bool = False) -> str:
        """Make sure that a Prefect server runs, knows our deployments, and has a worker; return its API address.

        ``schedules``: whether a server of our own also starts what is due by the clock.
        """
        from flows import runs

        if self.find_server() is None:
            self._start_server(port)
            self._deploy()
            os.environ.update(self.environment)
            runs.keep_schedules(active=schedules)
            self._start("worker", ["-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process"], extra=self._signing)
        return self.api_url or ""

    def find_server(self) -> str | None:
        """Return the API address of the Prefect server that is there, and let this process talk to it; None when there is none."""
        self.api_url = self.settings.prefect_api_url or self._running_server()
        if self.api_url is not None:
            os.environ.update(self.environment)
        return self.api_url

    def supervisor(self, *, port: int = 0, model: str | None = None) -> None:
        """Start the serving supervisor of ``model`` (the settings' when left out) when none runs."""
        from firstlight.cli.serving import is_supervised, supervisor_arguments

        if is_supervised(self.settings, model):
            return
        self.children.start("serve", [sys.executable, *supervisor_arguments(self.settings, port=port, models=(model,) if model else ())])
        self.children.wait_for("serve", lambda: is_supervised(self.settings, model), seconds=60)

    def mlflow_ui(self) -> str:
        """Start MLflow's UI on the tracking store and return its address."""
        if self.settings.tracking_uri.startswith("http"):
            return self.settings.tracking_uri
        port = choose_port(self.settings.mlflow_port, what="the MLflow UI", setting="FIRSTLIGHT_MLFLOW_PORT")
        url = f"http://127.0.0.1:{port}"
        self._start(
            "mlflow",
            [
                *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
                *("--backend-store-uri", self.settings.tracking_uri, "--default-artifact-root", self.settings.artifact_root),
            ],
        )
        self.children.wait_for("mlflow", lambda: _answers(f"{url}/health"), seconds=_WAIT_SERVER_SECONDS)
        self.addresses["mlflow"] = url
        return url

    def reports(self) -> str:
        """Show the release folders to a browser on this machine and return the address."""
        folder = self.settings.folder("releases")
        port = choose_port(self.settings.reports_port, what="the dossiers' page", setting="FIRSTLIGHT_REPORTS_PORT")
        self.children.start("reports", [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)])
        self.addresses["reports"] = f"http://127.0.0.1:{port}/index.html"
        return self.addresses["reports"]

    def _start(self, name: str, arguments: list[str], *, extra: dict[str, str] | None = None) -> None:
        self.children.start(name, [sys.executable, *arguments], extra={**(self.environment if self.api_url else {}), **(extra or {})})

    def _start_server(self, port: int) -> None:
        port = choose_port(port, what="the Prefect server", setting="FIRSTLIGHT_PREFECT_PORT")
        self.api_url = f"http://127.0.0.1:{port}/api"
        self._start("prefect", ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)])
        self.children.wait_for("prefect", lambda: _answers(f"{self.api_url}/health"), seconds=_WAIT_SERVER_SECONDS)
        self.addresses["prefect"] = f"http://127.0.0.1:{port}"
        write_json(self._marker("prefect"), {"api_url": self.api_url, "pid": os.getpid()})

    def _deploy(self) -> None:
        """Tell the server our deployments; skipped when it has been told exactly these (they live in its database)."""
        declared = ROOT / "prefect.yaml"
        if not declared.is_file():
            raise RefusedError(f"prefect.yaml must lie in the project's folder {ROOT}: install with `pip install -e .` from a checkout")
        told = self.settings.folder("prefect") / "deployed.json"
        fact = {"sha256": sha256_bytes(declared.read_bytes()), "python": sys.executable}
        if _read(told) == fact:
            return
        deploy = ["-m", "flows.deploying", str(declared)]
        child = self.children.start("deploy", [sys.executable, *deploy], extra=self.environment)
        if child.wait(timeout=120) != 0:
            raise RefusedError(
                f"the deployments in prefect.yaml must be accepted by Prefect, they were not: {self.children.tail('deploy')}"
            )
        write_json(told, fact)

    def _running_server(self) -> str | None:
        url = _read(self._marker("prefect")).get("api_url")
        return url if url and _answers(f"{url}/health") else None

    def _marker(self, name: str) -> Path:
        return self.settings.folder("running") / f"{name}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False
