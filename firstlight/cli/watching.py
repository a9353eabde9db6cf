"""``firstlight rollout watch`` and ``status``: where a rollout stands, as a live view, once, as JSON or as a picture."""

import io
import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from firstlight.cli.showing import COLOURS, SIGNS
from firstlight.digest import write_atomic
from firstlight.errors import RefusedError, TransientError
from firstlight.settings import Settings

if TYPE_CHECKING:
    from rollout.store import Store

_EVERY_SECONDS = 1.0
_FRESH_SECONDS = 5.0
_HALF = 14
"""Cells of either side of an evidence bar."""
_WEIGHT_CELLS = 60
_DECISIONS = 6
_TRACKS = {"stable": "blue", "baseline": "cyan", "canary": "yellow"}


def standing(records: "Store", environment: str, model: str, *, now: float) -> dict[str, Any]:
    """Return where the rollout that runs, or the last one, stands, as plain JSON values. Raises RefusedError where there has been none."""
    record = records.rollout(environment, model)
    if record is None:
        raise RefusedError(f"there must have been a rollout of {model} in {environment}, there was none: `firstlight release` starts one")
    desired, seen = records.desired(environment, model), records.observed(environment, model)
    status, saved = record.status, record.evidence or {}
    is_fresh = seen is not None and now - seen.heartbeat < _FRESH_SECONDS
    assessed, evidence = saved.get("assessment", {}), saved.get("evidence", {})
    lease = desired.lease_until if desired else None
    return {
        "environment": environment,
        "model": model,
        "release": record.release_id,
        "canary": record.spec["canary"],
        "stable": record.spec["stable"],
        "steps": list(record.spec["policy"]["steps"]) if record.spec["stable"] is not None else [100],
        "phase": status.phase.value if status else "claimed",
        "is_over": bool(status and status.phase.is_final),
        "step": status.step if status else 0,
        "reasons": list(status.reasons) if status else [],
        "traffic": _traffic(desired.traffic.to_dict() if desired else {}, desired.traffic.baseline_weight if desired else 0),
        "as_desired": bool(is_fresh and seen and desired and seen.traffic == desired.traffic),
        "supervised": is_fresh,
        "problems": list(seen.problems) if seen and is_fresh else [],
        "lease_seconds_left": None if lease is None else max(0.0, lease - now),
        "holder": record.holder,
        "token": record.token,
        "paused": record.paused,
        "abort": record.abort,
        "approved_by": record.approved_by,
        "said": record.said,
        "saved_seconds_ago": max(0.0, now - record.updated_at),
        "counts": _counts(evidence),
        "verdict": assessed.get("verdict", "cannot tell"),
        "checks": assessed.get("checks", []),
        "outlook": saved.get("outlook", ""),
        "decisions": [
            {"at": one.at, "what": one.what, "by": one.by, "detail": one.detail}
            for one in records.decisions(environment, model)[-_DECISIONS:]
        ],
    }


def _traffic(traffic: Mapping[str, Any], baseline: int) -> dict[str, dict[str, Any]]:
    canary = traffic.get("canary_weight", 0)
    found = {
        "stable": {"version": traffic.get("stable"), "percent": 100 - canary - baseline if traffic.get("stable") else 0},
        "baseline": {"version": traffic.get("stable"), "percent": baseline},
        "canary": {"version": traffic.get("canary"), "percent": canary},
    }
    return {track: one for track, one in found.items() if one["version"] is not None and (track != "baseline" or traffic.get("baseline"))}


def _counts(evidence: Mapping[str, Any]) -> dict[str, int]:
    canary, control, pairs = evidence.get("canary") or {}, evidence.get("control") or {}, evidence.get("pairs") or {}
    return {
        "canary": canary.get("requests", 0),
        "canary_failed": canary.get("errors", 0),
        "control": control.get("requests", 0),
        "pairs": pairs.get("total", 0),
    }


