"""kill -9 in the middle of everything the store does, many times. Whatever happens there is one champion, and it is what is desired."""

import hashlib
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, select

from firstlight import chain
from firstlight.verdict import Verdict
from rollout.controller import advance, begin
from rollout.errors import Fenced, StaleChampion
from rollout.policy import RolloutPolicy
from rollout.records import Drill
from rollout.spec import RolloutSpec, ServableVersion, Traffic
from rollout.store import Store
from rollout.tables import METADATA
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_release, open_store, promote, servable

HERE = (ENVIRONMENT, MODEL)
FORK = multiprocessing.get_context("fork")
ROUNDS = 8


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
    assert chain.broken([entry.to_dict() for entry in store.ledger()]) == []
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
    assert promoted[-1] > 1, "the kills must have hit work"
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
    for number in range(6):
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


@pytest.mark.parametrize("_round", range(2))
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


SPEC = RolloutSpec(canary="2", stable="1", policy=RolloutPolicy())
CANARY = Traffic(stable="1", canary="2", canary_weight=5, baseline=True)
STATUS = advance(SPEC, begin(SPEC, 1.0), Verdict.PASS, 2.0)
REHEARSED = Drill(
    environment=ENVIRONMENT, model=MODEL, version="1", digest=DIGESTS["1"], verdict="pass", seconds=1.0, answered=1, failed=0, reason="ok",
    at=5.0,
)  # fmt: skip
RELEASE = f"{MODEL}-{DIGESTS['2'][:12]}"
AGAIN = {"expected_champion": "1", "release_id": RELEASE, "version": "2", "digest": DIGESTS["2"], "by": "flow"}
WISH = {"name": "night", "a": "1", "b": "3", "share": 10, "sticky": None, "until": 9e9, "by": "ada"}

INCIDENT = {"cause": "c", "severity": "critical", "summary": "s", "evidence_digest": "", "owner": "ada", "by": "flow"}


def claim(store: Any) -> int:
    return int(store.claim_rollout(*HERE, release_id=RELEASE, holder="flow", spec=SPEC).token)


def put_out(store: Any) -> None:
    token = claim(store)
    store.propose(*HERE, CANARY, lease_until=9e9, lease_seconds=60.0, expected_generation=None, by="flow", token=token)
    store.request_drill(*HERE, "1", by="ada")


def try_out(store: Any) -> None:
    store.begin_experiment(*HERE, **WISH)


def nothing(store: Any) -> None:
    pass


# what was done before, what is killed, and the decisions it writes when it is not
OPERATIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], list[str]]] = {
    "claim": (put_out, claim, ["claim-rollout"]),
    "propose": (
        put_out,
        lambda store: store.propose(*HERE, Traffic(stable="1"), lease_until=None, expected_generation=2, by="flow", token=1),
        ["traffic"],
    ),
    "renew": (put_out, lambda store: store.renew_lease(*HERE, 2, 8e9, token=1, lease_seconds=30.0), []),
    "save": (put_out, lambda store: store.save_rollout(*HERE, token=1, status=STATUS, evidence={"n": 1}), ["rollout"]),
    "order": (put_out, lambda store: store.order(*HERE, "abort", by="ada", reason="sick"), ["abort-rollout"]),
    "promote": (put_out, lambda store: store.promote(*HERE, **AGAIN, token=1), ["traffic", "promote"]),
    "go back": (
        lambda store: (put_out(store), store.promote(*HERE, **AGAIN)),
        lambda store: store.rollback(*HERE, by="flow", reason="worse", to="1", expected_champion="2", token=1),
        ["traffic", "rollback"],
    ),
    "ask for a rehearsal": (put_out, lambda store: store.request_drill(*HERE, "1", by="ada"), ["request-drill"]),
    "write down a rehearsal": (put_out, lambda store: store.record_drill(REHEARSED), ["drill"]),
    "begin an experiment": (nothing, try_out, ["begin-experiment", "traffic"]),
    "end an experiment": (try_out, lambda store: store.end_experiment(*HERE, by="ada"), ["end-experiment", "traffic"]),
    "say what was refused": (nothing, lambda store: store.record(*HERE, what="refused", digest="", detail="x", by="ada"), ["refused"]),
    "open an incident": (nothing, lambda store: store.open_incident(*HERE, **INCIDENT), ["open-incident"]),
    "take a decision id": (nothing, lambda store: store.decision_id(RELEASE, year=2026), ["decision-id"]),
    "promote beside an experiment": (try_out, lambda store: store.promote(*HERE, **AGAIN), ["end-experiment", "traffic", "promote"]),
}


def contents(url: str) -> dict[str, Any]:
    """Everything in the database."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {table.name: [tuple(row) for row in connection.execute(select(table))] for table in METADATA.sorted_tables}
    engine.dispose()
    return found


def do(url: str, act: Callable[[Any], Any], dies: str) -> None:
    """Do ``act`` and die after its first write or at its commit, as kill -9 would; or do not, and end with 0."""
    store, writes = Store(url), 0

    def write(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal writes
        writes += statement.split()[0] in ("INSERT", "UPDATE", "DELETE")
        if writes > 1 and dies == "after its first write":
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", write)
    if dies:
        event.listen(Engine, "commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    act(store)
    os._exit(0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_killed_anywhere_has_not_happened_and_then_happens_once(store_url: str, name: str) -> None:
    before, act, decisions = OPERATIONS[name]
    with Store(store_url) as store:
        for version in DIGESTS:
            store.add_version(servable(version))
        promote(store, "1", expected=None)
        assert open_release(store, "2").id == RELEASE
        before(store)
        logged = len(store.decisions(*HERE))
    untouched = contents(store_url)
    for dies in ("after its first write", "at its commit", ""):
        process = FORK.Process(target=do, args=(store_url, act, dies))
        process.start()
        process.join(60)
        assert process.exitcode == (-signal.SIGKILL if dies else 0)
        assert not dies or contents(store_url) == untouched
    with Store(store_url) as store:
        assert [decision.what for decision in store.decisions(*HERE)[logged:]] == decisions
        assert chain.broken([entry.to_dict() for entry in store.ledger()]) == []


def claim_and_act(url: str, barrier: Any, said: Any) -> None:
    with Store(url) as store:
        barrier.wait(20)
        token = claim(store)
        barrier.wait(20)
        try:
            store.propose(*HERE, CANARY, lease_until=9e9, expected_generation=None, by=str(token), token=token)
            said.put((token, "acted"))
        except Fenced:
            said.put((token, "fenced"))


def test_of_claimants_at_once_only_the_last_can_act(store_url: str) -> None:
    with Store(store_url) as store:
        for version in DIGESTS:
            store.add_version(servable(version))
        promote(store, "1", expected=None)
        open_release(store, "2")
    barrier, said = FORK.Barrier(4), FORK.Queue()
    processes = [FORK.Process(target=claim_and_act, args=(store_url, barrier, said)) for _ in range(4)]
    for process in processes:
        process.start()
    found = sorted(said.get(timeout=30) for _ in processes)
    for process in processes:
        process.join()
    assert found == [(1, "fenced"), (2, "fenced"), (3, "fenced"), (4, "acted")]
    with Store(store_url) as store:
        assert store.rollout(*HERE).token == 4  # type: ignore[union-attr]
        assert [decision.by for decision in store.decisions(*HERE) if decision.what == "traffic"][-1] == "4"
