"""What a person reads when the database is not what it should be: one sentence, and nothing half-done."""

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import make_url

from rollout import database
from rollout.errors import StoreBusy, StoreRefused, StoreUnreachable
from rollout.policy import RolloutPolicy
from rollout.spec import RolloutSpec, Traffic
from rollout.store import Store
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_release, open_store, postgres_url, promote, servable, wipe_postgres

HERE = (ENVIRONMENT, MODEL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one champion, closed, and large enough to have inner pages."""
    made = tmp_path / "made.db"
    with Store(f"sqlite:///{made}") as store:
        store.add_version(servable("1"))
        store.add_version(servable("2"))
        promote(store, "1", expected=None)
        for number in range(15):
            store.add_point("r", {"number": number, "padding": "x" * 2000})
    return made


def test_a_read_only_database_can_be_read_and_says_so_when_written(path: Path) -> None:
    with Store(f"sqlite:///file:{path}?mode=ro&uri=true") as store:
        assert store.champion(*HERE).version == "1"  # type: ignore[union-attr]
        check_read_only(store, StoreRefused, "must be writable, it is read-only .* give this user write access")


def check_read_only(store: Store, kind: type[Exception], sentence: str) -> None:
    spec = RolloutSpec(canary="2", stable="1", policy=RolloutPolicy())
    wishes = {"name": "night", "a": "1", "b": "2", "share": 10, "sticky": None, "until": 9e9, "by": "ada"}
    writes: list[Callable[[], object]] = [
        lambda: store.add_version(servable("3")),
        lambda: store.propose(*HERE, Traffic(stable="1", canary="2"), lease_until=9.0, expected_generation=None, by="ada"),
        lambda: store.claim_rollout(*HERE, release_id="r", holder="flow", spec=spec),
        lambda: store.request_drill(*HERE, "1", by="ada"),
        lambda: store.begin_experiment(*HERE, **wishes),  # type: ignore[arg-type]
    ]
    for write in writes:
        with pytest.raises(kind, match=sentence):
            write()
    assert (store.rollout(*HERE), store.drills(*HERE), store.experiment(*HERE)) == (None, [], None)


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a PostgreSQL store with versions 1 and 2 and champion 1."""
    url = postgres_url()
    wipe_postgres(url)
    with Store(url) as store:
        for version in ("1", "2"):
            store.add_version(servable(version))
        promote(store, "1", expected=None)
    yield url
    as_owner(url, f"ALTER DATABASE {make_url(url).database} RESET default_transaction_read_only")


def as_owner(url: str, statement: str) -> list[Any]:
    """Run SQL as whoever looks after the server, read-only or not; return the first column."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"options": "-c default_transaction_read_only=off"})
    with engine.connect() as connection:
        done = connection.execute(text(statement))
        found = list(done.scalars()) if done.returns_rows else []
    engine.dispose()
    return found


def test_a_server_that_became_read_only_can_be_read_and_is_tried_again_when_written(server: str) -> None:
    as_owner(server, f"ALTER DATABASE {make_url(server).database} SET default_transaction_read_only = on")
    with Store(server) as store:
        assert store.champion(*HERE).version == "1"  # type: ignore[union-attr]
        check_read_only(
            store, StoreUnreachable, "must accept changes, it does not .* standby after a failover; nothing was changed, try again"
        )
        as_owner(server, f"ALTER DATABASE {make_url(server).database} RESET default_transaction_read_only")
    with Store(server) as store:
        assert store.request_drill(*HERE, "1", by="ada") == "1#1"


def test_a_server_that_stands_still_is_given_up_and_used_again_when_it_goes_on(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_ANSWER_SECONDS", 0.5)
    with Store(server, busy_seconds=0.5) as store:
        # Given a connection whose process on the server is stopped: it neither answers nor hangs up
        with store._database.reading() as connection:
            process = process_of(connection)
        stop(process)
        try:
            # When it is asked, then the connection is given up after a second, and the next one serves
            began = time.monotonic()
            assert store.champion(*HERE).version == "1"  # type: ignore[union-attr]
            assert time.monotonic() - began > 0.9
            # and what stands still in the middle of a question is a sentence
            with pytest.raises(StoreUnreachable, match="must answer, it does not"):
                ask_while_it_is_stopped(store)
        finally:
            go_on(server)
        assert store.request_drill(*HERE, "1", by="ada") == "1#1"


def ask_while_it_is_stopped(store: Store) -> None:
    with store._database.reading() as connection:
        stop(process_of(connection))
        connection.execute(text("SELECT 1"))


def process_of(connection: Connection) -> int:
    """Return the server's process that serves this connection."""
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def stop(process: int) -> None:
    try:
        os.kill(process, signal.SIGSTOP)
    except PermissionError:
        pytest.skip("this user may not stop the server's processes")


def go_on(url: str) -> None:
    for process in as_owner(url, "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def write_and_wait(url: str, begun: Any) -> None:
    with Store(url)._database.writing():
        begun.set()
        time.sleep(60)


def test_a_writer_that_is_stopped_in_the_middle_does_not_stop_the_others(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a process that is stopped (a suspended machine) inside a transaction, with the writers' lock in its hand
    monkeypatch.setattr(database, "_ANSWER_SECONDS", 0.5)
    fork = multiprocessing.get_context("fork")
    begun = fork.Event()
    process = fork.Process(target=write_and_wait, args=(server, begun), daemon=True)
    process.start()
    assert begun.wait(20)
    os.kill(process.pid, signal.SIGSTOP)  # type: ignore[arg-type]
    # When another one writes, then the server has taken the lock away by then
    try:
        with Store(server, busy_seconds=5) as store:
            assert store.request_drill(*HERE, "1", by="ada") == "1#1"
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"not a database, but a letter to my aunt. " * 200, id="foreign"),
        pytest.param(lambda data: data[:100] + b"\x00" * 900 + data[1000:], id="first page zeroed"),
        pytest.param(lambda data: data[:4096] + bytes(b ^ 0xFF for b in data[4096:]), id="all other pages flipped"),
        pytest.param(lambda data: data[: 3 * 4096 + 100], id="cut off"),
    ],
)
def test_a_damaged_database_is_a_sentence(path: Path, damage: Any) -> None:
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreRefused, match=r"must be an intact database, it is damaged .* restore it from a backup"):
        use_everything(path)


