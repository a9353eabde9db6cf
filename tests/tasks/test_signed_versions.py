"""The release flow signs what it makes servable; whoever uses a version here asks for that signature."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from firstlight import settings as settings_module
from firstlight.cli.serving import supervisor_arguments
from firstlight.settings import Settings
from governance.errors import SignatureError
from rollout.spec import ServableVersion
from tasks.registering import signed
from tasks.vouching import require_attested

VERSION = ServableVersion(model="tiny", version="1", folder="/anywhere", model_digest="a" * 64, handoff_digest="b" * 64)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_module.load(state_dir=tmp_path / "state")


def test_what_this_pipeline_signed_is_accepted_wherever_the_folder_lies(settings: Settings) -> None:
    version = replace(VERSION, signature=signed(settings, VERSION))
    require_attested(settings, version)
    require_attested(settings, replace(version, folder="/elsewhere"))


@pytest.mark.parametrize("change", [{"backend": "aot", "backend_digest": "c" * 64}, {"handoff_digest": "d" * 64}, {"signature": None}])
def test_what_was_changed_in_the_store_afterwards_is_refused(settings: Settings, change: dict[str, str | None]) -> None:
    version = replace(VERSION, signature=signed(settings, VERSION))
    with pytest.raises(SignatureError):
        require_attested(settings, replace(version, **change))


def test_the_supervisor_is_told_which_keys_its_model_servers_trust(settings: Settings) -> None:
    arguments = supervisor_arguments(settings, port=0)
    told = json.loads(arguments[arguments.index("--options") + 1])["model"]["trusted_keys"]
    assert told == str(settings.trusted_keys_path)
    assert Path(told).read_text().startswith("ssh-ed25519 ")
