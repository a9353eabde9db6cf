"""How often a policy decides rightly, and after how many requests: many rollouts at once, with numbers for dice. Pure.

Nothing is decided here. Failures are drawn, and every look asks what a rollout asks: ``judging.error_questions`` at the levels of a rollout that has
every measurement, ``judge.leniency`` and ``controller.advance``. Only failed requests are drawn; all other measurements are taken to have passed.
Looks are 20 requests apart. More would change little: the tests hold at every look together.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.errors import RefusedError
from firstlight.verdict import Verdict
from rollout import controller, judging, sequential, sequential_pairs
from rollout.evidence import Reference, step, step_edges
from rollout.judge import leniency
from rollout.policy import Measure, RolloutPolicy
from rollout.spec import Phase, RolloutSpec, RolloutStatus

Ints = NDArray[np.int64]

EVERYTHING = Reference(pairs=True, scales={"anomaly_score": 1.0}, flags=True, labels=("GALAXY", "QSO", "STAR"))
"""A rollout that has every measurement: the smallest levels that a policy gives to one."""
_LOOK = 20
_MOST_LOOKS = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """How simulated rollouts of one kind ended."""

    runs: int
    promoted: int
    shown_worse: int
    undecided: int
    """Not decided by a deadline; back on stable as well."""
    requests_median: float
    """Requests to the service until the end, whatever it was."""
    requests_99: float
    """The same, the 99th percentile."""
    requests_to_detect: float | None
    """Median until *shown worse*, of those that ended so; None when none did."""

    @property
    def turned_back(self) -> int:
        """Not promoted, for whatever reason."""
        return self.shown_worse + self.undecided

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON form, with the shares."""
        return {**asdict(self), "turned_back": self.turned_back}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Counted:
    """Counts of many rollouts, by the names of ``Stream`` and ``Pairs``."""

    requests: Ints
    errors: Ints
    control_requests: Ints
    control_errors: Ints
    failed: Ints
    copied: Ints
    copied_failed: Ints
    stable_requests: Ints
    stable_errors: Ints
    step_requests: Ints

    @classmethod
    def nothing(cls, runs: int) -> "_Counted":
        return cls(**{name: np.zeros(runs, dtype=np.int64) for name in cls.__dataclass_fields__})

    def plus(self, more: "_Counted") -> "_Counted":
        return self.each(lambda name: getattr(self, name) + getattr(more, name))

    def of(self, which: NDArray[Any]) -> "_Counted":
        return self.each(lambda name: getattr(self, name)[which])

    def each(self, value: Callable[[str], Ints]) -> "_Counted":
        return _Counted(**{name: value(name) for name in self.__dataclass_fields__})


def rollouts(
    policy: RolloutPolicy, *, control_rate: float, canary_rate: float, per_window: int, window_seconds: float = 3600.0, runs: int, seed: int
) -> Outcomes:
    """Simulate ``runs`` rollouts in which both versions fail at these shares, 0..1, with ``per_window`` requests to the service in every window.

    Raises RefusedError for rates, counts or times that mean nothing.
    """
    _check(control_rate, canary_rate, per_window, window_seconds, runs)
    random, split = np.random.default_rng(seed), judging.levels(policy, EVERYTHING)
    spec = RolloutSpec(canary="2", stable="1", policy=policy)
    first = controller.advance(spec, controller.begin(spec, 0.0), Verdict.PASS, 0.0)
    statuses, ended_at = [first] * runs, np.zeros(runs, dtype=np.int64)
    active, counted = np.arange(runs), _Counted.nothing(runs)
    for look in range(1, _MOST_LOOKS + 1):
        now = look * _LOOK * window_seconds / per_window
        step_of = np.array([statuses[run].step for run in active])
        began = np.array([statuses[run].step_started for run in active])
        counted = counted.plus(_drawn(random, policy, np.array(spec.steps)[step_of], look, control_rate, canary_rate))
        wide = np.array([leniency(spec, replace(first, step=one)) for one in range(len(spec.steps))])[step_of]
        found = _verdicts(policy, split, counted, wide)
        stays = np.ones(len(active), dtype=bool)
        for place in np.flatnonzero((found != 1) | (now - began >= policy.step_deadline_seconds)):
            run = active[place]
            statuses[run] = controller.advance(spec, statuses[run], judging.VERDICTS[found[place]], now)
            stays[place] = statuses[run].phase is Phase.PROGRESSING
            if stays[place]:
                counted.step_requests[place] = 0
            ended_at[run] = look * _LOOK
        active, counted = active[stays], counted.of(stays)
        if not len(active):
            break
    return _outcomes(statuses, ended_at)


