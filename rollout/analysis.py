"""Is the canary good enough? Pure: measurements and policy in, verdicts with their reasons out.

Every measurement passes when it is *shown* to be within its limit, fails when it is *shown* to be outside, and is *cannot tell*
otherwise: interval against limit, never a bare estimate. Errors, latency and agreement may fail at any number of requests,
because their intervals are exact; nothing passes before the policy's minimum.

Known weakness: the confidence holds for each look, not for all looks of a step together. Looking often makes a false *fail*
(a healthy canary turned back) likelier than stated; sequential bounds that allow it replace these intervals later.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from firstlight.digest import finite
from firstlight.verdict import Verdict, worst
from rollout.intervals import clopper_pearson, newcombe, quantile
from rollout.measurements import Measurement, VersionMeasurement, is_count, is_number
from rollout.spec import RolloutPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One measurement, judged."""

    name: str
    """``errors``, ``latency``, ``quality``, ``agreement`` or ``readiness``."""
    verdict: Verdict
    reason: str
    """One sentence with the figures."""
    low: float | None = None
    """The interval that was compared with ``limit``: a share, seconds, a ratio or a difference; None where there is none."""
    high: float | None = None
    limit: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """All checks of one look; the worst wins, and no check at all is *cannot tell*."""

    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks."""
        return worst(check.verdict for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not *pass*: the sentences of the checks that are not."""
        return tuple(check.reason for check in self.checks if check.verdict is not Verdict.PASS)

    @property
    def summary(self) -> str:
        """One sentence: the worst check's, or that all passed."""
        if not self.checks:
            return "nothing was measured"
        if self.verdict is Verdict.PASS:
            return f"{len(self.checks)} of {len(self.checks)} checks passed: " + "; ".join(check.reason for check in self.checks)
        return next(check.reason for check in self.checks if check.verdict is self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON form."""
        checks = [
            {"name": c.name, "verdict": c.verdict.value, "reason": c.reason, "low": finite(c.low), "high": finite(c.high), "limit": c.limit}
            for c in self.checks
        ]
        return {"verdict": self.verdict.value, "summary": self.summary, "reasons": list(self.reasons), "checks": checks}


def assess(policy: RolloutPolicy, measured: Measurement) -> Assessment:
    """Judge one look at a canary that answers requests."""
    return Assessment(
        checks=(errors(policy, measured), latency(policy, measured), quality(policy, measured), agreement(policy, measured.canary))
    )


def readiness(version: str, *, ready: bool, problems: Iterable[str] = ()) -> Assessment:
    """Judge a canary that is being started: ready is *pass*, not ready yet is *cannot tell* (its deadline turns that into an end)."""
    reason = f"version {version} is ready" if ready else "; ".join([f"version {version} is not ready yet", *problems])
    return Assessment(checks=(Check(name="readiness", verdict=Verdict.PASS if ready else Verdict.CANNOT_TELL, reason=reason),))


def errors(policy: RolloutPolicy, measured: Measurement) -> Check:
    """Judge failed requests: the exact upper bound must stay within the limit, and the rate must not be shown to exceed stable's by more
    than the margin.

    Shown to be worse than stable: the canary's exact lower bound lies above stable's exact upper bound plus the margin.
    """
    canary, stable, name = measured.canary, measured.stable, "errors"
    if broken := _broken_counts("errors", canary, stable):
        return _cannot_tell(name, broken)
    low, high = clopper_pearson(canary.errors, canary.requests, confidence=policy.confidence)
    found = f"{canary.errors} of {canary.requests} requests failed ({low:.1%} to {high:.1%}, limit {policy.error_limit:.1%})"
    bounds = {"low": low, "high": high, "limit": policy.error_limit}
    if low > policy.error_limit:
        return Check(name=name, verdict=Verdict.FAIL, reason=found, **bounds)
    if stable is not None:
        _, stable_high = clopper_pearson(stable.errors, stable.requests, confidence=policy.confidence)
        if low > stable_high + policy.error_margin:
            worse = f"{found}; stable: {stable.errors} of {stable.requests} (at most {stable_high:.1%}, margin {policy.error_margin:.1%})"
            return Check(name=name, verdict=Verdict.FAIL, reason=worse, **bounds)
    if few := _too_few(policy, canary, stable):
        return _cannot_tell(name, f"{found}; {few}", **bounds)
    return Check(name=name, verdict=Verdict.PASS if high <= policy.error_limit else Verdict.CANNOT_TELL, reason=found, **bounds)


def latency(policy: RolloutPolicy, measured: Measurement) -> Check:
    """Judge the latency quantile: as a ratio to stable's, or in seconds where there is no stable. Order-statistic bounds, exact for any
    distribution.

    The ratio's bounds are canary's low over stable's high and canary's high over stable's low, so its confidence is at least 2 *
    confidence - 1.
    """
    canary, stable, name = measured.canary, measured.stable, "latency"
    for one in (canary, stable):
        if one is not None and (not one.latency_seconds or not all(is_number(sample) for sample in one.latency_seconds)):
            return _cannot_tell(name, f"answer times of version {one.version} are missing or no numbers")
    q, label = policy.latency_quantile, f"p{100 * policy.latency_quantile:g}"
    low, high = quantile(canary.latency_seconds, q, confidence=policy.confidence)
    if stable is None:
        limit, unit = policy.latency_limit_seconds, "s"
    else:
        limit, unit = policy.latency_ratio_limit, "x stable"
        stable_low, stable_high = quantile(stable.latency_seconds, q, confidence=policy.confidence)
        low = low / stable_high if 0 < stable_high < math.inf else -math.inf
        high = high / stable_low if stable_low > 0 else math.inf
    count = f"{len(canary.latency_seconds)} answers" + (f" against {len(stable.latency_seconds)}" if stable else "")
    found = f"{label} is {max(low, 0):.3g} to {high:.3g} {unit} (limit {limit:g} {unit}, {count})"
    return _against(name, found, low=low, high=high, limit=limit, few=_too_few(policy, canary, stable))


def quality(policy: RolloutPolicy, measured: Measurement) -> Check:
    """Judge answers whose right answer is known: the share of good ones against stable's less the margin, or against the minimum without
    a stable.

    Difference by Newcombe's interval, a single share by Clopper and Pearson's. Below the minimum number it neither passes nor fails.
    """
    canary, stable, name = measured.canary, measured.stable, "quality"
    for one in (canary, stable):
        if one is not None and not _is_share(one.quality_good, one.quality_total):
            return _cannot_tell(
                name, f"{one.quality_good!r} good of {one.quality_total!r} judged answers of version {one.version} is no share"
            )
        if one is not None and one.quality_total < policy.requests_per_step:
            return _cannot_tell(
                name, f"{one.quality_total} answers of version {one.version} could be judged, {policy.requests_per_step} are needed"
            )
    mine = (canary.quality_good, canary.quality_total)
    if stable is None:
        low, high = clopper_pearson(*mine, confidence=policy.confidence)
        found = f"{mine[0]} of {mine[1]} answers are good ({low:.1%} to {high:.1%}, at least {policy.quality_minimum:.1%} is needed)"
        return _at_least(name, found, low=low, high=high, limit=policy.quality_minimum)
    theirs = (stable.quality_good, stable.quality_total)
    low, high = newcombe(mine, theirs, confidence=policy.confidence)
    shares = f"{mine[0] / mine[1]:.1%} of answers are good, stable {theirs[0] / theirs[1]:.1%}"
    found = f"{shares} (difference {100 * low:+.1f} to {100 * high:+.1f} points, margin {-100 * policy.quality_margin:.1f})"
    return _at_least(name, found, low=low, high=high, limit=-policy.quality_margin)


def agreement(policy: RolloutPolicy, canary: VersionMeasurement) -> Check:
    """Judge whether the served answers are the evaluated ones. Same bytes, same input: one answer too many that differs is a *fail*, at
    any number."""
    matches, total, limit = canary.agreement_matches, canary.agreement_total, policy.disagreement_limit
    if not _is_share(matches, total):
        return _cannot_tell("agreement", f"{matches!r} matches of {total!r} compared answers is no share")
    found = f"{matches} of {total} served answers equal the evaluated ones (at most {limit} may differ)"
    if total - matches > limit:
        return Check(name="agreement", verdict=Verdict.FAIL, reason=found, limit=limit)
    if total < policy.agreement_minimum:
        return _cannot_tell("agreement", f"{found}; {policy.agreement_minimum} are needed", limit=limit)
    return Check(name="agreement", verdict=Verdict.PASS, reason=found, limit=limit)


def _against(name: str, found: str, *, low: float, high: float, limit: float, few: str | None) -> Check:
    """At most ``limit``: shown above is *fail* at any number, shown within is *pass* from the minimum on."""
    bounds = {"low": low, "high": high, "limit": limit}
    if low > limit:
        return Check(name=name, verdict=Verdict.FAIL, reason=found, **bounds)
    if few or not high <= limit:
        return _cannot_tell(name, f"{found}; {few}" if few else found, **bounds)
    return Check(name=name, verdict=Verdict.PASS, reason=found, **bounds)


def _at_least(name: str, found: str, *, low: float, high: float, limit: float) -> Check:
    verdict = Verdict.PASS if low >= limit else Verdict.FAIL if high < limit else Verdict.CANNOT_TELL
    return Check(name=name, verdict=verdict, reason=found, low=low, high=high, limit=limit)


def _cannot_tell(name: str, reason: str, **bounds: float) -> Check:
    return Check(name=name, verdict=Verdict.CANNOT_TELL, reason=reason, **bounds)


def _too_few(policy: RolloutPolicy, *versions: VersionMeasurement | None) -> str | None:
    needed = policy.requests_per_step
    few = [
        f"version {one.version} has answered {one.requests!r}"
        for one in versions
        if one is not None and not (is_count(one.requests) and one.requests >= needed)
    ]
    return f"{' and '.join(few)} of {needed} requests needed" if few else None


def _broken_counts(what: str, *versions: VersionMeasurement | None) -> str | None:
    broken = [
        f"{one.errors!r} {what} of {one.requests!r} requests of version {one.version} is no share"
        for one in versions
        if one and not _is_share(one.errors, one.requests)
    ]
    return "; ".join(broken) or None


def _is_share(part: int, whole: int) -> bool:
    return is_count(part) and is_count(whole) and part <= whole
