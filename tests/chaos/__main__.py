"""``python -m tests.chaos --minutes 60 [--seed N]``: the hour's form. Breaks releases until the time is up, and says what did not hold.

Everything that is drawn is drawn from the seed, which is printed: the same seed is the same releases with the same faults in the same phases.
"""

import argparse
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import plans
from tests.chaos.campaign import Campaign
from tests.chaos.databases import database
from tests.chaos.figures import Figures, table
from tests.chaos.plans import Planned
from tests.chaos.world import ENVIRONMENT, MODEL, World

_RELEASES_A_WORLD = 3


@dataclass(slots=True)
class Chaos:
    """The whole run: worlds on one database after the other, releases dealt from one deck."""

    seed: int
    until: float
    """By the steady clock."""
    databases: Sequence[str]
    figures: Figures = field(default_factory=Figures)
    wrong: list[str] = field(default_factory=list)

    def run(self, folder: Path) -> None:
        """Go on until the time is up, or something did not hold."""
        deck, number = plans.dealt(self.seed), 0
        while time.monotonic() < self.until and not self.wrong:
            name = self.databases[number % len(self.databases)]
            number += 1
            place = folder / f"world-{number}-{name}"
            place.mkdir()
            with database(name, place) as made, World(place / "state", made) as world, Campaign(world) as campaign:
                for _ in range(_RELEASES_A_WORLD):
                    if time.monotonic() > self.until or self.wrong:
                        break
                    self._release(campaign, next(deck))
                self.figures.add(name, campaign, campaign.check()[1])
            if not self.wrong:
                shutil.rmtree(place)

    def _release(self, campaign: Campaign, planned: Planned) -> None:
        before = campaign.world.store.champion(ENVIRONMENT, MODEL)
        ended = campaign.release(planned.kind, planned.plan)
        after = campaign.world.store.champion(ENVIRONMENT, MODEL)
        wrong, _ = campaign.check()
        is_champion = after is not None and after.version == ended.version
        if is_champion is not (ended.place == "succeeded"):
            wrong.append(f"version {ended.version} ended as {ended.place} and champion is {after}")
        if is_champion and not planned.kind.is_good:
            wrong.append(f"version {ended.version} ({ended.kind}) is champion after {before}")
        self.wrong += [f"{sentence} (release of version {ended.version}, {ended.kind}, {dict(planned.plan)})" for sentence in wrong]
        _say(f"{ended.kind:10} {ended.place:10} {wrong or ''}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 0 when everything held."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to go on; the release that runs is finished")
    parser.add_argument("--seed", type=int, help="what is broken when; drawn and printed when it is left out")
    parser.add_argument("--database", action="append", choices=("sqlite", "postgresql"), help="one of both; both in turn when left out")
    parser.add_argument("--json", type=Path, help="where to leave the figures")
    asked = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))  # by way of every context: nothing is left running
    seed = random.SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
    _say(f"seed {seed}: make chaos CHAOS_SEED={seed} does the same again")
    folder = Path(tempfile.mkdtemp(prefix="firstlight-chaos-"))
    logging.basicConfig(filename=folder / "chaos.log", level=logging.INFO, format="%(asctime)s %(message)s")
    chaos = Chaos(seed=seed, until=time.monotonic() + 60 * asked.minutes, databases=asked.database or ("sqlite", "postgresql"))
    chaos.run(folder)
    _say(table(chaos.figures))
    if asked.json is not None:
        asked.json.write_text(json.dumps({"seed": seed, "minutes": asked.minutes, **chaos.figures.to_dict()}, indent=1))
    for sentence in chaos.wrong:
        _say(f"did not hold: {sentence}")
    _say(f"seed {seed}; " + (f"what is left of the world: {folder}" if chaos.wrong else "every invariant held"))
    if not chaos.wrong:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if chaos.wrong else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


__all__ = ["Chaos", "main"]

if __name__ == "__main__":
    sys.exit(main())
