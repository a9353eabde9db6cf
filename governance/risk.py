"""Risk of one release: inherent risk lowered by control maturity, and maturity computed from this release's own evidence.

The arithmetic is the lab's (AI risk standard 02, section 3; CIS-RAM style): inherent = impact × expectancy, both 1-5. Maturity is the sum
of four dimensions, 0-2 each. Sum 0-2 changes nothing; 3-5 takes one off both factors; 6-8 takes two off both; no factor falls below 1;
only the best tier counts. Nobody types a maturity in: each point is a written rule that held over a stored evidence document.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from firstlight.digest import finite, sha256_json
from firstlight.verdict import Verdict
from governance.policy import Band, RiskPolicy
from governance.scenario import DIMENSIONS, Rule, Scenario, in_words, load_scenarios, look_up
from governance.waiver import WaiverInForce

__all__ = [
    "Band",
    "RiskAssessment",
    "RiskPolicy",
    "RuleFinding",
    "ScenarioRisk",
    "assess",
    "load_scenarios",
    "reduction",
    "residual_factors",
]

HIGHEST_MATURITY = 8
"""Four dimensions of two points."""


def reduction(maturity: int) -> int:
    """Return how much both factors fall at ``maturity`` (0 to 8): 0, 1 or 2.

    >>> [reduction(points) for points in range(9)]
    [0, 0, 0, 1, 1, 1, 2, 2, 2]
    """
    if not 0 <= maturity <= HIGHEST_MATURITY:
        raise ValueError(f"maturity must be 0 to {HIGHEST_MATURITY}, got {maturity!r}")
    if maturity <= 2:
        return 0
    return 1 if maturity <= 5 else 2


def residual_factors(impact: int, expectancy: int, *, maturity: int) -> tuple[int, int]:
    """Return impact and expectancy after the controls, each at least 1.

    >>> residual_factors(5, 4, maturity=8)
    (3, 2)
    """
    lower = reduction(maturity)
    return max(1, impact - lower), max(1, expectancy - lower)


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleFinding:
    """What one rule found: ``found`` is the value in words, ``held`` whether the rule earned its point."""

    dimension: str
    rule: str
    found: str
    held: bool
    because: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenarioRisk:
    """One scenario scored on one release."""

    id: str
    title: str
    what_can_happen: str
    watched_after: str
    impact: int
    expectancy: int
    inherent: int
    maturity: int
    by_dimension: Mapping[str, int]
    residual_impact: int
    residual_expectancy: int
    residual: int
    band: str
    missing: tuple[str, ...]
    """Evidence documents the scenario requires and this release lacks."""
    findings: tuple[RuleFinding, ...]
    not_applicable_because: tuple[str, ...] = ()
    """Why this cannot happen to this release, by its evidence; then its residual is shown, and decides nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskAssessment:
    """The risk of one release. PASS means: may be put before the people named in ``required_roles``."""

    verdict: Verdict
    summary: str
    reasons: tuple[str, ...]
    overall: int
    """The highest residual of all scenarios that apply; nothing is averaged away."""
    band: str
    required_roles: Mapping[str, int]
    """Role -> how many different people must approve."""
    quorum: int
    """People in all."""
    documents: tuple[str, ...]
    validity_days: int
    risk_policy_digest: str
    """Of the risk section alone; the whole policy file has its own digest in subject.json."""
    scenarios_digest: str
    scenarios: tuple[ScenarioRisk, ...]
    definitions: tuple[Mapping[str, Any], ...]
    """The scenario files themselves, so that a reader can recompute everything above from the evidence."""
    waivers: tuple[Mapping[str, Any], ...] = ()
    """The waivers in force when this was assessed, each with whether it was ``used``: without it the verdict would be another."""
    waived: tuple[str, ...] = ()
    """What would not hold without a waiver, each with the waiver's name, its signer and its last day."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for the evidence folder; a scenario that applies says nothing about not applying, a release without waivers nothing of them."""
        plain = finite(asdict(self))
        for name in ("waivers", "waived"):
            if not plain[name]:
                del plain[name]
        for row in plain["scenarios"]:
            if not row["not_applicable_because"]:
                del row["not_applicable_because"]
        return {**plain, "verdict": str(self.verdict)}


