"""The commands of ``firstlight access``: their arguments and help."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from firstlight import settings
from firstlight.cli import app

group = typer.Typer(no_args_is_help=True, help="Say who may ask the gateway what: API keys, roles and models (docs/access.md).")
app.add_typer(group, name="access")

Name = Annotated[str, typer.Argument(help="Name of the client, as logs shall have it: lower case, digits, . _ and -.")]
Expires = Annotated[str | None, typer.Option(help="When the key ends: days from now (90d), a date or a time (UTC). Never when left out.")]


@group.command()
def add(
    name: Name,
    role: Annotated[list[str], typer.Option(help="reader, operator, approver or admin; again for more.")],
    model: Annotated[list[str], typer.Option(help="Registered model, or a pattern such as 'desi-*'; again for more.")],
    expires: Expires = None,
    note: Annotated[str, typer.Option(help="Whose it is, and what for.")] = "",
) -> None:
    """Add a client and print its key, this once. The access file is made when there is none."""
    from firstlight.cli import access
    from serving.access_editing import NewClient

    access.add(settings.current(), NewClient(name=name, roles=role, models=model, expires=access.moment(expires), note=note))


@group.command("list")
def list_clients(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """List clients and issuers with roles, models and keys' ids; there is no secret to show."""
    from firstlight.cli import access

    access.show(settings.current(), as_json=as_json)


@group.command()
def revoke(name: Name, key: Annotated[str | None, typer.Option(help="Id of one key; all of the client's when left out.")] = None) -> None:
    """Let a client's keys count no more, from now on. A running gateway knows it within two seconds."""
    from firstlight.cli import access

    access.revoke(settings.current(), name, key=key)


@group.command()
def rotate(
    name: Name,
    expires: Expires = None,
    grace: Annotated[int, typer.Option(min=0, help="Days for which the client's old keys still count.")] = 7,
) -> None:
    """Give a client another key and print it, this once; its old keys end after some days of grace."""
    from firstlight.cli import access

    access.rotate(settings.current(), name, expires=access.moment(expires), grace=timedelta(days=grace))


@group.command()
def check(file: Annotated[Path | None, typer.Argument(help="The access file; this environment's when left out.")] = None) -> None:
    """Say whether a gateway would take the access file (exit code 0), or what is wrong with it (2)."""
    from firstlight.cli import access

    raise typer.Exit(access.check(file or access.path(settings.current())))
