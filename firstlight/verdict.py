"""Three verdicts everywhere. Missing, empty, NaN or too little evidence is *cannot tell*, and cannot tell never promotes."""

from collections.abc import Iterable
from enum import StrEnum


class Verdict(StrEnum):
    """The answer of one gate, best to worst."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    """Shown to hold."""
    CANNOT_TELL = "cannot tell"
    """Not enough evidence either way; never promotes."""
    FAIL = "fail"
    """Shown not to hold."""


_BEST_TO_WORST = (Verdict.PASS, Verdict.CANNOT_TELL, Verdict.FAIL)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of ``verdicts``; no verdict at all is *cannot tell*.

    >>> worst([Verdict.PASS, Verdict.CANNOT_TELL])
    <Verdict.CANNOT_TELL: 'cannot tell'>
    """
    return max(verdicts, key=_BEST_TO_WORST.index, default=Verdict.CANNOT_TELL)
