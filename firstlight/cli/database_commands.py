"""The commands of ``firstlight db``: the database behind the rollouts."""

import typer

from firstlight import settings
from firstlight.cli import app

group = typer.Typer(no_args_is_help=True, help="Look after the store of desired state, releases and rollouts.")
app.add_typer(group, name="db")


@group.command()
def upgrade() -> None:
    """Make the store's tables, or bring those of an older firstlight up to this one, in one transaction.

    Every command that opens the store does the same; by hand it can be done before others do, and with a backup at hand. An older
    firstlight refuses the store from then on.
    """
    from rollout.database import bring_up

    chosen = settings.current()
    chosen.folder()
    before, after = bring_up(chosen.store)
    said = "was made, with" if before == 0 else "is of" if before == after else f"was brought from schema {before} to"
    typer.echo(f"the store of {chosen.environment} {said} schema {after}")
