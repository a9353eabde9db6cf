"""deployments/monitoring: rules that promtool takes and that fire when they should, dashboards whose queries parse and whose metrics exist."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parent.parent / "deployments" / "monitoring"
RULES = FOLDER / "firstlight.rules.yml"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
DOCS = FOLDER.parent.parent / "docs" / "observability.md"
VARIABLES = {"$__rate_interval": "5m", "$environment": ".*", "$model": ".*", "$version": ".*"}


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None and os.environ.get("CI"):
        pytest.fail("CI must have promtool (Debian package prometheus)")
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return found


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels(board: Path) -> Iterator[dict]:
    yield from (panel for panel in json.loads(board.read_text())["panels"] if panel["type"] != "row")


def expressions(board: Path) -> list[str]:
    """Every query of a dashboard, its variables replaced as Grafana would."""
    found = [target["expr"] for panel in panels(board) for target in panel["targets"]]
    for name, value in VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def test_promtool_takes_the_rules_and_the_example_configuration(promtool: str) -> None:
    assert f"{len(rules())} rules found" in run(promtool, "check", "rules", RULES.name)
    run(promtool, "check", "config", "--syntax-only", "prometheus.yml")


def test_every_alert_fires_when_it_should_and_not_when_it_should_not(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", "firstlight.tests.yml")


def test_no_alert_is_without_a_test_a_severity_of_the_lab_and_a_sentence_on_what_to_do() -> None:
    tests = (FOLDER / "firstlight.tests.yml").read_text()
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) > 20
    for alert in alerts:
        assert f'alertname="{alert["alert"]}"' in tests, alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert alert["annotations"].keys() == {"summary", "action"}
        assert all(len(text) > 30 for text in alert["annotations"].values())


def test_every_dashboard_query_parses(promtool: str, tmp_path: Path) -> None:
    # promtool parses rules, so each query is made one
    queries = [expression for board in DASHBOARDS for expression in expressions(board)]
    assert len(queries) > 50
    made = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": made}]}))
    assert f"{len(queries)} rules found" in run(promtool, "check", "rules", tmp_path / "queries.yml")


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole_and_no_two_panels_lie_on_each_other(board: Path) -> None:
    document = json.loads(board.read_text())
    assert document["uid"] == board.stem
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
    named = {variable["name"] for variable in document["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\}?", json.dumps(document))) - {"__rate_interval", "__all"}
    assert used <= named
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert all(panel["title"] and panel["targets"] for panel in panels(board))


def test_a_recorded_name_that_a_dashboard_shows_is_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    shown = {name for board in DASHBOARDS for query in expressions(board) for name in re.findall(r"firstlight:[a-z0-9_:]+", query)}
    assert shown
    assert shown <= recorded


def test_every_alert_is_explained_in_the_documentation() -> None:
    text = DOCS.read_text()
    for rule in rules():
        assert rule.get("alert", rule.get("record")) in text
