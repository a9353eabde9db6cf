"""The registry: every model version that was ever handed over, kept in MLflow. The only module that imports mlflow.

A version is its model digest: registering the same ``model.pt2`` again returns the version that is there. What MLflow shows is
the hand-off itself: a logged model with its files as artifacts and a flavour of our own (MLflow cannot load it, and so runs nothing
of it), its input and output signature, its data set, metrics, recipe and digests. An alias is a pointer for people and
programs (candidate, champion, previous); which version *should* be live is decided in the store of desired state, and the
aliases follow it.

A version appears in one transaction, after everything it points at is there: a process that dies before has registered nothing,
and one that dies after has registered all. MLflow facts relied on (3.17): file stores are refused, so the default is SQLite; a
database that was half set up stays so; requirements are inferred by ``log_model``, which is not used because it takes over a minute.
"""

import fcntl
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.digest import sha256_bytes
from models import handoff as handoffs
from models.errors import HandOffError
from models.handoff import HandOff
from models.model_version import EXPERIMENT_ID, MODEL_DIGEST, SIGNATURE_DIGEST, ModelVersion, from_tags, keyed, require_same, text
from models.model_version import tags as tags_of
from models.registry_address import is_server, require_answer, sqlite_file
from models.registry_errors import RegistryError, RegistryUnreachable, first_line, of_artifact_store, of_mlflow, unreachable
from models.tensors import held_as

__all__ = ["ModelVersion", "Registry", "RegistryError", "RegistryUnreachable"]

_ARTIFACT_FOLDER = "hand-off"
_SIGNATURE_FOLDER, _SIGNATURE_FILE = "signature", "model.sig"
_EXPERIMENT_PREFIX = "firstlight/"
_PER_BATCH = 100
"""Entries MLflow takes in one call."""


