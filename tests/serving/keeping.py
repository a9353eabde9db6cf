"""What the tests of access share: an access file with keys in it, and a clock."""

import json
from pathlib import Path

from serving import access_keys

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z."""


class House:
    """An access file that a test writes, with the keys' texts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "access.yaml"
        self.document = {"format": "firstlight/access/v1", "clients": []}
        self.keys = {}

    def client(self, name, *, roles=("reader",), models=("desi-vae",), key=None, **more):
        made = access_keys.make()
        self.keys[name] = made.text
        listed = [{"id": made.id, "sha256": made.sha256, **(key or {})}]
        self.document["clients"].append({"name": name, "roles": list(roles), "models": list(models), "keys": listed, **more})
        return self

    def write(self) -> Path:
        self.path.write_text(json.dumps(self.document))
        return self.path

    def headers(self, name, **more):
        return {"authorization": f"Bearer {self.keys[name]}", **more}
