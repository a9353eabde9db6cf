"""The rules of a rollout, from the environment's policy file. Frozen; unknown fields are refused. docs/rollouts.md explains them.

Two kinds of limit stand beside each other: what a version may be worse *than the control* (margins, for every release but a
model's first), and what it may be at all (limits and minima, where there is no stable version to compare with).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Measure(StrEnum):
    """What is measured of a canary and judged by a test of its own, with a share of its own in the budget."""

    ERRORS = "errors"
    """Requests that got no answer, an error, or an answer without numbers where the control had some."""
    LATENCY = "latency"
    """A quantile of the answer times."""
    QUALITY = "quality"
    """Answers whose right answer is known."""
    ANSWERS = "answers"
    """The same request answered by both: the difference of one number."""
    FLAGS = "flags"
    """The same request answered by both: called an anomaly, or not."""
    CLASSES = "classes"
    """The same request answered by both: which class."""


SHARES: Mapping[Measure, float] = {
    Measure.ERRORS: 0.3,
    Measure.LATENCY: 0.05,
    Measure.QUALITY: 0.05,
    Measure.ANSWERS: 0.5,
    Measure.FLAGS: 0.05,
    Measure.CLASSES: 0.05,
}


class _Rules(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ErrorBudget(_Rules):
    """How often a whole rollout may decide wrongly, however often it looks."""

    healthy_turned_back: float = Field(default=0.01, gt=0, lt=0.5, allow_inf_nan=False)
    """Highest probability that a canary that is no worse than the control in anything is turned back as worse. Split over the measurements
    by ``shares``."""
    worse_promoted: float = Field(default=0.01, gt=0, lt=0.5, allow_inf_nan=False)
    """Highest probability that a canary that is worse than a margin in anything is promoted. Not split: everything must pass, so each test
    may have all of it (intersection-union test, Berger 1982)."""
    shares: dict[Measure, float] = Field(default_factory=lambda: dict(SHARES))
    """Share of ``healthy_turned_back`` of each measurement. Those that a rollout does not have give theirs to the others, in proportion;
    which it has is fixed when it begins."""

    @field_validator("shares")
    @classmethod
    def _shares_are_positive(cls, shares: dict[Measure, float]) -> dict[Measure, float]:
        missing = [measure.value for measure in Measure if not 0 < shares.get(measure, 0) < float("inf")]
        if missing:
            raise ValueError(f"every measurement needs a positive share, {', '.join(missing)} has none; give each a number above 0")
        return shares


class AnswerRule(_Rules):
    """How far the canary's answers may differ from the control's on the same requests: the mean difference of one number."""

    margin: float = Field(default=0.2, gt=0, lt=2, allow_inf_nan=False)
    """Largest mean difference, up or down, that does not matter: it must be shown to be smaller. In standard deviations of the stable version's
    answers."""
    tolerance: float = Field(default=0.0, ge=0, lt=2, allow_inf_nan=False)
    """Mean difference above which the canary counts as worse once it is shown, before it is shown to be within the margin. Same unit; at most
    the margin."""

    @field_validator("tolerance")
    @classmethod
    def _within_the_margin(cls, tolerance: float, info: ValidationInfo) -> float:
        margin = info.data.get("margin", tolerance)
        if tolerance > margin:
            raise ValueError(f"the tolerance must not exceed the margin, got {tolerance} above {margin}; lower it")
        return tolerance


class DrillPolicy(_Rules):
    """Whether going back must have been rehearsed (``firstlight drill``) before a version is promoted."""

    required: bool = False
    """A release stops before its canary when the version it would go back to has no fresh rehearsal that succeeded."""
    valid_hours: float = Field(default=48.0, gt=0, allow_inf_nan=False)
    """Hours for which a rehearsal counts: two nights of the schedule, so that one night may fail."""
    limit_seconds: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Longest time, in seconds, from the order until the version has loaded, answered its golden vectors and could take the traffic."""


