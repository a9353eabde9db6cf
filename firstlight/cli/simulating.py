"""``firstlight rollout simulate``: operating characteristics of a policy, as a table or as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from rollout import findings, simulation
from rollout.simulation import Case
from tasks import policy as policies


def case(*, healthy: float, bad: float, per_window: Sequence[int], window_minutes: float, runs: int, seed: int) -> Case:
    """Return what to simulate; no ``per_window`` means the four of the documentation."""
    asked = Case(healthy=healthy, bad=bad, window_seconds=60 * window_minutes, runs=runs, seed=seed)
    return (
        Case(**{**{name: getattr(asked, name) for name in Case.__dataclass_fields__}, "per_window": tuple(per_window)})
        if per_window
        else asked
    )


def simulate(file: Path, asked: Case, *, as_json: bool) -> None:
    """Simulate and print. Raises RefusedError for a policy or a case that means nothing."""
    rules = policies.read(file).rollout
    found = simulation.table(rules, asked)
    if as_json:
        typer.echo(json.dumps({"policy": str(file), **found}))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{asked.runs} rollouts of each kind under {file}; a window is {asked.window_seconds / 60:g} minutes.")
    console.print(
        f"Failed requests: stable and a healthy canary {100 * asked.healthy:g} %, a bad canary {100 * asked.bad:g} %, margin {100 * rules.error_margin:g} points."
    )
    console.print(_characteristics(found["traffic"], asked.window_seconds))
    console.print(_pairs(found["paired_answers"]))


def _characteristics(rows: Sequence[Mapping[str, Any]], window_seconds: float) -> Table:
    shown = Table(title="Errors", title_justify="left")
    for head in (
        "requests\na window",
        "rule",
        "healthy:\nturned back",
        "undecided",
        "promoted\nafter",
        "bad:\npromoted",
        "found\nafter",
    ):
        shown.add_column(head, justify="left" if head == "rule" else "right")
    for row in rows:
        for rule, name in (("ours", "ours"), ("fixed", "fixed")):
            healthy, bad = row[rule]["healthy"], row[rule]["bad"]
            each = window_seconds / row["per_window"]
            shown.add_row(
                str(row["per_window"]) if rule == "ours" else "",
                name,
                _share(healthy["turned_back"], healthy["runs"]),
                _share(healthy["undecided"], healthy["runs"]) if rule == "ours" else "–",
                _when(healthy["requests_median"], each),
                _share(bad["promoted"], bad["runs"]),
                "–" if bad["requests_to_detect"] is None else _when(bad["requests_to_detect"], each),
            )
    shown.caption = (
        "ours: this policy; fixed: 99 % good per window, ten good windows promote, five others turn back. After: the median, in requests "
        "and in time. Undecided at a deadline is turned back too."
    )
    shown.caption_justify = "left"
    return shown


def _pairs(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = Table(title="An answer moved by a fifth of a standard deviation, in 400 pairs", title_justify="left")
    for head in ("correlation of both answers", "found", "median pairs"):
        shown.add_column(head, justify="right")
    for row in rows:
        median = "–" if row["pairs_median"] is None else f"{row['pairs_median']:.0f}"
        shown.add_row(f"{row['correlation']:g}", f"{100 * row['found_share']:.0f} %", median)
    return shown


def _when(requests: float, seconds_each: float) -> str:
    return f"{requests:.0f}\n{findings.duration(requests * seconds_each)}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %"
