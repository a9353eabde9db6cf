"""Registration: the hand-off becomes a version in the registry, servable here, and the event that starts its release."""

import time
from dataclasses import dataclass, replace
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect import task
from prefect.events import emit_event
from pydantic import BaseModel, ConfigDict

from firstlight import settings as settings_module
from firstlight.errors import RefusedError
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from governance import attestation, model_signature
from governance.model_keys import shown
from governance.model_signature import SignedFolder
from models import handoff
from models.backends.compiling import compile_ahead
from models.model_version import BACKEND, BACKEND_DIGEST
from models.registry import ModelVersion
from rollout.spec import ServableVersion
from tasks import doors, journal, policy, releases, vouching
from tasks.releases import OpenedRelease
from tasks.retries import retrying
from tasks.stages import stage

REGISTERED = "firstlight.candidate.registered"
"""Event that starts a release; prefect.yaml expects it by this name."""


class Candidate(BaseModel):
    """A registered candidate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    model_digest: str

    @property
    def uri(self) -> str:
        """How flows and commands name it."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """Evidence of one registration."""

    version: ModelVersion
    links: dict[str, str]
    signature: SignedFolder
    """Of the folder that was registered."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        version = self.version
        return {
            "verdict": Verdict.PASS.value,
            "summary": f"version {version.version} of {version.name}, model {version.model_digest[:12]}, signed with key {shown(self.signature.fingerprint)}",
            "reasons": [],
            **version.to_dict(),
            "links": self.links,
            "signature": self.signature.to_dict(),
        }


@stage("registration", "Register the version")
def register(release: OpenedRelease) -> Registration:
    """Register the hand-off (or find it registered), point the alias candidate at it, and make it servable here.

    What its backends need is compiled meanwhile: the choice among them comes some stages later.
    """
    settings = settings_module.current()
    rules = policy.current().benchmark
    papers = handoff.load(release.handoff)
    if (papers.model_digest, papers.digest) != (release.model_digest, release.handoff_digest):
        raise RefusedError(
            f"{release.handoff} must hold the hand-off whose release was opened, it holds another now: release that one anew"
        )
    compile_ahead(papers, rules.backends, folder=settings.compiled, seconds=rules.compile_seconds)
    signature = vouching.sign(settings, papers)
    known = doors.registry(settings)
    version = known.register(release.handoff, signature=model_signature.read_signature(release.handoff))
    with doors.store(settings) as records:
        found = ServableVersion(
            model=release.model,
            version=version.version,
            folder=release.handoff,
            model_digest=release.model_digest,
            handoff_digest=release.handoff_digest,
        )
        records.add_version(replace(found, signature=signed(settings, found)))
    return Registration(version=version, links=known.links(version, settings.mlflow_ui_url), signature=signature)


def signed(settings: Settings, version: ServableVersion) -> str:
    """Return this pipeline's signature over ``version``, which model servers ask for. Raises SignatureError when its key cannot be used."""
    key = settings.pipeline_key_path if settings.pipeline_key else attestation.ensure_key(settings.pipeline_key_path)
    return attestation.attest(vouching.statement_of(version), key_file=key)


def record_backend(release: OpenedRelease, *, backend: str, digest: str | None) -> None:
    """Write how the release's version is run to the store, which the servers follow, and to the registry, for people; sign its compiled file."""
    settings = settings_module.current()
    if digest is not None:
        vouching.sign_compiled(settings, digest)
    version = version_of(release)
    with doors.store(settings) as records:
        chosen = replace(records.version(release.model, version), backend=backend, backend_digest=digest)
        records.set_backend(release.model, version, backend=backend, digest=digest, signature=signed(settings, chosen))
    doors.registry(settings).tag(release.model, version, {BACKEND: backend, BACKEND_DIGEST: digest or ""})


@task(name="register-candidate", task_run_name="Register the candidate", **retrying())
def register_candidate(handoff: str) -> Candidate:
    """Register a freshly trained hand-off as candidate and say so to whoever listens; the same hand-off again says it only once."""
    settings = settings_module.current()
    started = time.monotonic()
    journal.note(settings, about=handoff, stage="register", event="started")
    papers = releases.keep(settings, handoff)
    vouching.sign(settings, papers)
    version = doors.registry(settings).register(papers.folder, signature=model_signature.read_signature(papers.folder))
    candidate = Candidate(name=version.name, version=version.version, model_digest=version.model_digest)
    announce(candidate, environment=settings.environment)
    journal.note(
        settings,
        about=candidate.uri,
        stage="register",
        event="finished",
        verdict="done",
        seconds=round(time.monotonic() - started, 1),
        summary=f"{candidate.uri} is the candidate",
        uri=candidate.uri,
    )
    return candidate


def announce(candidate: Candidate, *, environment: str) -> None:
    """Emit the event of a registered candidate; Prefect takes an id once, so that a repetition starts nothing twice."""
    emit_event(
        REGISTERED,
        resource={
            "prefect.resource.id": f"firstlight.model.{candidate.name}",
            "prefect.resource.name": candidate.name,
            "firstlight.environment": environment,
            "firstlight.version": candidate.version,
        },
        payload={"handoff": candidate.uri, "model": candidate.name, "version": candidate.version, "model_digest": candidate.model_digest},
        id=event_id(candidate, environment=environment),
    )


def event_id(candidate: Candidate, *, environment: str) -> UUID:
    """Return the id of the event: made from what it says, so the same candidate in the same environment always has the same."""
    return uuid5(NAMESPACE_URL, f"{REGISTERED}/{environment}/{candidate.uri}/{candidate.model_digest}")


def version_of(release: OpenedRelease) -> str:
    """Return the version number this release registered. Raises UnknownVersion's parent when it was never registered."""
    settings = settings_module.current()
    with doors.store(settings) as records:
        found = records.version_by_digest(release.model, release.model_digest)
    assert found is not None, "registration comes before anything that asks for its version"
    return found.version
