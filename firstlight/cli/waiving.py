"""``firstlight waive`` and ``firstlight waivers``: accept one risk of one model until a day, and see what is accepted."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

from firstlight.digest import sha256_bytes, write_atomic
from firstlight.errors import RefusedError
from firstlight.settings import Settings

if TYPE_CHECKING:
    from governance.approvers import Approver
    from governance.waiver import Waiver


def waive(
    settings: Settings,
    scenario: str,
    model: str | None,
    *,
    key: Path,
    signer: str,
    reason: str,
    controls: Sequence[str],
    until: date,
    role: str | None,
    ask: bool,
) -> None:
    """Show the waiver, sign it, keep it in the state folder, and write it into the ledger. Raises RefusedError when it would not count."""
    from governance import approvers, sshsig, waiver
    from tasks import policy
    from tasks.doors import store

    name = model or settings.model
    rules = policy.read(settings.policy_path).risk
    known, _ = approvers.read_approvers(settings.approvers_path)
    person = known.by_email(signer)
    if person is None:
        why = f"who waives must stand in {settings.approvers_path}, {signer[:200]!r} does not: ask an administrator to add you"
        _refuse(settings, name, why, who=signer, digest=sha256_bytes(signer.encode(errors="replace")))
    words = _draft(settings, name, scenario, person, role or _role(person, scenario, settings), reason, controls, until)
    why_not = _unknown(scenario) or waiver.may_waive(words, approver=person, policy=rules)
    if why_not:
        _refuse(settings, name, why_not, who=person.email, digest=sha256_bytes(words.to_bytes()))
    console = Console(highlight=False, soft_wrap=True)
    console.print("This is what is signed, byte for byte as canonical JSON:")
    console.print(json.dumps(json.loads(words.to_bytes()), indent=2, ensure_ascii=False), markup=False)
    if ask and not typer.confirm(f"Sign this as {person.name} with {key}?"):
        raise RefusedError("nothing was signed, because you said no")
    made = waiver.sign_waiver(words, key_file=key.expanduser())
    judged = waiver.judge_waivers(
        [made], environment=settings.environment, model=name, approvers=known, policy=rules, now=datetime.now(UTC)
    )
    for one in judged.turned_down:
        _refuse(settings, name, f"the waiver does not count: {one.why}", who=person.email, digest=made.digest)
    kept = waiver.store(settings.state, made)
    allowed = write_atomic(kept.parent / "allowed_signers", known.allowed_signers())
    with store(settings) as records:
        said = f"{judged.in_force[0].said} for {name}: {reason}; instead: {'; '.join(controls)}"
        records.record(settings.environment, name, what="waiver", digest=made.digest, detail=said, by=person.email, once=True)
    from firstlight.cli.signing import by_hand

    console.print(f"waived: {judged.in_force[0].said}; releases of {name} that count it name it and keep a copy ({kept})", markup=False)
    command = by_hand(kept, signer=person.email, namespace=sshsig.WAIVER_NAMESPACE, allowed=allowed)
    console.print(f"check it with OpenSSH alone: {command}", markup=False)


def show(settings: Settings, model: str | None) -> None:
    """Print the waivers of a model, those that count first."""
    from tasks import waiving

    name = model or settings.model
    decision = waiving.of_model(settings, name)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for one in decision.in_force:
        console.print(f"in force    {one.said}: {one.reason}; instead: {'; '.join(one.controls)}")
    for off in sorted(decision.turned_down, key=lambda one: (not one.ended, one.id)):
        console.print(f"{'ended' if off.ended else 'no waiver':<11} {off.id} of {off.who}: {off.why}")
    if not decision.in_force and not decision.turned_down:
        console.print(f"no risk of {name} is waived in {settings.environment}")


def _draft(
    settings: Settings, model: str, scenario: str, person: "Approver", role: str, reason: str, controls: Sequence[str], until: date
) -> "Waiver":
    from pydantic import ValidationError

    from governance.signed import moment
    from governance.waiver import Waiver

    try:
        return Waiver(
            environment=settings.environment,
            model=model,
            scenario=scenario,
            reason=reason,
            controls=tuple(controls),
            until=until,
            role=role,
            signer=person.email,
            name=person.name,
            signed_at=moment(datetime.now(UTC)),
        )
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RefusedError(f"a waiver's {place} must be as `firstlight waive --help` says, found: {first['msg']}") from problem


def _unknown(scenario: str) -> str | None:
    from governance.scenario import load_scenarios

    known = [one.id for one in load_scenarios()]
    return None if scenario in known else f"a scenario must be one of {', '.join(known)}, found {scenario!r}: see governance/scenarios/"


def _role(person: "Approver", scenario: str, settings: Settings) -> str:
    """Return the only role of ``person`` that may waive ``scenario``; the first one, to be refused with a reason, where there is none."""
    from tasks import policy

    rule = policy.read(settings.policy_path).risk.waiver_rule(scenario)
    useful = [role for role in person.roles if rule is not None and role in rule.roles]
    if len(useful) > 1:
        raise RefusedError(f"you hold several roles that could sign ({', '.join(useful)}): say which one with --role")
    return (useful or list(person.roles))[0]


def _refuse(settings: Settings, model: str, why: str, *, who: str, digest: str) -> NoReturn:
    """Write a refusal into the ledger, and raise it."""
    from tasks.doors import store
    from tasks.waiving import REFUSED

    with store(settings) as records:
        records.record(settings.environment, model, what=REFUSED, digest=digest, detail=why, by=f"claims {who}", once=True)
    raise RefusedError(why)
