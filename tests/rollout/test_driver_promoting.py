"""The last steps to the champion: a store that answers late, or never, and a process that dies there."""

from dataclasses import dataclass

import pytest

from rollout.errors import StoreUnreachable
from rollout.spec import Phase, RolloutSpec, Traffic
from tests.rollout.place import HERE, POLICY, Here, Move, weights

WATCHED = POLICY.model_copy(update={"watch_seconds": 20.0})


@dataclass
class LateMove(Move):
    """The first time, a whole lease passes before the store is asked."""

    is_first = True

    def forward(self, spec: RolloutSpec, token: int) -> None:
        if self.is_first:
            self.is_first = False
            self.here.time.sleep(POLICY.lease_seconds + 1)
        super().forward(spec, token)


@dataclass
class UnansweredMove(Move):
    """The first time, the store does it and a whole lease passes without an answer."""

    is_first = True

    def forward(self, spec: RolloutSpec, token: int) -> None:
        super().forward(spec, token)
        if self.is_first:
            self.is_first = False
            self.here.time.sleep(POLICY.lease_seconds + 1)
            raise StoreUnreachable("the answer was lost")


def test_a_canary_that_lost_its_lease_on_the_way_to_the_champion_is_put_out_again_first(here: Here) -> None:
    ended = here.driver(WATCHED, champion=LateMove).run()
    assert (ended.status.phase, here.store.champion(*HERE).version) == (Phase.SUCCEEDED, "2"), ended.status.reasons  # type: ignore[union-attr]
    assert weights(here) == [0, 0, 50, 100, 0, 0, 100, 0], "stable had the traffic, the last step was gone again, then it was champion"
    assert here.routes[4] == Traffic(stable="1")
    assert [line.action for line in here.store.history(*HERE)] == ["promote", "promote"], "nobody had to go back"


def test_a_champion_that_moved_while_the_answer_was_lost_is_watched_and_not_begun_again(here: Here) -> None:
    ended = here.driver(WATCHED, champion=UnansweredMove).run()
    assert (ended.status.phase, here.store.champion(*HERE).version) == (Phase.SUCCEEDED, "2"), ended.status.reasons  # type: ignore[union-attr]
    assert weights(here) == [0, 0, 50, 100, 0]
    assert here.routes[-1] == Traffic(stable="2")


@pytest.mark.parametrize("had_moved", [False, True], ids=["before the move", "after a move that nobody heard of"])
def test_a_process_killed_while_it_promoted_is_followed_by_one_that_makes_it_champion(here: Here, had_moved: bool) -> None:
    first = here.driver(WATCHED, champion=Move)
    first.run(until={Phase.PROMOTING})
    if had_moved:
        Move(here, first.errand.release_id).forward(first.errand.spec, first.token)
    here.time.sleep(POLICY.lease_seconds + 1)
    assert here.routes[-1] == Traffic(stable="2" if had_moved else "1")
    ended = here.driver(WATCHED, champion=Move).run()
    assert (ended.status.phase, here.store.champion(*HERE).version) == (Phase.SUCCEEDED, "2"), ended.status.reasons  # type: ignore[union-attr]
    assert weights(here) == [0, 0, 50, 100, 0, *([] if had_moved else [0, 100, 0])]
