"""One incident for each cause until it is resolved, whoever opens it and however often; on SQLite and on PostgreSQL."""

import multiprocessing
from typing import Any

import pytest

from firstlight.chain import broken
from rollout.errors import IncidentClosed, UnknownIncident
from tests.rollout.stores import ENVIRONMENT, MODEL, open_store

HERE = (ENVIRONMENT, MODEL)
FORK = multiprocessing.get_context("fork")
CAUSE: dict[str, Any] = {
    "cause": "waiver-ended:W1", "severity": "warning", "summary": "the waiver of F02 ended", "evidence_digest": "e" * 64,
    "owner": "system-owner", "by": "reassess",
}  # fmt: skip
YEAR_2026, YEAR_2027 = 1_795_400_000.0, 1_800_000_000.0


@pytest.fixture
def store(store_url: str) -> Any:
    now = [YEAR_2026]
    with open_store(store_url, clock=lambda: now[0]) as opened:
        opened.now = now
        yield opened


def told(store: Any) -> list[tuple[str, str, str]]:
    return [(one.what, one.by, one.detail) for one in store.ledger()]


def test_an_incident_is_opened_acknowledged_and_resolved_and_each_is_told(store: Any) -> None:
    opened = store.open_incident(*HERE, **CAUSE, release_id="r")
    assert (opened.id, opened.state, opened.severity, opened.release_id, opened.is_open) == ("INC-2026-001", "open", "warning", "r", True)
    seen = store.acknowledge_incident(opened.id, by="ada")
    assert (seen.state, seen.acknowledged_by, seen.acknowledged_at, seen.is_open) == ("acknowledged", "ada", YEAR_2026, True)
    ended = store.resolve_incident(opened.id, reason="a new waiver was signed", by="ada")
    assert (ended.state, ended.resolved_because, ended.is_open) == ("resolved", "a new waiver was signed", False)
    # Again changes nothing
    assert store.resolve_incident(opened.id, reason="another", by="bob") == ended == store.incident(opened.id)
    assert told(store) == [
        ("open-incident", "reassess", "INC-2026-001 (waiver-ended:W1): warning: the waiver of F02 ended"),
        ("acknowledge-incident", "ada", "INC-2026-001 (waiver-ended:W1): ada looks at it"),
        ("resolve-incident", "ada", "INC-2026-001 (waiver-ended:W1): a new waiver was signed"),
    ]
    with pytest.raises(IncidentClosed, match="was resolved by ada"):
        store.acknowledge_incident(opened.id, by="bob")


def test_a_cause_has_one_open_incident_and_another_after_that(store: Any) -> None:
    first = store.open_incident(*HERE, **CAUSE)
    assert store.open_incident(*HERE, **{**CAUSE, "severity": "critical", "summary": "again"}) == first
    store.acknowledge_incident(first.id, by="ada")
    assert store.open_incident(*HERE, **CAUSE).id == first.id
    others = [store.open_incident(*place, **CAUSE) for place in (("elsewhere", MODEL), (ENVIRONMENT, "other"))]
    store.resolve_incident(first.id, reason="done", by="ada")
    store.now[0] = YEAR_2027
    again = store.open_incident(*HERE, **CAUSE)
    assert [one.id for one in (first, *others, again)] == ["INC-2026-001", "INC-2026-002", "INC-2026-003", "INC-2027-001"]
    assert [one.id for one in store.incidents(*HERE)] == [first.id, again.id]
    assert [one.id for one in store.incidents(open_only=True)] == [others[0].id, others[1].id, again.id]
    assert [one.id for one in store.incidents("elsewhere")] == [others[0].id]


def test_what_is_no_incident_is_refused_with_a_sentence(store: Any) -> None:
    for field in ("cause", "summary", "owner", "by"):
        with pytest.raises(ValueError, match="must have a"):
            store.open_incident(*HERE, **{**CAUSE, field: " \n"})
    with pytest.raises(ValueError, match="severe"):
        store.open_incident(*HERE, **{**CAUSE, "severity": "severe"})
    for name in ("INC-2026-001", "INC-2026-1", "1", "INC-2026-999999999", "' OR 1=1"):
        with pytest.raises(UnknownIncident):
            store.incident(name)
    opened = store.open_incident(*HERE, **CAUSE)
    with pytest.raises(IncidentClosed, match="is resolved with a reason"):
        store.resolve_incident(opened.id, reason=" ", by="ada")
    assert store.incident(opened.id).is_open
    assert [what for what, *_ in told(store)] == ["open-incident"]


def open_it(url: str, barrier: Any, found: Any) -> None:
    with open_store(url, busy_seconds=60) as store:
        barrier.wait(30)
        found.put(store.open_incident(*HERE, **CAUSE).id)


def test_who_opens_it_at_once_gets_the_same_one(store_url: str) -> None:
    open_store(store_url).close()
    barrier, found = FORK.Barrier(3), FORK.Queue()
    processes = [FORK.Process(target=open_it, args=(store_url, barrier, found)) for _ in range(3)]
    for process in processes:
        process.start()
    ids = {found.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    with open_store(store_url) as store:
        assert ids == {one.id for one in store.incidents()} == {store.incidents(open_only=True)[0].id}
        assert len(store.ledger()) == 1
        assert broken([entry.to_dict() for entry in store.ledger()]) == []
