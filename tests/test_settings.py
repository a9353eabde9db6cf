"""Settings: documented, overridable, refused with a sentence."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

from firstlight import settings
from firstlight.errors import RefusedError
from firstlight.settings import Settings

ROOT = Path(__file__).parent.parent
LOCAL = ROOT / "deployments" / "settings" / "local.yaml"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FIRSTLIGHT_{name.upper()}", raising=False)
    monkeypatch.delenv("FIRSTLIGHT_SETTINGS", raising=False)


def test_every_setting_is_explained_in_the_settings_file() -> None:
    explained = set(re.findall(r"^# ([a-z_0-9]+):", LOCAL.read_text(), re.MULTILINE))
    assert explained == set(Settings.model_fields) - {"environment"}


def test_every_setting_has_a_docstring() -> None:
    body = ast.parse(textwrap.dedent(inspect.getsource(Settings))).body[0]
    assert isinstance(body, ast.ClassDef)
    pairs = zip(body.body, body.body[1:], strict=False)
    documented = {
        one.target.id
        for one, after in pairs
        if isinstance(one, ast.AnnAssign)
        and isinstance(one.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    assert documented == set(Settings.model_fields)


def test_the_embedded_default_needs_no_file_and_no_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = settings.load()
    assert found.state == tmp_path / ".firstlight"
    assert found.store == f"sqlite:///{tmp_path}/.firstlight/state.db"
    assert found.policy_path == ROOT / "deployments" / "policies" / "local.yaml"


def test_a_variable_wins_over_the_file_and_the_file_over_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("model: from-file\nprefect_port: 4321\n")
    monkeypatch.setenv("FIRSTLIGHT_SETTINGS", str(file))
    monkeypatch.setenv("FIRSTLIGHT_MODEL", "from-variable")
    found = settings.load()
    assert (found.model, found.prefect_port, found.mlflow_port) == ("from-variable", 4321, 5000)


@pytest.mark.parametrize(
    ("text", "said"),
    [("prefect_port: high\n", "prefect_port"), ("no_such_setting: 1\n", "no_such_setting"), ("- a list\n", "mapping"), ("a: [\n", "YAML")],
)
def test_a_wrong_settings_file_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    monkeypatch.setenv("FIRSTLIGHT_SETTINGS", str(file))
    with pytest.raises(RefusedError, match=said):
        settings.load()


def test_a_settings_file_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIRSTLIGHT_SETTINGS", str(tmp_path / "nowhere.yaml"))
    with pytest.raises(RefusedError, match="nowhere"):
        settings.load()


def test_a_state_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RefusedError, match="FIRSTLIGHT_STATE_DIR"):
        settings.load(state_dir=tmp_path / "file").folder("releases")


def test_children_get_the_same_state_and_no_telemetry(tmp_path: Path) -> None:
    told = settings.environment_for_children(settings.load(state_dir=tmp_path / "here"))
    assert told["FIRSTLIGHT_STATE_DIR"] == str(tmp_path / "here")
    assert (told["PREFECT_SERVER_ANALYTICS_ENABLED"], told["DO_NOT_TRACK"], told["GX_ANALYTICS_ENABLED"]) == ("false", "1", "false")
    assert told["MLFLOW_DISABLE_TELEMETRY"] == "true"
