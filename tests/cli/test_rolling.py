"""What an operator sees of a rollout, and how orders reach it. The rollout is driven in this process against a gateway without processes."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from firstlight import settings as settings_module
from firstlight.cli import app, rolling, watching  # noqa: F401 - rolling registers the commands
from firstlight.errors import RefusedError
from rollout.errors import NoRollout
from rollout.spec import Phase
from rollout.store import Store
from tests.rollout.place import POLICY, Here, Time
from tests.rollout.stores import DIGESTS, ENVIRONMENT, MODEL, promote, servable


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    """A place whose store the commands find in their settings."""
    for name, value in {"STATE_DIR": str(tmp_path / "state"), "ENVIRONMENT": ENVIRONMENT, "MODEL": MODEL}.items():
        monkeypatch.setenv(f"FIRSTLIGHT_{name}", value)
    settings_module.current.cache_clear()
    settings = settings_module.current()
    settings.folder()
    time = Time()
    with Store(settings.store, clock=lambda: time.wall) as store:
        for version in DIGESTS:
            store.add_version(servable(version))
        promote(store, "1", expected=None)
        yield Here(store=store, time=time)
    settings_module.current.cache_clear()


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["rollout", *words], env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("command", ["watch", "status", "pause", "resume", "abort", "approve"])
def test_every_command_explains_itself(command: str) -> None:
    assert len(run(command, "--help")) > 200


def test_where_there_has_been_no_rollout_it_says_how_to_begin_one(here: Here) -> None:
    with pytest.raises(RefusedError, match="`firstlight release` starts one"):
        run("watch")
    with pytest.raises(NoRollout, match="must run in 'test' to pause it, there has been none"):
        run("pause", "--by", "ada", "--reason", "a look")


def test_a_rollout_is_shown_with_its_traffic_evidence_outlook_lease_and_decisions(here: Here) -> None:
    here.driver().run(until={Phase.PROGRESSING})
    driver = here.driver()
    for _ in range(3):  # in the first the gateway follows
        driver._round()
    found = json.loads(run("status", "--json"))
    assert (found["phase"], found["canary"], found["stable"], found["steps"]) == ("progressing", "2", "1", [50, 100])
    assert found["traffic"] == {"stable": {"version": "1", "percent": 50}, "canary": {"version": "2", "percent": 50}}
    assert (found["counts"]["canary"], found["counts"]["pairs"], found["is_over"]) == (60, 120, False)
    assert {check["name"] for check in found["checks"]} >= {"errors", "latency"}
    assert "driven by test (token 2)" in run("watch")
    shown = run("watch")
    for words in ("stable 1: 50 %", "canary 2: 50 %", "[50 %] → 100 %", "latency", "needed", "claim-rollout", found["outlook"][:30]):
        assert words in shown


def test_orders_of_an_operator_reach_the_process_that_drives(here: Here) -> None:
    driver = here.driver(POLICY.model_copy(update={"approval": "before-promotion"}))
    driver.run(until={Phase.PROGRESSING})
    with pytest.raises(NoRollout, match="must ask for a person"):
        run("approve", "--by", "ada", "--reason", "looks good")
    assert "test obeys at its next look" in run("pause", "--by", "ada", "--reason", "a look at the dome")
    driver.run(until={Phase.PAUSED})
    assert "paused by a person" in run("status")
    run("resume", "--by", "ada", "--reason", "it was nothing")
    driver.run(until={Phase.APPROVING})
    run("approve", "--by", "ada", "--reason", "looks good")
    assert "approved by ada" in run("status")
    assert driver.run(until={Phase.PROMOTING}).status.phase is Phase.PROMOTING
    run("abort", "--by", "ada", "--reason", "the dome is on fire")
    decided = [(one.what, one.by) for one in here.store.decisions(ENVIRONMENT, MODEL) if one.by == "ada"]
    assert decided == [("pause-rollout", "ada"), ("resume-rollout", "ada"), ("approve-rollout", "ada"), ("abort-rollout", "ada")]


def test_what_is_shown_can_be_kept_as_a_picture(here: Here, tmp_path: Path) -> None:
    here.driver().run(until={Phase.PROGRESSING})
    run("watch", "--svg", str(tmp_path / "rollout.svg"))
    picture = (tmp_path / "rollout.svg").read_text()
    assert picture.startswith("<svg")
    assert "firstlight&#160;rollout&#160;watch" in picture or "firstlight rollout watch" in picture


@pytest.mark.parametrize(
    ("check", "left", "right"),
    [
        pytest.param({"log_evidence_pass": 0.0, "needed_pass": 4.6, "log_evidence_fail": 0.0, "needed_fail": 6.0}, 0, 0, id="nothing"),
        pytest.param({"log_evidence_pass": 2.3, "needed_pass": 4.6, "log_evidence_fail": -2.0, "needed_fail": 6.0}, 0, 7, id="half way"),
        pytest.param({"log_evidence_pass": 4.59, "needed_pass": 4.6, "log_evidence_fail": 1.0, "needed_fail": 6.0}, 2, 13, id="nearly"),
        pytest.param({"log_evidence_pass": 9.0, "needed_pass": 4.6, "log_evidence_fail": 7.0, "needed_fail": 6.0}, 14, 14, id="both"),
        pytest.param({"log_evidence_pass": math.nan, "needed_pass": 4.6}, 0, 0, id="no number"),
        pytest.param({"verdict": "cannot tell", "requests": 10, "requests_needed": 20}, 0, 7, id="a rule, half way"),
        pytest.param({"verdict": "fail", "requests": 10, "requests_needed": 20}, 14, 0, id="a rule, broken"),
        pytest.param({"verdict": "pass"}, 0, 0, id="readiness"),
    ],
)
def test_a_bar_is_full_when_and_only_when_something_is_shown(check: dict[str, Any], left: int, right: int) -> None:
    drawn = watching.bar(check).plain
    before, after = drawn.split("│")
    assert (before.count("█"), after.count("█"), len(drawn)) == (left, right, 29)


def test_a_pass_whose_bar_is_not_full_is_one_for_the_next_step() -> None:
    assert watching._said({"verdict": "pass", "log_evidence_pass": 2.0, "needed_pass": 4.6}) == "next step"
    assert watching._said({"verdict": "pass", "log_evidence_pass": 4.6, "needed_pass": 4.6}) == "pass"
    assert watching._said({"verdict": "pass"}) == "pass"
