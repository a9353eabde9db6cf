"""Rollouts in the store: who may act (fencing), what is kept, what people order; every change is logged exactly once."""

import time
from dataclasses import replace
from typing import Any

import pytest

from firstlight.verdict import Verdict
from rollout.controller import advance, begin
from rollout.errors import ExperimentRunning, Fenced, NoRollout, RolloutError, StaleChampion
from rollout.policy import RolloutPolicy
from rollout.records import RolloutRecord
from rollout.spec import Event, Phase, RolloutSpec, RolloutStatus, Traffic
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_release, open_store, promote, raw

HERE = (ENVIRONMENT, MODEL)
POLICY = RolloutPolicy(approval="before-promotion")
SPEC = RolloutSpec(canary="2", stable="1", policy=POLICY)
CANARY = Traffic(stable="1", canary="2", canary_weight=5, baseline=True)
EVIDENCE = {"canary": {"requests": 7}, "at": 12.5}


@pytest.fixture
def release(store: Any) -> str:
    """Champion 1, and an open release of 2."""
    promote(store, "1", expected=None)
    return str(open_release(store, "2").id)


def claim(store: Any, release: str, *, holder: str = "first", spec: RolloutSpec = SPEC) -> RolloutRecord:
    return store.claim_rollout(*HERE, release_id=release, holder=holder, spec=spec)  # type: ignore[no-any-return]


def begun(at: Phase = Phase.PROGRESSING, *, step: int = 0, weight: int = 5) -> RolloutStatus:
    return replace(begin(SPEC, 100.0), phase=at, step=step, weight=weight, reasons=("why",))


def kinds(store: Any) -> list[str]:
    return [decision.what for decision in store.decisions(*HERE)]


def test_nobody_drives_before_the_first_claim(store: Any) -> None:
    assert store.rollout(*HERE) is None
    with pytest.raises(Fenced):
        store.save_rollout(*HERE, token=1, status=begun(), evidence=None)
    with pytest.raises(NoRollout, match="there has been none"):
        store.order(*HERE, "pause", by="ada", reason="")


def test_a_run_that_was_thought_dead_can_do_nothing_when_it_wakes_up(store: Any, release: str) -> None:
    # Given a run that put its canary out and fell asleep, and another that went on from there
    old = claim(store, release).token
    wanted = store.propose(*HERE, CANARY, lease_until=time.time() + 60, expected_generation=None, by="first", token=old)
    store.save_rollout(*HERE, token=old, status=begun(), evidence=EVIDENCE)
    new = claim(store, release, holder="second")
    assert (new.token, new.status, new.evidence, new.holder) == (old + 1, begun(), EVIDENCE, "second")
    before = everything(store)
    # When it wakes up, then it can neither propose, renew, save, promote nor go back, and nothing was changed
    acts = [
        lambda: store.propose(*HERE, Traffic(stable="1"), lease_until=None, expected_generation=None, by="first", token=old),
        lambda: store.renew_lease(*HERE, wanted.generation, 600.0, token=old),
        lambda: store.save_rollout(*HERE, token=old, status=begun(Phase.FAILED), evidence={}),
        lambda: store.promote(
            *HERE, version="2", digest=DIGESTS["2"], release_id=release, expected_champion="1", by="first", token=old
        ),
        lambda: store.rollback(*HERE, by="first", reason="sick", token=old),
    ]  # fmt: skip
    for act in acts:
        with pytest.raises(Fenced, match=f"token {old} was followed by {new.token}; stop, somebody else goes on"):
            act()
    assert everything(store) == before
    # while the newest may do all of it
    store.renew_lease(*HERE, wanted.generation, time.time() + 600, token=new.token)
    store.promote(*HERE, version="2", digest=DIGESTS["2"], release_id=release, expected_champion="1", by="second", token=new.token)
    assert store.rollback(*HERE, by="second", reason="sick", expected_champion="2", token=new.token).version == "1"


def everything(store: Any) -> tuple[Any, ...]:
    return store.desired(*HERE), store.rollout(*HERE), store.history(*HERE), store.decisions(*HERE)


