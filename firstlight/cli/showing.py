"""What a person sees while a run works, and the table it ends with. Colours only on a terminal; plain lines in a log."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from firstlight.settings import Settings
from tasks import journal

COLOURS = {"pass": "green", "fail": "red", "cannot tell": "yellow"}
SIGNS = {"pass": "✓", "fail": "✗", "cannot tell": "?"}
_EVERY_SECONDS = 10.0


class Watcher:
    """Prints the journal's new lines as they come; ``about`` limits them to one release or run when given."""

    def __init__(self, settings: Settings, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.stages: dict[str, dict[str, Any]] = {}
        """Last finished line of every stage, in order."""
        self._reader = journal.Reader.from_now(settings)
        self._shown: dict[str, float] = {}

    def tick(self) -> None:
        """Print what is new."""
        for line in self._reader.new():
            self._show(line)

    def _show(self, line: Mapping[str, Any]) -> None:
        stage, event = str(line["stage"]), line["event"]
        if event == "finished":
            self.stages[stage] = dict(line)
            self.console.print(_finished(line))
        elif event == "started":
            self.console.print(f"  [dim]{escape(stage):<12} …[/dim]")
        elif event == "progress" and self._is_due(stage):
            self.console.print(f"  [dim]{escape(stage):<12} {line.get('fraction', 0):>4.0%}  {escape(str(line.get('phase', '')))}[/dim]")
        elif event in ("waiting", "failed"):
            colour = "yellow" if event == "waiting" else "red"
            self.console.print(f"[{colour}]  {escape(stage):<12} {event}: {escape(str(line.get('summary', '')))}[/{colour}]")

    def _is_due(self, stage: str) -> bool:
        now = time.monotonic()
        if now - self._shown.get(stage, 0.0) < _EVERY_SECONDS:
            return False
        self._shown[stage] = now
        return True


def _finished(line: Mapping[str, Any]) -> str:
    verdict = str(line.get("verdict", "pass"))
    colour = COLOURS.get(verdict, "white")
    return (
        f"[{colour}]{SIGNS.get(verdict, ' ')} {escape(str(line['stage'])):<12} {verdict:<11}[/{colour}] "
        f"{float(line.get('seconds', 0)):6.1f} s  {escape(str(line.get('summary', '')))}"
    )


def stage_table(stages: Iterable[Mapping[str, Any]], *, title: str) -> Table:
    """Return the table a chain ends with: stage, verdict, key figure, seconds."""
    table = Table(title=title, title_justify="left", expand=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("key figure", overflow="fold")
    table.add_column("seconds", justify="right", no_wrap=True)
    for line in stages:
        verdict = str(line.get("verdict", ""))
        colour = COLOURS.get(verdict, "white")
        table.add_row(
            escape(str(line["stage"])),
            f"[{colour}]{verdict}[/{colour}]",
            escape(str(line.get("summary", ""))),
            f"{float(line.get('seconds', 0)):.1f}",
        )
    return table
