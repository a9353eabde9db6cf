"""kill -9 in the middle of everything the store does, many times. Whatever happens there is one champion, and it is what is desired."""

import hashlib
import multiprocessing
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import StaleChampion
from rollout.spec import ServableVersion, Traffic
from rollout.store import Store
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_release, open_store, promote, servable

HERE = (ENVIRONMENT, MODEL)
FORK = multiprocessing.get_context("fork")
ROUNDS = 20


def keep_releasing(url: str, begins: Any) -> None:
    """Release version after version for ever; what a killed run left open is continued first."""
    begins.set()
    store = open_store(url)
    while True:
        running = store.open_one(*HERE)
        now = store.champion(*HERE)
        version = store.version_by_digest(MODEL, running.model_digest).version if running else str(int(now.version) + 1 if now else 1)
        release_whole(store, version, expected=now.version if now else None)


def release_whole(store: Any, version: str, *, expected: str | None) -> None:
    digest = hashlib.sha256(version.encode()).hexdigest()
    store.add_version(ServableVersion(model=MODEL, version=version, folder="/x", model_digest=digest, handoff_digest=digest))
    release = store.open_release(*HERE, handoff_digest=digest, model_digest=digest, policy_digest="p", by="flow")
    store.promote(*HERE, version=version, digest=digest, release_id=release.id, expected_champion=expected, by="flow")
    store.close_release(release.id, "promoted", "done")


def run_and_kill(target: Callable[..., None], url: str, *, after: float) -> None:
    """Start ``target``, wait until it says it begins, kill it ``after`` so many seconds."""
    begins = FORK.Event()
    process = FORK.Process(target=target, args=(url, begins), daemon=True)
    process.start()
    assert begins.wait(20)
    time.sleep(after)
    assert process.is_alive(), "the process must be killed, not end by itself"
    process.kill()
    process.join()
    process.close()


def check_consistent(url: str) -> int:
    """Assert that history, champion, desired state, releases and log tell one story; return how many promotions there were."""
    store = open_store(url)
    history = store.history(*HERE)
    assert [line.version for line in history] == [str(number + 1) for number in range(len(history))], "each version once, in order"
    assert [line.sequence for line in history] == [number + 1 for number in range(len(history))]
    assert [line.previous for line in history] == [None, *[line.version for line in history]][: len(history)]
    desired, decisions = store.desired(*HERE), store.decisions(*HERE)
    if history:
        assert store.champion(*HERE) == history[-1]
        assert (desired.traffic, desired.generation) == (Traffic(stable=history[-1].version), len(history))
    for what, subject in (("promote", [line.digest for line in history]), ("traffic", None)):
        logged = [decision for decision in decisions if decision.what == what]
        assert len(logged) == len(history)
        assert subject is None or [decision.digest for decision in logged] == subject
    statuses = [release.status for release in store.releases(*HERE)]
    assert statuses.count("open") <= 1
    assert len(history) - statuses.count("promoted") in (0, 1), "a promotion may wait for its release to be closed, no more"
    store.close()
    return len(history)


def test_a_release_killed_at_any_moment_leaves_one_champion_and_goes_on(store_url: str) -> None:
    random.seed(20261123)
    # Given how long opening the store and one release take on this machine, today
    started = time.monotonic()
    store = open_store(store_url)
    release_whole(store, "1", expected=None)
    store.close()
    longest = 2 * (time.monotonic() - started)
    # When a process that releases for ever is killed again and again, then all is consistent after each time
    promoted = [1]
    for _ in range(ROUNDS):
        run_and_kill(keep_releasing, store_url, after=random.uniform(0, longest))
        promoted.append(check_consistent(store_url))
    assert promoted == sorted(promoted)
    assert promoted[-1] > 3, "the kills must have hit work"
    # and whatever the last kill left open ends well
    store = open_store(store_url)
    if running := store.open_one(*HERE):
        version = store.version_by_digest(MODEL, running.model_digest).version
        release_whole(store, version, expected=str(int(version) - 1) if version != "1" else None)
    assert store.open_one(*HERE) is None
    store.close()
    if store_url.startswith("sqlite"):
        connection = sqlite3.connect(store_url.removeprefix("sqlite:///"))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


def open_and_wait(url: str, begins: Any) -> None:
    begins.set()
    Store(url)
    time.sleep(60)


def test_a_store_killed_while_it_is_made_is_made_by_the_next_one(tmp_path: Path) -> None:
    random.seed(20261123)
    for number in range(12):
        url = f"sqlite:///{tmp_path / f'{number}.db'}"
        run_and_kill(open_and_wait, url, after=random.uniform(0.001, 0.03))
        assert check_consistent(url) == 0


def promote_third(url: str, barrier: Any, results: Any) -> None:
    store = open_store(url)
    release = store.open_one(*HERE)
    barrier.wait()
    attempt(
        results,
        lambda: store.promote(*HERE, version="3", digest=DIGESTS["3"], release_id=release.id, expected_champion="2", by="flow"),
    )


def roll_back(url: str, barrier: Any, results: Any) -> None:
    store = open_store(url)
    barrier.wait()
    attempt(results, lambda: store.rollback(*HERE, by="ada", reason="slow", expected_champion="2"))


def attempt(results: Any, call: Callable[[], Any]) -> None:
    try:
        results.put(("won", call().version))
    except StaleChampion:
        results.put(("stale", None))


@pytest.mark.parametrize("_round", range(4))
def test_of_a_promotion_and_a_rollback_at_once_one_wins_and_the_other_is_told(store_url: str, _round: int) -> None:
    # Given champion 2 (before it 1) and a release of 3 that is about to promote
    store = open_store(store_url)
    for version in DIGESTS:
        store.add_version(servable(version))
    promote(store, "1", expected=None)
    promote(store, "2", expected="1")
    open_release(store, "3")
    store.close()
    # When two processes act against champion 2 at the same moment
    barrier, results = FORK.Barrier(2), FORK.Queue()
    processes = [FORK.Process(target=target, args=(store_url, barrier, results)) for target in (promote_third, roll_back)]
    for process in processes:
        process.start()
    said = sorted((results.get(timeout=20) for _ in processes), reverse=True)
    for process in processes:
        process.join()
    # Then one of them was told that it came too late, and the other's wish is true
    assert [word for word, _ in said] == ["won", "stale"]
    store = open_store(store_url)
    assert store.champion(*HERE).version == said[0][1] == store.desired(*HERE).traffic.stable
    assert len(store.history(*HERE)) == 3
    store.close()