def test_a_token_is_never_used_again_and_belongs_to_one_model_in_one_environment(store: Any, release: str) -> None:
    tokens = [claim(store, release, holder=str(number)).token for number in range(4)]
    assert tokens == [1, 2, 3, 4]
    assert store.claim_rollout("elsewhere", MODEL, release_id="x", holder="x", spec=SPEC).token == 1
    with pytest.raises(Fenced):
        store.save_rollout(*HERE, token=9, status=begun(), evidence=None)


def test_what_a_rollout_needs_to_go_on_is_kept(store: Any, store_url: str, release: str) -> None:
    token = claim(store, release).token
    paused = advance(SPEC, begun(), Verdict.CANNOT_TELL, 107.0, event=Event.PAUSE)
    store.propose(
        *HERE, CANARY, lease_until=60.0, lease_seconds=30.0, sticky="client", shadow_percent=40, expected_generation=None, by="f", token=token
    )  # fmt: skip
    saved = store.save_rollout(*HERE, token=token, status=paused, evidence=EVIDENCE)
    with open_store(store_url) as another:
        assert another.rollout(*HERE) == saved
        assert saved.status == paused
        assert RolloutPolicy.model_validate(saved.spec["policy"]) == POLICY
        desired = another.desired(*HERE)
        assert (desired.traffic, desired.lease_until, desired.lease_seconds) == (CANARY, 60.0, 30.0)
        assert (desired.sticky, desired.shadow_percent) == ("client", 40)


@pytest.mark.parametrize(
    ("spec", "keeps"),
    [
        pytest.param(SPEC, ("status", "evidence"), id="the same"),
        pytest.param(replace(SPEC, policy=POLICY.model_copy(update={"watch_seconds": 5.0})), ("status", "evidence"), id="another policy"),
        pytest.param(replace(SPEC, policy=POLICY.model_copy(update={"steps": (50, 100)})), ("evidence",), id="other steps"),
        pytest.param(replace(SPEC, stable="3"), (), id="another stable"),
    ],
)
def test_a_continued_release_goes_on_as_far_as_it_is_about_the_same(store: Any, release: str, spec: RolloutSpec, keeps: Any) -> None:
    token = claim(store, release).token
    store.save_rollout(*HERE, token=token, status=begun(), evidence=EVIDENCE)
    store.order(*HERE, "pause", by="ada", reason="lunch")
    again = claim(store, release, spec=spec)
    assert (again.status is not None, again.evidence is not None) == ("status" in keeps, "evidence" in keeps)
    assert again.paused, "what people ordered stays ordered"
    another = claim(store, "another release")
    assert (another.status, another.evidence, another.paused) == (None, None, False)


def test_every_change_of_a_rollout_is_logged_once(store: Any, release: str) -> None:
    before = len(kinds(store))
    token = claim(store, release).token
    for status in (begun(), begun(), replace(begun(), reasons=("other",)), begun(step=1, weight=25), begun(Phase.FAILED, weight=0)):
        for _ in range(2):
            store.save_rollout(*HERE, token=token, status=status, evidence=EVIDENCE)
    assert kinds(store)[before:] == ["claim-rollout", "rollout", "rollout", "rollout"]
    assert store.decisions(*HERE)[-1].detail == "version 2 against 1: failed at 0 %: why"


def test_a_change_of_who_sticks_or_what_is_copied_is_a_new_generation_and_a_lease_is_not(store: Any) -> None:
    def propose(**options: Any) -> int:
        return int(store.propose(*HERE, CANARY, lease_until=60.0, expected_generation=None, by="f", **options).generation)

    assert [propose(), propose(lease_seconds=30.0), propose(sticky="client"), propose(sticky="client", shadow_percent=10)] == [1, 1, 2, 3]
    assert kinds(store) == ["traffic"] * 3
    store.renew_lease(*HERE, 3, 90.0)
    assert (store.desired(*HERE).lease_until, store.desired(*HERE).lease_seconds) == (90.0, None)
    store.renew_lease(*HERE, 3, 90.0, lease_seconds=20.0)
    assert store.desired(*HERE).lease_seconds == 20.0


