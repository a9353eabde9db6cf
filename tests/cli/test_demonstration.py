"""The bad demo ends well only when the canary found the model; anything else is a failure of the demo."""

import io

import pytest
from rich.console import Console

from firstlight import settings as settings_module
from firstlight.cli import demonstration, releasing
from firstlight.cli.showing import Watcher


@pytest.mark.parametrize(
    ("code", "canary", "ends", "said"),
    [
        (releasing.FAILED, "fail", 0, "turned it back: QSO moved"),
        (releasing.PROMOTED, "pass", 1, "it was promoted"),
        (releasing.CANNOT_TELL, "cannot tell", releasing.CANNOT_TELL, "without having been found out"),
        (releasing.FAILED, "", releasing.FAILED, "another gate"),
        (releasing.ERROR, "fail", releasing.ERROR, "another gate"),
    ],
)
def test_only_a_model_found_by_its_canary_ends_the_bad_demo_well(tmp_path, code: int, canary: str, ends: int, said: str) -> None:
    out = io.StringIO()
    console = Console(file=out, width=300)
    watcher = Watcher(settings_module.load(state_dir=tmp_path), console)
    watcher.stages = {"canary": {"verdict": canary, "summary": "QSO moved"}} if canary else {}
    assert demonstration.judge_bad_end(code, watcher, console) == ends
    assert said in out.getvalue()


def test_every_bad_demo_is_another_night(tmp_path) -> None:
    assert demonstration.next_mistaken_night(tmp_path) == 20260601
    (tmp_path / "20260601").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert demonstration.next_mistaken_night(tmp_path) == 20260602