def view(found: Mapping[str, Any]) -> RenderableType:
    """Return what a person sees."""
    counts = found["counts"]
    seen = f"{counts['canary']} requests, {counts['canary_failed']} failed; control {counts['control']}; {counts['pairs']} pairs of answers"
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("rollout", f"version {found['canary']} against {_against(found)}, release {found['release']}")
    facts.add_row("phase", _phase(found))
    facts.add_row("traffic", _weights(found["traffic"]))
    facts.add_row("seen", seen)
    facts.add_row("lease", _lease(found))
    for reason in found["reasons"] if found["is_over"] or found["phase"] == "paused" else ():
        facts.add_row("because", Text(reason))
    for problem in found["problems"]:
        facts.add_row("problem", Text(problem, style="yellow"))
    outlook = Text(found["outlook"] or "nothing has been measured yet", style="bold")
    return Group(facts, Text(), _measurements(found["checks"]), Text(), outlook, Text(), _decisions(found["decisions"]))


def _against(found: Mapping[str, Any]) -> str:
    return f"version {found['stable']}" if found["stable"] is not None else "absolute limits, being the first"


def _phase(found: Mapping[str, Any]) -> Text:
    steps = " → ".join(f"[{weight} %]" if place == found["step"] else f"{weight} %" for place, weight in enumerate(found["steps"]))
    colour = {"succeeded": "green", "failed": "red"}.get(found["phase"], "yellow" if found["is_over"] else "bold")
    ordered = [word for word, is_wanted in (("pause ordered", found["paused"]), ("abort ordered", found["abort"])) if is_wanted]
    approved = [f"approved by {found['approved_by']}"] if found["approved_by"] else []
    return Text.assemble((found["phase"], colour), "   ", (steps, "dim"), "   ", (", ".join([*ordered, *approved]), "yellow"))


def _weights(traffic: Mapping[str, Mapping[str, Any]]) -> Text:
    """One bar of all requests: stable, baseline, canary."""
    bar, words = Text(), Text()
    for track, one in traffic.items():
        bar.append("█" * round(_WEIGHT_CELLS * one["percent"] / 100), style=_TRACKS[track])
        words.append(f"  {track} {one['version']}: {one['percent']} %", style=_TRACKS[track])
    return Text.assemble(bar, words) if traffic else Text("nobody answers")


def _lease(found: Mapping[str, Any]) -> str:
    driven = f"driven by {found['holder']} (token {found['token']}), last heard of {found['saved_seconds_ago']:.0f} s ago"
    if found["is_over"]:
        return "over: traffic stays as it is"
    if found["lease_seconds_left"] is None:
        return driven
    return f"{found['lease_seconds_left']:.0f} s left before traffic goes back by itself; {driven}"


