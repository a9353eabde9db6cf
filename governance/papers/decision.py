"""What was decided about a release, by whom and until when, read from its evidence; the decision log and the AISIA both tell it."""

import calendar
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from governance.papers.facts import NO_EVIDENCE, Claim, PaperFacts, instant, line, words

_BY_VERDICT = {
    "pass": ("Active", "Accept", "{}"),
    "fail": ("Active", "Avoid", "{}"),
    "cannot tell": ("Proposed", NO_EVIDENCE, "nothing is decided yet: {}"),
}
"""Verdict of the sign-off -> status, treatment of the risk, and what is said around its summary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A decision as papers tell it."""

    status: Claim
    """Active, Proposed, or no evidence; the log supersedes, it never edits."""
    treatment: Claim
    """Accept or Avoid, the lab's words for what is done with the residual risk; Mitigate where controls lowered it."""
    sentence: Claim
    makers: Claim
    reasons: Claim
    """In the words of those who signed."""
    conditions: Claim
    day: Claim
    look_again: Claim
    """The day on which it is put before its approvers again."""


def decision_of(facts: PaperFacts) -> Decision:
    """Return the decision on a release; every part says so where there is no evidence."""
    verdict = facts.at("sign_off.verdict")
    status, treatment, sentence = _BY_VERDICT.get(str(verdict), (NO_EVIDENCE, NO_EVIDENCE, "{}"))
    applying = [row for row in facts.rows("risk.scenarios") if not row.get("not_applicable_because")]
    lowered = [row for row in applying if _number(row.get("residual")) < _number(row.get("inherent"))]
    if treatment == "Accept" and lowered:
        treatment = f"Mitigate ({len(lowered)} of the {len(applying)} scenarios that apply lowered by controls), accept what is left"
    signed = facts.rows("sign_off.accepted")
    source = ("sign_off.accepted", "sign_off.break_glass")
    glass = facts.mapping("sign_off.break_glass")
    if glass:
        status = f"{status}, by break-glass; {'ratified' if glass.get('ratified') else 'not ratified yet'}"
        if not glass.get("ratified"):
            treatment, sentence = (
                "Accept for the time being: the quorum of its band has not signed",
                "the release goes on by break-glass: {}",
            )
        signed = [*signed, {**glass, "role": f"{glass.get('role')}, by break-glass"}]
    return Decision(
        status=Claim(value=status, sources=("sign_off.verdict",)),
        treatment=Claim(value=treatment, sources=("sign_off.verdict", "risk.scenarios")),
        sentence=facts.phrase(sentence, "sign_off.summary"),
        makers=Claim(value=[line(f"{row.get('name')} ({row.get('role')})") for row in signed] or NO_EVIDENCE, sources=source),
        reasons=Claim(
            value=[line(f"{row.get('name')}: {row.get('reason')}") for row in signed if row.get("reason")] or NO_EVIDENCE, sources=source
        ),
        conditions=Claim(value=_conditions(facts, signed), sources=("sign_off.conditions",)),
        day=Claim(value=_day(facts, verdict), sources=("sign_off.decided_at",)),
        look_again=look_again(facts),
    )


def look_again(facts: PaperFacts) -> Claim:
    """Return the day on which the release is due before its approvers again, by the policy's interval for its band; NO_EVIDENCE until it is signed."""
    sources = ("sign_off.decided_at", "policy.reassessment", "risk.band")
    decided = instant(facts.at("sign_off.decided_at"))
    days = facts.mapping("policy.reassessment.every_days_by_band").get(
        str(facts.at("risk.band")), facts.at("policy.reassessment.every_days")
    )
    if facts.at("sign_off.verdict") != "pass" or decided is None or not isinstance(days, int):
        return Claim(value=NO_EVIDENCE, sources=sources)
    seconds = calendar.timegm(datetime.fromisoformat(decided).timetuple()) + days * 86400
    due = instant(seconds) or NO_EVIDENCE
    return Claim(value=f"{due[:10]}, {days} days after the decision", sources=sources)


def waivers_of(facts: PaperFacts) -> list[Mapping[str, Any]]:
    """Return the waivers that the risk assessment used."""
    return [row for row in facts.rows("risk.waivers") if row.get("used")]


def _conditions(facts: PaperFacts, signed: list[Mapping[str, Any]]) -> Any:
    """Return the conditions that were set; *none set* where people signed a form that asks for them and left it empty."""
    said = facts.at("sign_off.conditions")
    if isinstance(said, list) and said:
        return [words(one) for one in said]
    return "none set" if said == [] and signed else NO_EVIDENCE


def _day(facts: PaperFacts, verdict: Any) -> str:
    decided = instant(facts.at("sign_off.decided_at"))
    return decided[:10] if decided and verdict in ("pass", "fail") else NO_EVIDENCE


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
