"""The commands of ``firstlight ledger``: the record of everything that was done (docs/ledger.md)."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from firstlight import settings
from firstlight.cli import app

if TYPE_CHECKING:
    from rollout.records import LedgerEntry

_FOUND = 2
"""Exit code of ``check`` when something is wrong."""

group = typer.Typer(no_args_is_help=True, help="See who did what and when, and prove that nobody changed it since (docs/ledger.md).")
app.add_typer(group, name="ledger")


@group.command()
def show(
    last: Annotated[int, typer.Option(min=1, help="So many entries, the newest last.")] = 20,
    model: Annotated[str | None, typer.Option(help="Only entries about this model; all of them when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one entry a line as JSON, as it is exported.")] = False,
) -> None:
    """Show the newest entries: when, who, what."""
    from tasks.doors import store

    chosen = settings.current()
    with store(chosen) as records:
        head = records.head()
        first = 1 if head is None or model else max(1, head.sequence - last + 1)
        found = [entry for entry in records.ledger(first) if model in (None, entry.model)][-last:]
    if as_json:
        for entry in found:
            print(json.dumps(entry.to_dict(), sort_keys=True, ensure_ascii=False))  # noqa: T201 - JSON for programs, unwrapped
        return
    Console(highlight=False).print(_table(found) if found else "the ledger has no such entry yet")


def _table(found: "list[LedgerEntry]") -> Table:
    table = Table(caption="⚿ sealed   ↩ from before there was a ledger", caption_justify="left")
    for name in ("entry", "", "when (UTC)"):
        table.add_column(name, no_wrap=True)
    table.add_column("what, and by whom", overflow="fold")
    for entry in found:
        mark = "⚿" if entry.seal else "↩" if entry.adopted else ""
        at = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        about = f" · {escape(entry.model)} in {escape(entry.environment)}" if entry.model and entry.environment else ""
        said = f"[bold]{escape(entry.what)}[/bold] {escape(entry.detail)}\n[dim]{escape(entry.by)}{about}[/dim]"
        table.add_row(str(entry.sequence), mark, at, said)
    return table


@group.command()
def check() -> None:
    """Check the whole ledger: its chain, its seals, and every anchor. Exit code 2 when something is wrong; then an incident is opened."""
    from tasks import anchoring, doors

    chosen = settings.current()
    with doors.store(chosen) as records:
        entries, anchors, found = anchoring.check(chosen, records)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for one in found:
        console.print(f"WRONG: {one}")
    said = f"{len(found)} things are wrong; docs/ledger.md says what to do" if found else "the chain, its seals and its anchors hold"
    console.print(f"{entries} entries, {anchors} anchor{'' if anchors == 1 else 's'} in {chosen.anchors}: {said}")
    raise typer.Exit(_FOUND if found else 0)


@group.command()
def anchor() -> None:
    """Sign the ledger's head with the pipeline's key and keep it where the settings say (ledger_anchors), better on another machine."""
    from tasks import anchoring, doors

    chosen = settings.current()
    with doors.store(chosen) as records:
        done = anchoring.anchor(chosen, records)
    typer.echo(str(done) if done else "the ledger has no entry yet; there is nothing to anchor")


@group.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write entries.jsonl and anchors/ into.")],
    first: Annotated[int, typer.Option(min=1, help="First entry.")] = 1,
    last: Annotated[int | None, typer.Option(min=1, help="Last entry; the newest when left out.")] = None,
) -> None:
    """Write the ledger, or a part of it, as files that can be checked anywhere."""
    from tasks import anchoring, doors

    chosen = settings.current()
    with doors.store(chosen) as records:
        count = anchoring.export(chosen, records, folder, first=first, last=last)
    typer.echo(f"{count} entries are in {folder}; check them anywhere with: firstlight verify {folder}")


@group.command("rotate-key")
def rotate_key(
    by: Annotated[str, typer.Option(help="Your e-mail address; kept in the ledger.")],
    lost: Annotated[bool, typer.Option("--lost", help="The key before is gone. Every check will say so from then on.")] = False,
) -> None:
    """Make a new key and let it seal from the next entry on. The old ones stay in the file, to check what they sealed."""
    from tasks import doors

    chosen = settings.current()
    ring = doors.ledger_keys(chosen)
    with doors.store(chosen) as records:
        new = ring.add()
        sequence = records.rotate_ledger_key(new, by=by, lost=lost)
    typer.echo(f"from entry {sequence + 1} on key {new.id} seals; keep {ring.path} safe, with a copy elsewhere")
