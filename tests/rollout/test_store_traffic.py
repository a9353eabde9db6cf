import contextlib
import threading
import time
from typing import Any

import pytest

from rollout.errors import StaleChampion, StaleGeneration, StoreBusy, StoreUnreachable, UnknownVersion
from rollout.spec import Desired, Observed, Traffic
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_store, postgres_url, promote, raw, servable, wipe_postgres

CANARY = Traffic(stable="1", canary="2", canary_weight=5)
HERE = (ENVIRONMENT, MODEL)


def propose(store: Any, traffic: Traffic, *, generation: int | None = None, lease: float | None = None) -> Desired:
    return store.propose(*HERE, traffic, lease_until=lease, expected_generation=generation, by="flow")  # type: ignore[no-any-return]


def test_nothing_is_desired_or_observed_before_somebody_said_so(store: Any) -> None:
    assert store.desired(*HERE) is None
    assert store.observed(*HERE) is None
    assert store.decisions(*HERE) == []


def test_every_change_of_traffic_is_a_new_generation(store: Any) -> None:
    assert propose(store, Traffic(stable="1"), generation=0).generation == 1
    second = propose(store, CANARY, generation=1, lease=60.0)
    assert second == store.desired(*HERE) == Desired(environment=ENVIRONMENT, model=MODEL, generation=2, traffic=CANARY, lease_until=60.0)


def test_proposing_the_same_again_changes_only_the_lease(store: Any) -> None:
    propose(store, CANARY, lease=60.0)
    assert propose(store, CANARY, generation=1, lease=90.0).generation == 1
    assert store.desired(*HERE).lease_until == 90.0
    assert [decision.what for decision in store.decisions(*HERE)] == ["traffic"]


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_a_proposal_against_another_generation_is_refused_and_changes_nothing(store: Any, expected: int) -> None:
    propose(store, Traffic(stable="1"))
    before = propose(store, CANARY, lease=60.0)
    with pytest.raises(StaleGeneration, match=f"still be generation {expected}, it is 2"):
        propose(store, Traffic(stable="2"), generation=expected)
    assert store.desired(*HERE) == before


def test_a_run_that_slept_through_a_promotion_cannot_undo_it(store: Any) -> None:
    # Given a canary of 2 against 1, then 3 became champion
    promote(store, "1", expected=None)
    propose(store, CANARY, lease=60.0)
    promote(store, "3", expected="1")
    # When the old run goes on without knowing the generation, then the champion is the only stable that is accepted
    with pytest.raises(StaleChampion, match="champion of 'desi-vae' must still be '1', it is '3'"):
        propose(store, CANARY, lease=60.0)
    assert store.desired(*HERE).traffic == Traffic(stable="3")


def test_a_lease_is_renewed_only_for_the_canary_that_is_out(store: Any) -> None:
    propose(store, CANARY, lease=60.0)
    store.renew_lease(*HERE, 1, 120.0)
    assert store.desired(*HERE).lease_until == 120.0
    propose(store, Traffic(stable="1"), generation=1)
    for generation in (1, 2):
        with pytest.raises(StaleGeneration):
            store.renew_lease(*HERE, generation, 180.0)
    assert store.desired(*HERE).lease_until is None


def test_a_lease_of_nobody_cannot_be_renewed(store: Any) -> None:
    with pytest.raises(StaleGeneration):
        store.renew_lease(*HERE, 1, 180.0)


@pytest.mark.parametrize("traffic", [None, Traffic(), CANARY])
def test_what_is_observed_is_what_was_reported_last(store: Any, traffic: Traffic | None) -> None:
    for heartbeat in (1.0, 2.0):
        seen = Observed(
            environment=ENVIRONMENT, model=MODEL, generation=4, traffic=traffic, ready=("1", "2"), gateway_url="http://127.0.0.1:1",
            heartbeat=heartbeat, problems=("version 2: port in use",),
        )  # fmt: skip
        store.observe(seen)
    assert store.observed(*HERE) == seen


def test_models_and_environments_do_not_touch_each_other(store: Any) -> None:
    propose(store, Traffic(stable="1"))
    assert store.desired("other", MODEL) is None
    assert store.desired(ENVIRONMENT, "other") is None


def test_adding_a_version_again_is_harmless_and_may_move_its_folder(store: Any) -> None:
    store.add_version(servable("1"))
    store.add_version(servable("1", folder="/elsewhere"))
    assert store.version(MODEL, "1") == servable("1", folder="/elsewhere")


def test_a_version_keeps_its_bytes(store: Any) -> None:
    other = servable("1").__class__(model=MODEL, version="1", folder="/x", model_digest="f" * 64, handoff_digest="f" * 64)
    with pytest.raises(UnknownVersion, match="must keep its bytes"):
        store.add_version(other)
    assert store.version(MODEL, "1") == servable("1")


def test_a_version_is_found_by_number_and_by_digest(store: Any) -> None:
    assert store.version_by_digest(MODEL, DIGESTS["2"]) == servable("2")
    assert store.version_by_digest(MODEL, servable("2").handoff_digest) == servable("2")
    assert store.version_by_digest(MODEL, "0" * 64) is None
    with pytest.raises(UnknownVersion, match="'9' of 'desi-vae' must be known"):
        store.version(MODEL, "9")


@pytest.mark.parametrize("table", ["ledger", "champions", "rollout_steps", "decision_ids"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET {}"])
def test_the_record_cannot_be_rewritten(store: Any, table: str, change: str) -> None:
    promote(store, "1", expected=None)
    store.add_point("r", {"weight": 5})
    store.decision_id(store.releases(*HERE)[0].id, year=2026)
    column = {"ledger": "made_by = 'x'", "decision_ids": "number = 9", "champions": "version = '2'", "rollout_steps": "release_id = 'x'"}[
        table
    ]
    statement = change.format(table, column)
    with pytest.raises(Exception, match=f"{table} is append-only"):
        execute(store, statement)


def test_decisions_of_other_kinds_join_the_log(store: Any) -> None:
    store.decide(*HERE, what="waiver", digest="d", detail="accepted the residual risk", by="ada")
    (decision,) = store.decisions(*HERE)
    assert (decision.what, decision.digest, decision.detail, decision.by) == ("waiver", "d", "accepted the residual risk", "ada")


def test_a_database_server_that_dropped_our_connections_is_asked_again() -> None:
    # Given two stores on one server
    url = postgres_url()
    wipe_postgres(url)
    first, second = open_store(url), open_store(url)
    assert first.champion(*HERE) is None
    # When the server ends every connection but one, as a restart does
    with contextlib.suppress(StoreUnreachable):
        execute(
            second, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    # Then the next call opens a new one
    assert first.champion(*HERE) is None
    first.close()
    second.close()


def test_a_writer_on_the_server_that_waits_too_long_is_told_so() -> None:
    # Given somebody who holds the write lock for a second
    url = postgres_url()
    wipe_postgres(url)
    holder, waiting = open_store(url), open_store(url, busy_seconds=0.2)
    holding = threading.Thread(target=execute, args=(holder, "SELECT pg_sleep(1)"))
    holding.start()
    time.sleep(0.3)
    # When another writer waits for less, then it is told, and may write afterwards
    with pytest.raises(StoreBusy, match=r"free to write within 0\.2 s"):
        waiting.add_version(servable("1"))
    holding.join()
    waiting.add_version(servable("1"))
    holder.close()
    waiting.close()


def execute(store: Any, statement: str) -> None:
    """Run SQL behind the back of a store over either driver."""
    store.execute(statement) if hasattr(store, "execute") else raw(store, statement)
