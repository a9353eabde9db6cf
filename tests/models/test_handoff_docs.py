"""The page that tells how to hand over a model is true: its script runs, and what it names exists."""

import re
import runpy
from pathlib import Path

import pytest

from models.document import Document
from models.handoff import check, load

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "hand-off.md").read_text()


def test_the_script_on_the_page_hands_over_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "hand_over.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("hand_over.py")

    handoff = load(tmp_path / "line-finder-1")
    assert check(handoff.folder) == []
    assert handoff.model.inputs[0].shape == (-1, 200)
    assert handoff.model_digest[:12] in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hand_over.py", "line-finder-1"]


def test_what_the_page_names_exists() -> None:
    for name in re.findall(r"`(models/[\w./]+)`", PAGE):
        assert (ROOT / name).is_file(), name
    fields = re.findall(r"^\| `([\w.]+)`", PAGE, flags=re.MULTILINE)
    assert {field.split(".")[0] for field in fields} <= set(Document.model_fields)
