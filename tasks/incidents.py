"""Incidents as the rest of the project meets them: opened in the store, which writes the ledger, and told to whoever listens.

The store keeps one open incident for each (environment, model, cause), so that opening one again, from two places at once, is harmless; Prefect takes the id of
an event once, so that telling it again is too.
"""

from uuid import NAMESPACE_URL, UUID, uuid5

from firstlight.settings import Settings
from rollout.records import Incident
from rollout.store import Store
from tasks import journal

OPENED = "firstlight.incident.opened"
"""The Prefect event of an incident; its resource is ``firstlight.incident.<id>``, related to ``firstlight.model.<name>``."""


def open_incident(
    settings: Settings,
    records: Store,
    model: str,
    *,
    cause: str,
    severity: str,
    summary: str,
    evidence_digest: str,
    owner: str,
    by: str,
    release_id: str | None = None,
) -> Incident:
    """Open the incident of ``cause`` in this environment, or return the one that is open, and tell whoever listens; as ``Store.open_incident``."""
    incident = records.open_incident(
        settings.environment,
        model,
        cause=cause,
        severity=severity,
        summary=summary,
        evidence_digest=evidence_digest,
        owner=owner,
        by=by,
        release_id=release_id,
    )
    tell(settings, incident)
    return incident


def tell(settings: Settings, incident: Incident) -> None:
    """Write an incident into the journal and, where there is a Prefect server to tell, emit its event. Never raises for want of a listener."""
    journal.note(settings, about=incident.id, stage="incident", event="opened", summary=f"{incident.severity.value}: {incident.summary}")
    if _has_listener():
        _emit(incident)


def _has_listener() -> bool:
    """Prefect without a server's address would start a server of its own, in this very process."""
    from prefect.settings import get_current_settings

    return get_current_settings().api.url is not None


def _emit(incident: Incident) -> None:
    from prefect.events import emit_event

    emit_event(
        OPENED,
        resource={
            "prefect.resource.id": f"firstlight.incident.{incident.id}",
            "prefect.resource.name": incident.id,
            "firstlight.environment": incident.environment,
            "firstlight.severity": incident.severity.value,
        },
        related=[{"prefect.resource.id": f"firstlight.model.{incident.model}", "prefect.resource.role": "model"}],
        payload={
            "incident": incident.id,
            "cause": incident.cause,
            "severity": incident.severity.value,
            "summary": incident.summary,
            "model": incident.model,
            "release": incident.release_id,
            "owner": incident.owner,
        },
        id=event_id(incident),
    )


def flush() -> None:
    """Wait a few seconds for events that are on their way to Prefect: a command that ends at once would lose them."""
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=5)


def event_id(incident: Incident) -> UUID:
    """Return the id of the event: the same whoever tells of the same incident, and however often."""
    return uuid5(NAMESPACE_URL, f"{OPENED}/{incident.environment}/{incident.model}/{incident.id}/{incident.opened_at}")
