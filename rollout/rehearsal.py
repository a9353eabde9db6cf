"""What a rehearsed way back is worth. Pure: what the supervisor reported of one drill in, a verdict with its sentence out.

A drill starts the version afresh beside everything that answers, with the same checks as in earnest (signature, digests, golden vectors), lets it answer copies of
requests, and stops it. *Fail* is what it was shown not to do: load, come up within the limit, answer. *Cannot tell* is a drill that nobody carried out, or that
asked nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firstlight.verdict import Verdict

WAITING, STARTING, ANSWERING, DONE, FAILED = "waiting", "starting", "answering", "done", "failed"
"""How far a drill is, as ``Observed.drill`` says it; the last two are ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsed:
    """How one rehearsal ended."""

    verdict: Verdict
    reason: str
    """One sentence."""
    seconds: float | None = None
    """From the order until the version could take the traffic, started anew; None when it never could."""
    noticed_seconds: float | None = None
    """The part of it until the supervisor acted on the order: what a rollback takes to a version whose server is up already."""
    answered: int = 0
    """Copies of requests that it answered."""
    failed: int = 0


def is_over(report: Mapping[str, Any] | None, *, asked: str) -> bool:
    """Return whether ``report`` is about the drill ``asked`` and nothing more will come."""
    return report is not None and report.get("asked") == asked and report.get("state") in (DONE, FAILED)


def interrupted(why: str) -> Rehearsed:
    """Return a rehearsal that something else ended: nothing was shown either way."""
    return Rehearsed(verdict=Verdict.CANNOT_TELL, reason=f"a rehearsal must come to its end, this one did not: {why}")


def judge(
    report: Mapping[str, Any] | None, *, asked: str, limit_seconds: float, noticed_seconds: float | None, waited_seconds: float
) -> Rehearsed:
    """Return what the drill ``asked`` amounts to, by the last ``report`` of it that was seen.

    ``noticed_seconds``: from the order to the first report of it, None when there was none. ``waited_seconds``: how long was waited in all.
    """
    if report is None or report.get("asked") != asked:
        return Rehearsed(
            verdict=Verdict.CANNOT_TELL,
            reason=f"the rehearsal must be carried out by a supervisor, none took the order within {waited_seconds:.0f} s: start `firstlight serve`",
        )
    state, start = str(report.get("state")), _seconds(report.get("seconds"))
    answered, failed = _count(report.get("answered")), _count(report.get("failed"))
    if state == FAILED:
        return Rehearsed(
            verdict=Verdict.FAIL, reason=_why(report, start), noticed_seconds=noticed_seconds, answered=answered, failed=failed
        )
    if state == WAITING:
        why = f"what should answer now must be ready before a rehearsal begins, it was not within {waited_seconds:.0f} s: look at `firstlight status`"
        return Rehearsed(verdict=Verdict.CANNOT_TELL, reason=why, noticed_seconds=noticed_seconds)
    if start is None:
        verdict = Verdict.FAIL if waited_seconds > limit_seconds else Verdict.CANNOT_TELL
        why = f"a version must be able to take the traffic within {limit_seconds:g} s, this one was still starting after {waited_seconds:.0f} s"
        return Rehearsed(verdict=verdict, reason=why, noticed_seconds=noticed_seconds)
    whole = round(start + (noticed_seconds or 0.0), 2)
    verdict, reason = _of_a_start(whole, answered, failed, limit_seconds=limit_seconds, is_over=state == DONE)
    if verdict is Verdict.PASS and noticed_seconds is not None:
        reason = f"{reason} from cold, or {noticed_seconds:.1f} s where its server is kept warm"
    return Rehearsed(verdict=verdict, reason=reason, seconds=whole, noticed_seconds=noticed_seconds, answered=answered, failed=failed)


def _of_a_start(seconds: float, answered: int, failed: int, *, limit_seconds: float, is_over: bool) -> tuple[Verdict, str]:
    """Judge a version that did come up."""
    if seconds > limit_seconds:
        return Verdict.FAIL, f"a version must be able to take the traffic within {limit_seconds:g} s, this one took {seconds:.1f} s"
    if failed:
        return Verdict.FAIL, f"a version must answer what it is asked, this one failed {failed} of {answered + failed} copies of requests"
    if not answered:
        return (
            Verdict.CANNOT_TELL,
            "a version must have answered copies of requests, this one was asked nothing: send requests while it is rehearsed",
        )
    if not is_over:
        return Verdict.CANNOT_TELL, "the rehearsal must come to its end, it was still going on: look at `firstlight status`"
    return (
        Verdict.PASS,
        f"verified, loaded, golden vectors repeated and {answered} copies of requests answered; could take the traffic after {seconds:.1f} s",
    )


def _why(report: Mapping[str, Any], start: float | None) -> str:
    said = str(report.get("reason") or "its server said nothing more")
    return said if start is None else f"it came up after {start:.1f} s and did not stay: {said}"


def _seconds(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if is_number else None


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
