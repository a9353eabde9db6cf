"""The driver of a rollout against a gateway without processes: what it decides, what it survives, and in which order it goes back."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rollout.backends.simulated import Behaviour, Reply
from rollout.driver import Driver, Ended
from rollout.errors import Fenced, StoreUnreachable
from rollout.spec import Phase, Traffic
from tests.rollout.place import HERE, POLICY, Here, Move, healthy, weights
from tests.rollout.stores import promote


def to_promotion(driver: Driver) -> Ended:
    return driver.run(until={Phase.PROMOTING})


def test_a_healthy_canary_takes_every_step_and_may_be_promoted(here: Here) -> None:
    ended = to_promotion(here.driver())
    assert ended.status.phase is Phase.PROMOTING, ended.status.reasons
    assert weights(here) == [0, 0, 50, 100]
    assert ended.evidence.canary.requests + ended.evidence.control.requests == here.asked  # type: ignore[union-attr]
    assert {(point["phase"], point["weight"]) for point in ended.points} == {("starting", 0), ("progressing", 50), ("progressing", 100)}


def answering(reply: Reply) -> Behaviour:
    return lambda number, row: replace(reply, outputs=reply.outputs or healthy(number, row).outputs if reply.ok else {})


@pytest.mark.parametrize(
    ("canary", "said"),
    [
        pytest.param(answering(Reply(status=500)), "failed", id="errors"),
        pytest.param(answering(Reply(status=0)), "failed", id="no answer"),
        pytest.param(lambda number, row: Reply(outputs={"score": math.nan}), "copies failed", id="NaN"),
        pytest.param(answering(Reply(seconds=0.1)), "x control", id="right but slow"),
        pytest.param(lambda number, row: Reply(outputs={"score": healthy(number, row).outputs["score"] + 1.0}), "score", id="shifted"),
        pytest.param(lambda number, row: healthy(number, row) if number < 99 else Reply(status=500), "failed", id="fails from the 100th"),
    ],
)
def test_a_bad_canary_is_turned_back_and_traffic_goes_before_the_canary_and_the_record_last(
    here: Here, canary: Behaviour, said: str
) -> None:
    here.canary = canary
    recorded: list[Traffic] = []
    save = here.store.save_rollout
    here.store.save_rollout = lambda *a, **k: recorded.append(here.routes[-1]) or save(*a, **k)  # type: ignore[method-assign,func-returns-value]
    ended = to_promotion(here.driver())
    assert ended.status.phase is Phase.FAILED
    assert said in " ".join(ended.status.reasons)
    assert here.routes[-3:] == [
        here.routes[-3],
        Traffic(stable="1", canary="2", canary_weight=0),
        Traffic(stable="1"),
    ]
    assert here.routes[-3].canary_weight > 0
    assert recorded[-1] == Traffic(stable="1"), "the record says that it failed when traffic is back"
    assert here.store.champion(*HERE).version == "1"  # type: ignore[union-attr]
    assert ended.points[-1]["phase"] == "failed"


def test_a_canary_that_never_gets_ready_gets_no_request(here: Here) -> None:
    here.ready = {"1"}
    ended = to_promotion(here.driver())
    assert (ended.status.phase, max(weights(here))) == (Phase.UNDECIDED, 0)


class Killed(BaseException):
    """What kill -9 is to the code: no handler of errors sees it."""


def killed_at(here: Here, driver: Driver, weight: int, requests: int) -> None:
    """Run until the canary has answered so many requests at a weight, then die."""

    def die() -> None:
        if driver.status.weight == weight and driver.judge.evidence.canary.requests >= requests:
            raise Killed

    here.time.at_sleep.append(die)
    with pytest.raises(Killed):
        driver.run(until={Phase.PROMOTING})
    here.time.at_sleep.remove(die)


def test_a_killed_process_is_followed_by_one_that_goes_on_with_what_was_seen(here: Here) -> None:
    killed_at(here, here.driver(), 50, 60)
    ended = to_promotion(here.driver())
    assert ended.status.phase is Phase.PROMOTING
    assert weights(here) == [0, 0, 50, 100], "the canary stayed out"
    assert ended.evidence.canary.requests + ended.evidence.control.requests == here.asked, "nothing lost, nothing twice"  # type: ignore[union-attr]


def test_after_a_lapsed_lease_it_starts_again_and_keeps_the_evidence(here: Here) -> None:
    killed_at(here, here.driver(), 50, 60)
    here.time.sleep(POLICY.lease_seconds + 1)
    assert here.routes[-1] == Traffic(stable="1"), "the lease ran out"
    second = here.driver()
    seen = second.judge.evidence.canary.requests
    assert (seen > 0, second.status.phase) == (True, Phase.PROGRESSING)
    ended = to_promotion(second)
    assert ended.status.phase is Phase.PROMOTING
    assert weights(here) == [0, 0, 50, 0, 0, 50, 100]
    assert ended.evidence.canary.requests > seen


def test_a_process_that_was_only_asleep_stops_and_touches_nothing(here: Here) -> None:
    first = here.driver()
    killed_at(here, first, 50, 20)
    second = here.driver()
    killed_at(here, second, 50, 60)
    before = here.store.desired(*HERE), here.store.rollout(*HERE), here.store.decisions(*HERE)
    with pytest.raises(Fenced):
        first.run()
    assert (here.store.desired(*HERE), here.store.rollout(*HERE), here.store.decisions(*HERE)) == before
    assert to_promotion(second).status.phase is Phase.PROMOTING


class SilentStore:
    """The store over a network that is away between two moments of the steady clock."""

    def __init__(self, here: Here) -> None:
        self._here = here
        self.away = (math.inf, math.inf)

    def __getattr__(self, name: str) -> Any:
        if self.away[0] <= self._here.time.steady < self.away[1]:
            raise StoreUnreachable("the rollout store must answer, it does not")
        return getattr(self._here.store, name)


@pytest.mark.parametrize(("seconds", "restarted"), [(30.0, False), (80.0, True)], ids=["less than a lease", "more than a lease"])
def test_a_silent_store_is_asked_again_and_after_a_lease_nothing_is_done_until_it_answers(
    here: Here, seconds: float, restarted: bool
) -> None:
    store = SilentStore(here)
    driver = here.driver(store=store)
    store.away = (driver._clock.steady() + 2, driver._clock.steady() + 2 + seconds)
    ended = to_promotion(driver)
    assert ended.status.phase is Phase.PROMOTING
    assert (weights(here).count(0) > 2) is restarted
    assert any("asked again" in said for said in here.said)
    assert any("nothing is done until it answers" in said for said in here.said) is restarted
    assert here.store.rollout(*HERE).status == ended.status, "what could not be saved was saved then"  # type: ignore[union-attr]


def test_a_store_that_stays_silent_ends_in_its_error(here: Here) -> None:
    store = SilentStore(here)
    driver = here.driver(store=store)
    store.away = (driver._clock.steady() + 2, math.inf)
    with pytest.raises(StoreUnreachable):
        driver.run()


def test_a_gateway_that_is_away_decides_nothing_and_one_that_was_started_anew_is_counted_on(here: Here) -> None:
    driver = here.driver()
    killed_at(here, driver, 50, 40)
    here.gateway.asleep = True
    since = here.time.steady

    def wake() -> None:
        if here.gateway.asleep and here.time.steady > since + 20:
            here.gateway.restart()
            here.gateway.asleep = False

    here.time.at_sleep.append(wake)
    ended = driver.run(until={Phase.PROMOTING})
    assert ended.status.phase is Phase.PROMOTING
    assert any(point["summary"].startswith("the gateway must answer") for point in ended.points)
    answered = ended.evidence.canary.requests + ended.evidence.control.requests  # type: ignore[union-attr]
    assert 40 < answered < here.asked, "what the dead gateway had counted since the last look is gone, the rest is there once"


@pytest.mark.parametrize("jump", [3600.0, -3600.0], ids=["an hour forwards", "an hour back"])
def test_a_jump_of_the_wall_clock_ends_nothing(here: Here, jump: float) -> None:
    driver = here.driver()
    killed_at(here, driver, 50, 20)
    here.time.wall += jump
    ended = driver.run(until={Phase.PROMOTING})
    assert ended.status.phase is Phase.PROMOTING
    assert ended.points[-1]["t_s"] < POLICY.step_deadline_seconds
    # and for who takes over neither
    assert here.driver()._time.now() - ended.status.step_started < POLICY.lease_seconds


def ordered(here: Here, what: str, *, weight: int = 50) -> Callable[[], None]:
    """Give an order as soon as the canary has this weight; return how to stop listening."""

    def give() -> None:
        if here.routes[-1].canary_weight == weight:
            here.time.at_sleep.remove(give)
            here.store.order(*HERE, what, by="ada", reason="a test")

    here.time.at_sleep.append(give)
    return give


def test_an_operator_pauses_resumes_and_aborts(here: Here) -> None:
    ordered(here, "pause")
    driver = here.driver()
    driver.run(until={Phase.PAUSED})
    began, here.per_look = here.time.steady, 0

    def resume() -> None:
        if here.time.steady > began + 2 * POLICY.step_deadline_seconds:
            here.store.order(*HERE, "resume", by="ada", reason="looked at it")

    here.time.at_sleep.append(resume)
    driver.run(until={Phase.PROGRESSING, Phase.UNDECIDED})
    assert (driver.status.phase, driver.status.weight) == (Phase.PROGRESSING, 50), "no deadline and no lease passes while it is paused"
    here.time.at_sleep.remove(resume)
    ordered(here, "abort")
    here.per_look = 20
    ended = driver.run()
    assert (ended.status.phase, here.routes[-1]) == (Phase.ABORTED, Traffic(stable="1"))
    assert [(point["event"], point["by"]) for point in ended.points if point["event"] != "none"] == [
        ("pause", "pause by ada: a test"),
        ("resume", "resume by ada: looked at it"),
        ("abort", "abort by ada: a test"),
    ]


@pytest.mark.parametrize("turns_bad", [False, True], ids=["approved", "turns bad while it waits"])
def test_a_rollout_that_waits_for_a_person_keeps_its_lease_and_goes_back_by_itself(here: Here, turns_bad: bool) -> None:
    driver = here.driver(POLICY.model_copy(update={"approval": "before-promotion"}))
    driver.run(until={Phase.APPROVING})
    if turns_bad:
        here.canary = answering(Reply(status=500))
        assert driver.run().status.phase is Phase.FAILED
        assert here.routes[-1] == Traffic(stable="1")
        return
    since, asked, here.per_look = here.time.steady, here.asked, 5
    here.time.at_sleep.append(lambda: here.time.steady > since + 70 and here.store.order(*HERE, "approve", by="ada"))  # type: ignore[func-returns-value,arg-type,return-value]
    ended = driver.run(until={Phase.PROMOTING})
    assert ended.status.phase is Phase.PROMOTING
    assert (weights(here)[-1], here.asked > asked) == (100, True), "it stayed out, and was judged"


@pytest.mark.parametrize("turns_bad", [False, True], ids=["healthy", "turns bad after the promotion"])
def test_after_the_promotion_it_is_watched_and_goes_back_to_the_old_stable(here: Here, turns_bad: bool) -> None:
    driver = here.driver(POLICY.model_copy(update={"watch_seconds": 20.0}), champion=Move)
    driver.run(until={Phase.WATCHING})
    assert here.store.champion(*HERE).version == "2"  # type: ignore[union-attr]
    if turns_bad:
        here.canary = answering(Reply(status=500))
    ended = driver.run()
    assert ended.status.phase is (Phase.FAILED if turns_bad else Phase.SUCCEEDED), ended.status.reasons
    assert here.store.champion(*HERE).version == ("1" if turns_bad else "2")  # type: ignore[union-attr]
    assert here.routes[-1] == Traffic(stable="1" if turns_bad else "2")


def test_a_new_stable_that_is_sick_keeps_its_traffic_while_the_old_one_is_not_ready(here: Here) -> None:
    driver = here.driver(POLICY.model_copy(update={"watch_seconds": 20.0}), champion=Move)
    driver.run(until={Phase.WATCHING})
    here.canary, here.ready, here.per_look = answering(Reply(status=500)), {"2"}, 30
    since = here.time.steady
    here.time.at_sleep.append(lambda: here.ready.add("1") if here.time.steady > since + 40 else None)
    ended = driver.run()
    assert (ended.status.phase, here.store.champion(*HERE).version) == (Phase.FAILED, "1")  # type: ignore[union-attr]
    assert here.time.steady - since > 40


@pytest.mark.parametrize("moved", ["before the promotion", "while it is promoted"])
def test_a_champion_that_somebody_else_moved_has_the_last_word(here: Here, moved: str) -> None:
    promote(here.store, "3", expected="1")
    promote(here.store, "1", expected="3")
    driver = here.driver(champion=Move)
    driver.run(until={Phase.PROGRESSING if moved == "before the promotion" else Phase.PROMOTING})
    here.store.rollback(*HERE, by="ada", reason="1 is sick")
    ended = driver.run()
    assert ended.status.phase is (Phase.SUPERSEDED if moved == "before the promotion" else Phase.FAILED)
    assert "must still be" in " ".join(ended.status.reasons)
    assert here.store.desired(*HERE).traffic == Traffic(stable="3")  # type: ignore[union-attr]


def test_a_stable_that_fails_as_often_is_nothing_to_go_back_to_or_compare_with(here: Here) -> None:
    here.stable = here.canary = answering(Reply(status=500))
    driver = here.driver()
    driver.run(until={Phase.PROGRESSING})
    here.per_look, since = 20, here.time.steady

    def die() -> None:
        if here.time.steady > since + POLICY.step_deadline_seconds + 10:
            raise Killed

    here.time.at_sleep.append(die)
    with pytest.raises(Killed):
        driver.run()
    assert driver.status.phase is Phase.PROGRESSING
    assert "waits until version 1 is ready" in driver.status.reasons[0]


def test_a_way_back_that_the_store_interrupts_is_gone_again_from_the_top(here: Here) -> None:
    here.canary = answering(Reply(status=500))
    store = SilentStore(here)
    driver = here.driver(store=store)
    here.time.at_sleep.append(lambda: _away(store, here) if driver._ending else None)
    ended = to_promotion(driver)
    assert (ended.status.phase, here.routes[-1]) == (Phase.FAILED, Traffic(stable="1"))
    assert store.away[0] < math.inf


def _away(store: SilentStore, here: Here) -> None:
    if store.away[0] == math.inf:
        store.away = (here.time.steady, here.time.steady + 10)


def test_a_champion_moved_by_a_run_whose_answer_was_lost_is_the_pass(here: Here) -> None:
    driver = here.driver(champion=Move)
    driver.run(until={Phase.PROMOTING})
    Move(here, here.store.open_one(*HERE).id).forward(driver.errand.spec, driver.token)  # type: ignore[union-attr]
    ended = here.driver(champion=Move).run()
    assert (ended.status.phase, here.store.desired(*HERE).traffic) == (Phase.SUCCEEDED, Traffic(stable="2"))  # type: ignore[union-attr]
