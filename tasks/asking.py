"""What a waiting release says, in the Prefect UI, the journal and the terminal: what is asked, of whom, what was found, and how to answer.

Everything it quotes was written by somebody else (trainers, signers, reviewers): it is shown as text, never as markup.
"""

import html
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from firstlight import settings as settings_module
from firstlight.digest import write_json
from firstlight.errors import FirstlightError, RefusedError
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from governance import approvers as approvers_room
from governance import signoff, subject
from governance.signoff import MaySign, SignOffDecision
from governance.subject import Subject
from tasks import doors, governing, journal, policy
from tasks.releases import OpenedRelease
from tasks.stages import StageResult, artifact_key

_LONGEST_CELL = 300
_MOST_PEOPLE = 8
_SIGNS = {"pass": "✓ pass", "fail": "✗ fail", "cannot tell": "? cannot tell"}


def ask(release: OpenedRelease, result: StageResult) -> None:
    """Show what is asked where people look: the journal, the run's log and a page on the run."""
    settings = settings_module.current()
    journal.note(settings, about=release.id, stage="sign-off", event="waiting", summary=result.summary)
    write_json(_waiting_file(settings, release.id), {**_waiting(settings, release.id), "flow_run_id": str(flow_run.id)})
    get_run_logger().info("sign-off: %s", result.summary)
    create_markdown_artifact(
        key=artifact_key(f"{release.model}-sign-off-asked"),
        markdown=question(release, result),
        description=f"Release {release.id} waits for people",
    )


def answered(release: OpenedRelease, *, reviewer: str, note: str) -> None:
    """Keep what somebody wrote when they resumed the run without the signatures it waits for; the next page shows it. It decides nothing."""
    if not (reviewer.strip() or note.strip()):
        return
    settings = settings_module.current()
    before = _waiting(settings, release.id)
    line = {"reviewer": reviewer, "note": note}
    if line not in before.get("notes", []):
        write_json(_waiting_file(settings, release.id), {**before, "notes": [*before.get("notes", []), line][-5:]})
        journal.note(settings, about=release.id, stage="sign-off", event="note", summary=f"{reviewer} (unsigned): {note}")


def waiting_run(settings: Settings, release_id: str) -> str | None:
    """Return the id of the flow run that waits (or waited) for the signatures of a release, or None."""
    found = _waiting(settings, release_id).get("flow_run_id")
    return str(found) if found else None


