"""``firstlight drill``: rehearse the way back now, and say what was found."""

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from firstlight.cli.showing import COLOURS, SIGNS
from firstlight.settings import Settings
from firstlight.verdict import Verdict

CODES = {Verdict.PASS: 0, Verdict.FAIL: 2, Verdict.CANNOT_TELL: 3}
"""Worst verdict of the rehearsals -> exit code."""


def drill(settings: Settings, model: str | None, version: str | None, *, as_json: bool) -> int:
    """Rehearse ``version``, or every version one could go back to, and return the exit code."""
    from tasks import rehearsing

    found = rehearsing.rehearse_versions(settings, model or settings.model, version, by="firstlight drill")
    if as_json:
        print(json.dumps(found.to_dict(), indent=2, sort_keys=True))  # noqa: T201 - JSON for programs, unwrapped
        return CODES[found.verdict]
    console = Console(highlight=False)
    if not found.drills:
        console.print(f"cannot tell: {found.missing}", markup=False)
        return CODES[found.verdict]
    table = Table(title=f"the way back of {found.model} in {settings.environment}", title_justify="left")
    for name in ("version", "verdict", "could take the traffic after", "copies answered", "found"):
        table.add_column(name, overflow="fold")
    for one in found.drills:
        colour = COLOURS.get(one.verdict, "white")
        seconds = "–" if one.seconds is None else f"{one.seconds:.1f} s"
        asked = f"{one.answered} of {one.answered + one.failed}"
        table.add_row(one.version, f"[{colour}]{SIGNS.get(one.verdict, ' ')} {one.verdict}[/{colour}]", seconds, asked, escape(one.reason))
    console.print(table)
    return CODES[found.verdict]
