"""The nightly rehearsal: would the versions one could go back to come up, answer as they were judged, and how soon?"""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from firstlight import settings
from tasks import rehearsing


@flow(name="rehearse-rollback", flow_run_name="rehearse the way back")
def rehearse_rollback(model: str | None = None, version: str | None = None) -> State[Any]:
    """Rehearse ``version``, or every version one could go back to when left out, and publish what was found."""
    found = rehearsing.rehearse_targets(model or settings.current().model, version, by="nightly rehearsal")
    rehearsing.publish(found)
    return rehearsing.state(found)
