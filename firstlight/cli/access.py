"""``firstlight access``: who may ask the gateway what, without writing the access file by hand."""

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from firstlight.digest import sha256_file
from firstlight.errors import RefusedError
from firstlight.settings import Settings
from serving import access_document, access_editing
from serving.access_document import AccessDocument, ClientPart, KeyPart
from serving.access_editing import NewClient
from serving.access_keys import NewKey
from serving.errors import AccessFileError

FAULTY = 2
"""Exit code of ``check`` when the file cannot be used."""


def path(settings: Settings) -> Path:
    """Return the access file of this environment, whether it is there or not."""
    return settings.access_path or settings.state / "access.yaml"


def add(settings: Settings, client: NewClient) -> None:
    """Add a client and print its key: the key alone on standard output, what it is on standard error."""
    file = path(settings)
    is_new = not file.exists()
    key = access_editing.add(file, client, now=_now())
    _tell(settings, "access-added", f"{client.name} is {' and '.join(client.roles)} of {', '.join(client.models)}, key {key.id}")
    _show(key, f"{client.name} is {' and '.join(client.roles)} of {', '.join(client.models)}", expires=client.expires)
    _say(
        f"{file} was made: a gateway that runs without one goes on without; start `firstlight serve` again to switch access control on"
        if is_new
        else "a running gateway knows it within two seconds"
    )


def rotate(settings: Settings, name: str, *, expires: datetime | None, grace: timedelta) -> None:
    """Give a client another key and print it; its old keys end after ``grace``."""
    now = _now()
    key, old = access_editing.rotate(path(settings), name, now=now, expires=expires, until=now + grace)
    _tell(settings, "access-rotated", f"{name} has another key, {key.id}; {_listed(old) or 'no key'} until {_day(now + grace)} at most")
    _show(key, f"another key of {name}", expires=expires)
    _say(f"{_listed(old)} until {_day(now + grace)} at most" if old else f"{name} had no key that counts")


def revoke(settings: Settings, name: str, *, key: str | None) -> None:
    """Revoke a client's keys."""
    revoked = access_editing.revoke(path(settings), name, now=_now(), key=key)
    _tell(settings, "access-revoked", f"of {name}: {_listed(revoked)} no more")
    _say(f"revoked: {_listed(revoked)} no more; a running gateway knows it within two seconds")
    client = access_document.read(path(settings)).client(name)
    if client is not None and client.certificates:
        _say(f"{name} may still come in by certificate: take its 'certificates' out of {path(settings)}")


def show(settings: Settings, *, as_json: bool) -> None:
    """List clients and issuers; there is no secret to show."""
    document, now = access_document.read(path(settings)), _now()
    if as_json:
        typer.echo(json.dumps(_plain(document, now), indent=2))
        return
    table = Table("client", "roles", "models", "comes in by", "limits", title=str(path(settings)), title_justify="left")
    for client in document.clients:
        table.add_row(client.name, "\n".join(client.roles), "\n".join(client.models), _ways(client, now), _limits(client))
    for issuer in document.issuers:
        for group in issuer.groups:
            by = f"token of {issuer.issuer}\nin group {group.group}"
            table.add_row(f"{issuer.name}:…", "\n".join(group.roles), "\n".join(group.models), by, "")
    Console(highlight=False, markup=False).print(table)


def check(file: Path) -> int:
    """Say whether a gateway would take the file, and what in it is worth a look; 0 when it would, 2 otherwise."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        document = access_document.read(file)
    except AccessFileError as error:
        console.print(f"{error}")
        return FAULTY
    for warning in access_editing.warnings(document, now=_now()):
        console.print(f"- {warning}")
    console.print(f"{file}: {len(document.clients)} clients, {len(document.issuers)} issuers; a gateway would take it")
    return 0


def moment(text: str | None) -> datetime | None:
    """Return when something ends: a date (its first moment, UTC), a time, or days from now (``90d``). Raises RefusedError."""
    if text is None:
        return None
    if days := re.fullmatch(r"(\d{1,5})d", text):
        return _now() + timedelta(days=int(days.group(1)))
    try:
        found = datetime.fromisoformat(text) if len(text) > 10 else datetime.combine(date.fromisoformat(text), datetime.min.time())
    except ValueError:
        raise RefusedError(f"an expiry must be days from now (90d), a date (2027-06-30) or a time, got {text!r}") from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if found <= _now():
        raise RefusedError(f"an expiry must be in the future, got {text!r}")
    return found


def _tell(settings: Settings, what: str, said: str) -> None:
    """Write it into the ledger, with the digest of the access file as it is now; a store that does not answer must not keep a key in force."""
    from tasks import refusals

    refusals.record(settings, what, said, model="", digest=sha256_file(path(settings)))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _show(key: NewKey, what: str, *, expires: datetime | None) -> None:
    _say(f"{what}; key {key.id}, {f'until {_day(expires)}' if expires else 'without end'}. It is shown this once and stored nowhere:")
    typer.echo(key.text)  # alone on standard output, for a pipe into a secret store


def _say(sentence: str) -> None:
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(sentence)


def _listed(keys: list[str]) -> str:
    return f"key {keys[0]} counts" if len(keys) == 1 else f"keys {', '.join(keys)} count"


def _ways(client: ClientPart, now: datetime) -> str:
    ways = [f"key {key.id}, {_state(key, now)}" for key in client.keys]
    ways += [f"certificate {certificate.identity}" for certificate in client.certificates]
    return "\n".join(ways) or "nothing"


def _state(key: KeyPart, now: datetime) -> str:
    if key.revoked is not None and key.revoked <= now:
        return f"revoked {_day(key.revoked)}"
    if key.expires is None:
        return "without end"
    return f"{'until' if key.expires > now else 'expired'} {_day(key.expires)}"


def _limits(client: ClientPart) -> str:
    return "\n".join(f"{name.replace('_', ' ')}: {value:g}" for name, value in client.limits.model_dump(exclude_none=True).items())


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _plain(document: AccessDocument, now: datetime) -> list[dict[str, object]]:
    """Return clients as plain values, hashes left out: nobody needs them, and whoever has one can look for it in other files."""
    return [
        {
            "name": client.name,
            "roles": list(client.roles),
            "models": list(client.models),
            "keys": [
                {"id": key.id, "counts": access_editing.counts(key, now), "expires": key.expires and _day(key.expires)}
                for key in client.keys
            ],
            "certificates": [certificate.identity for certificate in client.certificates],
        }
        for client in document.clients
    ]
