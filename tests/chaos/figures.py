"""What a run of the hour's form amounted to, in numbers."""

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.campaign import PLACES, Campaign
from tests.chaos.invariants import Excused, Happened


@dataclass(slots=True)
class Figures:
    """Sums over all worlds of a run."""

    worlds: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    repeated: int = 0
    met_nobody: int = 0
    dropped: int = 0
    releases: Counter[str] = field(default_factory=Counter)
    """By kind and end."""
    missed: int = 0
    happened: list[Happened] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    """Seconds in which a world was up."""

    def add(self, database: str, campaign: Campaign, excused: Excused) -> None:
        """Add what one world saw."""
        asked = campaign.callers.asked
        self.worlds[database] += 1
        self.requests += len(asked)
        self.repeated += excused.repeated
        self.met_nobody += excused.met_nobody
        self.dropped += sum(len(one.dropped) for one in asked)
        self.releases.update(f"{ended.kind}: {ended.place}" for ended in campaign.ended)
        self.missed += sum(len(ended.missed) for ended in campaign.ended)
        self.happened += campaign.happened
        self.starts.append(campaign.started_seconds)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "worlds": dict(self.worlds),
            "requests": self.requests,
            "asked again after a dropped connection": self.repeated,
            "met a dead process with no replica": self.met_nobody,
            "releases": dict(sorted(self.releases.items())),
            "faults": {name: _healing(found) for name, found in sorted(_by_fault(self.happened).items())},
            "faults not reached": self.missed,
            "seconds to bring a world up": [round(one, 1) for one in self.starts],
        }


def table(figures: Figures) -> str:
    """Return the faults by phase, with how long healing took (median, longest), as Markdown."""
    lines = ["| fault | " + " | ".join(PLACES) + " | healed in s: median | longest |", "|---" * (len(PLACES) + 3) + "|"]
    for name, found in sorted(_by_fault(figures.happened).items()):
        counts = Counter(done.place for done in found)
        healing = _healing(found)
        cells = " | ".join(str(counts[place] or "") for place in PLACES)
        lines.append(f"| {name} | {cells} | {healing['median']} | {healing['longest']} |")
    kinds = "; ".join(f"{name} {count}" for name, count in sorted(figures.releases.items()))
    lines += [
        "",
        f"{figures.requests} requests, {figures.repeated} asked again after a dropped connection, {figures.met_nobody} met a dead process",
    ]
    lines += [f"with no replica. Releases: {kinds}."]
    return "\n".join(lines)


def _by_fault(happened: list[Happened]) -> dict[str, list[Happened]]:
    found: dict[str, list[Happened]] = {}
    for done in happened:
        found.setdefault(f"{done.what} {done.victim}", []).append(done)
    return found


def _healing(found: list[Happened]) -> dict[str, Any]:
    seconds = [done.healed - done.mended for done in found if done.healed is not None and done.mended is not None]
    return {
        "times": len(found),
        "median": round(statistics.median(seconds), 1) if seconds else None,
        "longest": round(max(seconds, default=0.0), 1),
    }
