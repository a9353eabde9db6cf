"""How a release run ended, in the words of the command line and of the Prefect UI."""

from pydantic import BaseModel, ConfigDict

from firstlight.verdict import Verdict

STATUS = {Verdict.PASS: "promoted", Verdict.FAIL: "failed", Verdict.CANNOT_TELL: "cannot-tell"}
"""Verdict of a run -> status of its release in the store."""

TITLE = {Verdict.PASS: "Promoted", Verdict.FAIL: "Refused", Verdict.CANNOT_TELL: "Cannot tell"}
"""Verdict of a run -> name of its final state in the UI."""


class Outcome(BaseModel):
    """End of one release run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release_id: str
    verdict: Verdict
    summary: str
    """One clear sentence."""
    dossier: str | None = None
    """Path of the dossier's page."""
