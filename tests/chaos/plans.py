"""What is broken when: a short form, chosen, and the product of all faults and phases, dealt out by a seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.chaos.campaign import PLACES, Plan
from tests.chaos.faults import FAULTS
from tests.chaos.versions import BRITTLE, FAINT_WRONG, GOOD, HUNDREDTH, LEAKING, NAN, SLOW, Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One release and what is done to it."""

    kind: Kind
    plan: Plan

    @property
    def may_turn_back(self) -> bool:
        """Whether what is done may be charged to the canary, which is then rightly turned back although its version is good."""
        done = [(place, fault) for place, faults in self.plan.items() for fault in faults]
        return any(fault == "kill canary" and place not in ("starting", "promoting") for place, fault in done)


SHORT: dict[str, tuple[Planned, ...]] = {
    "sqlite": (
        Planned(
            kind=GOOD,
            plan={
                "starting": ["kill driver"],
                "progressing/50": ["kill gateway", "kill stable"],
                "progressing/100": ["kill supervisor"],
                "paused": ["jump forward", "second release"],
                "approving": ["second driver"],
                "promoting": ["slow database"],
                "watching": ["kill database"],
            },
        ),
        Planned(kind=NAN, plan={"progressing/50": ["jump back", "lose driver"]}),
    ),
    "postgresql": (
        Planned(
            kind=GOOD,
            plan={
                "starting": ["kill canary"],
                "progressing/50": ["kill database", "kill baseline"],
                "progressing/100": ["read-only database"],
                "paused": ["kill supervisor"],
                "approving": ["freeze driver"],
                "promoting": ["kill database"],
                "watching": ["kill driver"],
            },
        ),
    ),
}
"""By database. Together every process is killed, in every phase something is broken, and the clock jumps both ways."""

_BAD = (NAN, FAINT_WRONG, SLOW, BRITTLE, LEAKING, HUNDREDTH)


def dealt(seed: int) -> Iterator[Planned]:
    """Yield releases without end: every fault in every phase comes once before any comes again; every third version is a bad one, each kind in turn.

    A bad version is broken in its first two phases only: it is not expected to come further.
    """
    rng = random.Random(seed)
    left: dict[str, list[str]] = {place: [] for place in PLACES}
    bad = 0
    number = 0
    while True:
        number += 1
        is_bad = number % 3 == 0
        kind = _BAD[bad % len(_BAD)] if is_bad else GOOD
        bad += is_bad
        plan = {}
        for place in PLACES[:2] if is_bad else PLACES:
            if not left[place]:
                left[place] = rng.sample(sorted(FAULTS), len(FAULTS))
            plan[place] = [left[place].pop() for _ in range(min(1 if is_bad else 2, len(left[place])))]
        yield Planned(kind=kind, plan=plan)
