"""The doors to what lies outside, opened as the settings say: store, registry, object store.

Everything is imported when it is needed: `firstlight status` and `rollback` must not wait for torch and Prefect.
"""

from typing import TYPE_CHECKING

from firstlight.settings import Settings

if TYPE_CHECKING:
    from models.registry import Registry
    from rollout.store import Store
    from spectra.object_store import ObjectStore


def store(settings: Settings) -> "Store":
    """Return the store of desired state, champions and releases of this environment."""
    from rollout.store import Store

    settings.folder()
    return Store(settings.store)


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
