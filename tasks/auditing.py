"""The nightly look at the ledger as a step of a run: the whole chain and every anchor, and a new anchor."""

from dataclasses import dataclass

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from firstlight import settings as settings_module
from governance.errors import LedgerError
from governance.ledger import LedgerFinding
from tasks import anchoring, doors
from tasks.retries import retrying

_SHOWN = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What was found."""

    entries: int
    anchors: int
    found: tuple[LedgerFinding, ...]
    anchored: str
    """One sentence about the new anchor, or why there is none."""

    @property
    def summary(self) -> str:
        """One sentence."""
        said = (
            f"{len(self.found)} things are wrong, the first: {self.found[0]}" if self.found else "the chain, its seals and its anchors hold"
        )
        return f"{self.entries} entries, {self.anchors} anchors: {said}; {self.anchored}"


@task(name="audit-ledger", task_run_name="Check and anchor the ledger", **retrying())
def audit() -> Audit:
    """Check the whole ledger against its seals and anchors, then anchor its head. Raises TransientError where a place does not answer."""
    settings = settings_module.current()
    with doors.store(settings) as records:
        entries, anchors, found = anchoring.check(settings, records)
        try:
            done = anchoring.anchor(settings, records)
        except LedgerError as problem:
            return Audit(entries=entries, anchors=anchors, found=tuple(found), anchored=f"nothing was anchored: {problem}")
    return Audit(entries=entries, anchors=anchors, found=tuple(found), anchored=str(done) if done else "there is nothing to anchor")


def publish(done: Audit) -> None:
    """Show the audit on the run."""
    rows = "\n".join(f"- {one}" for one in done.found[:_SHOWN])
    create_markdown_artifact(key="ledger-audit", markdown=f"{done.summary}\n\n{rows}\n", description="The ledger, checked and anchored")


def state(done: Audit) -> State[None]:
    """Return the run's final state: green only when nothing is wrong."""
    if done.found or done.anchored.startswith("nothing was anchored"):
        return Failed(name="Broken", message=done.summary)
    return Completed(name="Anchored", message=done.summary)
