"""The short form: two releases on one database, a good one that must come through and a bad one that must not."""

from pathlib import Path

from tests.chaos.campaign import Campaign
from tests.chaos.databases import database
from tests.chaos.plans import SHORT
from tests.chaos.world import ENVIRONMENT, MODEL, World


def run(name: str, folder: Path) -> None:
    """Break what the short form breaks on this kind of database; every invariant must hold."""
    with database(name, folder) as made, World(folder / "state", made) as world, Campaign(world) as campaign:
        for planned in SHORT[name]:
            before = world.store.champion(ENVIRONMENT, MODEL)
            ended = campaign.release(planned.kind, planned.plan)
            after = world.store.champion(ENVIRONMENT, MODEL)
            assert before is not None
            assert after is not None
            assert ended.missed == (), ended
            expected = ("succeeded", ended.version) if planned.kind.is_good else (ended.place, before.version)
            assert (ended.place, after.version) == expected, ended
        wrong, excused = campaign.check()
        assert wrong == [], "\n".join([*wrong[:20], str(excused)])
        assert len(campaign.callers.asked) > 100
