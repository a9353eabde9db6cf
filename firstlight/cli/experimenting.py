"""``firstlight experiment``: two versions side by side until a date, for people to compare (docs/experiments.md)."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from firstlight import settings as settings_module
from firstlight.cli import app
from firstlight.settings import Settings

if TYPE_CHECKING:
    from rollout.comparison import Comparison, Known
    from rollout.records import Experiment
    from tasks.experiments import Look, Report

group = typer.Typer(
    no_args_is_help=True, help="Compare two versions on live requests until a date: callers stay on their side (docs/experiments.md)."
)
app.add_typer(group, name="experiment")

By = Annotated[str, typer.Option(help="Your e-mail address; kept in the record.")]
Model = Annotated[str | None, typer.Option(help="Registered model; the settings' one when left out.")]


@group.command()
def start(
    a: Annotated[str, typer.Option("--a", help="The champion, which answers the rest.")],
    b: Annotated[str, typer.Option("--b", help="The other version: one that was champion, or passed its gates.")],
    until: Annotated[str, typer.Option(help="The end: a date (2026-12-01), a time, or days from now (14d). Nobody has to be there.")],
    by: By,
    share: Annotated[int, typer.Option(min=1, max=99, help="Percent of requests that --b answers.")] = 50,
    sticky: Annotated[str | None, typer.Option(help="What keeps a caller on one side: client, or header:x-user-id.")] = "client",
    name: Annotated[str | None, typer.Option(help="Name of the experiment; both versions and the day when left out.")] = None,
    model: Model = None,
) -> None:
    """Begin an experiment. Refused while a rollout or another experiment has the traffic."""
    from firstlight.cli.access import moment
    from tasks import experiments

    here, end = settings_module.current(), moment(until)
    assert end is not None
    named = name or f"{a}-{b}-{datetime.now(UTC):%Y%m%d}".lower()
    plan = experiments.Plan(name=named, a=a, b=b, share=share, sticky=sticky, until=end.timestamp(), by=by)
    begun = experiments.start(here, model or here.model, plan, look=_look(here, model))
    _say(
        f"experiment {begun.name}: version {begun.b} answers {begun.share} % beside {begun.a}, until {_when(begun.until)}; "
        "`firstlight experiment report` says what is known, at any time"
    )


@group.command()
def report(
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Confidence of the intervals, at every look.")] = 0.95,
    quantile: Annotated[float, typer.Option(min=0.5, max=0.999, help="Which quantile of the answer times is compared.")] = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    model: Model = None,
) -> None:
    """Say what is known of the experiment begun last. Looking often costs nothing: the intervals hold at every look."""
    from tasks import experiments

    here = settings_module.current()
    found = experiments.report(here, model or here.model, look=_look(here, model), confidence=confidence, quantile=quantile)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, sort_keys=True))
        return
    Console(highlight=False).print(_table(found))
    for remark in found.remarks:
        _say(f"note: {remark}")


@group.command()
def stop(by: By, reason: Annotated[str, typer.Option(help="Why; kept in the record.")] = "a person ended it", model: Model = None) -> None:
    """End the running experiment before its date: the champion gets all the traffic."""
    from tasks import experiments

    here = settings_module.current()
    ended = experiments.stop(here, model or here.model, by=by, reason=reason, look=_look(here, model))
    _say(f"experiment {ended.name} ended: version {ended.a} answers everything; its report stays (`firstlight experiment report`)")


def _look(here: Settings, model: str | None) -> "Look":
    def look() -> Mapping[str, Any]:
        from serving import control

        with control.find(here.state, environment=here.environment, model=model or here.model) as gateway:
            return gateway.evidence()

    return look


def _table(found: "Report") -> Table:
    one = found.experiment
    table = Table(title=f"{one.name}: {_state(one, is_running=found.is_running)}", title_justify="left")
    for column in ("", f"version {one.a}", f"version {one.b}", "difference", "shown"):
        table.add_column(column)
    table.add_row("requests", str(found.requests[0]), str(found.requests[1]), "", f"{one.share} % planned for version {one.b}")
    for comparison in found.comparisons:
        table.add_row(*_row(comparison, found.quantile))
    table.caption = f"In brackets: {found.confidence:.0%} at every look; the differences all together."
    return table


def _row(comparison: "Comparison", quantile: float) -> tuple[str, ...]:
    if comparison.name == "latency":
        texts = (_text(comparison.a, 1000, " ms"), _text(comparison.b, 1000, " ms"), _text(comparison.difference, 1, "", "× "))
        return (f"p{quantile * 100:g} of answer times", *texts, comparison.shown)
    texts = (_text(comparison.a, 100, " %"), _text(comparison.b, 100, " %"), _text(comparison.difference, 100, " points"))
    return (comparison.name, *texts, comparison.shown)


def _text(known: "Known", scale: float, unit: str, sign: str = "") -> str:
    if known.value is None:
        return "–"
    low, high = ("…" if limit is None else f"{limit * scale:.3g}" for limit in (known.low, known.high))
    return f"{sign}{known.value * scale:.3g}{unit} [{low}, {high}]"


def _state(one: "Experiment", *, is_running: bool) -> str:
    if is_running:
        return f"runs until {_when(one.until)}"
    return f"ended {_when(one.ended_at if one.ended_at is not None else one.until)}, {one.ended_because or 'its end had come'}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _say(sentence: str) -> None:
    Console(highlight=False, soft_wrap=True).print(sentence, markup=False)
