"""The doors to what lies outside, opened as the settings say: store, registry, object store.

Everything is imported when it is needed: `firstlight status` and `rollback` must not wait for torch and Prefect.
"""

from datetime import datetime
from typing import TYPE_CHECKING

from firstlight.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from governance.ledger_keys import KeyRing
    from models.registry import Registry
    from rollout.store import Store
    from spectra.object_store import ObjectStore


def store(settings: Settings) -> "Store":
    """Return the store of desired state, champions and releases of this environment."""
    from rollout.store import Store

    settings.folder()
    return Store(settings.store, ledger_key=ledger_keys(settings))


def ledger_keys(settings: Settings) -> "KeyRing":
    """Return the keys that seal this environment's ledger; the first is made where no file of them is named."""
    from governance.ledger_keys import KeyRing

    return KeyRing(settings.ledger_key_path, may_make=settings.ledger_key_file is None)


def registry(settings: Settings) -> "Registry":
    """Return the model registry of this environment."""
    from models.registry import Registry

    settings.folder()
    return Registry(settings.tracking_uri, artifact_root=settings.artifact_root)


def object_store(settings: Settings) -> "ObjectStore":
    """Return the door to S3."""
    from spectra.object_store import ObjectStore

    return ObjectStore(
        endpoint_url=settings.s3_endpoint_url,
        path_style=settings.s3_path_style,
        ca_bundle=None if settings.s3_ca_bundle is None else str(settings.s3_ca_bundle),
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        region=settings.s3_region,
    )


def logged(settings: Settings, *, model: str, version: str, since: datetime | None = None) -> "pd.DataFrame":
    """Return the rows of the inference log, as ``monitoring.inference_log.read`` does, from wherever this environment keeps it."""
    from monitoring import inference_log

    return inference_log.read(settings.inference_log, model=model, version=version, since=since, store=_log_store(settings))


def has_logged(settings: Settings, *, model: str) -> bool:
    """Return whether the inference log has anything of ``model``."""
    from monitoring import inference_log

    return inference_log.has_rows(settings.inference_log, model=model, store=_log_store(settings))


def _log_store(settings: Settings) -> "ObjectStore | None":
    return object_store(settings) if settings.inference_log.startswith("s3://") else None
