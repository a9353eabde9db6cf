"""Facts about the platform come from trying: what was not tried is not there, and what fails says so."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from firstlight import settings
from firstlight.settings import Settings
from governance import model_signature
from models import handoff
from rollout.spec import Observed, RolloutPolicy, ServableVersion
from rollout.store import Store
from tasks import doors, drills, vouching
from tasks.registering import signed
from tests.models.tiny import write_tiny_handoff

MODEL = "tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_handoff(tmp_path_factory.mktemp("drills") / "hand-off")


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings.load(state_dir=tmp_path)


@pytest.fixture
def records(here: Settings) -> Iterator[Store]:
    with doors.store(here) as opened:
        yield opened


def make_champion(here: Settings, records: Store, folder: Path) -> None:
    papers = handoff.load(folder)
    vouching.sign(here, papers)
    version = ServableVersion(model=MODEL, version="1", folder=str(folder), model_digest=papers.model_digest, handoff_digest=papers.digest)
    records.add_version(replace(version, signature=signed(here, version)))
    digests = {"handoff_digest": papers.digest, "model_digest": papers.model_digest, "policy_digest": "p"}
    release = records.open_release("local", MODEL, **digests, by="a test")
    records.promote("local", MODEL, version="1", digest=papers.model_digest, release_id=release.id, expected_champion=None, by="a test")


def facts(here: Settings, records: Store, folder: Path, **rules: object) -> dict[str, object]:
    return drills.platform_facts(here, records, model=MODEL, folder=folder, rollout=RolloutPolicy.model_validate(rules))


def test_an_empty_place_claims_only_what_was_tried_and_cannot_tell(here: Settings, records: Store, folder: Path) -> None:
    found = facts(here, records, folder)
    assert found["verdict"] == "cannot tell"
    assert (found["verify_before_load"], found["golden_before_ready"], found["supervised"]) == (True, True, False)
    assert found["summary"] == "6 of 7 platform facts held when they were tried"
    untried = ("canary", "lease_seconds", "rollback_available", "rollback_drill", "inference_log", "log_flush_seconds", "keys_private")
    assert not {*untried, "approvers_in_force"} & found.keys()


def test_a_supervised_place_with_a_champion_passes_and_says_what_its_canary_is(
    here: Settings, records: Store, folder: Path, tmp_path: Path
) -> None:
    make_champion(here, records, Path(shutil.copytree(folder, tmp_path / "champion")))
    records.observe(Observed(environment="local", model=MODEL, generation=1, traffic=None, heartbeat=time.time()))
    found = facts(here, records, folder)
    assert found["verdict"] == "pass"
    assert (found["supervised"], found["rollback_available"], found["canary"], found["lease_seconds"]) == (True, True, True, 60.0)
    assert facts(here, records, folder, steps=[100])["canary"] is False


def test_a_champion_whose_bytes_changed_is_no_way_back(here: Settings, records: Store, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "champion"
    shutil.copytree(folder, copy)
    make_champion(here, records, copy)
    (copy / "model.pt2").write_bytes(b"something else")
    assert facts(here, records, folder)["rollback_available"] is False


def test_a_signed_hand_off_is_tried_with_and_without_its_signature(here: Settings, records: Store, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "signed"
    shutil.copytree(folder, copy)
    assert "signed_before_load" not in facts(here, records, copy)
    vouching.sign(here, handoff.load(copy))
    assert facts(here, records, copy)["signed_before_load"] is True
    model_signature.signature_path(copy).write_bytes(b"{}")
    assert drills.refuses_what_nobody_signed(here, copy) is False
    assert facts(here, records, copy)["verdict"] == "fail"


def test_a_hand_off_that_does_not_load_at_all_shows_nothing_about_refusing(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "broken"
    shutil.copytree(folder, copy)
    (copy / "model.pt2").write_bytes(b"something else")
    assert drills.refuses_changed_bytes(copy) is False
