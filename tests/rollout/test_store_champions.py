import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from rollout.errors import LeaseLapsed, NoPrevious, ReleaseClosed, StaleChampion, UnknownRelease, UnknownVersion
from rollout.records import Champion
from rollout.spec import Traffic
from rollout.store import Store
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_release, promote

HERE = (ENVIRONMENT, MODEL)


def line(store: Any) -> list[tuple[str, str | None, str]]:
    """The history as (version, previous, action), checked for gaps."""
    history = store.history(*HERE)
    assert [one.sequence for one in history] == list(range(1, len(history) + 1))
    return [(one.version, one.previous, one.action) for one in history]


def test_before_the_first_release_there_is_no_champion(store: Any) -> None:
    assert store.champion(*HERE) is None
    assert store.previous(*HERE) is None
    assert store.history(*HERE) == []


def test_promotion_moves_champion_previous_traffic_and_log_together(store: Any) -> None:
    # Given a champion and a canary beside it
    promote(store, "1", expected=None)
    canary = Traffic(stable="1", canary="2", canary_weight=100)
    store.propose(*HERE, canary, lease_until=time.time() + 60, expected_generation=1, by="flow")
    # When the canary is promoted
    champion = promote(store, "2", expected="1")
    # Then everything says so
    assert store.champion(*HERE) == champion
    assert (champion.version, champion.digest, champion.previous, champion.by) == ("2", DIGESTS["2"], "1", "flow")
    assert store.previous(*HERE).version == "1"
    desired = store.desired(*HERE)
    assert (desired.traffic, desired.lease_until, desired.generation) == (Traffic(stable="2"), None, 3)
    assert line(store) == [("1", None, "promote"), ("2", "1", "promote")]
    promotions = [decision for decision in store.decisions(*HERE) if decision.what == "promote"]
    assert [decision.digest for decision in promotions] == [DIGESTS["1"], DIGESTS["2"]]
    numbers = [decision.number for decision in store.decisions(*HERE)]
    assert numbers == list(range(numbers[0], numbers[0] + 9))


def test_a_canary_whose_time_was_over_is_not_promoted_and_nothing_is_changed(store: Any) -> None:
    promote(store, "1", expected=None)
    release = open_release(store, "2")
    out = store.propose(
        *HERE, Traffic(stable="1", canary="2", canary_weight=100), lease_until=time.time() - 3, expected_generation=1, by="flow"
    )
    call = {"version": "2", "digest": DIGESTS["2"], "release_id": release.id, "expected_champion": "1", "by": "flow"}
    before = store.desired(*HERE), store.history(*HERE), store.decisions(*HERE)
    with pytest.raises(LeaseLapsed, match=r"was over [34]\.\d s ago: put it out again"):
        store.promote(*HERE, **call)
    assert (store.desired(*HERE), store.history(*HERE), store.decisions(*HERE)) == before
    # Out again it may; and that it has moved is the same afterwards, whatever time it is
    store.renew_lease(*HERE, out.generation, time.time() + 60)
    assert store.promote(*HERE, **call) == store.promote(*HERE, **call) == store.champion(*HERE)


def test_promoting_again_for_the_same_release_changes_nothing(store: Any) -> None:
    release = open_release(store, "1")
    call = {"version": "1", "digest": DIGESTS["1"], "release_id": release.id, "expected_champion": None, "by": "flow"}
    first = store.promote(*HERE, **call)
    before = (store.desired(*HERE), store.decisions(*HERE), store.history(*HERE))
    assert store.promote(*HERE, **call) == first
    store.close_release(release.id, "promoted", "done")
    assert store.promote(*HERE, **call) == first
    assert (store.desired(*HERE), store.decisions(*HERE)[:-1], store.history(*HERE)) == before


def test_promotion_against_another_champion_is_refused_and_changes_nothing(store: Any) -> None:
    promote(store, "1", expected=None)
    release = open_release(store, "2")
    before = (store.desired(*HERE), store.history(*HERE))
    for expected in (None, "3"):
        with pytest.raises(StaleChampion, match="it is '1' since promote 1 by flow"):
            store.promote(*HERE, version="2", digest=DIGESTS["2"], release_id=release.id, expected_champion=expected, by="flow")
    assert (store.desired(*HERE), store.history(*HERE)) == before


def test_a_release_that_was_rolled_back_is_not_champion_again_by_repeating_it(store: Any) -> None:
    promote(store, "1", expected=None)
    release = promote(store, "2", expected="1").release_id
    store.rollback(*HERE, by="ada", reason="stranger answers")
    with pytest.raises(StaleChampion, match="'1' has taken its place since"):
        store.promote(*HERE, version="2", digest=DIGESTS["2"], release_id=release, expected_champion="1", by="flow")
    assert store.champion(*HERE).version == "1"
    # a new attempt may
    assert promote(store, "2", expected="1").release_id == f"{release}-2"
    assert line(store)[-1] == ("2", "1", "promote")


