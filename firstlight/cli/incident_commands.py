"""The commands of ``firstlight incidents``: their arguments and help."""

from pathlib import Path
from typing import Annotated

import typer

from firstlight import settings
from firstlight.cli import app

group = typer.Typer(
    no_args_is_help=True, help="See what needs a person, say that you look at it, and say that it is done (docs/incidents.md)."
)
app.add_typer(group, name="incidents")

Incident = Annotated[str, typer.Argument(help="Its id, such as INC-2026-001.")]
Model = Annotated[str | None, typer.Option(help="Registered model; all models of the environment when left out.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@group.command("list")
def list_incidents(
    model: Model = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are resolved.")] = False,
    as_json: Json = False,
) -> None:
    """List what is open in this environment, oldest first."""
    from firstlight.cli import incidents

    incidents.show_all(settings.current(), model, everything=everything, as_json=as_json)


@group.command()
def show(incident: Incident, as_json: Json = False) -> None:
    """Say everything that is known of one incident, and what can be done about it."""
    from firstlight.cli import incidents

    incidents.show_one(settings.current(), incident, as_json=as_json)


@group.command()
def check(
    model: Annotated[str | None, typer.Option(help="Registered model; the settings' model when left out.")] = None, as_json: Json = False
) -> None:
    """Look now, as the daily flow does: open what is due, resolve what is gone. Exit code 2 when something is open."""
    from firstlight.cli import incidents

    raise typer.Exit(incidents.check(settings.current(), model, as_json=as_json))


@group.command()
def ack(incident: Incident, by: Annotated[str, typer.Option(help="Your e-mail address; kept in the ledger.")]) -> None:
    """Say that you look at it. It stays open."""
    from firstlight.cli import incidents

    incidents.acknowledge(settings.current(), incident, by=by)


@group.command()
def resolve(
    incident: Incident,
    reason: Annotated[str, typer.Option(help="What was done, or why the release may go on; in your words.")],
    signer: Annotated[str, typer.Option("--as", help="Your e-mail address, as the approvers file has it.")],
    key: Annotated[
        Path | None, typer.Option(help="Your SSH private key; needed where the incident is about what people answer for.")
    ] = None,
    role: Annotated[str | None, typer.Option(help="Role you answer in; needed when you hold several.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before signing.")] = False,
) -> None:
    """Say that it is done. Where a release must be answered for again, that is a signature like a sign-off.

    What only ends with its cause (a waiver that ran out, a break-glass not ratified, a model nobody signed) cannot be talked away: it
    resolves itself when the cause is gone.
    """
    from firstlight.cli import incidents

    incidents.resolve(settings.current(), incident, reason=reason, signer=signer, key=key, role=role, ask=not yes)
