"""The scheduled look at the live model: what it was asked since, against the reference it was handed over with."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from firstlight import settings
from tasks import publishing, watching


@flow(name="watch-drift", flow_run_name="drift of the last {hours} h")
def watch_drift(model: str | None = None, hours: float = 24.0) -> State[Any]:
    """Compare the champion's requests of the last ``hours`` with its reference and publish the report."""
    name = model or settings.current().model
    found = watching.look(name, hours)
    publishing.publish_drift(name, found)
    return publishing.drift_state(found)
