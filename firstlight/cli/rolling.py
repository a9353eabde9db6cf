"""The commands of ``firstlight rollout``: their arguments and help."""

from pathlib import Path
from typing import Annotated

import typer

from firstlight import settings
from firstlight.cli import app

group = typer.Typer(no_args_is_help=True, help="Canaries in live traffic: how they are judged, and what to expect (docs/rollouts.md).")
app.add_typer(group, name="rollout")


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
