"""``make up``: everything a person looks at, on loopback, until Ctrl-C."""

import signal
import threading

from rich.console import Console
from rich.table import Table

from firstlight.cli.plane import Plane
from firstlight.cli.processes import choose_port
from firstlight.cli.standing import standing
from firstlight.errors import TransientError
from firstlight.settings import Settings


def up(settings: Settings) -> None:
    """Start it all, print the addresses, and wait. Raises TransientError when a part ends by itself."""
    console = Console(highlight=False, soft_wrap=True)
    gateway = choose_port(settings.gateway_port, what="the gateway", setting="FIRSTLIGHT_GATEWAY_PORT")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Plane(settings) as plane:
        console.print("starting Prefect, a worker, MLflow, model servers, gateway and the dossiers' page …")
        plane.supervisor(port=gateway)
        plane.orchestration(port=settings.prefect_port, schedules=True)
        plane.mlflow_ui()
        plane.reports()
        console.print(_addresses(settings, plane))
        console.print("Ctrl-C stops all of it.")
        while not stop.wait(1.0):
            if ended := plane.children.ended(keep=("deploy",)):
                raise TransientError(f"{ended[0]} must keep running, it ended: {plane.children.tail(ended[0])}")
        console.print("stopping …")


def _addresses(settings: Settings, plane: Plane) -> Table:
    found = standing(settings, settings.model)
    champion = found["champion"]
    table = Table(show_header=False)
    table.add_row("Prefect UI", plane.addresses.get("prefect", plane.api_url or ""))
    table.add_row("MLflow UI", plane.addresses.get("mlflow", settings.tracking_uri))
    table.add_row("gateway", f"{found['serving']['address']}/v2/models/{settings.model}")
    table.add_row("champion", f"version {champion['version']}" if champion else "none yet: run `make demo`, or release a hand-off")
    table.add_row("dossiers", plane.addresses["reports"])
    return table
