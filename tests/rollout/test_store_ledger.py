"""Everything that changes the store is a link of one chain, sealed with the key in force; on SQLite and on PostgreSQL."""

import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from firstlight import chain
from firstlight.chain import ChainKey, broken
from rollout.errors import RolloutError, UnknownRelease
from rollout.records import LedgerEntry
from rollout.spec import Traffic
from rollout.store import Store
from tests.chains import FOREIGN_KEY, KEY, NEXT_KEY, Line, kinds
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_release, open_store, promote, raw, servable
from tests.rollout.test_store_schema import make_old

HERE = (ENVIRONMENT, MODEL)
FORK = multiprocessing.get_context("fork")
WORD = {"what": "refused-hand-off", "digest": "d" * 64, "by": "ada@lab"}


def lines(store: Store) -> list[Line]:
    return [entry.to_dict() for entry in store.ledger()]


def ring(*keys: ChainKey) -> Callable[[str | None], ChainKey | None]:
    return lambda wanted: next((key for key in reversed(keys) if wanted in (None, key.id)), None)


def test_every_change_of_the_store_is_an_entry_in_one_sealed_chain(store_url: str) -> None:
    with open_store(store_url, ledger_key=KEY, clock=lambda: 7) as store:
        for version in DIGESTS:
            store.add_version(servable(version), by="registry")
        store.add_version(servable("1", folder="/elsewhere"))
        store.set_backend(MODEL, "1", backend="aot", digest="e" * 64)
        store.set_backend(MODEL, "1", backend="aot", digest="e" * 64)
        promote(store, "1", expected=None)
        store.propose(*HERE, Traffic(stable="1", canary="2", canary_weight=5), lease_until=9e9, expected_generation=None, by="flow")
        assert store.record("", "", **WORD, detail="é" * 1000) == 12
        # Then each is told once, in order, with who and what, and the chain holds for everybody
        found = store.ledger()
        told = [(one.sequence, one.environment, one.what, one.by) for one in found]
        assert told[:4] == [(number, "", "add-version", "registry") for number in range(1, 5)]
        names = [one.what for one in found[4:]]
        assert names == [
            "move-version", "set-backend", "open-release", "traffic", "promote", "close-release", "traffic", "refused-hand-off",
        ]  # fmt: skip
        assert (found[4].detail, found[5].digest) == ("version 1 is read from /elsewhere instead of /handoffs/x", DIGESTS["1"])
        assert (found[0].previous, found[0].at, {one.key_id for one in found}) == (chain.GENESIS, 7.0, {KEY.id})
        assert len(found[-1].detail) == 500
        assert found[-1].detail.endswith("é …")
        assert broken(lines(store), keys=[KEY]) == []
        assert (store.head(), store.ledger(3, 4)) == (found[-1], found[2:4])


def test_a_model_is_told_of_its_own_entries_and_leases_are_none(store: Any) -> None:
    promote(store, "1", expected=None)
    store.record("elsewhere", MODEL, **WORD, detail="x")
    store.record(ENVIRONMENT, "other", **WORD, detail="x")
    out = store.propose(*HERE, Traffic(stable="1", canary="2", canary_weight=5), lease_until=9e9, expected_generation=None, by="flow")
    before = store.head()
    store.renew_lease(*HERE, out.generation, 9.5e9)
    store.add_point("r", {"weight": 5})
    assert store.head() == before, "what is said again and again, and the timeline, are no decisions"
    assert {(one.environment, one.model) for one in store.decisions(*HERE)} == {HERE}


@pytest.mark.parametrize(
    "said", ["a\x00b\nc\x1b[31m", "\ud800 half a pair", "z" * 10_000_000, ""], ids=["control", "surrogate", "10 MB", "empty"]
)
def test_whatever_is_said_becomes_an_entry_that_every_database_takes(store: Any, said: str) -> None:
    store.record(said[:300], said, what=said or "x", digest=said, detail=said, by=said)
    assert broken(lines(store)) == []
    entry: LedgerEntry = store.head()
    assert max(len(entry.detail), len(entry.by), len(entry.what)) <= 500
    assert entry.detail.isprintable()