def _waiting(settings: Settings, release_id: str) -> dict[str, Any]:
    try:
        found = json.loads(_waiting_file(settings, release_id).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _waiting_file(settings: Settings, release_id: str) -> Path:
    return settings.folder("running") / f"{release_id}.waiting.json"


def question(release: OpenedRelease, result: StageResult) -> str:
    """Return what the UI says to whoever looks at the waiting run (markdown)."""
    settings = settings_module.current()
    folder = Path(release.folder)
    asked = subject.read_subject(folder)
    decision = governing.decide(settings, asked, folder)
    parts = [
        f"### Release {_text(release.id)}: {_text(result.summary)}",
        _asked(asked, release),
        f"**Read first:** {_dossier(settings, release)}",
        _verdicts(release),
        _given(decision),
        _may_sign(settings, asked, decision),
        _notes(_waiting(settings, release.id).get("notes", [])),
        "Signing continues the run by itself. Resuming it here only makes it look again: without the signatures it asks again.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _asked(asked: Subject, release: OpenedRelease) -> str:
    """Say what one answers for by signing."""
    rows = [
        (
            "what is asked",
            f"May {release.model} ({asked.model_digest[:12]}…) go to {release.environment}? Residual risk: {asked.requirement.band}",
        ),
        ("decision", asked.decision_id or "no number yet"),
        ("change", asked.change_id or "none named"),
        ("trained by", f"{asked.trainer.name} <{asked.trainer.email}>, who may not sign"),
        ("evidence", f"{len(asked.evidence)} documents, sha256 {asked.evidence_digest[:16]}…"),
    ]
    rows += [("to be attached", name) for name in asked.requirement.documents]
    waived = _document(release, "risk").get("waived", [])
    rows += [("waived", sentence) for sentence in waived]
    return "\n".join(f"- **{name}:** {_text(said)}" for name, said in rows)


def _dossier(settings: Settings, release: OpenedRelease) -> str:
    page = f"{release.folder}/dossier.html"
    address = f"{settings.reports_url}/{release.id}/dossier.html"
    shown = f"[the dossier]({address}) (while `make up` runs), or " if settings.reports_port else ""
    return f"{shown}`{page}`"


def _verdicts(release: OpenedRelease) -> str:
    """Return the verdicts of all gates that people are asked to judge: a list, because the dialog of the UI cuts a table."""
    found = [(name, _document(release, name)) for name in governing.JUDGED]
    lines = [
        f"- {_SIGNS.get(str(one.get('verdict')), 'no evidence yet')} **{name}**: {_text(str(one.get('summary', '')))}"
        for name, one in found
        if one
    ]
    return "**What was found:**\n\n" + "\n".join(lines) if lines else ""


def _given(decision: SignOffDecision) -> str:
    lines = [f"- {_text(one.name)} ({_text(one.role)}) said **{one.decision}**: {_text(one.reason)}" for one in decision.accepted]
    lines += [f"- does not count: {_text(one.who)}: {_text(one.why)}" for one in decision.turned_down]
    return "**Given so far:**\n\n" + "\n".join(lines) if lines else ""


def _may_sign(settings: Settings, asked: Subject, decision: SignOffDecision) -> str:
    """Name the people who may still sign, each with the command to copy."""
    people = may_sign(settings, asked, decision)
    if not people:
        return "**Nobody on the approvers file may give what is missing.** An administrator must add somebody (docs/sign-off.md)."
    lines = "\n\n".join(command(asked.release, one) for one in people[:_MOST_PEOPLE])
    more = f"\n\nand {len(people) - _MOST_PEOPLE} more" if len(people) > _MOST_PEOPLE else ""
    names = "\n".join(f"- {_text(one.name)} ({_text(one.email)}) as {_text(one.role)}" for one in people[:_MOST_PEOPLE])
    return (
        f"**Who may still sign:**\n\n{names}{more}\n\n"
        f"Each with their own SSH key, on any machine that has it and this state folder (`--reject` says no):\n\n```\n{lines}\n```"
    )


def may_sign(settings: Settings, asked: Subject, decision: SignOffDecision) -> tuple[MaySign, ...]:
    """Return who on the approvers file could give what is missing, now."""
    known, _ = approvers_room.read_approvers(settings.approvers_path)
    rules = policy.read(settings.policy_path).risk
    return signoff.who_may_sign(decision, subject=asked, approvers=known, policy=rules, now=datetime.now(UTC))


def command(release_id: str, who: MaySign) -> str:
    """Return the command with which ``who`` signs, in lines that the UI does not cut."""
    parts = (f"firstlight sign-off {release_id}", f"--as {who.email}", f"--role {who.role} --key ~/.ssh/id_ed25519", "--reason '...'")
    return " \\\n  ".join(parts)


def _notes(notes: list[dict[str, str]]) -> str:
    lines = [f"- {_text(one.get('reviewer', '')) or 'somebody'}: {_text(one.get('note', ''))}" for one in notes]
    return "**Notes left here, unsigned:**\n\n" + "\n".join(lines) if lines else ""


def _document(release: OpenedRelease, name: str) -> dict[str, Any]:
    try:
        found = json.loads(release.evidence(name).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(words: str) -> str:
    """Return ``words`` so that no renderer of markdown makes more of them than text on one line."""
    plain = " ".join(str(words).split())
    cut = plain if len(plain) <= _LONGEST_CELL else plain[: _LONGEST_CELL - 1] + "…"
    return "".join(f"\\{sign}" if sign in "\\`*_[]|~#" else sign for sign in html.escape(cut, quote=False))


def is_decided(settings: Settings, model: str) -> bool:
    """Return whether the open release of ``model`` has the signatures it waits for, or a rejection."""
    try:
        return _open_decision(settings, model)[1].verdict is not Verdict.CANNOT_TELL
    except FirstlightError:
        return False


def what_is_missing(settings: Settings, model: str) -> str:
    """Return one sentence on what the open release of ``model`` waits for, with the command to give it."""
    release_id, decision = _open_decision(settings, model)
    page = settings.state / "releases" / release_id / "dossier.html"
    return f"{release_id}: {decision.summary}; read {page}, then `firstlight sign-off {release_id} --key KEY --as MAIL --reason TEXT`"


def _open_decision(settings: Settings, model: str) -> tuple[str, SignOffDecision]:
    with doors.store(settings) as records:
        opened = records.open_one(settings.environment, model)
    if opened is None:
        raise RefusedError(
            f"a release of {model} must be open in {settings.environment} to be signed, none is: look at `firstlight status`"
        )
    folder = settings.folder("releases", opened.id)
    return opened.id, governing.decide(settings, subject.read_subject(folder), folder)
