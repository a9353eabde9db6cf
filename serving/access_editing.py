"""Changes of the access file by command: whole or not at all, one at a time, and nothing that people wrote into it is lost.

The file belongs to people, comments and order included, so it is changed in place by ``ruamel.yaml`` and not written anew from what was
parsed. What would come out is read as a gateway reads it before it replaces the file.
"""

import contextlib
import fcntl
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from firstlight.digest import write_atomic
from serving import access_document, access_keys
from serving.access_document import FORMAT, AccessDocument, KeyPart
from serving.access_keys import NewKey
from serving.errors import AccessFileError

_NEW = f"""# Who may ask the gateway what: docs/access.md. Keys stand here as sha256 only.
format: {FORMAT}
clients: []
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewClient:
    """A client to be added."""

    name: str
    roles: Sequence[str]
    models: Sequence[str]
    expires: datetime | None = None
    note: str = ""


def add(path: Path, client: NewClient, *, now: datetime) -> NewKey:
    """Add ``client`` with a new key and return the key; the file is made when there is none. Raises AccessFileError."""
    key = access_keys.make()
    entry: dict[str, Any] = {"name": client.name, "roles": list(client.roles), "models": list(client.models)}
    if client.note:
        entry["note"] = client.note
    entry["keys"] = [_entry(key, now=now, expires=client.expires)]

    def change(document: Any, parsed: AccessDocument) -> None:
        if parsed.client(client.name) is not None:
            raise AccessFileError(
                f"a client of this name must not be there yet, {client.name} is: `firstlight access rotate {client.name}` gives it another key"
            )
        if not document.get("clients"):
            document["clients"] = []
        document["clients"].append(entry)

    _edit(path, change, make=True)
    return key


def rotate(path: Path, name: str, *, now: datetime, expires: datetime | None, until: datetime) -> tuple[NewKey, list[str]]:
    """Give client ``name`` another key; those it has count until ``until`` at most. Returns the key and the ids of the old ones. Raises AccessFileError."""
    key, old = access_keys.make(), list[str]()

    def change(document: Any, parsed: AccessDocument) -> None:
        place = _place(parsed, name)
        entry = document["clients"][place]
        for known, written in zip(parsed.clients[place].keys, entry.get("keys") or [], strict=True):
            if counts(known, now):
                old.append(known.id)
                if known.expires is None or known.expires > until:
                    written["expires"] = _text(until)
        if not entry.get("keys"):
            entry["keys"] = []
        entry["keys"].append(_entry(key, now=now, expires=expires))

    _edit(path, change)
    return key, old


def revoke(path: Path, name: str, *, now: datetime, key: str | None = None) -> list[str]:
    """Revoke the key with id ``key`` of client ``name``, or all its keys; return the ids of those that counted until now. Raises AccessFileError."""
    revoked: list[str] = []

    def change(document: Any, parsed: AccessDocument) -> None:
        place = _place(parsed, name)
        client = parsed.clients[place]
        if key is not None and key not in {known.id for known in client.keys}:
            raise AccessFileError(f"the key must be one of {name}'s, {key!r} is none: `firstlight access list` shows their ids")
        for known, written in zip(client.keys, document["clients"][place].get("keys") or [], strict=True):
            if key in (None, known.id) and counts(known, now):
                written["revoked"] = _text(now)
                revoked.append(known.id)
        if not revoked:
            raise AccessFileError(f"a key of {name} must count to be revoked, none does")

    _edit(path, change)
    return revoked


def counts(key: KeyPart, now: datetime) -> bool:
    """Return whether ``key`` counts at ``now``."""
    return (key.revoked is None or key.revoked > now) and (key.expires is None or key.expires > now)


def warnings(document: AccessDocument, *, now: datetime) -> list[str]:
    """Return what is allowed in ``document`` and yet worth a look."""
    found = []
    for client in document.clients:
        live = [key for key in client.keys if counts(key, now)]
        found += [f"{client.name}: key {key.id} never expires" for key in live if key.expires is None]
        if not live and not client.certificates:
            found.append(f"{client.name}: no key of it counts and no certificate names it: it cannot come in")
        found += _admins(client.name, client.roles)
    for issuer in document.issuers:
        for group in issuer.groups:
            found += _admins(f"group {group.group} of {issuer.name}", group.roles)
    return found


def _admins(who: str, roles: Sequence[str]) -> list[str]:
    return [f"{who}: admin may send traffic past every sign-off"] if "admin" in roles else []


def _place(parsed: AccessDocument, name: str) -> int:
    for place, client in enumerate(parsed.clients):
        if client.name == name:
            return place
    known = ", ".join(client.name for client in parsed.clients) or "none"
    raise AccessFileError(f"the client must be in the access file, {name!r} is not: it has {known}")


def _entry(key: NewKey, *, now: datetime, expires: datetime | None) -> dict[str, str]:
    entry = {"id": key.id, "sha256": key.sha256, "created": _text(now)}
    return {**entry, "expires": _text(expires)} if expires is not None else entry


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _edit(path: Path, change: Callable[[Any, AccessDocument], None], *, make: bool = False) -> None:
    target = Path(os.path.realpath(path))
    with _alone(target):
        is_new = make and not target.exists()
        before = _NEW.encode() if is_new else access_document.read_bytes(target)
        mode = 0o600 if is_new else stat.S_IMODE(target.stat().st_mode)
        parsed = access_document.parse(before, str(path))
        # "rt" builds plain values with their comments, never objects that a tag names.
        editor = YAML(typ="rt")
        editor.preserve_quotes, editor.width = True, 4096
        editor.indent(mapping=2, sequence=4, offset=2)
        try:
            document = editor.load(before.decode())
            change(document, parsed)
            stream = io.BytesIO()
            editor.dump(document, stream)
        except YAMLError as error:
            raise AccessFileError(f"{path} must be YAML that can be changed in place, found: {str(error).splitlines()[0]}") from None
        access_document.parse(stream.getvalue(), str(path))
        write_atomic(target, stream.getvalue())
        target.chmod(mode)


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Two commands at once would each lose the other's change."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
