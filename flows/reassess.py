"""The daily look at what people answered for: what is due again, what changed since they signed, which promise ran out."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from firstlight import settings
from tasks import reassessing


@flow(name="reassess", flow_run_name="is anything due?")
def reassess(model: str | None = None) -> State[Any]:
    """Open an incident for everything that is due about the champion, resolve those whose cause is gone, and publish what is open."""
    found = reassessing.look_again(model or settings.current().model)
    reassessing.publish(found)
    return reassessing.state(found)