def assess(
    evidence: Mapping[str, Mapping[str, Any]],
    *,
    scenarios: Sequence[Scenario],
    policy: RiskPolicy,
    waivers: Sequence[WaiverInForce] = (),
) -> RiskAssessment:
    """Score ``scenarios`` on the ``evidence`` documents of one release (name -> document). Pure.

    FAIL when the policy's maximum is exceeded, CANNOT_TELL when a document that a scenario requires is absent or no scenario applies, else PASS.
    What one of ``waivers`` accepts for a scenario is neither; it lowers no residual. Raises ValueError without scenarios.
    """
    if not scenarios:
        raise ValueError("a release must be assessed on at least one scenario, got none")
    scored = tuple(_score(scenario, evidence, policy) for scenario in scenarios)
    definitions = tuple(scenario.model_dump(mode="json", by_alias=True, exclude_none=True) for scenario in scenarios)
    applying = tuple(risk for risk in scored if not risk.not_applicable_because)
    top = max(applying or scored, key=lambda risk: risk.residual)
    band = policy.band_of(top.residual)
    longest = {waiver.scenario: waiver for waiver in sorted(waivers, key=lambda waiver: (waiver.until, waiver.id))}
    over = _too_high(applying, policy)
    too_high = [said for name, said in over.items() if name not in longest]
    absent = _absent([risk for risk in applying if risk.id not in longest])
    lacking = {risk.id: f"{risk.id} {risk.title}: evidence {', '.join(risk.missing)} is not there" for risk in applying if risk.missing}
    waived = {name: [said[name] for said in (over, lacking) if name in said] for name in longest if name in over or name in lacking}
    absent += (
        []
        if applying
        else ["at least one scenario must apply to a release, none does: a model that nothing can happen to is not described yet"]
    )
    verdict = Verdict.FAIL if too_high else Verdict.CANNOT_TELL if absent else Verdict.PASS
    return RiskAssessment(
        verdict=verdict,
        summary=(
            f"residual {top.residual} of 25 ({band.name}), highest {top.id} {top.title.lower()}; asks for {policy.asked(band.approvers)}"
            f"{'; by ' + ' and '.join(longest[name].said for name in sorted(waived)) if waived else ''}"
        ),
        reasons=(*too_high, *absent),
        overall=top.residual,
        band=band.name,
        required_roles=dict(band.approvers),
        quorum=sum(band.approvers.values()),
        documents=band.documents,
        validity_days=policy.validity_days,
        risk_policy_digest=sha256_json(policy.model_dump(mode="json")),
        scenarios_digest=sha256_json(list(definitions)),
        scenarios=scored,
        definitions=definitions,
        waivers=tuple({**waiver.to_dict(), "used": longest[waiver.scenario] is waiver and waiver.scenario in waived} for waiver in waivers),
        waived=tuple(f"{said}; accepted by {longest[name].said}" for name, lines in sorted(waived.items()) for said in lines),
    )


def _score(scenario: Scenario, evidence: Mapping[str, Mapping[str, Any]], policy: RiskPolicy) -> ScenarioRisk:
    findings = tuple(_find(dimension, rule, evidence) for dimension in DIMENSIONS for rule in getattr(scenario.maturity, dimension))
    by_dimension = {dimension: sum(found.held for found in findings if found.dimension == dimension) for dimension in DIMENSIONS}
    maturity = sum(by_dimension.values())
    impact, expectancy = residual_factors(scenario.impact, scenario.expectancy, maturity=maturity)
    return ScenarioRisk(
        id=scenario.id,
        title=scenario.title,
        what_can_happen=scenario.what_can_happen.strip(),
        watched_after=scenario.watched_after.strip(),
        impact=scenario.impact,
        expectancy=scenario.expectancy,
        inherent=scenario.impact * scenario.expectancy,
        maturity=maturity,
        by_dimension=by_dimension,
        residual_impact=impact,
        residual_expectancy=expectancy,
        residual=impact * expectancy,
        band=policy.band_of(impact * expectancy).name,
        missing=tuple(name for name in scenario.requires if not evidence.get(name)),
        findings=findings,
        not_applicable_because=_not_applicable(scenario, evidence),
    )


def _not_applicable(scenario: Scenario, evidence: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return why the scenario cannot happen to this release; nothing where one of the rules does not hold, or its evidence is absent."""
    rules = scenario.not_applicable_when or ()
    found = [(rule, look_up(evidence, rule.evidence)) for rule in rules]
    if not all(rule.holds(value) for rule, value in found):
        return ()
    return tuple(f"{rule.because} ({rule.evidence}: {in_words(value)})" for rule, value in found)


def _find(dimension: str, rule: Rule, evidence: Mapping[str, Mapping[str, Any]]) -> RuleFinding:
    value = look_up(evidence, rule.evidence)
    return RuleFinding(dimension=dimension, rule=rule.text, found=in_words(value), held=rule.holds(value), because=rule.because)


def _too_high(scored: Sequence[ScenarioRisk], policy: RiskPolicy) -> dict[str, str]:
    """Return scenario -> sentence where its residual is above its limit."""
    limits = {risk.id: min(policy.highest_residual, policy.highest_by_scenario.get(risk.id, 25)) for risk in scored}
    return {
        risk.id: f"{risk.id} {risk.title}: residual must be at most {limits[risk.id]} in this environment, found {risk.residual}"
        for risk in scored
        if risk.residual > limits[risk.id]
    }


def _absent(scored: Sequence[ScenarioRisk]) -> list[str]:
    needing: dict[str, list[str]] = {}
    for risk in scored:
        for name in risk.missing:
            needing.setdefault(name, []).append(risk.id)
    return [
        f"evidence {name!r} must be there to judge {', '.join(ids)}, found none: run that stage" for name, ids in sorted(needing.items())
    ]
