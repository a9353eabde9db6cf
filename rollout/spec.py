"""The values of a rollout: what should be true (``Desired``), what is true (``Observed``), and by which rules it may change.

Versions are strings (the registry's numbers). Times are unix seconds, weights whole percent. Everything is checked at
construction, so no later code asks again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rollout.errors import BadTraffic, RolloutError
from rollout.policy import RolloutPolicy as RolloutPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Who answers. ``Traffic()`` is nobody. A canary of weight 0 is started but gets no request (capacity before traffic).

    Raises BadTraffic when the weights and versions contradict each other.

    >>> Traffic(stable="3", canary="4", canary_weight=5).share("4")
    0.05
    """

    stable: str | None = None
    canary: str | None = None
    canary_weight: int = 0
    """Percent of requests the canary answers, 0..100; without a stable version only 0 or 100."""
    baseline: bool = False
    """Stable's version has a second, fresh server beside the canary: the same age, the same share of the requests."""

    def __post_init__(self) -> None:
        for problem in _traffic_problems(self):
            raise BadTraffic(problem)

    def share(self, version: str) -> float:
        """Return the share of requests, 0..1, that ``version`` gets."""
        if version == self.canary:
            return self.canary_weight / 100
        return 1 - self.canary_weight / 100 if version == self.stable else 0.0

    @property
    def baseline_weight(self) -> int:
        """Percent of requests the baseline answers: the canary's share while there is as much, else what the canary leaves.

        >>> [Traffic(stable="3", canary="4", canary_weight=w, baseline=True).baseline_weight for w in (0, 5, 50, 75, 100)]
        [0, 5, 50, 25, 0]
        """
        return min(self.canary_weight, 100 - self.canary_weight) if self.baseline else 0

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON form; ``Traffic(**form)`` is this value again."""
        form: dict[str, Any] = {"stable": self.stable, "canary": self.canary, "canary_weight": self.canary_weight}
        return {**form, "baseline": True} if self.baseline else form

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that must be running: stable first."""
        return tuple(version for version in (self.stable, self.canary) if version is not None)


def _traffic_problems(traffic: Traffic) -> list[str]:
    weight, problems = traffic.canary_weight, []
    if type(weight) is not int or not 0 <= weight <= 100:
        return [f"canary_weight must be a whole percent from 0 to 100, got {weight!r}; give one"]
    if any(not isinstance(version, str) or not version for version in (traffic.stable, traffic.canary) if version is not None):
        problems.append(
            f"versions must be non-empty strings, got stable {traffic.stable!r} and canary {traffic.canary!r}; use None for no version"
        )
    if weight and traffic.canary is None:
        problems.append(f"canary_weight {weight} needs a canary, got none; name the canary or use weight 0")
    if traffic.canary is not None and traffic.canary == traffic.stable:
        problems.append(f"stable and canary must differ, both are {traffic.canary!r}; leave the canary out")
    if traffic.canary is not None and traffic.stable is None and weight not in (0, 100):
        problems.append(f"without a stable version the canary must take 0 or 100 percent, got {weight}: the rest would go nowhere")
    if traffic.baseline and None in (traffic.stable, traffic.canary):
        problems.append(
            f"a baseline stands beside a canary and is of stable's version, got stable {traffic.stable!r} and canary {traffic.canary!r}; "
            "leave the baseline out"
        )
    return problems


@dataclass(frozen=True, kw_only=True, slots=True)
class Desired:
    """What should be true, as stored. Generation grows by one with every change of traffic, from 1. Raises BadTraffic."""

    environment: str
    model: str
    generation: int
    traffic: Traffic
    lease_until: float | None = None
    """Unix seconds until which the canary may stay out without being renewed; only, and always, while there is a canary."""
    lease_seconds: float | None = None
    """Seconds of elapsed time after which a lease that nobody renewed is over, whatever the wall clock says; None: only the clock counts."""
    sticky: str | None = None
    """What keeps one caller on one version, instead of the gateway's own option; None leaves that option."""
    shadow_percent: int = 0
    """Percent of requests that are copied to the other version, instead of the gateway's own option; 0 leaves that option."""
    drill: str | None = None
    """The version whose cold start is to be rehearsed, with the number of the request: ``3#7``. Asking again is another number."""

    def __post_init__(self) -> None:
        if (self.lease_until is None) != (self.traffic.canary is None):
            raise BadTraffic(
                f"a canary holds a lease and nothing else does, got canary {self.traffic.canary!r} with lease_until {self.lease_until!r}; "
                "give lease_until exactly when there is a canary"
            )
        if self.lease_seconds is not None and not (self.lease_until is not None and 0 < self.lease_seconds < float("inf")):
            raise BadTraffic(
                f"lease_seconds must be a positive number of seconds beside lease_until, got {self.lease_seconds!r} beside "
                f"{self.lease_until!r}; leave it out where there is no canary"
            )
        if type(self.shadow_percent) is not int or not 0 <= self.shadow_percent <= 100:
            raise BadTraffic(f"shadow_percent must be a whole percent from 0 to 100, got {self.shadow_percent!r}; give one")


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What the supervisor read back from the running world."""

    environment: str
    model: str
    generation: int
    """The desired generation this answers to; 0 before the first."""
    traffic: Traffic | None
    """The gateway's routes as read back; None when they could not be read."""
    ready: tuple[str, ...] = ()
    """Versions whose server is up and has replayed its golden vectors."""
    gateway_url: str | None = None
    heartbeat: float = 0.0
    """Unix seconds of the supervisor's last round."""
    problems: tuple[str, ...] = ()
    """Sentences for a person: why something desired is not true yet."""
    baseline_ready: bool = False
    """Whether the baseline's server is up and has replayed its golden vectors."""
    drill: Mapping[str, Any] | None = None
    """The rehearsal's report: asked (as in ``Desired.drill``), version, state, seconds, reason, answered, failed, at. None: none was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServableVersion:
    """A version that can be served: which folder, and which bytes it must hold."""

    model: str
    version: str
    folder: str
    """The hand-off folder. A location, not an identity: it may move, the digests may not."""
    model_digest: str
    """sha256 of model.pt2."""
    handoff_digest: str
    """sha256 of handoff.yaml."""
    backend: str = "eager"
    """How it is run: what its own benchmark chose, or eager."""
    backend_digest: str | None = None
    """Digest of the backend's compiled file; None for a backend that has none."""
    signature: str | None = None
    """The pipeline's signature over all of this but the folder (``governance.attestation``); None: nobody vouches for it."""


