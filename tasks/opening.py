"""The first stages: is the hand-off what it says it is, and does the model answer as its trainer saw it?"""

from dataclasses import dataclass
from typing import Any

from firstlight import settings as settings_module
from firstlight.verdict import Verdict
from models import golden, handoff
from models.golden import GoldenReport
from models.handoff import HandOff, Problem
from tasks import doors, vouching
from tasks.releases import OpenedRelease
from tasks.stages import stage


@dataclass(frozen=True, kw_only=True, slots=True)
class HandOffReport:
    """Evidence on one hand-off: its whole document, and every problem."""

    problems: tuple[Problem, ...]
    papers: HandOff

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = f"{len(self.problems)} problems" if self.problems else f"{len(self.papers.files)} files as listed, by digest"
        return {
            "verdict": (Verdict.FAIL if self.problems else Verdict.PASS).value,
            "summary": f"{found}; {self.papers.data.spectra} spectra, handed over by {self.papers.trainer.name}",
            "reasons": [str(problem) for problem in self.problems],
            "handoff_digest": self.papers.digest,
            "model_digest": self.papers.model_digest,
            **self.papers.document(),
        }


@stage("hand-off", "Check the hand-off")
def check_hand_off(release: OpenedRelease) -> HandOffReport:
    """Check the document and every file of the hand-off."""
    return HandOffReport(problems=tuple(handoff.check(release.handoff)), papers=handoff.load(release.handoff))


@stage("golden", "Replay the golden vectors")
def replay_golden(release: OpenedRelease) -> GoldenReport:
    """Run the exported model on the golden inputs and compare with what the trainer saw."""
    from models.program import Program  # and torch with it: a run that goes on after this stage need not wait for it

    papers = _papers(release)
    return golden.replay(Program.load(papers, threads=1), papers)


def _papers(release: OpenedRelease) -> HandOff:
    """What was registered before is opened only as it was signed then; a hand-off that comes for the first time is signed when it is registered."""
    settings = settings_module.current()
    with doors.store(settings) as records:
        is_registered = records.version_by_digest(release.model, release.model_digest) is not None
    return (
        vouching.load(settings, release.handoff) if is_registered or vouching.is_signed(release.handoff) else handoff.load(release.handoff)
    )
