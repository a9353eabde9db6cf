"""Is the canary good enough? Pure: policy and evidence in, verdicts with their reasons out.

Every measurement passes when it is *shown* to be within its margin, fails when it is *shown* to be worse, and is *cannot tell* until then. The tests
(``rollout.judging``, ``rollout.sequential``) hold at every look together, so looking after each request is allowed and costs nothing. Agreement is
no test but a rule: the served answers are the evaluated ones, or not.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from firstlight.digest import finite
from firstlight.verdict import Verdict, worst
from rollout import findings, judging
from rollout.evidence import Evidence, Reference
from rollout.policy import RolloutPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One measurement, judged."""

    name: str
    """``errors``, ``latency``, ``quality``, ``answers: …``, ``flags``, ``classes: …``, ``agreement`` or ``readiness``."""
    verdict: Verdict
    reason: str
    """One sentence with the figures."""
    low: float | None = None
    """What is not refuted, of the value that is compared with ``limit``: a share, seconds, a ratio or a difference; None where nothing bounds it."""
    high: float | None = None
    limit: float | None = None
    log_evidence_pass: float | None = None
    """Log evidence that the margin is kept; at ``needed_pass`` it is shown. May fall again. None for a rule that is no test."""
    needed_pass: float | None = None
    log_evidence_fail: float | None = None
    """Log evidence that the canary is worse; at ``needed_fail`` it is shown."""
    needed_fail: float | None = None
    requests: int = 0
    """Requests, or pairs, behind it."""
    unit: str = "requests"
    requests_needed: int | None = None
    """About how many it will take in all to show that the margin is kept, if things go on as so far; None when nobody can say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """All checks of one look; the worst wins, and no check at all is *cannot tell*."""

    checks: tuple[Check, ...]
    budget: dict[str, Any] | None = None
    """How the error budget is split in this rollout; None where nothing is tested."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks."""
        return worst(check.verdict for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not *pass*: the sentences of the checks that are not, those that failed first."""
        not_passed = (Verdict.FAIL, Verdict.CANNOT_TELL)
        return tuple(check.reason for verdict in not_passed for check in self.checks if check.verdict is verdict)

    @property
    def summary(self) -> str:
        """One sentence: the worst check's, or that all passed."""
        if not self.checks:
            return "nothing was measured"
        if self.verdict is Verdict.PASS:
            return f"{len(self.checks)} of {len(self.checks)} checks passed: " + "; ".join(check.reason for check in self.checks)
        return next(check.reason for check in self.checks if check.verdict is self.verdict)

    def outlook(self, rate_per_second: float) -> str:
        """Say how long it will take when this many requests arrive per second, for a person; the slowest check decides.

        ``healthy so far, 143 of about 410 requests needed (errors); at this rate 6 h 20 min``
        """
        if self.verdict is not Verdict.CANNOT_TELL or not self.checks:
            return self.summary
        waiting = [check for check in self.checks if check.verdict is Verdict.CANNOT_TELL]
        unclear = next((check for check in waiting if check.requests_needed is None), None)
        if unclear is not None:
            return f"not clear yet: {unclear.reason}"
        slowest = max(waiting, key=_missing)
        is_known = math.isfinite(rate_per_second) and rate_per_second > 0
        when = f"at this rate {findings.duration(_missing(slowest) / rate_per_second)}" if is_known else "nothing is arriving now"
        return f"healthy so far, {slowest.requests} of about {slowest.requests_needed} {slowest.unit} needed ({slowest.name}); {when}"

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON form."""
        checks = [finite({**asdict(check), "verdict": check.verdict.value}) for check in self.checks]
        form = {"verdict": self.verdict.value, "summary": self.summary, "reasons": list(self.reasons), "checks": checks}
        return {**form, "budget": self.budget} if self.budget else form


def assess(policy: RolloutPolicy, evidence: Evidence, *, leniency: float = 1.0, reference: Reference | None = None) -> Assessment:
    """Judge a canary by everything seen since the rollout began.

    ``leniency`` widens the margins that the next step asks for: 100 over its percentage, because that is how much of the canary's harm callers as a
    whole would see. 1 for the promotion. ``reference`` says what this rollout has; the same at every look. Left out: live requests alone.
    """
    reference = reference or Reference(control=evidence.control is not None)
    asked = judging.questions(policy, evidence, reference, leniency=leniency)
    checks = [_check(one, policy, evidence) for one in asked]
    if reference.agreement:
        checks.append(agreement(policy, evidence))
    return Assessment(checks=tuple(checks), budget=_budget(policy, reference))


def readiness(version: str, *, ready: bool, problems: Iterable[str] = ()) -> Assessment:
    """Judge a canary that is being started: ready is *pass*, not ready yet is *cannot tell* (its deadline turns that into an end)."""
    reason = f"version {version} is ready" if ready else "; ".join([f"version {version} is not ready yet", *problems])
    return Assessment(checks=(Check(name="readiness", verdict=Verdict.PASS if ready else Verdict.CANNOT_TELL, reason=reason),))


def agreement(policy: RolloutPolicy, evidence: Evidence) -> Check:
    """Judge whether the served answers are the evaluated ones. Same bytes, same input: one answer too many that differs is a *fail*, at
    any number."""
    matches, total, limit = evidence.agreement_matches, evidence.agreement_total, policy.disagreement_limit
    found = f"{matches} of {total} served answers equal the evaluated ones (at most {limit} may differ)"
    few = total < policy.agreement_minimum
    verdict = Verdict.FAIL if total - matches > limit else Verdict.CANNOT_TELL if few else Verdict.PASS
    reason = f"{found}; {policy.agreement_minimum} are needed" if verdict is Verdict.CANNOT_TELL else found
    wanted = policy.agreement_minimum
    return Check(name="agreement", verdict=verdict, reason=reason, limit=limit, requests=total, unit="answers", requests_needed=wanted)


def _check(question: judging.Question, policy: RolloutPolicy, evidence: Evidence) -> Check:
    verdict = judging.VERDICTS[int(judging.verdicts(question, policy, evidence.step_requests))]
    limits = findings.interval(question)
    reason, needed = findings.sentence(question, policy, evidence, limits), findings.requests_needed(question)
    requests = int(np.max(question.trials))
    few = policy.requests_per_step - evidence.step_requests
    if question.name == "errors" and verdict is Verdict.CANNOT_TELL and few > 0:
        needed = None if needed is None else max(needed, requests + few)
        reason = f"{reason}; {evidence.step_requests} of {policy.requests_per_step} requests that a step needs"
    return Check(
        name=question.name,
        verdict=verdict,
        reason=reason,
        low=limits[0],
        high=limits[1],
        limit=question.margin,
        log_evidence_pass=float(question.within(np.asarray(question.margin))),
        needed_pass=question.needed_pass,
        log_evidence_fail=float(question.beyond(np.asarray(question.allowed))),
        needed_fail=question.needed_fail,
        requests=requests,
        unit=question.unit,
        requests_needed=requests if verdict is Verdict.PASS else needed,
    )


def _budget(policy: RolloutPolicy, reference: Reference) -> dict[str, Any]:
    split = judging.levels(policy, reference)
    each = {measure.value: level for measure, level in split.healthy_turned_back.items()}
    return {"worse_promoted": split.worse_promoted, "healthy_turned_back": policy.budget.healthy_turned_back, "shares": each}


def _missing(check: Check) -> float:
    return max(0.0, (check.requests_needed or 0) - check.requests)
