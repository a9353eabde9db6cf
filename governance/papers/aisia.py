"""The AI system impact assessment (AISIA), the lab's seven sections (AI risk standard 02, section 4), as one page."""

from collections.abc import Mapping
from typing import Any

from governance.papers.decision import Decision, decision_of, waivers_of
from governance.papers.facts import NO_EVIDENCE, Claim, PaperFacts, line, words
from governance.papers.page import Grid, Part, render

_DIMENSIONS = ("implementation", "operation", "reliability", "verification")


def make(facts: PaperFacts) -> bytes:
    """Return aisia.html. Raises EvidenceError when no document names the release or a time."""
    decided = decision_of(facts)
    model = facts.first("hand_off.name", "subject.model", "release.model")
    return render(
        title=f"AI system impact assessment: {model}, version {facts.claim('registration.version')}",
        kicker=f"Release {facts.release} · {facts.moment[:10]}",
        lead=f"Filled from the evidence of this release; “{NO_EVIDENCE}” where there is none. Small print names the place in the evidence folder.",
        parts=[
            Part(title="1. Summary", tree=_summary(facts, decided)),
            Part(title="2. System context", tree=_context(facts)),
            Part(title="3. Risks", tree=_risks(facts)),
            Part(
                title="4. Inherent risk",
                tree=_inherent(facts),
                tables=[_scores(facts, "Impact and expectancy with no controls", "impact", "expectancy", "inherent")],
            ),
            Part(title="5. Controls", tree=_controls(facts), tables=[_maturity(facts), _register(facts)]),
            Part(
                title="6. Residual risk",
                tree=_residual(facts, decided),
                tables=[_scores(facts, "Impact and expectancy after the controls", "residual_impact", "residual_expectancy", "residual")],
            ),
            Part(title="7. Monitoring and re-assessment", tree=_afterwards(facts, decided)),
        ],
    )


def _summary(facts: PaperFacts, decided: Decision) -> dict[str, Any]:
    return {
        "purpose": facts.claim("hand_off.purpose"),
        "scope": facts.first("subject.environment", "release.environment"),
        "residual risk": facts.claim("risk.summary"),
        "decision": decided.treatment,
        "decision id": facts.claim("subject.decision_id"),
        "change": facts.claim("subject.change_id"),
        "approved by": decided.sentence,
        "status of the release": facts.said("release.status", "release.summary", between=": "),
    }


def _context(facts: PaperFacts) -> dict[str, Any]:
    return {
        "system": facts.phrase("{}, version {}, model sha256 {}", "hand_off.name", "registration.version", "hand_off.model_digest"),
        "owner": facts.phrase("{} <{}>", "hand_off.trainer.name", "hand_off.trainer.email"),
        "architecture": {
            "program": facts.claim("hand_off.model.file"),
            "run by": facts.said("backend.chosen", "backend.summary", between=": "),
            "environment": facts.said("environment.summary", "hand_off.environment"),
            "platform": facts.claim("serving.summary"),
        },
        "role in decisions": {"for": facts.claim("hand_off.purpose"), "not for": facts.claim("hand_off.not_for")},
        "data": {
            "class": facts.claim("hand_off.data_class"),
            "trained on": facts.claim("hand_off.data"),
            "checked": facts.claim("data.summary"),
        },
        "integration": {
            "inputs": _named(facts, "hand_off.model.inputs", "unit"),
            "outputs": _named(facts, "hand_off.model.outputs", "meaning"),
        },
    }


def _named(facts: PaperFacts, path: str, says: str) -> Claim:
    return Claim(value=[line(f"{row.get('name')}: {row.get(says, '')}") for row in facts.rows(path)] or NO_EVIDENCE, sources=(path,))


def _risks(facts: PaperFacts) -> dict[str, Any]:
    rows = facts.rows("risk.scenarios")
    made: dict[str, Any] = {line(f"{row.get('id')} {row.get('title')}"): Claim(value=words(row.get("what_can_happen"))) for row in rows}
    return made or {"scenarios": facts.claim("risk.scenarios")}


