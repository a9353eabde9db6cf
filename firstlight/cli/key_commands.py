"""The commands of ``firstlight keys``: their arguments and help."""

from pathlib import Path
from typing import Annotated

import typer

from firstlight import settings
from firstlight.cli import app

group = typer.Typer(no_args_is_help=True, help="The keys that sign models: which count, since when, and what they signed (docs/keys.md).")
app.add_typer(group, name="keys")

Model = Annotated[str | None, typer.Option(help="Registered model; the settings' model when left out.")]


@group.command()
def show(model: Model = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """List the keys whose signatures are believed, and the versions that were signed with them; there is no secret to show."""
    from firstlight.cli import keys

    keys.show(settings.current(), model, as_json=as_json)


@group.command()
def trust(
    public: Annotated[Path | None, typer.Option(help="PEM file of the public half; that of the key that signs here when left out.")] = None,
) -> None:
    """Believe what another key signs, from today."""
    from firstlight.cli import keys

    keys.trust(settings.current(), public)


@group.command()
def rotate(overlap: Annotated[int, typer.Option(min=0, help="Days for which what the old key signed is still loaded.")] = 90) -> None:
    """Make a new signing key in place of the old one, and sign with it what may be loaded here."""
    from firstlight.cli import keys

    raise typer.Exit(keys.rotate(settings.current(), overlap=overlap))


@group.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The beginning of the key's fingerprint, 8 digits or more.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the file and in the record.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, even when live versions were signed with it.")] = False,
) -> None:
    """Load nothing any more that a key ever signed. When it is the key that signs here, a new one is made first."""
    from firstlight.cli import keys

    keys.revoke(settings.current(), key, reason=reason, ask=not yes)


@group.command()
def sign(
    version: Annotated[list[str] | None, typer.Argument(help="Versions; every champion there was and what is live when left out.")] = None,
    model: Model = None,
) -> None:
    """Sign registered versions with the present key, once their bytes are what the pipeline attested. Exit code 2 when one was refused."""
    from firstlight.cli import keys

    raise typer.Exit(keys.sign(settings.current(), model, tuple(version or ())))
