"""``firstlight waive``, ``firstlight waivers`` and ``firstlight break-glass``: exceptions from the rules, signed, with an end."""

from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from firstlight import settings
from firstlight.cli import app
from firstlight.errors import RefusedError

Key = Annotated[Path, typer.Option(help="Your SSH private key, such as ~/.ssh/id_ed25519.")]
Signer = Annotated[str, typer.Option("--as", help="Your e-mail address, as the approvers file has it.")]
Role = Annotated[str | None, typer.Option(help="Role you sign in; needed when you hold several.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before signing.")]
Model = Annotated[str | None, typer.Option(help="Registered model; the settings' model when left out.")]


@app.command("break-glass")
def break_glass(
    release_id: Annotated[str, typer.Argument(help="Release id, or the folder of its dossier.")],
    key: Key,
    signer: Signer,
    reason: Annotated[str, typer.Option(help="Why it cannot wait for the others; it is part of what you sign.")],
    role: Role = None,
    yes: Yes = False,
) -> None:
    """Let a waiting release go on before its quorum has signed. An incident stays open until the quorum has."""
    from firstlight.cli import signing

    signing.break_glass(settings.current(), release_id, key=key, signer=signer, reason=reason, role=role, ask=not yes)


@app.command()
def waive(
    scenario: Annotated[str, typer.Argument(help="Risk scenario, such as R05.")],
    key: Key,
    signer: Signer,
    reason: Annotated[str, typer.Option(help="Why the risk is accepted; it is part of what you sign.")],
    until: Annotated[str, typer.Option(help="Last day on which the waiver counts, YYYY-MM-DD.")],
    control: Annotated[list[str], typer.Option(help="What is done instead; give it again for more.")],
    role: Role = None,
    model: Model = None,
    yes: Yes = False,
) -> None:
    """Accept a risk above its limit, or evidence that is not there, for one scenario of one model until a day."""
    from firstlight.cli import waiving

    waiving.waive(
        settings.current(),
        scenario,
        model,
        key=key,
        signer=signer,
        reason=reason,
        controls=control,
        until=_day(until),
        role=role,
        ask=not yes,
    )


@app.command()
def waivers(model: Model = None) -> None:
    """List the waivers of a model: those in force, those that ended, and those that do not count, with the reason."""
    from firstlight.cli import waiving

    waiving.show(settings.current(), model)


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise RefusedError(f"a waiver must end on a day, YYYY-MM-DD such as 2026-12-31, found {text[:60]!r}") from None
