"""Who gets in, who may say yes, where secrets are: a fact for each that was tried, and it turns false when the safeguard is gone."""

import shutil
from datetime import date
from pathlib import Path

import pytest

from expectations.leakage import division
from firstlight import settings
from firstlight.settings import Settings
from governance.approvers import Approver, ApproverKey, write_approvers
from governance.attestation import ensure_key
from governance.policy import RiskPolicy
from governance.secret_scan import secrets_in
from tasks import safeguards
from tests.models.tiny import write_tiny_handoff


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_handoff(tmp_path_factory.mktemp("safeguards") / "hand-off")


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings.load(state_dir=tmp_path / "state")


def facts(here: Settings, folder: Path) -> dict[str, object]:
    return safeguards.facts(here, model="tiny", folder=folder, policy=RiskPolicy())


def test_a_key_that_others_can_read_is_no_private_key(here: Settings, folder: Path) -> None:
    assert "keys_private" not in facts(here, folder)
    key = ensure_key(here.pipeline_key_path)
    key.with_name(".model-keys.yaml.lock").touch(0o644)
    assert facts(here, folder)["keys_private"] is True
    key.chmod(0o640)
    assert facts(here, folder)["keys_private"] is False


def test_people_are_counted_by_the_keys_that_count_today(here: Settings, folder: Path) -> None:
    lines = [ensure_key(here.state / f"person{n}").with_suffix(".pub").read_text().strip() for n in (1, 2)]
    until = (None, date(2026, 1, 2))
    people = tuple(
        Approver(
            name=name,
            email=f"{name[:4].lower()}@lab.example",
            roles=("cto",),
            keys=(ApproverKey(ssh=line, valid_from=date(2026, 1, 1), valid_until=end),),
        )
        for name, line, end in zip(("Vera Rubin", "Annie Cannon"), lines, until, strict=True)
    )
    assert "approvers_in_force" not in facts(here, folder)
    write_approvers(here.approvers_path, people)
    found = facts(here, folder)
    assert (found["approvers_in_force"], found["approvers_lapsed"]) == (1, 1)


def test_a_password_in_the_papers_of_a_hand_off_is_seen(here: Settings, folder: Path, tmp_path: Path) -> None:
    assert facts(here, folder)["no_secret_in_hand_off"] is True
    copy = shutil.copytree(folder, tmp_path / "copy")
    papers = copy / "handoff.yaml"
    papers.write_text(papers.read_text() + "# postgresql://vera:orange-peel@pg01/sky\n")
    assert facts(here, copy)["no_secret_in_hand_off"] is False


@pytest.mark.parametrize(("host", "refused"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("gateway.lab.example", False)])
def test_without_access_control_only_loopback_keeps_strangers_out(here: Settings, host: str, refused: bool) -> None:
    assert safeguards.strangers_are_refused(here.model_copy(update={"gateway_host": host}), model="tiny") is refused


def test_with_access_control_and_nobody_to_ask_nothing_is_claimed(here: Settings, tmp_path: Path) -> None:
    guarded = here.model_copy(update={"gateway_access_file": tmp_path / "access.yaml"})
    assert safeguards.strangers_are_refused(guarded, model="tiny") is None


def test_a_release_that_nobody_signed_never_passes() -> None:
    assert safeguards.nobody_is_not_enough(RiskPolicy()) is True


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----", ("a private key",)),
        ("key AKIAIOSFODNN7EXAMPLE here", ("an AWS access key",)),
        ("password: hunter2hunter2", ("a password beside its name",)),
        ("https://prefect.lab:4200/api, sha256: " + "ab" * 32, ()),
        ("handed over by vera@lab.example, s3://sky/20261122", ()),
        ("password and token are kept in Vault", ()),
    ],
)
def test_secrets_are_told_by_their_form(text: str, kinds: tuple[str, ...]) -> None:
    assert secrets_in(text) == kinds


def test_an_object_on_both_sides_of_the_division_is_counted() -> None:
    import pandas as pd

    reference = pd.DataFrame({"targetid": [1, 2, 3, 4, 5], "part": ["train", "train", "validation", "heldout", "heldout"]})
    apart = division(reference, pd.DataFrame({"targetid": [4, 5]}))
    assert apart is not None
    assert apart.to_dict() == {"held_out_rows": 2, "training_rows": 3, "held_out_in_training": 0}
    leaked = division(reference, pd.DataFrame({"targetid": [3, 4, 1]}))
    assert leaked is not None
    assert leaked.held_out_in_training == 2
    assert division(reference.drop(columns="part"), pd.DataFrame({"targetid": [4]})) is None
    assert division(reference, pd.DataFrame({"z": [0.1]})) is None
