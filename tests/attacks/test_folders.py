"""``firstlight verify`` as an auditor runs it, and what it leaves behind where the release itself lies."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from firstlight import cli
from firstlight.settings import Settings
from tasks import doors
from tests.attacks.test_hand_offs import Ledger
from tests.governance import described
from tests.governance.conftest import make_release
from tests.rollout.stores import open_release

PAGE = Path(__file__).parents[2] / "docs" / "auditors.md"


@pytest.fixture
def at_home(here: Settings, humans: dict[str, Any]) -> Path:
    """A finished release in the state folder, which the store knows."""
    with doors.store(here) as records:
        name = open_release(records, "1", environment=here.environment).id
    return make_release(here.state / "releases" / name, humans)


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command; return its exit code and what it said."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["firstlight", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    return run


def test_a_release_that_was_changed_where_it_lies_is_told_to_the_ledger_once_and_a_copy_is_not(
    at_home: Path, ledger: Ledger, tmp_path: Path, verify: Callable[..., tuple[int, str]]
) -> None:
    # Given a good release: nothing is told
    assert verify(at_home)[0] == 0
    before = ledger()
    # When a report of it is swapped, and somebody looks twice, and a third one at a copy
    report = at_home / "evidence" / "bias.json"
    report.write_bytes(report.read_bytes().replace(b"none shown to be worse", b"all are very good now"))
    shutil.copytree(at_home, tmp_path / "copy" / at_home.name)
    copied = verify(tmp_path / "copy" / at_home.name)
    assert (copied[0], ledger()) == (2, before)
    code, said = verify(at_home)
    assert (code, verify(at_home)[0]) == (2, 2)
    # Then each is told what differs, and the ledger has it once
    assert "WRONG: evidence/bias.json: changed after it was put forward" in said
    assert "the ledger says so now (refused-release-folder, " in said
    ((what, model, detail),) = [entry for entry in ledger() if entry not in before]
    assert (what, model) == ("refused-release-folder", "desi-vae")
    assert detail.startswith(f"release {at_home.name} does not verify: evidence/bias.json: changed")


def test_every_option_on_the_auditors_page_is_one(at_home: Path, tmp_path: Path, verify: Callable[..., tuple[int, str]]) -> None:
    keys = tmp_path / "ledger-keys"
    keys.write_text(described.LEDGER_KEY.secret.hex() + "\n")
    given = {
        "--approvers": at_home / "approvers.yaml",
        "--pipeline-keys": at_home.parent.parent / "keys" / "pipeline.pub",
        "--ledger-key": keys,
    }
    for option in (*given, "--model-folder", "--model-keys"):
        assert f" {option} " in PAGE.read_text(), option
    code, said = verify(at_home, *(word for pair in given.items() for word in pair))
    assert (code, "believed" in said) == (0, False), said
    assert "every seal holds" in said
    assert "is none: leave --ledger-key out" in verify(at_home, "--ledger-key", tmp_path / "nowhere")[1]
    assert "a release folder or an exported ledger must be given" in verify(tmp_path / "nowhere")[1]


def test_a_model_folder_that_nobody_signed_is_found(at_home: Path, tmp_path: Path, verify: Callable[..., tuple[int, str]]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.pt2").write_bytes(b"not really a model")
    code, said = verify(at_home, "--model-folder", model)
    assert code == 2
    assert f"WRONG: {model}: " in said