def test_what_people_order_is_kept_obeyed_once_and_logged_once(store: Any, release: str) -> None:
    token = claim(store, release).token
    before = len(kinds(store))
    for what in ("pause", "pause", "resume", "resume", "pause"):
        said = store.order(*HERE, what, by="ada", reason="lunch")
        assert (said.paused, said.said) == (what == "pause", f"{what} by ada: lunch")
    with pytest.raises(NoRollout, match="is being started; wait until it asks"):
        store.order(*HERE, "approve", by="ada")
    store.save_rollout(*HERE, token=token, status=begun(Phase.APPROVING, step=3, weight=100), evidence=None)
    assert store.order(*HERE, "approve", by="ada").approved_by == "ada"
    assert store.order(*HERE, "approve", by="bob").approved_by == "ada", "who was first stays"
    assert store.order(*HERE, "abort", by="bob").abort
    orders = [what for what in kinds(store)[before:] if what != "rollout"]
    assert orders == ["pause-rollout", "resume-rollout", "pause-rollout", "approve-rollout", "abort-rollout"]
    assert store.rollout(*HERE).token == token, "an order takes nothing from its holder"


def test_an_ended_rollout_takes_no_order_and_there_are_no_other_words(store: Any, release: str) -> None:
    token = claim(store, release).token
    with pytest.raises(ValueError, match="an order is one of pause, resume, abort, approve, got 'stop'"):
        store.order(*HERE, "stop", by="ada")
    store.save_rollout(*HERE, token=token, status=begun(Phase.UNDECIDED, weight=0), evidence=None)
    with pytest.raises(NoRollout, match="the last one ended as undecided"):
        store.order(*HERE, "abort", by="ada")


def test_a_stored_rollout_of_a_firstlight_to_come_is_a_sentence(store: Any, release: str) -> None:
    token = claim(store, release).token
    store.save_rollout(*HERE, token=token, status=begun(), evidence=None)
    raw(store, 'UPDATE rollouts SET status = \'{"phase": "dancing", "reasons": []}\'')
    with pytest.raises(RolloutError, match="one that this firstlight knows"):
        store.rollout(*HERE)


def test_the_old_stable_is_the_way_back_from_a_promotion(store: Any, release: str) -> None:
    token = claim(store, release).token
    champion = store.promote(
        *HERE, version="2", digest=DIGESTS["2"], release_id=release, expected_champion="1", by="flow", token=token
    )  # fmt: skip
    store.save_rollout(*HERE, token=token, status=begun(Phase.WATCHING, step=3, weight=100), evidence=EVIDENCE)
    store.close_release(release, "promoted", "all passed")
    assert (champion.previous, store.previous(*HERE).version) == ("1", "1")
    # while it is watched the record stays open: it takes orders, and keeps an experiment out
    assert store.order(*HERE, "pause", by="ada").status.phase is Phase.WATCHING
    with pytest.raises(RolloutError, match=f"must be free, release {release} is rolled out"):
        store.begin_experiment(*HERE, name="x", a="2", b="3", share=10, sticky=None, until=9e9, by="ada")
    with pytest.raises(StaleChampion):
        store.propose(*HERE, CANARY, lease_until=60.0, expected_generation=None, by="flow", token=token)
    assert store.rollback(*HERE, to="1", expected_champion="2", by="flow", reason="worse", token=token).version == "1"


def test_a_rollout_and_an_experiment_keep_each_other_out(store: Any, release: str) -> None:
    token = claim(store, release).token
    wishes = {"name": "night", "a": "1", "b": "3", "share": 10, "sticky": "client", "until": 9e9, "by": "ada"}
    with pytest.raises(RolloutError, match="end it with firstlight rollout abort"):
        store.begin_experiment(*HERE, **wishes)
    store.save_rollout(*HERE, token=token, status=begun(Phase.FAILED, weight=0), evidence=None)
    store.begin_experiment(*HERE, **wishes)
    with pytest.raises(ExperimentRunning, match="experiment 'night' of ada uses it"):
        claim(store, release)
    with pytest.raises(Fenced):
        store.propose(*HERE, CANARY, lease_until=60.0, expected_generation=None, by="flow", token=token)
    with pytest.raises(ExperimentRunning):
        store.propose(*HERE, CANARY, lease_until=60.0, expected_generation=None, by="somebody")
    store.end_experiment(*HERE, by="ada")
    assert claim(store, release).token == token + 2
