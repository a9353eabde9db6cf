"""``firstlight status`` and ``firstlight rollback``: what is live, and the way back."""

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from firstlight.errors import FirstlightError
from firstlight.settings import Settings

if TYPE_CHECKING:
    from rollout.store import Store

COLOURS = {"critical": "red", "warning": "yellow"}
"""Severity of an incident -> its colour."""
_FRESH_SECONDS = 5.0
_ROLLBACK_SECONDS = 10.0


def status(settings: Settings, model: str | None, *, as_json: bool) -> None:
    """Print where a model stands."""
    found = standing(settings, model or settings.model)
    if as_json:
        print(json.dumps(found, indent=2, sort_keys=True))  # noqa: T201 - JSON for programs, unwrapped
        return
    _print(found)


def standing(settings: Settings, model: str) -> dict[str, Any]:
    """Return where a model stands as plain JSON values: desired, observed, champion, previous, candidate, rollout, release."""
    from tasks import vouching
    from tasks.doors import registry, store

    with store(settings) as records:
        found = _from_store(records, settings.environment, model)
        found["problems"] += vouching.concerns(settings, [records.version(model, name) for name in _loaded_again(found)])
    try:
        aliases = registry(settings).aliases(model) if _has_registry(settings) else {}
    except FirstlightError as error:
        return {**found, "candidate": None, "problems": [*found["problems"], str(error)]}
    champion = found["champion"]
    if champion and aliases.get("champion") != champion["version"]:
        wrong = f"the registry's alias champion is {aliases.get('champion')}, the champion is {champion['version']}: run the release again to set it right"
        found["problems"] = [*found["problems"], wrong]
    return {**found, "candidate": {"version": aliases["candidate"]} if "candidate" in aliases else None}


def _loaded_again(found: dict[str, Any]) -> list[str]:
    """Return the versions that a model server may have to load tonight: the champion's, and the one to go back to; not what it has refused already."""
    named = [known["version"] for known in (found["champion"], found["previous"]) if known]
    return [version for version in named if not any(problem.startswith(f"version {version} ") for problem in found["problems"])]


def _has_registry(settings: Settings) -> bool:
    """A registry on our own SQLite exists once something was registered; asking earlier would make an empty one."""
    return not settings.tracking_uri.startswith("sqlite") or (settings.state / "mlflow.db").exists()


def _from_store(records: "Store", environment: str, model: str) -> dict[str, Any]:
    champion = records.champion(environment, model)
    previous = records.previous(environment, model)
    desired = records.desired(environment, model)
    seen = records.observed(environment, model)
    opened = records.open_one(environment, model)
    is_fresh = seen is not None and abs(time.time() - seen.heartbeat) < _FRESH_SECONDS
    weight = desired.traffic.canary_weight if desired else 0
    return {
        "model": model,
        "environment": environment,
        "champion": {"version": champion.version, "digest": champion.digest, "since": _when(champion.at)} if champion else None,
        "previous": {"version": previous.version, "digest": previous.model_digest} if previous else None,
        "rollout": {
            "phase": "canary" if desired and desired.traffic.canary else "stable" if champion else "nothing",
            "weight": weight,
            "canary": desired.traffic.canary if desired else None,
        },
        "release": {"id": opened.id, "status": opened.status.value} if opened else None,
        "drills": [
            {"version": drill.version, "verdict": drill.verdict, "seconds": drill.seconds, "at": _when(drill.at), "reason": drill.reason}
            for drill in {drill.version: drill for drill in records.drills(environment, model)}.values()
            if champion and drill.version in (champion.version, champion.previous)
        ],
        "incidents": [
            {"id": one.id, "severity": one.severity.value, "state": one.state.value, "since": _when(one.opened_at), "summary": one.summary}
            for one in records.incidents(environment, model, open_only=True)
        ],
        "serving": {
            "running": is_fresh,
            "address": seen.gateway_url if seen and is_fresh else None,
            "ready": list(seen.ready) if seen and is_fresh else [],
            "as_desired": bool(is_fresh and seen and desired and seen.traffic == desired.traffic),
        },
        "problems": list(seen.problems) if seen and is_fresh else [],
    }


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _print(found: dict[str, Any]) -> None:
    table = Table(show_header=False, title=f"{found['model']} in {found['environment']}", title_justify="left")
    champion, previous, candidate, rollout, serving = (found[key] for key in ("champion", "previous", "candidate", "rollout", "serving"))
    table.add_row(
        "champion", f"version {champion['version']}, {champion['digest'][:12]}, since {champion['since']}" if champion else "none yet"
    )
    table.add_row("previous", f"version {previous['version']}, {previous['digest'][:12]} (firstlight rollback)" if previous else "none")
    table.add_row("candidate", f"version {candidate['version']}" if candidate else "none")
    table.add_row("rollout", f"version {rollout['canary']} at {rollout['weight']} %" if rollout["canary"] else rollout["phase"])
    table.add_row("release", f"{found['release']['id']}, {found['release']['status']}" if found["release"] else "none open")
    for drill in found["drills"]:
        took = f"{drill['seconds']:.1f} s" if drill["seconds"] is not None else "never ready"
        table.add_row(f"way back to {drill['version']}", f"{drill['verdict']}, {took}, rehearsed {drill['at']}: {drill['reason']}")
    if champion and not found["drills"]:
        table.add_row("way back", "never rehearsed (firstlight drill)")
    where = (
        f"{serving['address']}, {'as desired' if serving['as_desired'] else 'not yet as desired'}"
        if serving["running"]
        else "nothing serves; start `firstlight serve`"
    )
    table.add_row("serving", where)
    for one in found["incidents"]:
        table.add_row(f"[{COLOURS[one['severity']]}]{one['id']}[/]", f"{one['severity']}, {one['state']}: {escape(one['summary'])}")
    for problem in found["problems"]:
        table.add_row("problem", problem)
    Console(highlight=False).print(table)


def rollback(settings: Settings, model: str | None, *, reason: str, by: str, to: str | None) -> None:
    """Go back, wait until the world agrees, and say how long it took."""
    from tasks import returning

    name = model or settings.model
    started = time.monotonic()
    back = returning.go_back(settings, name, reason=reason, by=by, to=to, wait_seconds=_ROLLBACK_SECONDS)
    seconds = time.monotonic() - started
    Console(highlight=False, soft_wrap=True).print(
        f"rolled back: version {back.version} ({back.digest[:12]}) of {name} is champion in {settings.environment} after {seconds:.1f} s; {back.world}"
    )
