"""The folder of a release that has ended, brought up to date by a signature that came later: a break-glass that is ratified."""

from pathlib import Path

from firstlight.errors import RefusedError
from firstlight.settings import Settings
from governance.subject import Subject
from rollout.records import Release
from tasks import publishing
from tasks.releases import OpenedRelease


def again(settings: Settings, record: Release, asked: Subject) -> Path:
    """Write dossier, papers and manifest of an ended release anew, from the evidence that is there now; return the page."""
    return publishing.write_dossier(_reopened(settings, record, asked))


def _reopened(settings: Settings, record: Release, asked: Subject) -> OpenedRelease:
    handoff = settings.folder("handoffs") / f"{record.model}-{record.handoff_digest[:12]}"
    if not handoff.is_dir():
        raise RefusedError(
            f"the hand-off of release {record.id} must lie in {handoff} to write its dossier anew, it does not: bring it back"
        )
    return OpenedRelease(
        id=record.id,
        environment=record.environment,
        model=record.model,
        handoff=str(handoff),
        model_digest=record.model_digest,
        handoff_digest=record.handoff_digest,
        policy_digest=record.policy_digest,
        trainer_name=asked.trainer.name,
        trainer_email=asked.trainer.email,
        folder=str(settings.folder("releases", record.id)),
    )
