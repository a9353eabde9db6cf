"""Everything seen of one canary, and what it amounts to at a look."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

from rollout import analysis
from rollout.analysis import Assessment
from rollout.evidence import Evidence, Reference, Stream
from rollout.meter import Meter, Reading
from rollout.spec import Phase, RolloutSpec, RolloutStatus

_LOOKS = 20
"""Looks over which a rate is taken."""
_FEWEST = 10
"""Requests of the control in those looks below which nothing is said of its health."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What the answers to requests of our own amounted to, of one version."""

    good: int = 0
    judged: int = 0
    """Answers whose right answer is known."""
    matches: int = 0
    compared: int = 0
    """Answers that the evaluation has too."""


class World(Protocol):
    """What can be measured, and who can be made to ask. Every method may raise FirstlightError when nobody answers."""

    def evidence(self) -> Mapping[str, Any]:
        """Return the gateway's totals (``GET /evidence``)."""
        ...

    def pairs(self, after: int) -> Mapping[str, Any]:
        """Return a page of pairs of answers (``GET /pairs``)."""
        ...

    def stir(self, status: RolloutStatus) -> None:
        """Send requests of our own, as many as one look needs and the policy wants; return when they are answered, within half a lease."""
        ...

    def answered(self) -> Mapping[str, Answered]:
        """Return, by version, what came back since this was last asked."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what another process needs to go on, as plain JSON values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        ...


class Judge:
    """Adds up what the world shows, and asks the analysis."""

    def __init__(self, spec: RolloutSpec, reading: Reading, reference: Reference) -> None:
        """Nothing has been seen yet."""
        self.spec, self.reference, self.evidence = spec, reference, Evidence()
        self._reading, self._meter = reading, Meter(reading)
        self._lately: deque[tuple[float, int, Stream]] = deque(maxlen=_LOOKS)
        self._assessed: tuple[tuple[Evidence, float], Assessment] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything seen so far, to be saved."""
        return {"evidence": self.evidence.to_dict(), "meter": self._meter.state(), "reference": self.reference.to_dict()}

    @classmethod
    def restored(cls, spec: RolloutSpec, reading: Reading, saved: Mapping[str, Any]) -> Self:
        """Go on from what was saved; the reference stays what it was when the rollout began. Raises BadEvidence."""
        judge = cls(spec, reading, Reference.from_dict(saved["reference"]))
        judge.evidence, judge._meter = Evidence.from_dict(saved["evidence"]), Meter(reading, state=saved["meter"])
        return judge

    def measure(self, world: World, *, in_step: bool, now: float) -> None:
        """Add what is new. Raises FirstlightError when the world does not answer; what it counted meanwhile is there the next time."""
        seen = self._meter.streams(world.evidence(), in_step=in_step)
        self.evidence = self.evidence.plus(seen)
        self.evidence = self.evidence.plus(self._answered(world))
        while True:
            before = self._meter.place
            self.evidence = self.evidence.plus(self._meter.pairs(world.pairs(self._meter.after)))
            if before == self._meter.place:
                break
        asked = self.evidence.canary.requests + self.evidence.pairs.copied
        self._lately.append((now, asked, seen.control or Stream()))

    def at_new_step(self) -> None:
        """Begin a step: its requests are counted from here, everything else goes on."""
        self.evidence = self.evidence.at_new_step()
        self._lately.clear()

    def assess(self, status: RolloutStatus) -> Assessment:
        """Judge what has been seen, for what is to come next in ``status``. Nothing new costs nothing: a quiet service is looked at often."""
        asked = (self.evidence, leniency(self.spec, status))
        if self._assessed is None or self._assessed[0] != asked:
            found = analysis.assess(self.spec.policy, self.evidence, leniency=asked[1], reference=self.reference)
            self._assessed = asked, found
        return self._assessed[1]

    @property
    def rate(self) -> float:
        """Requests a second that the canary was asked lately, copies too, because they count; 0 when it is not known."""
        if len(self._lately) < 2:
            return 0.0
        (since, before, _), (now, after, _) = self._lately[0], self._lately[-1]
        return (after - before) / (now - since) if now > since else 0.0

    @property
    def control_is_sick(self) -> bool:
        """Whether most of the control's latest requests failed: then nothing can be compared with it."""
        requests = sum(stream.requests for _, _, stream in self._lately)
        return requests >= _FEWEST and 2 * sum(stream.errors for _, _, stream in self._lately) > requests

    def _answered(self, world: World) -> Evidence:
        found = world.answered()
        canary, control = found.get(self.spec.canary, Answered()), found.get(self.spec.stable or "", Answered())
        return Evidence(
            canary=Stream(quality_good=canary.good, quality_total=canary.judged),
            control=None if self.spec.stable is None else Stream(quality_good=control.good, quality_total=control.judged),
            agreement_matches=canary.matches,
            agreement_total=canary.compared,
        )


def leniency(spec: RolloutSpec, status: RolloutStatus) -> float:
    """Return by how much the margins are widened for the next step: what callers as a whole can see of a harm is its share of the requests.

    >>> from dataclasses import replace
    >>> from rollout.controller import begin
    >>> from rollout.policy import RolloutPolicy
    >>> spec = RolloutSpec(canary="2", stable="1", policy=RolloutPolicy(steps=(5, 25, 100)))
    >>> leniency(spec, begin(spec, 0.0)), leniency(spec, replace(begin(spec, 0.0), phase=Phase.PROGRESSING, step=1))
    (20.0, 1.0)
    """
    phase = status.paused_from or status.phase
    if phase is Phase.STARTING:
        return 100 / spec.steps[status.step]
    if phase is Phase.PROGRESSING and status.step + 1 < len(spec.steps):
        return 100 / spec.steps[status.step + 1]
    return 1.0
