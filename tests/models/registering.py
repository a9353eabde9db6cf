"""A registry on real MLflow for the tests, and looks behind its back."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import yaml

from firstlight.digest import sha256_file
from models import handoff as handoffs
from models.model_version import MODEL_DIGEST
from models.registry import Registry


def set_up(uri: str) -> None:
    """Make the tables of the registry at ``uri``."""
    Registry(uri).aliases("tiny")


def registry_in(place: Path) -> Registry:
    """Return the registry in ``place``, artifacts beside the database."""
    return Registry(f"sqlite:///{place / 'mlflow.db'}", artifact_root=str(place / "artifacts"))


def client_of(registry: Registry) -> Any:
    """Return MLflow's own client for ``registry``."""
    return registry._connect()


def counts(place: Path, table: str, where: str = "1=1") -> int:
    """Return how many rows of ``table`` there are, asked of the database itself."""
    with sqlite3.connect(place / "mlflow.db") as connection:
        found = connection.execute(f"SELECT COUNT(*) FROM {table} WHERE {where}").fetchone()[0]
    connection.close()
    return int(found)


def with_other_papers(folder: Path, target: Path) -> Path:
    """The same model.pt2 with another purpose in its document."""
    shutil.copytree(folder, target)
    document = yaml.safe_load((target / "handoff.yaml").read_text())
    (target / "handoff.yaml").write_text(yaml.safe_dump({**document, "purpose": "something else"}, sort_keys=False))
    return target


def check_one_version(place: Path, folder: Path) -> None:
    """Register again and see that everything exists once: the version, its finished run, its ready model."""
    registry = registry_in(place)
    version = registry.register(folder)
    found = client_of(registry).search_model_versions("name = 'tiny'")
    assert [item.tags[MODEL_DIGEST] for item in found] == [sha256_file(folder / "model.pt2")]
    assert registry.aliases("tiny") == {"candidate": version.version}
    assert counts(place, "runs", "status = 'FINISHED'") == counts(place, "logged_models", "status = 2") == 1
    assert handoffs.load(registry.fetch("tiny", "candidate", place / "fetched")).model_digest == version.model_digest