class RolloutPolicy(_Rules):
    """How a canary is judged, from the environment's policy file."""

    steps: tuple[int, ...] = (5, 25, 50, 100)
    """Percent of requests on the canary, step by step: rising, from at least 1, and ending at 100, so that the canary has carried the
    whole load before it is champion."""
    requests_per_step: int = Field(default=20, ge=1)
    """Requests the canary must have answered in each step, whatever the evidence says already: a step is not skipped."""
    step_deadline_seconds: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """Seconds a step may take to be decided, and a canary to become ready. Then it is *cannot tell* and traffic goes back to stable.
    Give a quiet service days: ``firstlight rollout simulate`` says how many."""
    lease_seconds: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Seconds a canary stays out when nobody renews its lease: the longest a dead flow can leave it in traffic."""
    baseline: bool = True
    """Start a second, fresh server of the stable version together with the canary, with the same share of the traffic, and compare with that:
    both have the same age and load."""
    shadow_percent: int = Field(default=100, ge=0, le=100)
    """Percent of requests that are answered a second time, by a copy to the other version, once the caller has the answer. Pairs of answers to
    the same request are the strongest evidence there is at little traffic."""
    replay: bool = True
    """Send held-out spectra while the canary is out, so that a place with no traffic can release at all. They never count as live data."""
    approval: Literal["none", "before-promotion"] = "none"
    """Whether a person must agree after the last step and before the champion changes. Metrics go on deciding meanwhile."""
    watch_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """Seconds after the promotion during which a canary shown to be worse still goes back to the old stable version by itself."""
    drill: DrillPolicy = DrillPolicy()
    """Whether going back must have been rehearsed, and how fast it must be."""
    budget: ErrorBudget = ErrorBudget()
    """How often a rollout may decide wrongly, whatever the traffic and however often it looks."""
    error_margin: float = Field(default=0.01, ge=0, lt=1, allow_inf_nan=False)
    """How much higher than the control's the share of failed requests may be, as a difference of shares 0..1. Half of it needs about four times
    as many requests."""
    error_limit: float = Field(default=0.05, gt=0, lt=1, allow_inf_nan=False)
    """Highest share of failed requests, 0..1, where there is no stable version to compare with."""
    latency_quantile: float = Field(default=0.95, gt=0.5, lt=1, allow_inf_nan=False)
    """Which quantile of the answer times is judged, 0..1. p95 is what a person notices; a p99 needs five times as many requests."""
    latency_ratio_limit: float = Field(default=2.0, gt=1, allow_inf_nan=False)
    """Highest ratio canary : control of that quantile, on the same machines. 2 leaves room for a service whose answers jitter."""
    latency_limit_seconds: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Highest value of that quantile, in seconds, where there is no stable version to compare with."""
    quality_margin: float = Field(default=0.10, gt=0, lt=1, allow_inf_nan=False)
    """How much lower than the control's the share of good answers may be, as a difference of shares 0..1."""
    quality_minimum: float = Field(default=0.80, gt=0, lt=1, allow_inf_nan=False)
    """Lowest share of good answers, 0..1, where there is no stable version to compare with."""
    answers: dict[str, AnswerRule] = Field(default_factory=lambda: {"anomaly_score": AnswerRule()})
    """Number in the answers (an output's name, or its role) -> how far it may move. What the model does not answer is not asked."""
    flags_margin: float = Field(default=0.05, gt=0, lt=1, allow_inf_nan=False)
    """How far the share of requests called an anomaly may move, up or down, on the same requests, as a difference of shares 0..1."""
    classes_margin: float = Field(default=0.05, gt=0, lt=1, allow_inf_nan=False)
    """How far the share of any one class may move, up or down, on the same requests, as a difference of shares 0..1."""
    agreement_minimum: int = Field(default=20, ge=1)
    """Answers that must have been compared with the evaluated ones."""
    disagreement_limit: int = Field(default=0, ge=0)
    """How many answers may differ from the evaluated ones. 0: a model that answers otherwise in service than on the bench is not the one
    that was judged."""

    @field_validator("steps")
    @classmethod
    def _steps_rise_to_100(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if not steps or steps[-1] != 100 or list(steps) != sorted(set(steps)) or steps[0] < 1:
            raise ValueError(f"steps must rise from at least 1 to exactly 100 percent, got {steps!r}; for example [5, 25, 50, 100]")
        return steps