def fixed_threshold(*, canary_rate: float, per_window: int, runs: int, seed: int) -> Outcomes:
    """Simulate the rule in common use: a window is good when at least 99 % of the canary's requests succeed; ten good ones promote, five others turn
    back. It looks at nothing but the canary, and never says that it cannot tell."""
    _check(0.0, canary_rate, per_window, 1.0, runs)
    windows = 10 + 5 - 1
    failed = np.random.default_rng(seed).binomial(per_window, canary_rate, (runs, windows))
    good = np.cumsum(failed <= 0.01 * per_window + 1e-9, axis=1)
    bad = np.arange(1, windows + 1) - good
    ends = (good >= 10) | (bad >= 5)
    at = ends.argmax(axis=1)
    promoted = good[np.arange(runs), at] >= 10
    requests = (at + 1) * per_window
    return Outcomes(
        runs=runs,
        promoted=int(promoted.sum()),
        shown_worse=int((~promoted).sum()),
        undecided=0,
        requests_median=float(np.median(requests)),
        requests_99=float(np.percentile(requests, 99)),
        requests_to_detect=float(np.median(requests[~promoted])) if (~promoted).any() else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is simulated: a canary as good as the control, and one that fails more often."""

    healthy: float = 0.005
    """Share of failed requests of the control, and of a healthy canary."""
    bad: float = 0.02
    """Of a bad canary."""
    per_window: tuple[int, ...] = (5, 20, 100, 1000)
    """Requests to the service in one window."""
    window_seconds: float = 3600.0
    runs: int = 2000
    seed: int = 20261123


def table(policy: RolloutPolicy, case: Case) -> dict[str, Any]:
    """Return operating characteristics as plain JSON values: at each traffic, our rule and the fixed-threshold rule, canary healthy and bad; and how
    soon a shift of a fifth of a standard deviation is found in 400 pairs. Raises RefusedError as :func:`rollouts`."""
    for per_window in case.per_window:
        _check(case.healthy, case.bad, per_window, case.window_seconds, case.runs)
    rows = []
    for place, per_window in enumerate(case.per_window):
        row: dict[str, Any] = {"per_window": per_window, "ours": {}, "fixed": {}}
        for kind, rate in (("healthy", case.healthy), ("bad", case.bad)):
            seed = case.seed + 2 * place + (kind == "bad")
            row["ours"][kind] = rollouts(
                policy,
                control_rate=case.healthy,
                canary_rate=rate,
                per_window=per_window,
                window_seconds=case.window_seconds,
                runs=case.runs,
                seed=seed,
            ).to_dict()
            row["fixed"][kind] = fixed_threshold(canary_rate=rate, per_window=per_window, runs=case.runs, seed=seed).to_dict()
        rows.append(row)
    pairs = [
        paired_answers(policy, shift=0.2, correlation=correlation, pairs=400, runs=case.runs, seed=case.seed).to_dict()
        for correlation in (0.5, 0.75, 0.9)
    ]
    budget = {"healthy_turned_back": policy.budget.healthy_turned_back, "worse_promoted": policy.budget.worse_promoted}
    return {"case": {**asdict(case), "per_window": list(case.per_window)}, "budget": budget, "traffic": rows, "paired_answers": pairs}


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """How soon a shift of an answer is found in pairs."""

    shift: float
    """Mean difference, in standard deviations of the stable version's answers."""
    correlation: float
    """Between both answers to the same request; 0.5 makes the difference spread as widely as the answers."""
    pairs: int
    found_share: float
    """Of the runs, those in which it was found within ``pairs``."""
    pairs_median: float | None
    """Median number of pairs at which it was found; None when it was found in less than half of the runs."""

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON form."""
        return asdict(self)


def paired_answers(policy: RolloutPolicy, *, shift: float, correlation: float, pairs: int, runs: int, seed: int) -> Detection:
    """Simulate pairs of normal answers, canary's moved by ``shift``, looked at after every pair, at the level of a rollout that has every measurement."""
    alpha = judging.levels(policy, EVERYTHING).healthy_turned_back[Measure.ANSWERS]
    threshold, cut = sequential.needed(alpha / 2), sequential_pairs.CUT
    tolerance = policy.answers["anomaly_score"].tolerance if "anomaly_score" in policy.answers else 0.0
    spread = float(np.sqrt(2 * (1 - correlation)))
    differences = np.random.default_rng(seed).normal(shift, spread, (runs, pairs))
    edges = np.array([step_edges(step(float(one))) for one in differences.ravel()]).reshape(runs, pairs, 2)
    sides = np.clip(edges[..., 0], -cut, cut), np.clip(-edges[..., 1], -cut, cut)
    found = np.zeros((runs, pairs), dtype=bool)
    for side in sides:
        found |= sequential_pairs.capital(np.cumsum(sequential_pairs.stakes(side, tolerance, cut=cut), axis=1)) >= threshold
    first = np.where(found.any(axis=1), found.argmax(axis=1) + 1, np.inf)
    share = float(np.isfinite(first).mean())
    return Detection(
        shift=shift,
        correlation=correlation,
        pairs=pairs,
        found_share=share,
        pairs_median=float(np.median(first)) if share > 0.5 else None,
    )


def _verdicts(policy: RolloutPolicy, split: judging.Levels, counted: _Counted, wide: NDArray[np.float64]) -> NDArray[np.int_]:
    is_paired = policy.shadow_percent > 0
    asked = judging.error_questions(
        policy,
        split,
        (counted.errors, counted.requests),
        (counted.stable_errors, counted.stable_requests) if is_paired else (counted.control_errors, counted.control_requests),
        counted if is_paired else None,
        wide,
    )
    return np.asarray(np.max([judging.verdicts(question, policy, counted.step_requests) for question in asked], axis=0))


def _drawn(
    random: np.random.Generator, policy: RolloutPolicy, weight: Ints, look: int, control_rate: float, canary_rate: float
) -> _Counted:
    """Draw the requests of one look: who answers them, who gets the copy, and who fails."""
    share = weight * _LOOK
    canary = share * look // 100 - share * (look - 1) // 100  # exact over all looks together, as the gateway's split is
    baseline = np.minimum(canary, _LOOK - canary) if policy.baseline else np.zeros_like(canary)
    copies = policy.shadow_percent / 100

    def asked(requests: Ints, rate: float) -> tuple[Ints, Ints, Ints]:
        """Failed, chosen to be copied, and of those failed."""
        chosen = random.binomial(requests, copies)
        chosen_failed = random.binomial(chosen, rate)
        return random.binomial(requests - chosen, rate) + chosen_failed, chosen, chosen_failed

    errors, canary_chosen, canary_chosen_failed = asked(canary, canary_rate)
    baseline_errors, baseline_chosen, baseline_failed = asked(baseline, control_rate)
    stable_errors, stable_chosen, stable_failed = asked(_LOOK - canary - baseline, control_rate)
    there = baseline_chosen + stable_chosen - baseline_failed - stable_failed
    missing = random.binomial(there, canary_rate)
    back = canary_chosen - canary_chosen_failed
    return _Counted(
        requests=canary,
        errors=errors,
        control_requests=baseline if policy.baseline else _LOOK - canary,
        control_errors=baseline_errors if policy.baseline else stable_errors,
        failed=missing,
        copied=there,
        copied_failed=missing,
        stable_requests=_LOOK - canary + back,
        stable_errors=baseline_errors + stable_errors + random.binomial(back, control_rate),
        step_requests=canary,
    )


def _outcomes(statuses: list[RolloutStatus], requests: Ints) -> Outcomes:
    phases = np.array([status.phase.value for status in statuses])
    worse, undecided = phases == Phase.FAILED.value, (phases == Phase.UNDECIDED.value) | (phases == Phase.PROGRESSING.value)
    return Outcomes(
        runs=len(statuses),
        promoted=int((~worse & ~undecided).sum()),
        shown_worse=int(worse.sum()),
        undecided=int(undecided.sum()),
        requests_median=float(np.median(requests)),
        requests_99=float(np.percentile(requests, 99)),
        requests_to_detect=float(np.median(requests[worse])) if worse.any() else None,
    )


def _check(control_rate: float, canary_rate: float, per_window: int, window_seconds: float, runs: int) -> None:
    if not (0 <= control_rate < 1 and 0 <= canary_rate < 1):
        raise RefusedError(f"error rates must be shares from 0 to below 1, got {control_rate} and {canary_rate}; 0.02 is 2 %")
    if per_window < 1 or runs < 1 or not 0 < window_seconds < float("inf"):
        raise RefusedError(
            f"requests per window, runs and seconds per window must be above 0, got {per_window}, {runs} and {window_seconds}; raise them"
        )