class Phase(StrEnum):
    """Where a rollout stands. The last five are ends and never left; ``controller`` has the table of what leads where."""

    STARTING = "starting"
    """The canary is being started and gets no request yet; ends when it is ready or its deadline passes."""
    PROGRESSING = "progressing"
    """The canary answers the weight of the present step and is being judged."""
    PAUSED = "paused"
    """A person stopped the steps and the deadline; the weight stays, and so does the way back."""
    APPROVING = "approving"
    """Every step passed and the policy asks for a person's word; the canary keeps its traffic and is still being judged."""
    PROMOTING = "promoting"
    """Every step passed: the canary keeps the last step's traffic until the champion has been moved in the store."""
    WATCHING = "watching"
    """The canary is champion and is still being judged: shown to be worse, the old stable becomes champion again."""
    SUCCEEDED = "succeeded"
    """The canary has become the champion and stable."""
    FAILED = "failed"
    """Shown to be worse than allowed: all traffic is back on the old stable."""
    UNDECIDED = "undecided"
    """Could not be told by the deadline: all traffic is back on the old stable."""
    ABORTED = "aborted"
    """A person ended it: all traffic is back on the old stable."""
    SUPERSEDED = "superseded"
    """A newer version took its place: all traffic is back on the old stable."""

    @property
    def is_final(self) -> bool:
        """Whether the rollout has ended."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.UNDECIDED, Phase.ABORTED, Phase.SUPERSEDED)


class Event(StrEnum):
    """What happened beside the measurements. A deadline is none: ``controller`` derives it from the time."""

    NONE = "none"
    PAUSE = "pause"
    """A person wants no further step."""
    RESUME = "resume"
    """A person wants the steps to go on."""
    ABORT = "abort"
    """A person wants the rollout to end."""
    APPROVE = "approve"
    """The person whose word the policy asks for has given it."""
    LEASE_LAPSED = "lease-lapsed"
    """Nobody renewed the lease in time: traffic is back on stable already."""
    STABLE_SICK = "stable-sick"
    """The stable version does not answer, or not well: nothing can be compared, and going back would be no relief."""
    NEW_VERSION = "new-version"
    """Another version of the model is to be released."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutSpec:
    """One rollout: which canary against which stable, by which policy."""

    canary: str
    stable: str | None
    """The present champion; None at a model's first release."""
    policy: RolloutPolicy

    def __post_init__(self) -> None:
        Traffic(stable=self.stable, canary=self.canary)  # the same rules hold: non-empty, and not the same

    @property
    def steps(self) -> tuple[int, ...]:
        """The weights to pass, percent. Without a stable version there is nobody to share with: one step of 100 %."""
        return self.policy.steps if self.stable is not None else (100,)


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutStatus:
    """How far a rollout is. A value: ``controller.begin`` makes the first, ``controller.advance`` returns the next."""

    stable: str | None
    canary: str
    phase: Phase
    step: int
    """Index into ``RolloutSpec.steps``."""
    weight: int
    """Percent of requests the canary answers in this phase and step."""
    started: float
    """Unix seconds at which the rollout began: stable is measured from here, because at 100 % it answers nothing any more."""
    step_started: float
    """Unix seconds at which the present phase and step began: the canary is measured, and deadlines count, from here."""
    reasons: tuple[str, ...] = ()
    """Sentences: why the rollout stands where it stands."""
    paused_from: Phase | None = None
    """The phase that a pause interrupted and a resume returns to; only, and always, while paused."""
    spent_seconds: float = 0.0
    """How much of that phase's deadline was used up when the pause began."""

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON form."""
        paused = {"paused_from": self.paused_from.value, "spent_seconds": self.spent_seconds} if self.paused_from else {}
        return {
            "phase": self.phase.value,
            "stable": self.stable,
            "canary": self.canary,
            "step": self.step,
            "weight": self.weight,
            "started": self.started,
            "step_started": self.step_started,
            "reasons": list(self.reasons),
            **paused,
        }

    @classmethod
    def from_dict(cls, form: Mapping[str, Any]) -> "RolloutStatus":
        """Return the status that ``to_dict`` wrote. Raises RolloutError when the form is none."""
        try:
            paused_from = form.get("paused_from")
            return cls(
                **{
                    **form,
                    "phase": Phase(form["phase"]),
                    "reasons": tuple(form["reasons"]),
                    "paused_from": None if paused_from is None else Phase(paused_from),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RolloutError(
                f"a stored rollout must be one that this firstlight knows, got {dict(form)!r} ({error}); begin again"
            ) from error
