"""``firstlight sign-off`` and ``firstlight break-glass``."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

from firstlight.errors import FirstlightError, RefusedError
from firstlight.settings import Settings
from firstlight.verdict import Verdict

if TYPE_CHECKING:
    from governance.approvers import Approver
    from governance.signed import Signed
    from governance.signoff import SignOffDecision
    from governance.statement import Statement
    from governance.subject import Subject
    from rollout.records import Release
    from rollout.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class _Desk:
    """What a signature is about, and where it is written down; a copied folder on another machine has no ledger."""

    settings: Settings
    folder: Path
    asked: "Subject"
    records: "Store | None"
    release: "Release | None"

    def refuse(self, why: str, *, who: str, digest: str) -> NoReturn:
        """Write a refusal into the ledger, and raise it."""
        from tasks import governing

        if self.records is not None:
            governing.refuse(
                self.settings, self.records, self.asked.model, digest=digest, why=f"release {self.asked.release}: {why}", who=who
            )
        raise RefusedError(why)

    def why_not(self, made: "Signed") -> str | None:
        """Say why a signature does not count, or None; one that does not is not kept, so that nobody replaces somebody else's."""
        from governance import approvers, signoff
        from tasks import policy

        known, _ = approvers.read_approvers(self.settings.approvers_path)
        rules = policy.read(self.settings.policy_path).risk
        judged = signoff.judge([made], subject=self.asked, approvers=known, policy=rules, now=datetime.now(UTC))
        return next((one.why for one in judged.turned_down), None)

    def look(self) -> "SignOffDecision":
        """Judge every signature that is there now; where there is a ledger, it says so of each."""
        from tasks import governing

        if self.records is None:
            return governing.decide(self.settings, self.asked, self.folder)
        return governing.look(self.settings, self.records, self.asked, self.folder)


def sign_off(
    settings: Settings,
    release_id: str,
    *,
    key: Path,
    signer: str,
    reason: str,
    role: str | None,
    reject: bool,
    ask: bool,
    conditions: Sequence[str] = (),
    documents: Mapping[str, Path] | None = None,
) -> None:
    """Show what is signed, sign it, keep the statement and the documents, and let the waiting run go on when it was the last one."""
    from governance.signoff import Decision

    with _desk(settings, release_id) as desk:
        person = _person(desk, signer)
        chosen = role or _only_role(person.roles, desk.asked.requirement.roles)
        decision = Decision.REJECT if reject else Decision.APPROVE
        brought = documents or {}
        words = _draft(desk, person, chosen, decision, reason, conditions, brought)
        _sign(desk, words, person, key, brought, ask=ask)


def break_glass(settings: Settings, release_id: str, *, key: Path, signer: str, reason: str, role: str | None, ask: bool) -> None:
    """Show what it means, sign it, open the incident, and let the waiting run go on."""
    from firstlight.cli.plane import Plane
    from governance.signoff import Decision
    from tasks import policy

    Plane(settings).find_server()  # before Prefect is imported: the incident is told to whoever listens there
    with _desk(settings, release_id) as desk:
        rules = policy.read(settings.policy_path).risk
        person = _person(desk, signer)
        chosen = role or _only_role(person.roles, dict.fromkeys(rules.break_glass.roles, 1))
        words = _draft(desk, person, chosen, Decision.BREAK_GLASS, reason, (), {}, valid=timedelta(hours=rules.break_glass.valid_hours))
        seen = desk.look()
        missing = seen.missing
        if missing == {chosen: 1} and not seen.missing_documents:
            raise RefusedError(
                f"nothing but your own approval as {chosen} is missing: give it with `firstlight sign-off {desk.asked.release}`"
            )
        Console(highlight=False, soft_wrap=True).print(
            f"[bold red]BREAK-GLASS[/bold red]: {desk.asked.release} goes on without {rules.asked(missing) or 'its documents'}. A critical incident opens, everybody is told, "
            f"and it stays open until they have signed, within {rules.break_glass.ratify_hours} hours.",
        )
        _sign(desk, words, person, key, {}, ask=ask)


