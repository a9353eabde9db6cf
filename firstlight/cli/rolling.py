"""The commands of ``firstlight rollout``: their arguments and help."""

from pathlib import Path
from typing import Annotated

import typer

from firstlight import settings
from firstlight.cli import app

group = typer.Typer(no_args_is_help=True, help="Canaries in live traffic: how they are judged, and what to expect (docs/rollouts.md).")
app.add_typer(group, name="rollout")

Model = Annotated[str | None, typer.Option(help="Registered model; the settings' model when left out.")]
By = Annotated[str, typer.Option(help="Your e-mail address; kept in the record.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the record.")]


@group.command()
def simulate(
    policy: Annotated[Path | None, typer.Option(help="Policy file; this environment's when left out.")] = None,
    healthy: Annotated[float, typer.Option(help="Share of failed requests, 0 to 1, of stable and of a healthy canary.")] = 0.005,
    bad: Annotated[float, typer.Option(help="Share of failed requests of a bad canary.")] = 0.02,
    per_window: Annotated[
        list[int] | None, typer.Option(help="Requests to the service in a window; again for more. 5, 20, 100 and 1000 when left out.")
    ] = None,
    window_minutes: Annotated[float, typer.Option(help="Length of a window; deadlines of the policy are in real time.")] = 60.0,
    runs: Annotated[int, typer.Option(help="Simulated rollouts of each kind.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the dice.")] = 20261123,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say how often a policy would decide rightly at your traffic, and after how many requests, beside the fixed-threshold rule."""
    from firstlight.cli import simulating

    simulating.simulate(
        policy or settings.current().policy_path,
        simulating.case(healthy=healthy, bad=bad, per_window=per_window or (), window_minutes=window_minutes, runs=runs, seed=seed),
        as_json=as_json,
    )


@group.command()
def watch(
    model: Model = None,
    svg: Annotated[Path | None, typer.Option(help="Write what would be shown to this file, as a picture, and end.")] = None,
) -> None:
    """Show a rollout live: traffic, evidence so far against its boundaries, how long it will take, lease and last decisions.

    Ends with the rollout; without a terminal it prints once.
    """
    from firstlight.cli import watching

    watching.watch(settings.current(), model, svg=svg)


@group.command()
def status(
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say once where the rollout that runs, or the last one, stands."""
    from firstlight.cli import watching

    watching.status(settings.current(), model, as_json=as_json)


@group.command()
def pause(by: By, reason: Reason, model: Model = None) -> None:
    """Take no further step: the canary keeps its weight, is judged on, and still goes back by itself when it is shown to be worse."""
    from firstlight.cli import watching

    watching.order(settings.current(), model, "pause", by=by, reason=reason)


@group.command()
def resume(by: By, reason: Reason, model: Model = None) -> None:
    """Let a paused rollout go on, with what was left of its deadline."""
    from firstlight.cli import watching

    watching.order(settings.current(), model, "resume", by=by, reason=reason)


@group.command()
def abort(by: By, reason: Reason, model: Model = None) -> None:
    """End a rollout: traffic first, then the canary. For a version that is champion already see ``firstlight rollback``."""
    from firstlight.cli import watching

    watching.order(settings.current(), model, "abort", by=by, reason=reason)


@group.command()
def approve(by: By, reason: Reason, model: Model = None) -> None:
    """Give the word that the policy asks for before a promotion; refused while the rollout does not ask."""
    from firstlight.cli import watching

    watching.order(settings.current(), model, "approve", by=by, reason=reason)