def test_only_an_open_release_of_these_bytes_promotes(store: Any) -> None:
    release = open_release(store, "1")
    right = {"version": "1", "digest": DIGESTS["1"], "release_id": release.id, "expected_champion": None, "by": "flow"}
    for wrong, error, said in (
        ({"release_id": "nobody-knows"}, UnknownRelease, "'nobody-knows'"),
        ({"digest": DIGESTS["2"]}, ReleaseClosed, "and nothing else"),
        ({"version": "9"}, UnknownVersion, "'9'"),
        ({"version": "2"}, UnknownVersion, "must be the bytes that were judged"),
    ):
        with pytest.raises(error, match=said):
            store.promote(*HERE, **{**right, **wrong})
    with pytest.raises(ReleaseClosed, match="and nothing else"):
        store.promote("elsewhere", MODEL, **right)
    store.close_release(release.id, "failed", "bias")
    with pytest.raises(ReleaseClosed, match="it ended as 'failed'"):
        store.promote(*HERE, **right)
    assert store.champion(*HERE) is None
    assert store.desired(*HERE) is None


def test_rolling_back_twice_goes_back_two_and_never_to_what_was_fled_from(store: Any) -> None:
    for version, expected in (("1", None), ("2", "1"), ("3", "2")):
        promote(store, version, expected=expected)
    assert store.rollback(*HERE, by="ada", reason="slow").version == "2"
    assert store.previous(*HERE).version == "1"
    assert store.rollback(*HERE, by="ada", reason="still slow").version == "1"
    assert store.desired(*HERE).traffic == Traffic(stable="1")
    with pytest.raises(NoPrevious, match="there is none"):
        store.rollback(*HERE, by="ada", reason="again")
    assert line(store)[3:] == [("2", "1", "rollback"), ("1", None, "rollback")]


def test_a_rollback_takes_the_canary_away(store: Any) -> None:
    promote(store, "1", expected=None)
    promote(store, "2", expected="1")
    store.propose(*HERE, Traffic(stable="2", canary="3", canary_weight=25), lease_until=9.0, expected_generation=None, by="flow")
    store.rollback(*HERE, by="ada", reason="both are bad")
    assert (store.desired(*HERE).traffic, store.desired(*HERE).lease_until) == (Traffic(stable="1"), None)


def test_a_rollback_to_a_chosen_version_goes_where_it_was_champion_once(store: Any) -> None:
    for version, expected in (("1", None), ("2", "1"), ("3", "2")):
        promote(store, version, expected=expected)
    assert store.rollback(*HERE, by="ada", reason="the last good one", to="1").previous is None
    assert store.rollback(*HERE, by="ada", reason="it was not that", to="3").previous == "2"
    with pytest.raises(UnknownVersion, match=r"'4' never was; choose one of \['1', '2', '3'\]"):
        store.rollback(*HERE, by="ada", reason="hope", to="4")
    with pytest.raises(NoPrevious, match="'3' is the champion of 'desi-vae' already"):
        store.rollback(*HERE, by="ada", reason="hope", to="3")


def test_a_rollback_that_names_what_it_leaves_happens_once(store: Any) -> None:
    for version, expected in (("1", None), ("2", "1"), ("3", "2")):
        promote(store, version, expected=expected)
    store.rollback(*HERE, by="ada", reason="slow", expected_champion="3")
    with pytest.raises(StaleChampion):
        store.rollback(*HERE, by="ada", reason="slow", expected_champion="3")
    assert store.champion(*HERE).version == "2"


def test_without_a_champion_there_is_nothing_to_roll_back(store: Any) -> None:
    for to in (None, "1"):
        with pytest.raises(NoPrevious):
            store.rollback(*HERE, by="ada", reason="hope", to=to)
    assert store.desired(*HERE) is None


def test_environments_have_their_own_champions(store: Any) -> None:
    promote(store, "1", expected=None)
    staged = promote(store, "1", expected=None, environment="staging")
    assert staged.release_id.endswith("-2"), "an id is unique in the store, so the attempts count on"
    promote(store, "2", expected="1", environment="staging")
    assert store.champion(*HERE).version == "1"
    assert [one.environment for one in store.history("staging", MODEL)] == ["staging", "staging"]


def test_of_two_promotions_at_once_one_wins(sqlite_store: Store) -> None:
    # Given a champion, and a release open in another environment whose promotion races with this one's rollback and back
    promote(sqlite_store, "1", expected=None)
    release = open_release(sqlite_store, "2")
    results = at_once(
        lambda: sqlite_store.promote(*HERE, version="2", digest=DIGESTS["2"], release_id=release.id, expected_champion="1", by="flow"),
        times=8,
    )
    # Then all say the same, and it happened once
    assert len({repr(result) for result in results}) == 1
    assert isinstance(results[0], Champion)
    assert line(sqlite_store) == [("1", None, "promote"), ("2", "1", "promote")]


def test_of_two_different_changes_at_once_one_wins_and_the_others_are_told(sqlite_store: Store) -> None:
    for version, expected in (("1", None), ("2", "1"), ("3", "2")):
        promote(sqlite_store, version, expected=expected)
    results = at_once(lambda: sqlite_store.rollback(*HERE, by="ada", reason="slow", expected_champion="3"), times=8)
    assert sorted(type(result).__name__ for result in results) == ["Champion"] + ["StaleChampion"] * 7
    assert line(sqlite_store)[-1] == ("2", "1", "rollback")


def at_once(call: Callable[[], Any], *, times: int) -> list[Any]:
    """Run ``call`` in that many threads, started together; return each result or error."""
    barrier, results = threading.Barrier(times), []

    def run() -> None:
        barrier.wait()
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