@contextmanager
def _desk(settings: Settings, release_id: str) -> Iterator[_Desk]:
    """Open the release folder and, where this machine has the store that knows the release, the ledger."""
    from governance import subject
    from rollout.errors import UnknownRelease
    from tasks import doors

    folder = _release_folder(settings, release_id)
    asked = subject.read_subject(folder)
    is_elsewhere = folder.absolute() != (settings.state / "releases" / asked.release).absolute()
    if is_elsewhere:
        yield _Desk(settings=settings, folder=folder, asked=asked, records=None, release=None)
        return
    with doors.store(settings) as records:
        try:
            release = records.release(asked.release)
        except UnknownRelease:
            yield _Desk(settings=settings, folder=folder, asked=asked, records=None, release=None)
            return
        yield _Desk(settings=settings, folder=folder, asked=asked, records=records, release=release)


def _person(desk: _Desk, signer: str) -> "Approver":
    from firstlight.digest import sha256_bytes
    from governance import approvers

    known, _ = approvers.read_approvers(desk.settings.approvers_path)
    person = known.by_email(signer)
    if person is None:
        why = f"an approver must stand in {desk.settings.approvers_path}, {signer[:200]!r} does not: ask an administrator to add you"
        desk.refuse(why, who=signer, digest=sha256_bytes(signer.encode(errors="replace")))
    return person


def _draft(
    desk: _Desk,
    person: "Approver",
    role: str,
    decision: str,
    reason: str,
    conditions: Sequence[str],
    brought: Mapping[str, Path],
    *,
    valid: timedelta | None = None,
) -> "Statement":
    """Return the words to sign. Raises RefusedError where signing them would be in vain, and lets the ledger say so."""
    from firstlight.digest import sha256_bytes
    from governance import attachments, signoff, statement
    from tasks import policy

    given = signoff.Decision(decision)
    words = statement.draft(
        desk.asked,
        approver=person,
        role=role,
        decision=given,
        reason=reason,
        now=datetime.now(UTC),
        conditions=conditions,
        documents=attachments.digests(brought),
        valid=valid,
    )
    why_not = signoff.may_sign(words, subject=desk.asked, approver=person, policy=policy.read(desk.settings.policy_path).risk)
    why_not = why_not or _why_too_late(desk)
    if why_not:
        desk.refuse(why_not, who=person.email, digest=sha256_bytes(words.to_bytes()))
    return words


def _why_too_late(desk: _Desk) -> str | None:
    """Say why a signature changes nothing any more: the release has ended, and not by a break-glass that waits to be ratified."""
    from governance.evidence import read_evidence

    if desk.release is None or desk.release.closed_at is None:
        return None
    try:
        glass = read_evidence(desk.folder, "sign_off").get("break_glass")
    except RefusedError:
        glass = None
    if glass and not glass["ratified"]:
        return None
    return f"a release must be open to be signed, {desk.release.id} ended as {desk.release.status.value}: look at `firstlight status`"


def _sign(desk: _Desk, words: "Statement", person: "Approver", key: Path, brought: Mapping[str, Path], *, ask: bool) -> None:
    from governance import attachments, statement

    console = Console(highlight=False, soft_wrap=True)
    _show(console, desk, words)
    if ask and not typer.confirm(f"Sign this as {person.name} with {key}?"):
        raise RefusedError("nothing was signed, because you said no")
    made = statement.sign_statement(words, key_file=key.expanduser(), source=f"{person.email}.json")
    if why_not := desk.why_not(made):
        desk.refuse(f"the signature does not count: {why_not}", who=person.email, digest=made.digest)
    attachments.attach(desk.folder, brought, words.documents)
    kept = statement.store(desk.folder, made, email=person.email)
    judged = desk.look()
    console.print(f"signed: {desk.asked.release}, {words.decision.value} by {person.name} as {words.role}; {judged.summary}", markup=False)
    console.print(f"check it with OpenSSH alone: {by_hand(kept, signer=person.email, namespace=_sign_off_namespace())}", markup=False)
    console.print(_what_follows(desk, judged), markup=False)


