"""What a person reads when the database is not what it should be: one sentence, and nothing half-done."""

import contextlib
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from rollout.errors import StoreBusy, StoreRefused, StoreUnreachable
from rollout.spec import Traffic
from rollout.store import Store
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, open_release, open_store, promote, servable

HERE = (ENVIRONMENT, MODEL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one champion, closed, and large enough to have inner pages."""
    made = tmp_path / "made.db"
    with Store(f"sqlite:///{made}") as store:
        store.add_version(servable("1"))
        store.add_version(servable("2"))
        promote(store, "1", expected=None)
        for number in range(300):
            store.add_point("r", {"number": number, "padding": "x" * 100})
    return made


def test_a_read_only_database_can_be_read_and_says_so_when_written(path: Path) -> None:
    with Store(f"sqlite:///file:{path}?mode=ro&uri=true") as store:
        assert store.champion(*HERE).version == "1"  # type: ignore[union-attr]
        with pytest.raises(StoreRefused, match="must be writable, it is read-only"):
            store.add_version(servable("3"))
        with pytest.raises(StoreRefused, match="give this user write access"):
            store.propose(*HERE, Traffic(stable="1", canary="2"), lease_until=9.0, expected_generation=None, by="ada")


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
