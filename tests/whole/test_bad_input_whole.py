"""What must not be released is refused with a sentence, before anything is started, registered or moved."""

import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from firstlight.cli import handing_over, releasing
from firstlight.digest import sha256_file, write_json
from firstlight.errors import RefusedError
from models.handoff import load
from rollout.store import Store
from tasks import governing
from tasks.releases import OpenedRelease
from tests.whole import toy
from tests.whole.house import OWNER, House

pytestmark = pytest.mark.whole


def change_a_byte(folder: Path) -> None:
    data = bytearray((folder / "model.pt2").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.pt2").write_bytes(data)


def add_a_pickle(folder: Path) -> None:
    (folder / "extra.json").write_bytes(pickle.dumps({"weights": [1.0]}))
    entry = {"sha256": sha256_file(folder / "extra.json"), "bytes": (folder / "extra.json").stat().st_size}
    rewrite(folder, lambda document: document["files"].update({"extra.json": entry}))


def climb_out(folder: Path) -> None:
    rewrite(folder, lambda document: document["files"].update({"../../secret.parquet": {"sha256": "0" * 64, "bytes": 1}}))


def forget_the_purpose(folder: Path) -> None:
    rewrite(folder, lambda document: document.pop("purpose"))


def rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    document = yaml.safe_load((folder / "handoff.yaml").read_text())
    change(document)
    (folder / "handoff.yaml").write_text(yaml.safe_dump(document))


@pytest.mark.parametrize(
    ("damage", "where", "what"),
    [
        (change_a_byte, "model.pt2", "sha256"),
        (add_a_pickle, "extra.json", "must not be a pickle"),
        (climb_out, "secret.parquet", "must be the plain name of a file in the folder"),
        (forget_the_purpose, "purpose", "required"),
    ],
)
def test_a_damaged_hand_off_is_named_and_never_registered(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], where: str, what: str
) -> None:
    # Given a copy of a good hand-off
    folder = tmp_path / "damaged"
    shutil.copytree(house.handoff(1.0), folder)
    assert handing_over.check(folder) == 0
    # When it is damaged
    damage(folder)
    # Then the check says what is wrong and where, one sentence a line
    assert handing_over.check(folder) == 2
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    assert any(where in line and what in line for line in lines), lines
    # and a release does not begin
    with pytest.raises(RefusedError, match=where):
        releasing.release(house.settings, str(folder))
    assert_nothing_began(house)


def test_the_commands_end_with_a_sentence_and_their_exit_code(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(house.handoff(1.0), folder)
    change_a_byte(folder)
    checked, released = house.run("handoff", "check", folder), house.run("release", folder)
    assert (checked.returncode, released.returncode) == (2, 1)
    assert checked.stdout.splitlines()[-1].endswith("1 problem; it cannot be released")
    assert released.stderr.startswith("firstlight: ")
    assert "model.pt2" in released.stderr
    assert "Traceback" not in checked.stderr + released.stderr
    assert_nothing_began(house)


def assert_nothing_began(house: House) -> None:
    assert house.registered() == []
    assert not (house.settings.state / "handoffs").exists()
    assert not (house.settings.state / "prefect").exists()
    with Store(house.settings.store) as records:
        assert records.releases("local", toy.NAME) == []
        assert records.desired("local", toy.NAME) is None


def test_a_wrong_policy_is_refused_before_anything_starts(house: House, tmp_path: Path) -> None:
    wrong = toy.write_policy(tmp_path / "policy.yaml", rollout={"lease_seconds": -1})
    settings = house.settings.model_copy(update={"policy_file": wrong})
    with pytest.raises(RefusedError, match=r"rollout\.lease_seconds: .*mend these fields"):
        releasing.release(settings, str(house.handoff(1.0)))
    assert_nothing_began(house)


def test_a_port_in_use_is_a_sentence(house: House) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        served = house.run("serve", "--port", str(port))
    assert served.returncode == 1
    assert str(port) in served.stderr
    assert "Traceback" not in served.stderr


def test_a_state_folder_that_cannot_be_made_is_a_sentence(house: House, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = house.settings.model_copy(update={"state_dir": tmp_path / "file" / "state"})
    with pytest.raises(RefusedError, match=r"the state folder must be writable, .* FIRSTLIGHT_STATE_DIR"):
        releasing.release(settings, str(house.handoff(1.0)))


def test_without_an_approvers_file_nobody_can_be_asked(house: House, tmp_path: Path) -> None:
    # Given a release whose risk is known, in a place without approvers
    release = opened(house, tmp_path)
    write_json(release.evidence("risk"), {"band": "Any", "required_roles": {"system-owner": 1}, "validity_days": 30})
    away = house.settings.approvers_path.rename(house.folder / "approvers-away.yaml")
    # When it is put before people
    try:
        with pytest.raises(RefusedError) as refused:
            governing.put_forward(release)
    finally:
        away.rename(house.settings.approvers_path)
    # Then the sentence says which file is missing and how to name another
    assert str(house.settings.approvers_path) in str(refused.value)
    assert "FIRSTLIGHT_APPROVERS_FILE" in str(refused.value)
    assert governing.put_forward(release).requirement.roles == {"system-owner": 1}


def opened(house: House, folder: Path) -> OpenedRelease:
    papers = load(house.handoff(1.0))
    return OpenedRelease(
        id="toy-1",
        environment="local",
        model=toy.NAME,
        handoff=str(papers.folder),
        model_digest=papers.model_digest,
        handoff_digest=papers.digest,
        policy_digest="0" * 64,
        trainer_name=papers.trainer.name,
        trainer_email=papers.trainer.email,
        folder=str(folder),
    )


def test_a_rollback_where_nothing_was_ever_released_is_a_sentence(house: House) -> None:
    refused = house.run("rollback", "--reason", "a try", "--by", OWNER)
    assert refused.returncode == 1
    assert refused.stderr.startswith("firstlight: ")
    assert "Traceback" not in refused.stderr