def _measurements(checks: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="evidence so far against its boundaries", title_justify="left", title_style="dim", pad_edge=False, box=None)
    table.add_column("measurement", no_wrap=True)
    table.add_column("◀ shown worse      │     no worse ▶", no_wrap=True)
    table.add_column("needed", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("what was found", overflow="fold", style="dim")
    for check in checks:
        verdict = str(check["verdict"])
        colour = COLOURS.get(verdict, "white")
        said = Text(f"{SIGNS.get(verdict, ' ')} {_said(check)}", style=colour)
        table.add_row(str(check["name"]), bar(check), _needed(check), said, Text(check["reason"]))
    return table


def _said(check: Mapping[str, Any]) -> str:
    """Return the verdict; a pass whose bar is not full is one for the next step, which asks for less than the promotion."""
    needed, found = check.get("needed_pass"), check.get("log_evidence_pass")
    is_partial = check["verdict"] == "pass" and needed is not None and (found is None or found < needed)
    return "next step" if is_partial else str(check["verdict"])


def bar(check: Mapping[str, Any]) -> Text:
    """Draw evidence as a share of what is needed: to the right for *no worse*, to the left for *worse*; full is shown."""
    right = _share(check.get("log_evidence_pass"), check.get("needed_pass"))
    left = _share(check.get("log_evidence_fail"), check.get("needed_fail"))
    if check.get("needed_pass") is None:
        right = _share(check.get("requests"), check.get("requests_needed"))
        right, left = (0, _HALF) if check["verdict"] == "fail" else (right, 0)
    if check.get("verdict") == "pass":
        left = min(left, _HALF - 1)  # moved, and within the margin: that is no harm shown
    return Text.assemble(
        ("·" * (_HALF - left), "dim"),
        ("█" * left, "dim red" if check.get("verdict") == "pass" else "red"),
        ("│", "dim"),
        ("█" * right, "green"),
        ("·" * (_HALF - right), "dim"),
    )


def _share(found: Any, needed: Any) -> int:
    if not isinstance(found, int | float) or not isinstance(needed, int | float) or needed <= 0 or found != found:
        return 0
    cells = int(_HALF * min(1.0, max(0.0, found / needed)))
    return min(cells, _HALF - 1) if found < needed else _HALF


def _needed(check: Mapping[str, Any]) -> str:
    """Return how many there are, and of how many as long as those are to come."""
    needed = check.get("requests_needed")
    if check["verdict"] == "pass":
        return str(check.get("requests", 0))
    return f"{check.get('requests', 0)} of {'?' if needed is None else f'about {needed}'}"


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="last decisions", title_justify="left", title_style="dim", show_header=False, pad_edge=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in decisions:
        table.add_row(datetime.fromtimestamp(one["at"], UTC).strftime("%H:%M:%S"), one["what"], Text(one["detail"]))
    return table


def status(settings: Settings, model: str | None, *, as_json: bool) -> None:
    """Print where the rollout stands, once."""
    found = _read(settings, model)
    if as_json:
        print(json.dumps(found, indent=2, sort_keys=True))  # noqa: T201 - JSON for programs, unwrapped
        return
    Console(highlight=False).print(view(found))


def watch(settings: Settings, model: str | None, *, svg: Path | None) -> None:
    """Show where the rollout stands until it has ended or Ctrl-C; once where there is no terminal. With ``svg`` a picture is written, once."""
    console = Console(highlight=False)
    if svg is not None:
        write_atomic(svg, picture(_read(settings, model)).encode())
        console.print(f"wrote {svg}", markup=False)
        return
    if not console.is_terminal:
        console.print(view(_read(settings, model)))
        return
    found = _read(settings, model)
    with Live(view(found), console=console, auto_refresh=False) as live:
        while not found["is_over"]:
            time.sleep(_EVERY_SECONDS)
            try:
                found = _read(settings, model)
            except TransientError as error:  # the store is away: what was known stays on the screen
                live.update(Group(view(found), Text(str(error), style="yellow")), refresh=True)
                continue
            live.update(view(found), refresh=True)


def picture(found: Mapping[str, Any], *, width: int = 150) -> str:
    """Return the view as SVG that needs nothing from elsewhere: whoever looks at it has a monospaced font."""
    console = Console(file=io.StringIO(), record=True, width=width, highlight=False)
    console.print(view(found))
    drawn = console.export_svg(title=f"firstlight rollout watch: {found['model']} in {found['environment']}", clear=True)
    return re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)


def order(settings: Settings, model: str | None, what: str, *, by: str, reason: str) -> None:
    """Write down what a person wants of the rollout that runs, and say who obeys. Raises NoRollout."""
    from tasks.doors import store

    with store(settings) as records:
        record = records.order(settings.environment, model or settings.model, what, by=by, reason=reason)
    said = {
        "pause": "it stays at its weight, is judged on, and no deadline passes; `firstlight rollout resume` lets it go on",
        "resume": "it goes on with what was left of its deadline",
        "abort": "traffic goes back to stable, then the canary is stopped; `firstlight rollout watch` shows it",
        "approve": "it is promoted as soon as every measurement passes",
    }
    Console(highlight=False, soft_wrap=True).print(f"{what}: {record.holder} obeys at its next look; {said[what]}", markup=False)


def _read(settings: Settings, model: str | None) -> dict[str, Any]:
    from tasks.doors import store

    with store(settings) as records:
        return standing(records, settings.environment, model or settings.model, now=time.time())
