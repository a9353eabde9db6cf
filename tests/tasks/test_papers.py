"""A release folder gets everything that follows from its evidence, in order, and the same again from the same."""

import base64
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from firstlight import settings as settings_module
from firstlight.digest import sha256_bytes, write_json
from firstlight.settings import Settings
from governance import intoto, papers
from governance.evidence import read_evidence, write_evidence
from governance.manifest import require_signed
from rollout.spec import ServableVersion
from rollout.store import Store
from tasks import anchoring, doors
from tasks import papers as writing
from tasks.releases import OpenedRelease
from tests.governance.conftest import EVIDENCE


@dataclass
class Here:
    """An environment with a store of its own."""

    settings: Settings
    records: Store

    def opened(self, version: str) -> OpenedRelease:
        """Open a release of ``version`` with the evidence of a hand-off and an evaluation."""
        digest = sha256_bytes(version.encode())
        ids = {"handoff_digest": sha256_bytes(b"papers of " + version.encode()), "model_digest": digest, "policy_digest": "1" * 64}
        record = self.records.open_release("local", "desi-vae", **ids, by="cecilia@lab.example")
        folder = self.settings.folder("releases", record.id)
        for name in ("hand_off", "evaluation"):
            write_evidence(folder, name, {**EVIDENCE[name], **ids})
        trainer = {"trainer_name": "Cecilia Payne", "trainer_email": "cecilia@lab.example"}
        return OpenedRelease(id=record.id, environment="local", model="desi-vae", handoff="/nowhere", folder=str(folder), **ids, **trainer)

    def promoted(self, version: str, *, number: str | None) -> OpenedRelease:
        """Open a release of ``version``, put it forward as decision ``number``, make it champion and close it."""
        release = self.opened(version)
        if number is not None:
            write_json(Path(release.folder) / "subject.json", {"release": release.id, "decision_id": number})
        found = {"folder": "/nowhere", "model_digest": release.model_digest, "handoff_digest": release.handoff_digest}
        self.records.add_version(ServableVersion(model="desi-vae", version=version, **found))
        before = self.records.champion("local", "desi-vae")
        self.records.promote(
            "local",
            "desi-vae",
            version=version,
            digest=release.model_digest,
            release_id=release.id,
            expected_champion=before.version if before else None,
            by="a test",
        )
        self.records.close_release(release.id, "promoted", f"version {version} is champion")
        return release


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    settings = settings_module.load(state_dir=tmp_path / "state", environment="local")
    monkeypatch.setattr(settings_module, "current", lambda: settings)
    with doors.store(settings) as records:
        yield Here(settings, records)


def test_a_folder_gets_register_papers_ledger_and_a_bundle_that_joins_them(here: Here) -> None:
    release = here.opened("1")
    writing.write_all(here.settings, release)
    folder = Path(release.folder)
    described = read_evidence(folder, "release")
    assert (described["release"], described["status"], described["verdict"]) == (release.id, "open", "cannot tell")
    assert described["collected"].keys() == {"hand_off", "evaluation"}
    assert len(read_evidence(folder, "register")["rows"]) == 72
    assert {path.name for path in (folder / papers.FOLDER).iterdir()} == papers.PAPERS.keys()
    assert list(papers.differences(folder)) == []
    assert list(intoto.differences(folder, trusted=anchoring.trusted(here.settings))) == []
    statement = json.loads(base64.b64decode(json.loads((folder / intoto.BUNDLE_FILE).read_bytes())["payload"]))
    head = here.records.head()
    assert head is not None
    assert statement["predicate"]["ledger"] == {"sequence": head.sequence, "entry_digest": head.entry_digest}
    assert [one["digest"]["sha256"] for one in statement["subject"]] == [release.model_digest, release.handoff_digest]


def test_written_again_nothing_changes_and_the_manifest_that_seals_it_is_signed(here: Here) -> None:
    release = here.opened("1")
    folder = Path(release.folder)
    writing.write_all(here.settings, release)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    writing.write_all(here.settings, release)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    writing.seal(here.settings, folder, release=release.id)
    require_signed(folder, trusted=anchoring.trusted(here.settings))


@pytest.mark.parametrize("number", ["DEC-2026-001", None], ids=str)
def test_a_release_names_the_decision_it_replaces(here: Here, number: str | None) -> None:
    first = here.promoted("1", number=number)
    second = here.promoted("2", number="DEC-2026-002")
    told = {one.id: writing.describe(here.settings, here.records, here.records.release(one.id)) for one in (first, second)}
    assert told[first.id]["supersedes"] is None
    assert told[second.id]["supersedes"] == (f"{number} (release {first.id})" if number else f"release {first.id}")
    assert told[second.id]["verdict"] == "pass"


def test_a_key_that_cannot_be_used_costs_the_bundle_and_not_the_papers(
    here: Here, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release = here.opened("1")
    (tmp_path / "broken").write_text("not a key")
    settings = here.settings.model_copy(update={"pipeline_key": tmp_path / "broken"})
    with caplog.at_level(logging.ERROR):
        writing.write_all(settings, release)
    folder = Path(release.folder)
    assert (folder / papers.FOLDER / "model-card.yaml").is_file()
    assert not (folder / intoto.BUNDLE_FILE).exists()
    assert "the signed bundle could not be written" in caplog.text