class Registry:
    """Door to one MLflow tracking server or database.

    ``tracking_uri``: ``sqlite:///...``, ``postgresql://...`` or a server's address. ``artifact_root``: folder or ``s3://`` prefix
    for new experiments when the tracking URI is a database; a server decides for itself.
    """

    def __init__(self, tracking_uri: str, *, artifact_root: str | None = None) -> None:
        self.tracking_uri = tracking_uri
        self._artifact_root = None if is_server(tracking_uri) or artifact_root is None else _absolute(artifact_root)
        self._made: Any = None

    def register(
        self, folder: Path | str, *, tags: Mapping[str, str] | None = None, alias: str | None = "candidate", signature: bytes | None = None
    ) -> ModelVersion:
        """Register the hand-off in ``folder`` and point ``alias`` at it; the same model digest gives the version that is there.

        ``signature`` is kept beside the files, for whoever fetches them; nothing here looks into it.
        Raises HandOffError when a digest is wrong, RegistryError when the model is registered with other papers, RegistryUnreachable.
        """
        handoff = handoffs.load(folder)
        if self._registered(handoff) is None:
            self._create(handoff, tags or {}, signature=signature)
        version = self._registered(handoff)
        assert version is not None, "a version that was created is found by its digest"
        if signature is not None:
            self.keep_signature(version, signature)
        if alias:
            self.point(handoff.name, alias, version.version)
        return version

    def version_by_digest(self, name: str, model_digest: str) -> ModelVersion | None:
        """Return the version of ``name`` with this model digest, the earliest when there are several, or None."""
        found = self._versions(name, model_digest)
        return found[0] if found else None

    def version(self, name: str, version_or_alias: str) -> ModelVersion:
        """Return one version by its number or alias. Raises RegistryError when there is none."""
        with self._client() as client:
            if version_or_alias.isdigit():
                return from_tags(client.get_model_version(name, version_or_alias))
            return from_tags(client.get_model_version_by_alias(name, version_or_alias))

    def aliases(self, name: str) -> dict[str, str]:
        """Return alias -> version number of a registered model; empty when the model is unknown."""
        with self._client() as client, _absence_ignored():
            return {str(key): str(value) for key, value in client.get_registered_model(name).aliases.items()}
        return {}

    def point(self, name: str, alias: str, version: str | None) -> None:
        """Make ``alias`` point at ``version`` (None: at nothing). Doing it twice changes nothing."""
        if self.aliases(name).get(alias) == version:
            return
        with self._client() as client:
            if version is None:
                client.delete_registered_model_alias(name, alias)
            else:
                client.set_registered_model_alias(name, alias, version)

    def tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Write ``tags`` on a version, over what they said before. Doing it twice changes nothing."""
        with self._client() as client:
            for key, value in tags.items():
                client.set_model_version_tag(name, version, key, value)

    def keep_signature(self, version: ModelVersion, signature: bytes) -> None:
        """Keep ``signature`` beside the files of a version, in place of an older one. Doing it twice changes nothing."""
        digest = sha256_bytes(signature)
        with self._client() as client:
            found = client.get_model_version(version.name, version.version)
            if found.tags.get(SIGNATURE_DIGEST) != digest:
                _log_signature(client, found.source.removeprefix("models:/"), signature)
                client.set_model_version_tag(version.name, version.version, SIGNATURE_DIGEST, digest)

    def signature(self, version: ModelVersion) -> bytes | None:
        """Return the signature that is kept beside the files of a version, None when it was registered without one. Nothing is verified."""
        from mlflow.artifacts import download_artifacts

        with self._client() as client, tempfile.TemporaryDirectory() as scratch:
            if SIGNATURE_DIGEST not in client.get_model_version(version.name, version.version).tags:
                return None
            place = client.get_model_version_download_uri(version.name, version.version).rstrip("/")
            uri = f"{place}/{_SIGNATURE_FOLDER}/{_SIGNATURE_FILE}"
            return Path(download_artifacts(artifact_uri=uri, dst_path=scratch, tracking_uri=self.tracking_uri)).read_bytes()

    def fetch(self, name: str, version_or_alias: str, folder: Path | str, *, vouch: Callable[[Path], None] = lambda folder: None) -> Path:
        """Bring the hand-off of a version to ``folder`` and verify it there; a verified copy that is there already is kept.

        ``vouch`` is asked about the files, wherever they lie then, before a byte of them is parsed; what it raises comes through. Raises
        RegistryError when the version is unknown or its bytes no longer match the digests it was registered with.
        """
        wanted = self.version(name, version_or_alias)
        target = Path(folder)
        if not target.exists():
            self._download(wanted, target, vouch)
        vouch(target)
        require_same(handoffs.load(target), wanted)
        return target

    def links(self, version: ModelVersion, base_url: str) -> dict[str, str]:
        """Return the addresses of a version and of its run in an MLflow UI at ``base_url``."""
        return {
            "version": f"{base_url}/#/models/{version.name}/versions/{version.version}",
            "run": f"{base_url}/#/experiments/{version.experiment_id}/runs/{version.run_id}",
        }

    def _registered(self, handoff: HandOff) -> ModelVersion | None:
        """Return the version of this model, or None. Of two that were registered at the same moment the later one is withdrawn."""
        found = self._versions(handoff.name, handoff.model_digest)
        if not found:
            return None
        if found[0].handoff_digest != handoff.digest:
            raise RegistryError(
                f"one model must have one hand-off: model {handoff.model_digest[:12]} is registered as version {found[0].version} of "
                f"{handoff.name} with hand-off {found[0].handoff_digest[:12]}, this one is {handoff.digest[:12]}; hand over a newly exported model"
            )
        pointed_at = set(self.aliases(handoff.name).values()) if found[1:] else set()
        for later in found[1:]:
            with self._client() as client, _absence_ignored():
                if later.version not in pointed_at:
                    client.delete_model_version(later.name, later.version)
        return found[0]

    def _versions(self, name: str, model_digest: str) -> list[ModelVersion]:
        with self._client() as client:
            found = client.search_model_versions(f"name = '{name}' and tags.`{MODEL_DIGEST}` = '{model_digest}'")
        return [from_tags(item) for item in sorted(found, key=lambda item: int(item.version))]

    def _create(self, handoff: HandOff, tags: Mapping[str, str], *, signature: bytes | None = None) -> None:
        import mlflow

        with self._client() as client:
            experiment = self._experiment(client, handoff.name)
            described = {**tags_of(handoff), EXPERIMENT_ID: experiment, **tags}
            described |= {} if signature is None else {SIGNATURE_DIGEST: sha256_bytes(signature)}
            _end_stale(client, experiment, handoff.model_digest)
            run = client.create_run(experiment, tags=described, run_name=f"{handoff.name}-{handoff.model_digest[:12]}").info.run_id
            _log(client, run, handoff)
            logged = _log_model(client, experiment, run, handoff, described)
            if signature is not None:
                _log_signature(client, logged, signature)
            client.set_terminated(run)
            _ensure_registered_model(client, handoff.name)
            mlflow.set_tracking_uri(self.tracking_uri)  # MLflow looks up models:/m-... in the process's store, not in this client's
            made = client.create_model_version(
                handoff.name,
                source=f"models:/{logged}",
                run_id=run,
                model_id=logged,
                tags=described,
                description=handoff.purpose,
                await_creation_for=0,
            )
            page = [{"name": handoff.name, "version": int(made.version)}]
            client.set_logged_model_tags(logged, {"mlflow.modelVersions": json.dumps(page)})

    def _experiment(self, client: Any, name: str) -> str:
        title = _EXPERIMENT_PREFIX + name
        location = f"{self._artifact_root}/{name}" if self._artifact_root else None
        if client.get_experiment_by_name(title) is None:
            with _presence_ignored():
                client.create_experiment(title, artifact_location=location)
        return str(client.get_experiment_by_name(title).experiment_id)

    def _download(self, wanted: ModelVersion, target: Path, vouch: Callable[[Path], None]) -> None:
        """Make ``target`` appear whole and verified, or not at all."""
        from mlflow.artifacts import download_artifacts

        with self._client() as client, tempfile.TemporaryDirectory(dir=_parent(target), prefix=".fetch-") as scratch:
            place = client.get_model_version_download_uri(wanted.name, wanted.version)
            fetched = download_artifacts(
                artifact_uri=f"{place.rstrip('/')}/{_ARTIFACT_FOLDER}", dst_path=scratch, tracking_uri=self.tracking_uri
            )
            vouch(Path(fetched))
            try:
                require_same(handoffs.load(fetched), wanted)
            except HandOffError as error:
                raise RegistryError(
                    f"version {wanted.version} of {wanted.name} must have the files it was registered with, the registry's are changed: {error}"
                ) from None
            with suppress(FileExistsError):  # another process brought it meanwhile
                os.rename(fetched, target)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        client = self._connect()
        with _translated(self.tracking_uri):
            yield client

    def _connect(self) -> Any:
        if self._made is None:
            require_answer(self.tracking_uri)
            if (file := sqlite_file(self.tracking_uri)) is not None:
                _set_up(file)
            with _translated(self.tracking_uri):
                self._made = _new_client(self.tracking_uri)
        return self._made


def _new_client(uri: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing MLflow warns of SQLAlchemy's deprecations
        from mlflow import MlflowClient

        # what goes wrong in the database is raised and said once, by us; MLflow would add a traceback
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _set_up(file: Path) -> None:
    """Make MLflow's tables in a new file that takes its place when it is whole: a set-up that was cut short cannot be continued."""
    if file.exists() and file.stat().st_size:
        return
    with open(file.with_name(f".{file.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists() and file.stat().st_size:
            return
        scratch = file.with_name(f".{file.name}.new")
        scratch.unlink(missing_ok=True)
        scratch.with_name(scratch.name + "-journal").unlink(missing_ok=True)
        with _translated(f"sqlite:///{file}"):
            _new_client(f"sqlite:///{scratch}")
        scratch.rename(file)


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Turn MLflow's, the database's and the network's errors into the two that decide a retry."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise RegistryError(
            f"the registry's artifacts must be there and writable, they are not ({first_line(error)}): mend the folder"
        ) from error
    except (SQLAlchemyError, requests.RequestException, OSError) as error:
        raise unreachable(uri, error) from error
    except MlflowException as error:
        raise of_mlflow(uri, error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("botocore", "boto3", "s3transfer"):
            raise
        raise of_artifact_store(error) from error


@contextmanager
def _absence_ignored() -> Iterator[None]:
    with _code_ignored("RESOURCE_DOES_NOT_EXIST"):
        yield


@contextmanager
def _presence_ignored() -> Iterator[None]:
    with _code_ignored("RESOURCE_ALREADY_EXISTS"):
        yield


@contextmanager
def _code_ignored(code: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != code:
            raise


def _log(client: Any, run_id: str, handoff: HandOff) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    metrics = [Metric(key, float(value), 0, 0) for key, value in keyed(handoff.metrics).items()]
    params = [Param(key, text(value)) for key, value in keyed(handoff.recipe).items()]
    for start in range(0, max(len(metrics), len(params)), _PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _PER_BATCH], params=params[start : start + _PER_BATCH])
    kind = "s3" if handoff.data.uri.startswith("s3://") else "local"
    data = Dataset(f"{handoff.name}-data", handoff.data.sha256[:36], kind, json.dumps({"uri": handoff.data.uri}))
    client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])


