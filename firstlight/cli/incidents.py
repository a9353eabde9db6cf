"""``firstlight incidents``: what needs a person, and the word by which it is done."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from firstlight.cli.standing import COLOURS
from firstlight.errors import RefusedError
from firstlight.settings import Settings

if TYPE_CHECKING:
    from rollout.records import Incident

FOUND = 2
"""Exit code of ``check`` when something is open."""


def show_all(settings: Settings, model: str | None, *, everything: bool, as_json: bool) -> None:
    """Print the incidents of the environment."""
    from tasks.doors import store

    with store(settings) as records:
        found = records.incidents(settings.environment, model, open_only=not everything)
    if as_json:
        print(json.dumps([document(one) for one in found], indent=2, sort_keys=True))  # noqa: T201 - JSON for programs, unwrapped
        return
    console = Console(highlight=False)
    if not found:
        console.print(
            f"no incident is open in {settings.environment}" if not everything else f"there has been no incident in {settings.environment}"
        )
        return
    table = Table(title=f"incidents in {settings.environment}", title_justify="left")
    for name in ("incident", "severity", "state", "since"):
        table.add_column(name, no_wrap=True)
    for name in ("model", "what"):
        table.add_column(name, overflow="fold")
    for one in found:
        table.add_row(one.id, coloured(one.severity.value), one.state.value, when(one.opened_at), escape(one.model), escape(one.summary))
    console.print(table)


def show_one(settings: Settings, incident: str, *, as_json: bool) -> None:
    """Print one incident and what can be done about it."""
    from tasks.doors import store

    with store(settings) as records:
        found = records.incident(incident)
    if as_json:
        print(json.dumps(document(found), indent=2, sort_keys=True))  # noqa: T201 - JSON for programs, unwrapped
        return
    table = Table(show_header=False, title=f"{found.id}, {found.severity.value}, {found.state.value}", title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    rows = {
        "what": found.summary,
        "cause": found.cause,
        "about": f"{found.model} in {found.environment}" + (f", release {found.release_id}" if found.release_id else ""),
        "evidence": found.evidence_digest,
        "owner": found.owner,
        "opened": f"{when(found.opened_at)} by {found.opened_by}",
        "looked at": f"{when(found.acknowledged_at)} by {found.acknowledged_by}" if found.acknowledged_at else "by nobody yet",
    }
    if found.resolved_at:
        rows["resolved"] = f"{when(found.resolved_at)} by {found.resolved_by}: {found.resolved_because}"
    else:
        rows["to do"] = what_to_do(found)
    for name, value in rows.items():
        table.add_row(name, escape(value))
    Console(highlight=False).print(table)


def what_to_do(incident: "Incident") -> str:
    """Return how an open incident comes to its end."""
    from governance.incident_plan import ends_by_itself, kind_of

    if ends_by_itself(incident.cause):
        return "mend what it says; it resolves itself when the cause is gone (`firstlight incidents check` looks at once)"
    needs_key = kind_of(incident.cause) is not None
    return f"mend what it says, or answer it: firstlight incidents resolve {incident.id} --as MAIL{' --key KEY' * needs_key} --reason '...'"


def check(settings: Settings, model: str | None, *, as_json: bool) -> int:
    """Look now and say what was found; return the exit code."""
    from firstlight.cli.plane import Plane

    Plane(settings).find_server()  # before Prefect is imported: what is opened here is told to whoever listens there

    from tasks import incidents, reassessing
    from tasks.doors import store

    with store(settings) as records:
        found = reassessing.look(settings, records, model or settings.model)
    if found.opened:
        incidents.flush()
    if as_json:
        print(json.dumps(found.to_dict(), indent=2, sort_keys=True))  # noqa: T201 - JSON for programs, unwrapped
    else:
        console = Console(highlight=False, soft_wrap=True)
        for one in found.opened:
            console.print(f"opened {one.id} ({coloured(one.severity.value)}): {escape(one.summary)}")
        for one in found.resolved:
            console.print(f"resolved {one.id}: {escape(one.resolved_because or '')}")
        console.print(escape(found.summary))
    return FOUND if found.still_open else 0


def acknowledge(settings: Settings, incident: str, *, by: str) -> None:
    """Write down that somebody looks at it."""
    from tasks.doors import store

    with store(settings) as records:
        found = records.acknowledge_incident(incident, by=by)
    Console(highlight=False, soft_wrap=True).print(
        f"{found.id}: {found.acknowledged_by} looks at it since {when(found.acknowledged_at or 0)}", markup=False
    )


def resolve(settings: Settings, incident: str, *, reason: str, signer: str, key: Path | None, role: str | None, ask: bool) -> None:
    """Sign where a signature is asked for, and resolve the incident."""
    from governance.incident_plan import ends_by_itself, kind_of
    from tasks.doors import store

    with store(settings) as records:
        found = records.incident(incident)
        if not found.is_open:
            raise RefusedError(
                f"an incident must be open to be resolved, {found.id} was resolved by {found.resolved_by}: {found.resolved_because}"
            )
        if ends_by_itself(found.cause):
            raise RefusedError(f"{found.id} ends only with its cause, it cannot be answered: {found.summary}")
        console = Console(highlight=False, soft_wrap=True)
        if kind_of(found.cause) is None:
            done = records.resolve_incident(found.id, reason=reason, by=signer)
        else:
            done = _answer(settings, found, console, reason=reason, signer=signer, key=key, role=role, ask=ask)
    console.print(f"{done.id} is resolved: {done.resolved_because}", markup=False)


def _answer(
    settings: Settings, found: "Incident", console: Console, *, reason: str, signer: str, key: Path | None, role: str | None, ask: bool
) -> "Incident":
    from tasks import answering

    if key is None:
        raise RefusedError(f"{found.id} must be answered by a signature, no key was given: name your SSH key with --key")
    words, person = answering.draft(settings, found, signer=signer, role=role, reason=reason)
    console.print("This is what is signed, byte for byte as canonical JSON:")
    console.print(json.dumps(json.loads(words.to_bytes()), indent=2, ensure_ascii=False), markup=False)
    if ask and not typer.confirm(f"Sign this as {person} with {key}?"):
        raise RefusedError("nothing was signed, because you said no")
    return answering.answer(settings, found, words, key=key.expanduser())


def document(incident: "Incident") -> dict[str, Any]:
    """Return an incident as plain JSON values, times in UTC."""
    plain = asdict(incident)
    times = {name: when(value) for name, value in plain.items() if name.endswith("_at") and value is not None}
    return {**plain, **times, "severity": incident.severity.value, "state": incident.state.value}


def coloured(severity: str) -> str:
    """Return a severity in its colour, for rich."""
    return f"[{COLOURS[severity]}]{severity}[/{COLOURS[severity]}]"


def when(seconds: float | None) -> str:
    """Return unix seconds as UTC to the minute."""
    return datetime.fromtimestamp(seconds or 0, UTC).isoformat(timespec="minutes")
