"""``firstlight keys``: the keys that sign models, for people."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from firstlight.errors import RefusedError
from firstlight.settings import Settings
from governance.model_keys import shown
from tasks import model_key_changes, vouching

REFUSED = 2
"""Exit code of ``sign`` when a version was not signed."""


def show(settings: Settings, model: str | None, *, as_json: bool) -> None:
    """List keys and versions."""
    found = model_key_changes.document(settings, model or settings.model)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(_keys_table(found))
    for version in found["versions"]:
        by = f"signed with {shown(version['key'])}" if version["key"] else "not signed"
        console.print(f"version {version['version']}{', live' if version['live'] else ''}: {version['problem'] or by}", markup=False)


def _keys_table(found: dict[str, Any]) -> Table:
    table = Table(title=f"keys that sign models ({found['trusted']})", title_justify="left")
    for name in ("key", "state", "from", "until", "signs here", "versions"):
        table.add_column(name)
    for key in found["keys"]:
        state = f"revoked {key['revoked']}: {key['reason']}" if key["state"] == "revoked" else key["state"]
        signs = f"yes ({found['source']})" if key["fingerprint"] == found["signs_now"] else ""
        table.add_row(
            shown(key["fingerprint"]), state, key["valid_from"], key["valid_until"] or "–", signs, ", ".join(key["versions"]) or "–"
        )
    return table


def trust(settings: Settings, public: Path | None) -> None:
    """Add a key to those that are believed."""
    key = model_key_changes.trust(settings, public)
    _say(f"trusted: {shown(key.fingerprint)}, from {key.valid_from}; {settings.model_keys_path} goes to every machine that serves")


def rotate(settings: Settings, *, overlap: int) -> int:
    """Make a new key, sign with it what is known of the settings' model; return the exit code."""
    old, new = model_key_changes.rotate(settings, overlap=timedelta(days=overlap))
    until = vouching.today() + timedelta(days=overlap)
    _say(f"{shown(new)} signs from now on; what {shown(old)} signed is loaded until {until}, its private half is gone")
    return sign(settings, None, ())


def revoke(settings: Settings, beginning: str, *, reason: str, ask: bool) -> None:
    """Revoke a key, having said what then is loaded no more."""
    if not reason.strip():
        raise RefusedError("a revocation must have a reason, found none: say why with --reason")
    found = vouching.trusted(settings).find(beginning)
    signed = [version for version in model_key_changes.versions(settings, settings.model) if version.fingerprint == found.fingerprint]
    for version in signed:
        _say(f"version {version.version}{', which is live,' if version.is_live else ''} was signed with it and will be loaded no more")
    if ask and any(version.is_live for version in signed) and not typer.confirm("Revoke it all the same?"):
        raise RefusedError("nothing was revoked: sign the live version with another key first (firstlight keys rotate), or roll back")
    key = model_key_changes.revoke(settings, found.fingerprint, reason=reason)
    _say(f"revoked: {shown(key.fingerprint)}; a server that runs goes on until it is started again")
    if signed:
        _say("when you have made sure that the versions are what was released: firstlight keys sign " + " ".join(v.version for v in signed))


def sign(settings: Settings, model: str | None, versions: tuple[str, ...]) -> int:
    """Sign versions again; return the exit code."""
    done = model_key_changes.sign(settings, model or settings.model, versions)
    for version in done:
        if version.fingerprint is None:
            _say(f"version {version.version} is NOT signed: {version.problem}")
        else:
            _say(f"version {version.version} is signed with {shown(version.fingerprint)}{version.problem and '; '}{version.problem}")
    if not done:
        _say("no version of the model is known here, so there was nothing to sign")
    return REFUSED if any(version.fingerprint is None for version in done) else 0


def _say(words: str) -> None:
    Console(highlight=False, soft_wrap=True, markup=False).print(words)