def test_what_is_said_once_stands_there_once(store: Any) -> None:
    number = store.record(*HERE, **WORD, detail="refused", once=True)
    assert store.record(*HERE, **WORD, detail="in other words", once=True) == number
    assert store.record(*HERE, **{**WORD, "digest": "e" * 64}, detail="refused", once=True) == number + 1
    assert store.record(*HERE, **WORD, detail="refused") == number + 2
    for what in (chain.ROTATION, chain.REPLACEMENT):
        with pytest.raises(ValueError, match="use rotate_ledger_key"):
            store.record(*HERE, what=what, digest="", detail="", by="ada")


def keep_recording(url: str, name: str, barrier: Any) -> None:
    with open_store(url, ledger_key=KEY, busy_seconds=60) as store:
        barrier.wait(30)
        for number in range(15):
            store.record(ENVIRONMENT, name, what="note", digest="", detail=str(number), by=name)


def test_writers_at_once_make_one_chain(store_url: str) -> None:
    open_store(store_url).close()
    barrier = FORK.Barrier(3)
    processes = [FORK.Process(target=keep_recording, args=(store_url, name, barrier)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with open_store(store_url) as store:
        assert broken(lines(store), keys=[KEY]) == []
        assert [one.sequence for one in store.ledger()] == list(range(1, 46))
        assert all([one.detail for one in store.decisions(ENVIRONMENT, name)] == [str(n) for n in range(15)] for name in "abc")


ATTACKS = {
    "edited": ("UPDATE ledger SET made_by = 'nobody' WHERE sequence = 3", {3: {"edited"}}),
    "edited and made fit": (
        "UPDATE ledger SET digest = '{digest}', entry_digest = '{own}' WHERE sequence = 3",
        {3: {"wrong seal"}, 4: {"not linked"}},
    ),
    "deleted": ("DELETE FROM ledger WHERE sequence IN (3, 4)", {3: {"deleted"}}),
    "moved": ("UPDATE ledger SET sequence = 77 WHERE sequence = 3", {3: {"deleted"}, 6: {"deleted"}, 77: {"edited"}}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_who_owns_the_database_is_found_out(store_url: str, attack: str) -> None:
    with open_store(store_url, ledger_key=KEY) as store:
        for version in DIGESTS:
            store.add_version(servable(version))
        store.decide(*HERE, **WORD, detail="x")
        third = store.ledger(3, 3)[0].to_dict()
        statement, expected = ATTACKS[attack]
        own = chain.entry_digest(third["previous"], {**third, "digest": DIGESTS["4"]})
        sqlite = store_url.startswith("sqlite")
        for trigger in ("ledger_no_UPDATE", "ledger_no_DELETE") if sqlite else ("ledger_no_change ON ledger",):
            raw(store, f"DROP TRIGGER {trigger}")
        raw(store, statement.format(digest=DIGESTS["4"], own=own))
        assert kinds(broken(lines(store), keys=[KEY])) == expected


def test_an_entry_cannot_be_taken_away_by_truncating_or_replacing(store: Any, store_url: str) -> None:
    store.decide(*HERE, **WORD, detail="x")
    before = lines(store)
    again = "INSERT INTO ledger SELECT sequence, 1.0, 'e', 'm', 'w', 'd', 'nothing', 'me', false, previous, entry_digest, NULL, NULL FROM ledger"
    for statement in (again, again.replace("previous,", "entry_digest,")):
        with pytest.raises(Exception, match=r"UNIQUE|unique"):
            raw(store, statement)
    assert lines(store) == before


def test_a_key_is_followed_by_another_without_a_gap_and_the_old_one_seals_nothing_more(store_url: str) -> None:
    with open_store(store_url, ledger_key=ring(KEY, NEXT_KEY)) as store, open_store(store_url, ledger_key=KEY) as old:
        old.record(*HERE, **WORD, detail="1")
        assert store.rotate_ledger_key(NEXT_KEY, by="ada") == 2
        store.record(*HERE, **WORD, detail="3")
        assert [one.key_id for one in store.ledger()] == [KEY.id, KEY.id, NEXT_KEY.id]
        assert broken(lines(store), keys=[KEY, NEXT_KEY]) == []
        # When a process still has only the old key, then its entry goes without a seal rather than with a wrong one
        old.record(*HERE, **WORD, detail="4")
        store.record(*HERE, **WORD, detail="5")
        assert kinds(broken(lines(store), keys=[KEY, NEXT_KEY])) == {4: {"not sealed"}}
        for new, said in ((NEXT_KEY, "is that key"),):
            with pytest.raises(RolloutError, match=said):
                store.rotate_ledger_key(new, by="ada")


def test_without_its_key_the_store_works_and_the_ledger_says_so(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_store(store_url, ledger_key=KEY) as store:
        for version in ("1", "2"):
            store.add_version(servable(version))
            promote(store, version, expected=None if version == "1" else "1")
        count = len(lines(store))
    with open_store(store_url, ledger_key=FOREIGN_KEY) as store:
        assert store.rollback(*HERE, by="ada", reason="the way back needs no key").version == "1"
        assert f"the ledger's key {KEY.id} must be at hand to seal, it is not" in caplog.text
        assert kinds(broken(lines(store), keys=[KEY])) == {count + 1: {"not sealed"}, count + 2: {"not sealed"}}
        # When it is lost, another one takes over, and exactly that is said for good
        with pytest.raises(RolloutError, match="must be at hand to hand over, it is not; bring the key file, or say that it is lost"):
            store.rotate_ledger_key(FOREIGN_KEY, by="ada")
        assert store.rotate_ledger_key(FOREIGN_KEY, by="ada", lost=True) == count + 3
        store.record(*HERE, **WORD, detail="x")
        found = kinds(broken(lines(store), keys=[KEY, FOREIGN_KEY]))
        assert found == {count + 1: {"not sealed"}, count + 2: {"not sealed"}, count + 3: {"wrong key"}}
    with open_store(store_url) as store, pytest.raises(RolloutError):
        store.rotate_ledger_key(NEXT_KEY, by="ada")


def test_what_an_older_store_remembered_is_adopted_and_vouched_for(store_url: str) -> None:
    make_old(store_url, 3)
    with open_store(store_url, ledger_key=KEY) as store:
        assert [(one.what, one.adopted) for one in store.ledger()] == [("promote", True), ("traffic", True), ("adopt-ledger", False)]
        assert store.ledger()[2].digest == store.ledger()[1].entry_digest
        assert broken(lines(store), keys=[KEY]) == []
    with open_store(store_url, ledger_key=KEY) as store:
        store.vouch_for_adopted()
        assert len(store.ledger()) == 3


def test_what_was_adopted_by_somebody_without_the_key_is_vouched_for_later(store_url: str) -> None:
    make_old(store_url, 3)
    with open_store(store_url) as store:
        store.vouch_for_adopted()
        assert len(store.ledger()) == 2
    with open_store(store_url, ledger_key=KEY) as store:
        assert kinds(broken(lines(store), keys=[KEY])) == {2: {"not sealed"}}
        store.vouch_for_adopted()
        assert broken(lines(store), keys=[KEY]) == []


def test_a_release_has_one_decision_id_and_the_ids_of_a_year_have_no_gap(store: Any) -> None:
    ids = []
    for version in ("1", "2", "3"):
        release = open_release(store, version)
        ids.append(store.decision_id(release.id, year=2026 if version != "3" else 2027))
        assert store.decision_id(release.id, year=2031) == ids[-1], "what was allocated stays"
        store.close_release(release.id, "failed", "x")
    assert ids == ["DEC-2026-001", "DEC-2026-002", "DEC-2027-001"]
    told = [one.detail for one in store.decisions(*HERE) if one.what == "decision-id"]
    assert told == [f"the decision on release {one.id} is {name}" for one, name in zip(store.releases(*HERE), ids, strict=True)]
    with pytest.raises(UnknownRelease):
        store.decision_id("no-such", year=2026)


def test_a_new_column_of_the_chain_would_be_noticed(tmp_path: Path) -> None:
    """The store's columns, the entry and the chain's fields are the same: what is not in the digest can be changed unseen."""
    with open_store(f"sqlite:///{tmp_path / 's.db'}") as store:
        with store._database.reading() as connection:
            columns = {row.name for row in connection.execute(text("PRAGMA table_info(ledger)"))}
        assert {re.sub("^made_by$", "by", name) for name in columns} == set(chain.FIELDS) == set(LedgerEntry.__slots__)
