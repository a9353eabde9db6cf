"""One registered version, and how a hand-off is described to the registry: pure, no registry is asked here."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.handoff import HandOff
from models.registry_errors import RegistryError

MODEL_DIGEST = "firstlight.model_digest"
HANDOFF_DIGEST = "firstlight.handoff_digest"
EXPERIMENT_ID = "firstlight.experiment_id"
BACKEND = "firstlight.backend"
BACKEND_DIGEST = "firstlight.backend_digest"
SIGNATURE_DIGEST = "firstlight.signature_digest"
"""sha256 of the signature that was logged beside the hand-off; a version without one was registered unsigned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """One registered version."""

    name: str
    """Registered model."""
    version: str
    """Number that MLflow gave it, as text."""
    model_digest: str
    """sha256 of its model.pt2."""
    handoff_digest: str
    """sha256 of its handoff.yaml."""
    run_id: str
    """MLflow run that holds its metrics and parameters."""
    experiment_id: str
    """MLflow experiment of that run."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {field: getattr(self, field) for field in self.__slots__}


def from_tags(found: Any) -> ModelVersion:
    """Return the version MLflow found. Raises RegistryError when it was not registered from a hand-off."""
    if not {MODEL_DIGEST, HANDOFF_DIGEST} <= set(found.tags):
        raise RegistryError(
            f"version {found.version} of {found.name} must have been registered from a hand-off, it has no digests: register its hand-off"
        )
    return ModelVersion(
        name=found.name,
        version=str(found.version),
        model_digest=found.tags[MODEL_DIGEST],
        handoff_digest=found.tags[HANDOFF_DIGEST],
        run_id=found.run_id,
        experiment_id=str(found.tags.get(EXPERIMENT_ID, "")),
    )


def require_same(handoff: HandOff, wanted: ModelVersion) -> None:
    """Raise RegistryError unless ``handoff`` is the one that ``wanted`` was registered from."""
    if (handoff.model_digest, handoff.digest) != (wanted.model_digest, wanted.handoff_digest):
        raise RegistryError(
            f"version {wanted.version} of {wanted.name} must have model {wanted.model_digest[:12]} and hand-off {wanted.handoff_digest[:12]}, "
            f"found {handoff.model_digest[:12]} and {handoff.digest[:12]} in {handoff.folder}: do not use them"
        )


def tags(handoff: HandOff) -> dict[str, str]:
    """Return the tags of run, logged model and version."""
    return {
        MODEL_DIGEST: handoff.model_digest,
        HANDOFF_DIGEST: handoff.digest,
        "firstlight.data_digest": handoff.data.sha256,
        "firstlight.git_commit": handoff.git_commit,
        "firstlight.trainer": f"{handoff.trainer.name} <{handoff.trainer.email}>",
        "firstlight.data_class": handoff.data_class,
    }


def keyed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` under names that MLflow takes: letters, digits and _-. :"""
    return {re.sub(r"[^A-Za-z0-9_. :-]", "_", key)[:250].strip(".") or "_": value for key, value in values.items()}


def text(value: Any) -> str:
    """Return a recipe's value as the text of a parameter."""
    return (value if isinstance(value, str) else json.dumps(value))[:6000]