def _inherent(facts: PaperFacts) -> dict[str, Any]:
    reasons = {line(f"{row.get('id')}"): Claim(value=words(row.get("why_these_numbers"))) for row in facts.rows("risk.definitions")}
    return reasons or {"scores": facts.claim("risk.scenarios")}


def _scores(facts: PaperFacts, caption: str, *keys: str) -> Grid:
    rows = facts.rows("risk.scenarios")
    return Grid(
        caption=caption,
        columns=("scenario", *(key.replace("_", " ") for key in keys), *(["band"] if keys[-1] == "residual" else [])),
        rows=[
            [
                line(f"{row.get('id')} {row.get('title')}"),
                *(words(row.get(key)) for key in keys),
                *([_band(row)] if keys[-1] == "residual" else []),
            ]
            for row in rows
        ],
    )


def _band(row: Mapping[str, Any]) -> str:
    reasons = row.get("not_applicable_because")
    return line(f"not applicable because {words(reasons)}") if reasons else words(row.get("band"))


def _controls(facts: PaperFacts) -> dict[str, Any]:
    return {
        "register": facts.claim("register.summary"),
        "supply chain": facts.said("hand_off.summary", "registration.summary", "environment.summary"),
        "way back": facts.claim("rehearsal.summary"),
        "platform": facts.claim("serving.summary"),
        "canary": facts.claim("canary.summary"),
    }


def _maturity(facts: PaperFacts) -> Grid:
    found = []
    for row in facts.rows("risk.scenarios"):
        points = row.get("by_dimension")
        by = points if isinstance(points, Mapping) else {}
        rules = [rule for rule in row.get("findings", []) if isinstance(rule, Mapping)]
        lacking = "; ".join(line(f"{rule.get('rule')} (found {rule.get('found')})") for rule in rules if not rule.get("held"))
        found.append(
            [
                line(f"{row.get('id')} {row.get('title')}"),
                *(words(by.get(name)) for name in _DIMENSIONS),
                words(row.get("maturity")),
                lacking or "–",
            ]
        )
    return Grid(
        caption="Maturity of the controls: written rules that held over the evidence",
        columns=("scenario", *_DIMENSIONS, "of 8", "did not hold"),
        rows=found,
    )


def _register(facts: PaperFacts) -> Grid:
    rows = [
        [words(row.get("nist_ref")), words(row.get("title")), words(row.get("owner")), words(row.get("state"))]
        for row in facts.rows("register.rows")
    ]
    return Grid(caption="Register of NIST AI RMF subcategories", columns=("subcategory", "title", "owner", "state"), rows=rows)


def _residual(facts: PaperFacts, decided: Decision) -> dict[str, Any]:
    waived = [
        line(
            f"{row.get('scenario')} until {row.get('until')}, {row.get('name')} ({row.get('role')}): {row.get('reason')} Instead: {words(row.get('controls'))}"
        )
        for row in waivers_of(facts)
    ]
    return {
        "overall": facts.phrase("{} of 25, {}", "risk.overall", "risk.band"),
        "decision": decided.treatment,
        "justification": decided.reasons,
        "conditions": decided.conditions,
        "waivers": Claim(value=waived or ("none" if facts.evidence.get("risk") else NO_EVIDENCE), sources=("risk.waivers",)),
        "papers asked for at this band": facts.claim("risk.documents"),
    }


def _afterwards(facts: PaperFacts, decided: Decision) -> dict[str, Any]:
    watched = {line(f"{row.get('id')}"): Claim(value=words(row.get("watched_after"))) for row in facts.rows("risk.scenarios")}
    return {
        "watched": watched or facts.claim("risk.scenarios"),
        "drift": facts.first("drift.summary", "previous_drift.summary"),
        "again on": decided.look_again,
        "again when": facts.phrase("model, evidence or policy change: {} days at most between signature and use", "risk.validity_days"),
        "responsible": decided.makers,
    }
