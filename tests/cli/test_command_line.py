"""What a person reads: help of every command, last lines, sentences instead of tracebacks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from firstlight import settings as settings_module
from firstlight.cli import app, commands, incident_commands, main, releasing  # noqa: F401 - they register the commands
from firstlight.cli.showing import stage_table

COMMANDS = (
    "train",
    "handoff check",
    "release",
    "sign-off",
    "status",
    "rollback",
    "score",
    "serve",
    "verify",
    "up",
    "demo",
    "incidents resolve",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert len(result.output) > 200


def test_help_tells_the_exit_codes_of_release() -> None:
    text = " ".join(CliRunner().invoke(app, ["release", "--help"]).output.split())
    for said in ("0 promoted", "2 failed a gate", "3 cannot tell", "4 waiting for sign-off", "1 error"):
        assert said in text


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("Flow run encountered an exception: HandOffError: the digest must match", "the digest must match"),
        ("all gates: passed", "all gates: passed"),
        ("Flow run encountered an exception: no kind here", "no kind here"),
    ],
)
def test_a_runs_message_is_shown_without_prefects_words(message: str, sentence: str) -> None:
    assert releasing.plain(message) == sentence


def test_each_exit_code_has_its_last_line() -> None:
    codes = (releasing.PROMOTED, releasing.ERROR, releasing.FAILED, releasing.CANNOT_TELL, releasing.WAITING)
    assert codes == (0, 1, 2, 3, 4)
    assert len({releasing.last_line(code, "x") for code in codes}) == 5


def test_text_from_a_report_is_no_markup() -> None:
    table = stage_table([{"stage": "data", "verdict": "fail", "summary": "[red]x[/red] [/]", "seconds": 1}], title="t")
    assert table.row_count == 1


def run(*words: str, state: Path) -> "subprocess.CompletedProcess[str]":
    import os

    environment = {**os.environ, "FIRSTLIGHT_STATE_DIR": str(state)}
    return subprocess.run(
        [sys.executable, "-m", "firstlight", *words], capture_output=True, text=True, check=False, env=environment, timeout=120
    )


def test_status_of_an_empty_place_is_complete_json(tmp_path: Path) -> None:
    done = run("status", "--json", state=tmp_path / "state")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["model"], found["environment"]) == ("desi-vae", "local")
    assert (found["champion"], found["previous"], found["candidate"]) == (None, None, None)
    assert found["rollout"] == {"phase": "nothing", "weight": 0, "canary": None}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rollback", "--reason", "x", "--by", "a@b.org"), "champion"),
        (("release", "no-such-folder"), "no-such-folder"),
        (("score", "x.fits", "--out", "t.parquet"), "champion"),
        (("sign-off", "no-such-release", "--key", "k", "--as", "a@b.org", "--reason", "r"), "no-such-release"),
        (("verify", "no-such-folder"), "no-such-folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    # one of them as a process, whatever it prints; the others by the same entry point, without four interpreters that import everything
    if words[0] == "rollback":
        done = run(*words, state=tmp_path / "state")
        code, text = done.returncode, done.stderr
    else:
        code, text = by_entry_point(*words, state=tmp_path / "state", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert "Traceback" not in text
    assert text.startswith("firstlight: ")
    assert said in text


def by_entry_point(*words: str, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it said on standard error."""
    monkeypatch.setenv("FIRSTLIGHT_STATE_DIR", str(state))
    monkeypatch.setattr(sys, "argv", ["firstlight", *words])
    settings_module.current.cache_clear()
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        settings_module.current.cache_clear()
    return int(ended.value.code or 0), capsys.readouterr().err


def test_a_state_folder_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    done = run("status", state=tmp_path / "state")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "FIRSTLIGHT_STATE_DIR" in done.stderr
