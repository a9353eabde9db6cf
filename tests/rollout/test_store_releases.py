from typing import Any

import pytest

from rollout.errors import ReleaseClosed, ReleaseRunning, UnknownRelease
from rollout.records import ReleaseStatus
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_release

HERE = (ENVIRONMENT, MODEL)


def test_a_release_is_called_after_its_model_and_digest(store: Any) -> None:
    release = open_release(store, "1")
    assert (release.id, release.attempt, release.status) == (f"desi-vae-{'a' * 12}", 1, ReleaseStatus.OPEN)
    assert store.release(release.id) == release == store.open_one(*HERE)


def test_the_same_bytes_continue_the_open_release(store: Any) -> None:
    release = open_release(store, "1")
    assert open_release(store, "1") == release
    assert store.releases(*HERE) == [release]
    assert [decision.what for decision in store.decisions(*HERE)] == ["open-release"]


def test_a_second_different_release_is_refused_and_told_which_one_runs(store: Any) -> None:
    running = open_release(store, "1")
    with pytest.raises(ReleaseRunning, match=running.id) as refused:
        open_release(store, "2")
    assert refused.value.release_id == running.id
    assert store.releases(*HERE) == [running]
    # elsewhere it may run
    assert open_release(store, "2", environment="staging").attempt == 1


def test_the_same_model_in_another_hand_off_is_another_release(store: Any) -> None:
    running = open_release(store, "1")
    with pytest.raises(ReleaseRunning, match=running.id):
        store.open_release(*HERE, handoff_digest="other", model_digest=DIGESTS["1"], policy_digest="p", by="flow")


def test_a_changed_policy_is_recorded_when_a_release_goes_on_under_it(store: Any) -> None:
    release = open_release(store, "1", policy="old")
    assert open_release(store, "1", policy="new").policy_digest == "new" == store.release(release.id).policy_digest
    assert store.decisions(*HERE)[-1].detail == f"release {release.id} goes on under policy new instead of old"


@pytest.mark.parametrize("status", ["failed", "cannot-tell", "error"])
def test_a_finished_release_opens_the_next_attempt(store: Any, status: str) -> None:
    first = open_release(store, "1")
    ended = store.close_release(first.id, status, "recall of quasars fell")
    assert (ended.status, ended.summary) == (ReleaseStatus(status), "recall of quasars fell")
    assert ended.closed_at is not None
    second = open_release(store, "1")
    assert (second.id, second.attempt) == (f"{first.id}-2", 2)
    assert store.releases(*HERE) == [ended, second]


def test_the_same_end_again_is_harmless_and_another_end_is_refused(store: Any) -> None:
    release = open_release(store, "1")
    ended = store.close_release(release.id, "failed", "why")
    assert store.close_release(release.id, "failed", "said otherwise") == ended
    for status in ("error", "promoted", "open"):
        with pytest.raises(ReleaseClosed):
            store.close_release(release.id, status, "why")
    assert store.release(release.id) == ended


def test_a_release_ends_only_as_what_happened(store: Any) -> None:
    release = open_release(store, "1")
    with pytest.raises(ReleaseClosed, match="it did not"):
        store.close_release(release.id, "promoted", "wishful")
    store.promote(*HERE, version="1", digest=DIGESTS["1"], release_id=release.id, expected_champion=None, by="flow")
    with pytest.raises(ReleaseClosed, match="it did"):
        store.close_release(release.id, "failed", "second thoughts")
    assert store.close_release(release.id, "promoted", "all gates passed").status is ReleaseStatus.PROMOTED


def test_an_unknown_release_or_status_is_refused(store: Any) -> None:
    for call in (store.release, lambda name: store.close_release(name, "failed", "why")):
        with pytest.raises(UnknownRelease, match="none is called 'nobody'"):
            call("nobody")
    with pytest.raises(ValueError, match="'done' is not a valid ReleaseStatus"):
        store.close_release(open_release(store, "1").id, "done", "why")


def test_a_digest_that_looks_like_a_pattern_counts_only_its_own_attempts(store: Any) -> None:
    for digest in ("%" * 12, "_" * 12):
        release = store.open_release(*HERE, handoff_digest=digest, model_digest=digest, policy_digest="p", by="flow")
        assert release.attempt == 1
        store.close_release(release.id, "failed", "why")
