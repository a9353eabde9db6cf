"""The simulation decides with what decides real rollouts, and the page shows what it found."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from benchmarks import rollouts as page
from firstlight.cli import app, rolling  # noqa: F401 - registers the command
from firstlight.errors import RefusedError
from rollout.policy import AnswerRule, RolloutPolicy
from rollout.simulation import Case, fixed_threshold, paired_answers, rollouts, table
from tasks import policy

PATIENT = RolloutPolicy(step_deadline_seconds=1e7)
PRODUCTION = policy.read(page.POLICY).rollout


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    return json.loads(page.RESULTS.read_text())


def test_the_figures_of_the_page_are_this_codes(found: dict[str, object]) -> None:
    again = json.loads(json.dumps(table(PRODUCTION, page.SMALL)))
    assert found["small"] == again


def test_the_page_and_its_picture_are_what_the_figures_make(found: dict[str, object], tmp_path: Path) -> None:
    copy, picture = tmp_path / "rollouts.md", tmp_path / "rollout-decisions.svg"
    copy.write_text(page.PAGE.read_text())
    page.publish(found, page=copy, picture=picture)
    assert copy.read_text() == page.PAGE.read_text(), "run `python -m benchmarks.rollouts page`"
    words = ["".join(text.itertext()) for text in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert {"Who is promoted", "How long it takes", "Paired answers", "margin"} <= set(words)
    assert words == ["".join(text.itertext()) for text in ElementTree.parse(page.PICTURE).iter("{http://www.w3.org/2000/svg}text")]


def test_the_targets_are_reached_at_every_traffic(found: dict[str, object]) -> None:
    rows = found["table"]["traffic"]  # type: ignore[index]
    assert [row["per_window"] for row in rows] == [5, 20, 100, 1000]
    for row in rows:
        ours = row["ours"]
        assert ours["healthy"]["runs"] == 2000
        assert ours["healthy"]["turned_back"] <= 0.01 * 2000
        assert ours["bad"]["promoted"] <= 0.01 * 2000
    assert rows[1]["fixed"]["bad"]["promoted"] > 0.4 * 2000


def test_a_healthy_canary_is_promoted_and_a_bad_one_found() -> None:
    healthy = rollouts(PATIENT, control_rate=0.005, canary_rate=0.005, per_window=20, runs=20, seed=1)
    bad = rollouts(PATIENT, control_rate=0.005, canary_rate=0.04, per_window=20, runs=20, seed=2)
    assert (healthy.promoted, bad.promoted, bad.shown_worse) == (20, 0, 20)
    assert bad.requests_to_detect is not None
    assert bad.requests_to_detect < healthy.requests_median


def test_traffic_changes_nothing_but_the_time() -> None:
    slow, fast = (
        rollouts(PATIENT, control_rate=0.005, canary_rate=0.04, per_window=per_window, runs=10, seed=3) for per_window in (50, 5000)
    )
    assert slow == fast


def test_what_is_not_decided_by_the_deadline_is_turned_back_and_counted() -> None:
    hasty = RolloutPolicy(step_deadline_seconds=3600.0)
    ended = rollouts(hasty, control_rate=0.005, canary_rate=0.005, per_window=20, runs=20, seed=4)
    assert (ended.promoted, ended.undecided, ended.turned_back) == (0, 20, 20)


def test_without_copies_it_takes_longer() -> None:
    lax = PATIENT.model_copy(update={"error_margin": 0.03})
    both = [lax, lax.model_copy(update={"shadow_percent": 0})]
    copied, alone = (rollouts(one, control_rate=0.0, canary_rate=0.0, per_window=100, runs=3, seed=5) for one in both)
    assert copied.promoted == alone.promoted == 3
    assert alone.requests_median > 2 * copied.requests_median


@pytest.mark.parametrize(("per_window", "promoted"), [(5, 0.99), (20, 0.48), (100, 0.019), (1000, 0.0)])
def test_the_fixed_threshold_rule_does_what_others_have_calculated(per_window: int, promoted: float) -> None:
    ended = fixed_threshold(canary_rate=0.02, per_window=per_window, runs=20_000, seed=6)
    assert ended.promoted / ended.runs == pytest.approx(promoted, abs=0.01)


def test_a_shift_of_a_fifth_is_found_in_pairs_and_none_is_seldom_called_one() -> None:
    shifted = paired_answers(PATIENT, shift=0.2, correlation=0.75, pairs=400, runs=60, seed=7)
    assert shifted.found_share >= 0.9
    assert shifted.pairs_median is not None
    assert shifted.pairs_median < 300
    assert paired_answers(PATIENT, shift=0.0, correlation=0.5, pairs=400, runs=60, seed=8).found_share <= 0.02
    tolerant = PATIENT.model_copy(update={"answers": {"anomaly_score": AnswerRule(margin=0.5, tolerance=0.3)}})
    assert paired_answers(tolerant, shift=0.2, correlation=0.75, pairs=400, runs=50, seed=9).found_share == 0.0


@pytest.mark.parametrize(
    "case", [{"healthy": 1.0}, {"bad": -0.1}, {"per_window": (0,)}, {"runs": 0}, {"window_seconds": 0.0}, {"healthy": float("nan")}]
)
def test_a_case_that_means_nothing_is_a_sentence(case: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match="must be"):
        table(PATIENT, Case(**case))  # type: ignore[arg-type]


def test_the_command_prints_a_table_or_json() -> None:
    asked = ["rollout", "simulate", "--policy", str(page.POLICY), "--per-window", "20", "--runs", "2", "--healthy", "0", "--bad", "0.1"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "fixed" in shown.output
    document = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert (document["case"]["bad"], document["traffic"][0]["ours"]["healthy"]["runs"]) == (0.1, 2)
    assert {"promoted", "turned_back", "undecided", "requests_to_detect"} <= set(document["traffic"][0]["ours"]["bad"])
