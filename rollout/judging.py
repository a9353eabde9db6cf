"""Which questions are asked of a canary, at which error levels, and what answers them. Pure; of one rollout or of an array of them.

A *question* has two sides, each with an e-process (``rollout.sequential``) and a level of its own: *within* grows when the canary is shown to be
no worse than a margin, *beyond* when it is shown to be worse.

**The budget.** ``healthy_turned_back`` is split over the measurements that the rollout has, and within one over its questions: by the union
bound a canary that is worse in nothing is turned back with at most that probability, whatever is looked at how often. The split follows from
the policy and the ``Reference`` alone, both fixed when the rollout begins. ``worse_promoted`` is not split: a canary that is worse than a
margin somewhere is promoted only if that question passes wrongly (intersection-union test, Berger 1982, Technometrics 24, 295-300).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from firstlight.verdict import Verdict
from rollout import sequential, sequential_latency, sequential_pairs
from rollout.evidence import Evidence, Pairs, Reference
from rollout.policy import Measure, RolloutPolicy
from rollout.sequential import Floats

Numbers = float | NDArray[Any]
Share = tuple[Numbers, Numbers]
"""(events, trials): numbers of one rollout, or arrays of many."""
Side = Callable[[Floats], Floats]
"""Limit, or an array of them -> log evidence."""

VERDICTS = (Verdict.PASS, Verdict.CANNOT_TELL, Verdict.FAIL)
"""By the numbers that :meth:`Question.verdicts` gives, so that the largest is the worst."""


class PairCounts(Protocol):
    """The counts of ``Pairs`` that tell of failures: numbers, or arrays of many rollouts."""

    @property
    def failed(self) -> Numbers: ...
    @property
    def copied(self) -> Numbers: ...
    @property
    def copied_failed(self) -> Numbers: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One thing asked of the canary."""

    name: str
    measure: Measure
    within: Side
    """Log evidence that the canary lies within a limit: against *it is at the limit or beyond*."""
    beyond: Side
    """Log evidence that the canary lies beyond a limit: against *it is at the limit or within*."""
    margin: float
    """What must be shown to be kept before a promotion."""
    lenient_margin: Numbers
    """What must be shown to be kept before the next step: wider while the canary answers few."""
    allowed: float
    """Beyond this the canary is worse."""
    alpha_pass: float
    alpha_fail: float
    low: float
    """The smallest and the largest limit there can be, for an interval."""
    high: float
    trials: Numbers
    """Requests, or pairs, behind it."""
    unit: str = "requests"
    is_two_sided: bool = False
    """Whether the canary may be off in either direction; margins are then sizes."""
    edges: tuple[Side, Side] | None = None
    """Of a two-sided question: evidence that the value lies above, and below, a limit."""
    lenient: Side | None = None
    """Log evidence for the next step, where leniency is no wider margin; None: *within*."""
    foreseen: Callable[[Floats], Floats] | None = None
    """Numbers of trials -> log evidence *within the margin* to expect then, if things go on as so far and the canary is healthy."""

    @property
    def needed_pass(self) -> float:
        """Log evidence that shows the canary to be within the margin."""
        return sequential.needed(self.alpha_pass)

    @property
    def needed_fail(self) -> float:
        """Log evidence that shows the canary to be worse."""
        return sequential.needed(self.alpha_fail)

    def verdicts(self) -> NDArray[np.int_]:
        """Return 0 pass, 1 cannot tell, 2 fail. Within the margin of a promotion passes first, then worse fails, then the step's margin passes.

        A canary that is a little worse, but within the margin, is thereby decided by what can be shown first; each level holds.
        """
        is_within = self.within(np.asarray(self.margin)) >= self.needed_pass
        is_beyond = self.beyond(np.asarray(self.allowed)) >= self.needed_fail
        wide = np.asarray(self.lenient_margin)
        lenient = self.lenient or self.within
        is_the_same = self.lenient is None and np.all(wide == self.margin)
        is_lenient = is_within if is_the_same else lenient(wide) >= self.needed_pass
        return np.where(is_within, 0, np.where(is_beyond, 2, np.where(is_lenient, 0, 1)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """The budget of one rollout, split."""

    worse_promoted: float
    """The level of every *within*."""
    healthy_turned_back: Mapping[Measure, float]
    """The level of each measurement's *beyond*, all its questions together. Their sum is the policy's."""


def levels(policy: RolloutPolicy, reference: Reference) -> Levels:
    """Split the policy's budget over what this rollout has."""
    there = {
        Measure.ERRORS: True,
        Measure.LATENCY: reference.latency,
        Measure.QUALITY: reference.quality,
        Measure.ANSWERS: reference.pairs and bool(compared(policy, reference)),
        Measure.FLAGS: reference.pairs and reference.flags,
        Measure.CLASSES: reference.pairs and bool(reference.labels),
    }
    shares = {measure: policy.budget.shares[measure] for measure, is_there in there.items() if is_there}
    total = sum(shares.values())
    return Levels(
        worse_promoted=policy.budget.worse_promoted,
        healthy_turned_back={measure: policy.budget.healthy_turned_back * share / total for measure, share in shares.items()},
    )


def verdicts(question: Question, policy: RolloutPolicy, step_requests: Numbers) -> NDArray[np.int_]:
    """Return :meth:`Question.verdicts`, where nothing passes before the canary has answered the requests that every step needs."""
    found = question.verdicts()
    return np.where((found == 0) & (np.asarray(step_requests) < policy.requests_per_step), 1, found) if question.name == "errors" else found


def compared(policy: RolloutPolicy, reference: Reference) -> tuple[str, ...]:
    """Return the numbers in the answers that are compared: those with a rule and a scale."""
    return tuple(sorted(set(policy.answers) & set(reference.scales)))


def questions(policy: RolloutPolicy, evidence: Evidence, reference: Reference, *, leniency: float = 1.0) -> list[Question]:
    """Return every question that this rollout asks, whatever evidence there is yet."""
    split = levels(policy, reference)
    canary, control, pairs = evidence.canary, evidence.control, evidence.pairs
    live = (canary.errors, canary.requests)
    other = (control.errors, control.requests) if control else (0, 0)
    if reference.pairs:
        whole = evidence.stable
        other = (whole.errors, whole.requests) if whole else (pairs.control_failed, pairs.control_total)
    asked = error_questions(policy, split, live, other if reference.control else None, pairs if reference.pairs else None, leniency)
    if reference.latency:
        asked.append(_latency(policy, split, evidence, reference, leniency))
    if reference.quality:
        asked.append(_quality(policy, split, evidence, reference, leniency))
    if reference.pairs:
        asked += _answers(policy, split, pairs, reference, leniency)
        asked += _flags_and_classes(policy, split, pairs, reference, leniency)
    return asked


def error_questions(
    policy: RolloutPolicy, split: Levels, live: Share, control: Share | None, pairs: PairCounts | None, leniency: Numbers
) -> list[Question]:
    """Return the question about failed requests, from (errors, requests) of canary and control and the counts of the pairs.

    With pairs a copy counts as a request of the canary: it is taken to fail as often as a live one. An answer without numbers where the control
    has some is a failure too. That it is worse is looked for in all of them, and with a fifth of the evidence each in live requests alone and in
    copies alone, so that neither can hide behind the other. A request's second answer is only asked for when the first is there, so
    each answer is a coin of its own given all before it, and the product of both sides is a martingale.
    """
    alpha, margin = split.healthy_turned_back[Measure.ERRORS], policy.error_margin
    if control is None:
        return [_one_share("errors", Measure.ERRORS, live, policy.error_limit, split)]
    wide = np.minimum(margin * np.asarray(leniency), 0.95)
    if pairs is None:
        return [_two_shares("errors", Measure.ERRORS, live, control, margin, wide, split, alpha)]
    together = (live[0] + pairs.failed, live[1] + pairs.copied)
    copies = (pairs.copied_failed, pairs.copied)

    def beyond(limit: Floats) -> Floats:
        looks = [sequential.excess_above(canary, control, limit) for canary in (together, live, copies)]
        return sequential.mixed(looks, (0.6, 0.2, 0.2))

    return [replace(_two_shares("errors", Measure.ERRORS, together, control, margin, wide, split, alpha), beyond=beyond)]


def _two_shares(
    name: str,
    measure: Measure,
    canary: Share,
    control: Share,
    margin: float,
    wide: Numbers,
    split: Levels,
    alpha: float,
) -> Question:
    return Question(
        name=name,
        measure=measure,
        within=lambda limit: sequential.excess_below(canary, control, limit),
        beyond=lambda limit: sequential.excess_above(canary, control, limit),
        margin=margin,
        lenient_margin=wide,
        allowed=0.0,
        alpha_pass=split.worse_promoted,
        alpha_fail=alpha,
        low=-0.999,
        high=0.999,
        trials=canary[1],
        foreseen=lambda trials: _foreseen_share(canary, control, margin, trials),
    )


def _foreseen_share(canary: Share, control: Share, margin: float, trials: Floats) -> Floats:
    """Both go on failing as often as both together so far (a hundred requests with half a failure are added, so that none is not never)."""
    (k_c, n_c), (k_b, n_b) = canary, control
    rate = (k_c + k_b + 0.5) / (n_c + n_b + 100.0)
    more = np.maximum(0.0, trials - n_c)
    other = more * np.maximum(n_b, 1) / np.maximum(n_c, 1)
    return sequential.excess_below((k_c + rate * more, n_c + more), (k_b + rate * other, n_b + other), margin)


def _one_share(name: str, measure: Measure, canary: Share, limit: float, split: Levels) -> Question:
    events, trials = canary
    rate = (np.asarray(events) + 0.05) / (np.asarray(trials) + 10.0)
    return Question(
        name=name,
        measure=measure,
        within=lambda at: sequential.share_below(events, trials, np.clip(at, 1e-6, 1 - 1e-6)),
        beyond=lambda at: sequential.share_above(events, trials, np.clip(at, 1e-6, 1 - 1e-6)),
        margin=limit,
        lenient_margin=limit,
        allowed=limit,
        alpha_pass=split.worse_promoted,
        alpha_fail=split.healthy_turned_back[measure],
        low=0.0,
        high=1.0,
        trials=trials,
        foreseen=lambda then: sequential.share_below(events + rate * (then - trials), then, limit),
    )


def _latency(policy: RolloutPolicy, split: Levels, evidence: Evidence, reference: Reference, leniency: float) -> Question:
    canary, quantile = evidence.canary.latency, policy.latency_quantile
    control = evidence.control.latency if evidence.control else {}
    trials = sum(canary.values())

    def shaped(side: Callable[[Floats], Floats]) -> Side:
        return lambda limit: side(np.atleast_1d(limit)).reshape(np.shape(limit))

    def grown(factor: float) -> tuple[dict[int, float], dict[int, float]]:
        return {at: n * factor for at, n in canary.items()}, {at: n * factor for at, n in control.items()}

    def later(then: float) -> float:
        mine, theirs = grown(then / trials)
        if reference.control:
            return float(sequential_latency.faster_than(mine, theirs, quantile=quantile, ratio=policy.latency_ratio_limit)[0])
        return float(sequential_latency.within_seconds(mine, quantile=quantile, seconds=policy.latency_limit_seconds)[0])

    if reference.control:
        limit, low, high = policy.latency_ratio_limit, 0.01, 100.0
        within = shaped(lambda ratio: sequential_latency.faster_than(canary, control, quantile=quantile, ratio=ratio))
        lenient = shaped(lambda ratio: _seldom_slower(canary, control, quantile=quantile, ratio=ratio, leniency=leniency))
        beyond = shaped(lambda ratio: sequential_latency.slower_than(canary, control, quantile=quantile, ratio=ratio))
    else:
        limit, lenient, low, high = policy.latency_limit_seconds, None, 1e-5, 3600.0
        within = shaped(lambda seconds: sequential_latency.within_seconds(canary, quantile=quantile, seconds=seconds))
        beyond = shaped(lambda seconds: sequential_latency.beyond_seconds(canary, quantile=quantile, seconds=seconds))
    return Question(
        name="latency",
        measure=Measure.LATENCY,
        within=within,
        beyond=beyond,
        margin=limit,
        lenient_margin=limit,
        lenient=lenient,
        allowed=limit,
        alpha_pass=split.worse_promoted,
        alpha_fail=split.healthy_turned_back[Measure.LATENCY],
        low=low,
        high=high,
        trials=trials,
        foreseen=(lambda then: np.array([later(float(one)) for one in then])) if trials else None,
    )


def _seldom_slower(canary: Mapping[int, float], control: Mapping[int, float], *, quantile: float, ratio: Floats, leniency: float) -> Floats:
    """Return the log evidence that callers as a whole notice no more slow answers than the quantile leaves room for.

    Of their requests the next step sends a part, 1 over the leniency, to the canary; so of its answers ``leniency`` times as many may be slow.
    A p95 that takes 90 answers to bound takes 20 before a step to a quarter.
    """
    share = 1 - (1 - quantile) * leniency
    if share <= 0:
        return np.full(np.shape(np.atleast_1d(ratio)), np.inf)
    return sequential_latency.faster_than(canary, control, quantile=quantile, ratio=ratio, share=share)


def _quality(policy: RolloutPolicy, split: Levels, evidence: Evidence, reference: Reference, leniency: float) -> Question:
    mine, other = evidence.canary, evidence.control
    canary = (mine.quality_total - mine.quality_good, mine.quality_total)
    if not reference.control:
        return _one_share("quality", Measure.QUALITY, canary, 1 - policy.quality_minimum, split)
    control = (other.quality_total - other.quality_good, other.quality_total) if other else (0, 0)
    alpha, margin = split.healthy_turned_back[Measure.QUALITY], policy.quality_margin
    return _two_shares("quality", Measure.QUALITY, canary, control, margin, np.minimum(margin * np.asarray(leniency), 0.95), split, alpha)


def _answers(policy: RolloutPolicy, split: Levels, pairs: Pairs, reference: Reference, leniency: float) -> list[Question]:
    """Every compared number, over all requests with half of the level and over each stratum with a part of the other half."""
    outputs = compared(policy, reference)
    if not outputs:
        return []
    alpha = split.healthy_turned_back[Measure.ANSWERS] / len(outputs)
    whole = alpha / 2 if reference.strata else alpha
    asked = []
    for output in outputs:
        rule, scale = policy.answers[output], reference.scales[output]
        parts = [(f"answers: {output}", pairs, whole)]
        parts += [
            (f"answers: {output}, {name}", pairs.strata.get(name, Pairs()), alpha / 2 / len(reference.strata)) for name in reference.strata
        ]
        for name, part, level in parts:
            least, most, counts = sequential_pairs.scaled(part.answers.get(output, {}), scale)
            asked.append(
                _two_sided(
                    name, Measure.ANSWERS, (least, most, counts), sequential_pairs.CUT, rule.margin, rule.tolerance, leniency, split, level
                )
            )
    return asked


def _flags_and_classes(policy: RolloutPolicy, split: Levels, pairs: Pairs, reference: Reference, leniency: float) -> list[Question]:
    asked = []
    if reference.flags:
        both, canary, control, neither = pairs.flags
        alpha = split.healthy_turned_back[Measure.FLAGS]
        moves = _moves(canary, control, both + neither)
        asked.append(_two_sided("flags", Measure.FLAGS, moves, 1.0, policy.flags_margin, 0.0, leniency, split, alpha))
    for label in reference.labels:
        _, _, came, left = pairs.classes.get(label, (0, 0, 0, 0))
        alpha = split.healthy_turned_back[Measure.CLASSES] / len(reference.labels)
        moves = _moves(came, left, pairs.class_total - came - left)
        asked.append(_two_sided(f"classes: {label}", Measure.CLASSES, moves, 1.0, policy.classes_margin, 0.0, leniency, split, alpha))
    return asked


def _moves(came: int, left: int, stayed: int) -> tuple[Floats, Floats, NDArray[np.int_]]:
    values = np.array([1.0, -1.0, 0.0])
    return values, values, np.array([came, left, stayed])


def _two_sided(
    name: str,
    measure: Measure,
    seen: tuple[Floats, Floats, NDArray[np.int_]],
    cut: float,
    margin: float,
    tolerance: float,
    leniency: float,
    split: Levels,
    alpha: float,
) -> Question:
    """A mean that may be off in either direction: to show it within needs both sides, each at the whole level; to show it beyond needs one, at
    half the level."""
    least, most, counts = seen
    trials = int(counts.sum())

    def above(mean: Floats) -> Floats:
        limit = np.clip(mean, -0.999 * cut, 0.999 * cut)
        return sequential_pairs.mean_above(least, counts, limit, cut=cut).reshape(np.shape(mean))

    def below(mean: Floats) -> Floats:
        limit = np.clip(mean, -0.999 * cut, 0.999 * cut)
        return sequential_pairs.mean_below(most, counts, limit, cut=cut).reshape(np.shape(mean))

    def later(then: Floats) -> Floats:
        at = np.array([-margin])
        both = [sequential_pairs.sums(values, counts, at, cut=cut) for values in (least, -most)]
        return np.minimum(*(sequential_pairs.capital(one * (then / trials)[:, None]) for one in both))

    return Question(
        name=name,
        measure=measure,
        within=lambda limit: np.minimum(above(-np.asarray(limit)), below(np.asarray(limit))),
        beyond=lambda limit: np.maximum(above(np.asarray(limit)), below(-np.asarray(limit))),
        margin=margin,
        lenient_margin=np.minimum(margin * np.asarray(leniency), 0.9 * cut),
        allowed=tolerance,
        alpha_pass=split.worse_promoted,
        alpha_fail=alpha / 2,
        low=-cut,
        high=cut,
        trials=trials,
        unit="pairs",
        is_two_sided=True,
        edges=(above, below),
        foreseen=later if trials else None,
    )
