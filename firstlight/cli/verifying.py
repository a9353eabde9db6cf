"""``firstlight verify``: a release folder, a copy of one, or an exported ledger, recomputed offline."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from firstlight.errors import FirstlightError, RefusedError
from firstlight.settings import Settings

if TYPE_CHECKING:
    from governance.verify import Trust

_FOUND = 2


def verify(
    settings: Settings,
    folder: Path,
    *,
    approvers: Path | None = None,
    pipeline_keys: Path | None = None,
    ledger_key: Path | None = None,
    model_folder: Path | None = None,
    model_keys: Path | None = None,
) -> int:
    """Print what holds, what was believed and what differs; 0 when nothing does, 2 otherwise."""
    from governance import verify as room

    if not folder.is_dir():
        raise RefusedError(
            f"a release folder or an exported ledger must be given, {folder} is none: it is the folder that holds manifest.json, or entries.jsonl"
        )
    trust = _trust(approvers=approvers, pipeline_keys=pipeline_keys, ledger_key=ledger_key, model_keys=model_keys)
    done = room.examine(folder, trust=trust, model_folder=model_folder)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for line in done.checked:
        console.print(f"checked: {line}")
    for line in done.believed:
        console.print(f"believed: {line}")
    for finding in done.findings:
        console.print(f"WRONG: {finding}")
    count = len(done.findings)
    verdict = (
        f"{count} thing{'s differ' if count > 1 else ' differs'}; do not rely on it"
        if count
        else "everything is as it was signed and recorded"
    )
    console.print(f"{folder.name}: {verdict}")
    if done.findings and _is_at_home(settings, folder):
        console.print(_tell(settings, folder, "; ".join(str(finding) for finding in done.findings)))
    return _FOUND if done.findings else 0


def _trust(*, approvers: Path | None, pipeline_keys: Path | None, ledger_key: Path | None, model_keys: Path | None) -> "Trust":
    """Read what the verifier brings along. Raises RefusedError for a file that cannot be used."""
    from governance import approvers as people
    from governance import attestation
    from governance import model_keys as models
    from governance.ledger_keys import KeyRing
    from governance.verify import Trust

    if ledger_key is not None and not ledger_key.is_file():
        raise RefusedError(
            f"the ledger's key must be a file, {ledger_key} is none: leave --ledger-key out to check everything but the seals"
        )
    return Trust(
        approvers=None if approvers is None else people.read_approvers(approvers)[0],
        pipeline=None if pipeline_keys is None else attestation.read_trusted(pipeline_keys),
        ledger=() if ledger_key is None else KeyRing(ledger_key, may_make=False).read(),
        model=None if model_keys is None else models.read_model_keys(model_keys),
    )


def _is_at_home(settings: Settings, folder: Path) -> bool:
    """Return whether ``folder`` is a release of this environment itself, not a copy."""
    return folder.resolve().parent == (settings.state / "releases").resolve()


def _tell(settings: Settings, folder: Path, found: str) -> str:
    """Write into the ledger that a release of this environment does not verify, once for the same findings; return a sentence on that."""
    from firstlight.digest import sha256_bytes
    from tasks import doors, refusals

    digest = sha256_bytes(found.encode())
    try:
        with doors.store(settings) as records:
            model = records.release(folder.name).model
            records.record(
                settings.environment,
                model,
                what=refusals.RELEASE,
                digest=digest,
                detail=f"release {folder.name} does not verify: {found}",
                by=refusals.who(),
                once=True,
            )
    except FirstlightError as error:
        return f"this could not be written into the ledger: {error}"
    return f"the ledger says so now ({refusals.RELEASE}, {digest[:12]})"