def _sign_off_namespace() -> str:
    from governance.sshsig import NAMESPACE

    return NAMESPACE


def by_hand(signed: Path, *, signer: str, namespace: str, allowed: Path | None = None) -> str:
    """Return the command line with which stock OpenSSH checks what was signed."""
    import shlex

    keys = allowed or next(
        (folder / "allowed_signers" for folder in signed.parents if (folder / "allowed_signers").is_file()), Path("allowed_signers")
    )
    file = shlex.quote(str(signed))
    return f"ssh-keygen -Y verify -f {shlex.quote(str(keys))} -I {shlex.quote(signer)} -n {namespace} -s {file}.sig < {file}"


def _what_follows(desk: _Desk, judged: "SignOffDecision") -> str:
    """Do what follows from the signatures, and say it."""
    if desk.release is not None and desk.release.closed_at is not None:
        return _ratified(desk, judged)
    if judged.verdict is Verdict.CANNOT_TELL:
        return f"the release goes on waiting: {judged.summary}"
    return _let_go_on(desk.settings, desk.asked.release)


def _ratified(desk: _Desk, judged: "SignOffDecision") -> str:
    from tasks import republishing

    assert desk.release is not None
    page = republishing.again(desk.settings, desk.release, desk.asked)
    if judged.verdict is Verdict.FAIL:
        return f"{judged.summary}: it went live by break-glass, so go back with `firstlight rollback`"
    if judged.missing:
        return f"not ratified yet: {judged.summary}"
    return f"ratified; its incident is resolved, and the dossier says so: {page}"


def named_files(texts: Sequence[str]) -> dict[str, Path]:
    """Return name -> file of ``NAME=FILE`` texts. Raises RefusedError on another form."""
    pairs = [text.partition("=") for text in texts]
    if wrong := [text for text, (name, sign, file) in zip(texts, pairs, strict=True) if not (name.strip() and sign and file)]:
        raise RefusedError(f"a document must be given as NAME=FILE, such as 'board minutes=minutes.pdf', found {wrong[0][:80]!r}")
    return {name.strip(): Path(file).expanduser() for name, _, file in pairs}


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


def _show(console: Console, desk: _Desk, words: "Statement") -> None:
    """Print what was found, document by document of the evidence that is signed, and the words: nobody signs what they were not shown."""
    from governance.evidence import evidence_path

    console.print(f"Read first: {desk.folder / 'dossier.html'}", markup=False)
    for name in sorted(desk.asked.evidence):
        try:
            found = json.loads(evidence_path(desk.folder, name).read_bytes())
            console.print(f"  {name:<14} {found['verdict']!s:<12} {str(found['summary'])[:200]}", markup=False)
            for sentence in found.get("waived", []) if name == "risk" else []:
                console.print(f"  {'':<14} {'waived':<12} {sentence}", markup=False)
        except (OSError, ValueError, KeyError, TypeError):
            console.print(f"  {name:<14} cannot be read", markup=False)
    console.print("This is what is signed, byte for byte as canonical JSON:")
    console.print(json.dumps(json.loads(words.to_bytes()), indent=2, ensure_ascii=False), markup=False)


def _let_go_on(settings: Settings, release_id: str) -> str:
    """Resume the waiting run where a Prefect server can be reached; say what to do otherwise."""
    from firstlight.cli.plane import Plane
    from flows import runs
    from tasks import asking

    waiting = asking.waiting_run(settings, release_id)
    if waiting is None or Plane(settings).find_server() is None:
        return "decided; no run waits here now, so run `firstlight release` with the same hand-off to go on"
    try:
        if not runs.read(waiting).is_waiting:
            return "decided; its run is under way"
        runs.resume(waiting, {"reviewer": "", "note": "the signatures are there"})
    except FirstlightError as error:
        return f"decided; the waiting run could not be resumed ({error}): resume it in the Prefect UI"
    return "decided; the waiting run goes on"
