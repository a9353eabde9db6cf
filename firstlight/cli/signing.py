"""``firstlight sign-off`` and ``firstlight verify``."""

from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.console import Console

from firstlight.errors import FirstlightError, RefusedError
from firstlight.settings import Settings
from firstlight.verdict import Verdict

_FOUND = 2


def sign_off(
    settings: Settings, release_id: str, *, key: Path, signer: str, reason: str, role: str | None, reject: bool, ask: bool
) -> None:
    """Show what is signed, sign it, keep the statement, and let the waiting run go on when it was the last one."""
    from governance import approvers, signoff, statement, subject
    from tasks import governing, policy

    folder = _release_folder(settings, release_id)
    asked = subject.read_subject(folder)
    known, _ = approvers.read_approvers(settings.approvers_path)
    person = known.by_email(signer)
    if person is None:
        raise RefusedError(f"an approver must stand in {settings.approvers_path}, {signer!r} does not: ask an administrator to add you")
    decision = signoff.Decision.REJECT if reject else signoff.Decision.APPROVE
    chosen = role or _only_role(person.roles, asked.requirement.roles)
    words = statement.draft(asked, approver=person, role=chosen, decision=decision, reason=reason, now=datetime.now(UTC))
    why_not = signoff.may_sign(words, subject=asked, approver=person, policy=policy.read(settings.policy_path).risk)
    if why_not:
        raise RefusedError(why_not)
    console = Console(highlight=False, soft_wrap=True)
    _show(console, folder, words)
    if ask and not typer.confirm(f"Sign this as {person.name} with {key}?"):
        raise RefusedError("nothing was signed, because you said no")
    statement.store(folder, statement.sign_statement(words, key_file=key.expanduser()), email=person.email)
    judged = governing.decide(settings, asked, folder)
    refused = [why for who, why in judged.refused if who == person.email]
    if refused:
        raise RefusedError(f"the signature does not count: {refused[0]}")
    console.print(f"signed: {asked.release}, {decision.value} by {person.name} as {chosen}; {judged.summary}", markup=False)
    if judged.verdict is not Verdict.CANNOT_TELL:
        console.print(_let_go_on(settings, asked.release), markup=False)


def _release_folder(settings: Settings, release_id: str) -> Path:
    folder = Path(release_id) if "/" in release_id else settings.state / "releases" / release_id
    if not folder.is_dir():
        known = sorted(path.name for path in (settings.state / "releases").glob("*") if path.is_dir())
        raise RefusedError(f"a release must be named by its id, {release_id!r} is none; here are: {', '.join(known) or 'none'}")
    return folder


def _only_role(mine: tuple[str, ...], wanted: dict[str, int]) -> str:
    useful = [role for role in mine if role in wanted] or list(mine)
    if len(useful) != 1:
        raise RefusedError(f"you hold several roles that could sign ({', '.join(useful)}): say which one with --role")
    return useful[0]


def _show(console: Console, folder: Path, words: object) -> None:
    import json

    console.print(f"Read first: {folder / 'dossier.html'}", markup=False)
    console.print("This is what is signed, byte for byte as canonical JSON:")
    console.print(json.dumps(json.loads(words.to_bytes()), indent=2, ensure_ascii=False), markup=False)  # type: ignore[attr-defined]


def _let_go_on(settings: Settings, release_id: str) -> str:
    """Resume the waiting run where a Prefect server can be reached; say what to do otherwise."""
    from firstlight.cli.plane import Plane
    from flows import runs
    from tasks import governing

    waiting = governing.waiting_run(settings, release_id)
    if waiting is None or Plane(settings).find_server() is None:
        return "decided; no run waits here now, so run `firstlight release` with the same hand-off to go on"
    try:
        if not runs.read(waiting).is_waiting:
            return "decided; its run is under way"
        runs.resume(waiting, {"reviewer": "", "note": "the signatures are there"})
    except FirstlightError as error:
        return f"decided; the waiting run could not be resumed ({error}): resume it in the Prefect UI"
    return "decided; the waiting run goes on"


def verify(folder: Path) -> int:
    """Recompute a release's digests and signatures; print every finding; 0 when there is none, 2 otherwise."""
    from governance import verify as room

    if not folder.is_dir():
        raise RefusedError(f"a release folder must be given, {folder} is none: it is the folder that holds dossier.html and manifest.json")
    done = room.examine(folder)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for line in done.checked:
        console.print(f"checked: {line}")
    for finding in done.findings:
        console.print(f"WRONG: {finding.where}: {finding.what}")
    verdict = (
        f"{len(done.findings)} things differ; do not rely on this release"
        if done.findings
        else "everything is as it was signed and recorded"
    )
    console.print(f"{folder.name}: {verdict}")
    return _FOUND if done.findings else 0