def use_everything(path: Path) -> None:
    with Store(f"sqlite:///{path}") as store:
        store.champion(*HERE)
        store.desired(*HERE)
        store.releases(*HERE)
        store.points("r")
        store.decisions(*HERE)
        store.add_version(servable("3"))


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with Store(f"sqlite:///{tmp_path / 'empty.db'}") as store:
        assert store.champion(*HERE) is None


@pytest.mark.parametrize("name", ["no/such/folder/state.db", "."])
def test_a_place_where_no_database_can_be_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreUnreachable, match=r"must answer, it does not .*unable to open"):
        Store(f"sqlite:///{tmp_path / name}")


@pytest.mark.parametrize("url", ["state.db", "", "nosuchdatabase://x/y"])
def test_an_address_that_is_none_is_a_sentence(url: str) -> None:
    with pytest.raises(StoreRefused, match="must be a database URL"):
        Store(url)


def test_a_driver_that_is_not_installed_is_a_sentence() -> None:
    with pytest.raises(StoreRefused, match="needs the Python package 'pg8000'"):
        Store("postgresql+pg8000://somebody:secret@nowhere/x")


def test_a_server_that_does_not_run_is_a_sentence_without_the_password() -> None:
    with pytest.raises(StoreUnreachable, match="must answer, it does not") as refused:
        open_store("postgresql+psycopg://somebody:secret@127.0.0.1:1/x")
    assert "secret" not in str(refused.value)


def test_a_writer_that_waits_too_long_is_told_so_and_readers_do_not_wait(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Store(f"sqlite:///{path}", busy_seconds=0.1) as store:
        with pytest.raises(StoreBusy, match=r"free to write within 0.1 s"):
            store.rollback(*HERE, by="ada", reason="hope")
        assert store.champion(*HERE).version == "1"  # type: ignore[union-attr]
        other.execute("ROLLBACK")
        assert open_release(store, "2").attempt == 1
    other.close()


def test_on_a_full_disk_nothing_happens_and_the_person_is_told(path: Path) -> None:
    # Given a release that is about to promote on a disk with no free page (SQLite's page limit gives the very error of a full disk)
    with Store(f"sqlite:///{path}") as store:
        release = open_release(store, "2")
        store.add_point("r", {"padding": "x" * 20000})
    with Store(f"sqlite:///{path}") as store:
        event.listen(store._database._engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 1"))
        store.close()
        before = (store.champion(*HERE), store.desired(*HERE), store.decisions(*HERE))
        # When it promotes, with a reason too long for what is left of the last page
        with pytest.raises(StoreUnreachable, match=r"needs free disk space, there is none .* nothing was changed"):
            store.promote(*HERE, version="2", digest=DIGESTS["2"], release_id=release.id, expected_champion="1", by="x" * 20000)
        # Then all is as before, and with space again it goes on
        assert (store.champion(*HERE), store.desired(*HERE), store.decisions(*HERE)) == before
    with Store(f"sqlite:///{path}") as store:
        assert promote(store, "2", expected="1").release_id == release.id


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a small tmpfs; the page limit above stands in for it")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_really_is_full_stops_every_kind_of_write_and_none_is_half_done(small_disk: Path) -> None:
    # Given a release about to promote, and a disk that somebody else has filled
    url, filler = f"sqlite:///{small_disk / 'state.db'}", small_disk / "filler"
    with Store(url) as store:
        for version in ("1", "2"):
            store.add_version(servable(version))
        promote(store, "1", expected=None)
        release = open_release(store, "2")
    fill(filler)
    writes: list[Callable[[Store], object]] = [
        lambda store: store.add_version(servable("3")),
        lambda store: store.propose(*HERE, Traffic(stable="1", canary="2"), lease_until=9.0, expected_generation=None, by="flow"),
        lambda store: store.promote(*HERE, version="2", digest=DIGESTS["2"], release_id=release.id, expected_champion="1", by="flow"),
    ]
    # When anything is written, then it is refused with a sentence
    for write in writes:
        with pytest.raises(StoreUnreachable, match=r"needs free disk space|must answer, it does not"), Store(url) as store:
            write(store)
    # and with space again all is as before and goes on
    filler.unlink()
    with Store(url) as store:
        assert [line.version for line in store.history(*HERE)] == ["1"]
        assert store.desired(*HERE).traffic == Traffic(stable="1")  # type: ignore[union-attr]
        assert promote(store, "2", expected="1").release_id == release.id


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(b"\0" * 512):
            pass