def _log_model(client: Any, experiment: str, run_id: str, handoff: HandOff, tags: Mapping[str, str]) -> str:
    """Log the model the version stands for: signature, our flavour, and the files of the hand-off in a folder of their own."""
    from mlflow.models import Model

    logged = client.create_logged_model(experiment, name=handoff.name, source_run_id=run_id, tags=dict(tags), model_type="firstlight")
    page = Model(run_id=run_id, signature=_signature(handoff), model_id=logged.model_id)
    page.add_flavor(
        "firstlight",
        format=handoff.format,
        handoff_digest=handoff.digest,
        model_digest=handoff.model_digest,
        artifact_path=_ARTIFACT_FOLDER,
    )
    with tempfile.TemporaryDirectory() as scratch:
        page.save(str(Path(scratch) / "MLmodel"))
        client.log_model_artifacts(logged.model_id, scratch)
    client.log_model_artifacts(logged.model_id, str(handoff.folder), _ARTIFACT_FOLDER)
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def _log_signature(client: Any, logged: str, signature: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / _SIGNATURE_FILE).write_bytes(signature)
        client.log_model_artifacts(logged, scratch, _SIGNATURE_FOLDER)


def _signature(handoff: HandOff) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(specs: Sequence[Any]) -> Any:
        return Schema([TensorSpec(np.dtype(held_as(spec.dtype)), tuple(spec.shape), spec.name) for spec in specs])

    return ModelSignature(inputs=schema(handoff.model.inputs), outputs=schema(handoff.model.outputs))


def _ensure_registered_model(client: Any, name: str) -> None:
    with _presence_ignored():
        client.create_registered_model(name)


def _end_stale(client: Any, experiment: str, model_digest: str) -> None:
    """Mark what a killed registration of this model left behind, so that the pages show one run and one model that count."""
    mine = f"tags.`{MODEL_DIGEST}` = '{model_digest}'"
    for run in client.search_runs([experiment], f"{mine} and attributes.status != 'KILLED'"):
        client.set_terminated(run.info.run_id, "KILLED")
    for model in client.search_logged_models([experiment], mine):
        if str(model.status) != "FAILED":
            client.finalize_logged_model(model.model_id, "FAILED")


def _parent(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent


def _absolute(place: str) -> str:
    return place.rstrip("/") if "://" in place else str(Path(place).absolute())
