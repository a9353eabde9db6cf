"""The ledger's head kept in a folder and in a bucket with object lock: what is there stays, and what contradicts it is found."""

import json
import multiprocessing
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from sqlalchemy import text
from typer.testing import CliRunner

from firstlight import settings as settings_module
from firstlight.cli import app, ledger_commands  # noqa: F401 - registers the commands
from firstlight.errors import RefusedError
from firstlight.settings import Settings
from governance import ledger
from governance.anchor import SignedAnchor, draft
from governance.errors import LedgerError
from rollout.store import Store
from tasks import anchoring, auditing, doors
from tasks.releases import OpenedRelease

FORK = multiprocessing.get_context("fork")
NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("FIRSTLIGHT_STATE_DIR", str(tmp_path / "state"))
    settings_module.current.cache_clear()
    yield settings_module.current()
    settings_module.current.cache_clear()


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of an environment for each kind of place."""
    monkeypatch.setenv("FIRSTLIGHT_STATE_DIR", str(tmp_path / "state"))
    if request.param == "bucket":
        monkeypatch.setenv("FIRSTLIGHT_S3_ENDPOINT_URL", request.getfixturevalue("endpoint"))
        monkeypatch.setenv("FIRSTLIGHT_S3_ACCESS_KEY", "key")
        monkeypatch.setenv("FIRSTLIGHT_S3_SECRET_KEY", "secret")
        monkeypatch.setenv("FIRSTLIGHT_LEDGER_ANCHORS", f"s3://{bucket(request)}/firstlight/anchors/")
    chosen = settings_module.load()
    if request.param == "bucket":
        client(chosen).create_bucket(Bucket=bucket(request), ObjectLockEnabledForBucket=True)
    return chosen


def bucket(request: pytest.FixtureRequest) -> str:
    return f"{request.param}-{abs(hash(request.node.nodeid))}"


def client(settings: Settings) -> Any:
    return doors.object_store(settings)._client


def tell(records: Store, count: int = 1) -> None:
    for number in range(count):
        records.record("local", "tiny", what="note", digest="d" * 64, detail=str(number), by="ada@lab")


def cut_off(records: Store, *, after: int) -> None:
    """What somebody does who has the database and not its triggers to fear."""
    with records._database.writing() as connection:
        connection.execute(text("DROP TRIGGER IF EXISTS ledger_no_DELETE"))
        connection.execute(text(f"DELETE FROM ledger WHERE sequence > {after}"))


def test_a_head_is_anchored_once_wherever_anchors_are_kept(place: Settings) -> None:
    with doors.store(place) as records:
        assert anchoring.anchor(place, records) is None
        tell(records, 3)
        first, again = anchoring.anchor(place, records), anchoring.anchor(place, records)
        assert first is not None
        assert again is not None
        assert (first.anchor.sequence, first.is_new, again.anchor, again.is_new) == (3, True, first.anchor, False)
        tell(records)
        second = anchoring.anchor(place, records)
        assert second is not None
        kept = anchoring.anchors(anchoring.place(place))
        assert [one.name for one in kept] == ["000000003", "000000004"]
        assert (second.anchor.previous_anchor, second.where) == (kept[0].digest, place.anchors)
        assert anchoring.check(place, records) == (4, 2, [])


def test_a_ledger_that_was_cut_off_is_found_at_the_next_anchor_and_opens_one_incident(place: Settings) -> None:
    with doors.store(place) as records:
        tell(records, 2)
        anchoring.anchor(place, records)
        tell(records, 4)
        anchoring.anchor(place, records)
        cut_off(records, after=4)
        for _ in range(2):
            with pytest.raises(LedgerError, match=r"entry 6: it must be what was anchored on .*, it is not there: the ledger was cut off"):
                anchoring.anchor(place, records)
        found = anchoring.check(place, records)[2]
        assert [one.where for one in found] == ["entry 6"]
        anchoring.export(place, records, place.state / "out")
        exported = ledger.check(*ledger.read_export(place.state / "out"), trusted=anchoring.trusted(place))
        assert [one.where for one in exported] == ["entry 6"], "what is handed to an auditor shows it too"
        assert "up to entry 2 the ledger is as it was anchored" in found[0].what
        (incident,) = records.incidents()
        assert (incident.severity, incident.cause.startswith("ledger-broken:")) == ("critical", True)
        # What a person has answered is not asked again, and what is written now hides nothing
        records.resolve_incident(incident.id, reason="restored from a backup of the night before", by="ada@lab")
        assert [one.where for one in anchoring.check(place, records)[2]] == ["entry 6"]
        assert len(records.incidents()) == 1


def test_what_was_locked_cannot_be_hidden_replaced_or_deleted(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STATE_DIR": str(tmp_path), "S3_ENDPOINT_URL": endpoint, "S3_ACCESS_KEY": "k", "S3_SECRET_KEY": "s"}.items():
        monkeypatch.setenv(f"FIRSTLIGHT_{name}", value)
    monkeypatch.setenv("FIRSTLIGHT_LEDGER_ANCHORS", "s3://vault/a")
    chosen = settings_module.load()
    s3 = client(chosen)
    s3.create_bucket(Bucket="vault", ObjectLockEnabledForBucket=True)
    assert doors.object_store(chosen).has_object_lock("s3://vault/a")
    with doors.store(chosen) as records:
        tell(records, 5)
        anchoring.anchor(chosen, records)
        before = anchoring.anchors(anchoring.place(chosen))
        # When somebody with the bucket's own keys deletes, overwrites, and deletes for good
        versions = s3.list_object_versions(Bucket="vault")["Versions"]
        assert len(versions) == 2
        for one in versions:
            s3.delete_object(Bucket="vault", Key=one["Key"])
            s3.put_object(Bucket="vault", Key=one["Key"], Body=b"{}")
            with pytest.raises(Exception, match="AccessDenied"):
                s3.delete_object(Bucket="vault", Key=one["Key"], VersionId=one["VersionId"])
        # Then the anchors are read as they were, and a cut-off shows
        assert anchoring.anchors(anchoring.place(chosen)) == before
        cut_off(records, after=3)
        with pytest.raises(LedgerError, match="cut off"):
            anchoring.anchor(chosen, records)


def test_an_anchor_whose_writer_was_killed_before_he_signed_it_is_signed_by_the_next(settings: Settings) -> None:
    with doors.store(settings) as records:
        tell(records, 2)
        head = records.head()
        assert head is not None
        half = draft(sequence=2, entry_digest=head.entry_digest, before=None, now=NOW)
        kept = anchoring.place(settings)
        kept.put(f"{half.name}.json", half.to_bytes())
        assert "has no signature" in str(anchoring.check(settings, records)[2][0])
        tell(records)
        done = anchoring.anchor(settings, records)
        assert done is not None
        assert [bool(one.signature) for one in anchoring.anchors(anchoring.place(settings))] == [True, True]
        assert anchoring.check(settings, records)[2] == []


def test_what_somebody_else_put_where_an_anchor_belongs_is_never_signed(settings: Settings) -> None:
    with doors.store(settings) as records:
        tell(records, 2)
        anchoring.anchor(settings, records)
        tell(records)
        planted = draft(sequence=3, entry_digest="f" * 64, before=None, now=NOW)
        anchoring.place(settings).put(f"{planted.name}.json", planted.to_bytes())
        with pytest.raises(LedgerError, match="it is another one"):
            anchoring.anchor(settings, records)
        signatures = [one.signature for one in anchoring.anchors(anchoring.place(settings)) if one.name == planted.name]
        assert signatures == [b""]


def anchor_at_once(barrier: Any, said: Any) -> None:
    chosen = settings_module.load()
    with doors.store(chosen) as records:
        barrier.wait(30)
        done = anchoring.anchor(chosen, records)
        said.put(done.anchor.to_bytes() if done else b"")


def test_two_who_anchor_at_once_keep_one_anchor(settings: Settings) -> None:
    with doors.store(settings) as records:
        tell(records, 3)
    barrier, said = FORK.Barrier(2), FORK.Queue()
    processes = [FORK.Process(target=anchor_at_once, args=(barrier, said)) for _ in range(2)]
    for process in processes:
        process.start()
    told = {said.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(told) == 1
    with doors.store(settings) as records:
        assert anchoring.check(settings, records) == (3, 1, [])


def test_a_place_that_cannot_be_written_does_not_stop_the_end_of_a_release(settings: Settings, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    chosen = settings_module.load(ledger_anchors=str(tmp_path / "file" / "anchors"))
    with doors.store(chosen) as records:
        tell(records)
        with pytest.raises(RefusedError, match=r"anchors must be kept in .* make it writable"):
            anchoring.anchor(chosen, records)
        anchoring.anchor_at_the_end(chosen, records)
    assert "the ledger's head could not be anchored: anchors must be kept in" in caplog.text


def test_a_releases_part_of_the_ledger_goes_from_its_opening_to_now(settings: Settings, tmp_path: Path) -> None:
    digests = {"handoff_digest": "h" * 64, "model_digest": "a" * 64, "policy_digest": "p" * 64}
    with doors.store(settings) as records:
        tell(records, 2)
        anchoring.anchor(settings, records)
        opened = records.open_release("local", "tiny", **digests, by="ada@lab")
        tell(records, 2)
        anchoring.anchor(settings, records)
    facts = {"environment": "local", "model": "tiny", "handoff": "", "trainer_name": "", "trainer_email": "", "folder": str(tmp_path / "r")}
    assert anchoring.export_for(OpenedRelease(id=opened.id, **facts, **digests)) == 3
    lines, anchors = ledger.read_export(tmp_path / "r" / anchoring.EXPORT_FOLDER)
    assert [line["sequence"] for line in lines] == [3, 4, 5]
    assert [one.name for one in anchors] == ["000000002", "000000005"], "that before it says what it follows"
    trusted, keys = anchoring.trusted(settings), doors.ledger_keys(settings).read()
    assert ledger.check(lines, anchors, trusted=trusted, keys=keys, whole=False) == []
    unknown = OpenedRelease(id="no-such", **facts, **digests)
    with pytest.raises(LedgerError, match="must tell of the opening of release no-such, it does not"):
        anchoring.export_for(unknown)


def test_the_commands_show_check_anchor_export_and_rotate(settings: Settings, tmp_path: Path) -> None:
    def run(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["ledger", *words])
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    assert run("show") == "the ledger has no such entry yet"
    assert run("anchor") == "the ledger has no entry yet; there is nothing to anchor"
    with doors.store(settings) as records:
        tell(records, 3)
    assert "entry 3" in run("anchor")
    assert "from entry 5 on key" in run("rotate-key", "--by", "ada@lab")
    shown = CliRunner().invoke(app, ["ledger", "show", "--last", "2", "--json"]).output.splitlines()
    assert [json.loads(line)["what"] for line in shown] == ["note", "rotate-ledger-key"]
    assert "ada@lab" in run("show", "--model", "tiny")
    assert "4 entries are in" in run("export", str(tmp_path / "out"))
    assert len(ledger.read_export(tmp_path / "out")[0]) == 4
    assert run("check").endswith("the chain, its seals and its anchors hold")
    with doors.store(settings) as records:
        cut_off(records, after=2)
    said = run("check", code=2)
    assert "WRONG: entry 3: cut off" in said
    assert "1 things are wrong" in said


def test_the_nightly_run_is_green_only_when_nothing_is_wrong(settings: Settings) -> None:
    with doors.store(settings) as records:
        tell(records, 3)
        good = auditing.audit.fn()
        assert (auditing.state(good).name, good.entries, good.summary) == ("Anchored", 3, good.summary)
        assert "the chain, its seals and its anchors hold; entry 3" in good.summary
        cut_off(records, after=1)
    bad = auditing.audit.fn()
    assert auditing.state(bad).name == "Broken"
    assert "entry 3: cut off" in bad.summary
    assert "nothing was anchored" in bad.summary


def test_an_anchor_is_kept_for_readers_only(settings: Settings) -> None:
    folder = anchoring.Folder(settings.state / "anchors")
    folder.put("000000001.json", b"first")
    folder.put("000000001.json", b"second")
    assert folder.read("000000001.json") == b"first"
    assert (settings.state / "anchors" / "000000001.json").stat().st_mode & 0o222 == 0
    assert anchoring.anchors(folder) == [SignedAnchor(name="000000001", document=b"first", signature=b"")]
