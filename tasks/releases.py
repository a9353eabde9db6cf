"""A release: opened once for a hand-off, continued by any later run, closed with one status.

The store knows which release of a model is open (one at a time); a file lock, which the system drops when its holder dies
however it dies, keeps two processes from driving the same one.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import task
from pydantic import BaseModel, ConfigDict

from firstlight import settings as settings_module
from firstlight.errors import RefusedError
from firstlight.settings import Settings
from governance.evidence import evidence_path
from models import handoff as handoffs
from models.handoff import HandOff, HandOffError
from rollout.records import Release
from rollout.store import Store
from tasks import doors, refusals, vouching
from tasks import policy as policies
from tasks.retries import retrying

_REGISTRY_SCHEME = "models:/"


class OpenedRelease(BaseModel):
    """The facts of one release that every stage needs; travels between tasks as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    environment: str
    model: str
    handoff: str
    """Our own verified copy of the hand-off folder."""
    model_digest: str
    handoff_digest: str
    policy_digest: str
    trainer_name: str
    trainer_email: str
    folder: str
    """Release folder: evidence, pictures, sign-offs, dossier."""
    settled: bool = False
    """The model is the champion already and its release is closed: nothing is left to do."""

    def evidence(self, name: str) -> Path:
        """Path of one stage's evidence."""
        return evidence_path(Path(self.folder), name.replace("-", "_"))


@task(name="open-release", task_run_name="Open the release", **retrying())
def open_release(handoff: str) -> OpenedRelease:
    """Verify the hand-off's digests, keep our own copy, and open its release or continue the open one.

    ``handoff`` is a folder or ``models:/<name>/<version or alias>``. Raises HandOffError, ReleaseRunning, RegistryError.
    """
    settings = settings_module.current()
    policy = policies.read(settings.policy_path)
    with refusals.of_hand_off(settings, handoff):
        papers = keep(settings, handoff)
    with doors.store(settings) as records:
        settled = _settled(records, settings.environment, papers)
        opened = settled or records.open_release(
            settings.environment,
            papers.name,
            handoff_digest=papers.digest,
            model_digest=papers.model_digest,
            policy_digest=policy.digest,
            by=papers.trainer.email,
        )
    return OpenedRelease(
        settled=settled is not None,
        id=opened.id,
        environment=settings.environment,
        model=papers.name,
        handoff=str(papers.folder),
        model_digest=papers.model_digest,
        handoff_digest=papers.digest,
        policy_digest=policy.digest,
        trainer_name=papers.trainer.name,
        trainer_email=papers.trainer.email,
        folder=str(settings.folder("releases", opened.id)),
    )


def _settled(records: Store, environment: str, papers: HandOff) -> Release | None:
    """Return the closed release of a hand-off whose model is the champion now, or None."""
    champion = records.champion(environment, papers.name)
    if champion is None or champion.digest != papers.model_digest or records.open_one(environment, papers.name) is not None:
        return None
    ended = [release for release in records.releases(environment, papers.name) if release.model_digest == papers.model_digest]
    return ended[-1] if ended else None


def keep(settings: Settings, handoff: str) -> HandOff:
    """Return our own verified copy of a hand-off, named by its digest, so that later changes to the original change nothing."""
    if handoff.startswith(_REGISTRY_SCHEME):
        return _fetch(settings, handoff)
    papers = handoffs.load(handoff)
    kept = settings.folder("handoffs") / f"{papers.name}-{papers.digest[:12]}"
    if kept == papers.folder.absolute():
        return papers
    if kept.exists():
        return _same(papers, handoffs.load(kept))
    scratch = kept.with_name(f".{kept.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(papers.folder, scratch)
    handoffs.load(scratch)
    scratch.rename(kept)
    return _same(papers, handoffs.load(kept))


def _same(given: HandOff, kept: HandOff) -> HandOff:
    """Return the copy that was kept. Raises HandOffError when somebody has made another hand-off of it."""
    if kept.digest != given.digest:
        raise HandOffError(
            f"the copy that was kept of a hand-off must be that hand-off ({given.digest[:12]}), {kept.folder} holds {kept.digest[:12]}: "
            "find out who changed it, remove the folder, and release the hand-off again"
        )
    return kept


def _fetch(settings: Settings, uri: str) -> HandOff:
    name, _, version = uri.removeprefix(_REGISTRY_SCHEME).partition("/")
    if not name or not version:
        raise RefusedError(f"a registered version must be named models:/<name>/<version or alias>, got {uri!r}")
    known = doors.registry(settings)
    wanted = known.version(name, version)
    signature = known.signature(wanted)
    kept = settings.folder("handoffs") / f"{name}-{wanted.handoff_digest[:12]}"
    known.fetch(
        name, wanted.version, kept, vouch=lambda folder: vouching.require_fetched(settings, folder, signature, version=wanted.version)
    )
    vouching.keep_signature(kept, signature)
    return vouching.load(settings, kept)


@contextmanager
def only_one(release: OpenedRelease) -> Iterator[None]:
    """Hold the right to drive this release on this machine. Raises RefusedError when another process has it."""
    lock = settings_module.current().folder("running") / f"{release.environment}-{release.model}.lock"
    with open(lock, "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RefusedError(
                f"one process at a time may drive release {release.id}, another one does: wait for it, or look at `firstlight status`"
            ) from None
        yield


def is_driven(settings: Settings, model: str) -> bool:
    """Return whether a living process on this machine drives a release of ``model``."""
    lock = settings.folder("running") / f"{settings.environment}-{model}.lock"
    with open(lock, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
