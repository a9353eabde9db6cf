"""The change a release belongs to (CR-YYYY-NNN): named once, kept in the release folder, in the words people sign, and in the ledger."""

import json
from pathlib import Path

from firstlight.digest import sha256_bytes, write_json
from firstlight.settings import Settings
from governance.subject import check_change_id
from tasks import doors

FILE = "change.json"
FORMAT = "firstlight/change/v1"


def name(settings: Settings, release_id: str, *, model: str, change_id: str, by: str) -> bool:
    """Write down the change of a release; return whether that is news. A new one voids the sign-offs given under the old.

    Raises EvidenceError on what is no change id.
    """
    check_change_id(change_id)
    folder = settings.folder("releases", release_id)
    before = read(folder)
    with doors.store(settings) as records:
        detail = f"release {release_id} belongs to change {change_id}{f', not to {before} as was said before' if before not in (None, change_id) else ''}"
        digest = sha256_bytes(f"{release_id} {change_id}".encode())
        records.record(settings.environment, model, what="change-id", digest=digest, detail=detail, by=by, once=before == change_id)
    write_json(folder / FILE, {"format": FORMAT, "release": release_id, "change_id": change_id, "named_by": by})
    return before != change_id


def read(folder: Path) -> str | None:
    """Return the change that the release in ``folder`` belongs to, or None. Raises EvidenceError when the file holds something else."""
    try:
        document = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None
    found = document.get("change_id") if isinstance(document, dict) else None
    return check_change_id(found) if isinstance(found, str) else None
