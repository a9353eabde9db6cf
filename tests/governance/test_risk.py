"""The lab's arithmetic, exactly, and maturity that only evidence can earn."""

import copy
import itertools
import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from firstlight.digest import canonical_json
from firstlight.verdict import Verdict
from governance.errors import PolicyError, ScenarioError
from governance.policy import Band, RiskPolicy, parse_risk_policy
from governance.register import fill
from governance.risk import assess, load_scenarios, reduction, residual_factors
from governance.scenario import DIMENSIONS, MISSING, SHIPPED, Rule, Scenario, look_up


@pytest.fixture
def evidence(pytestconfig):
    module = next(plugin for plugin in pytestconfig.pluginmanager.get_plugins() if getattr(plugin, "MODEL_BYTES", None))
    return copy.deepcopy(module.EVIDENCE)


def scenario(impact=5, expectancy=4, points=8, **changes):
    rules = [{"evidence": f"proof.p{n}", "is": "yes", "because": "a control for the test"} for n in range(8)]
    text = "long enough to be a sentence"
    fields = {
        "format": "firstlight/risk-scenario/v1", "id": "R99", "title": "made up", "origin": "test", "what_can_happen": text, "impact": impact,
        "expectancy": expectancy, "why_these_numbers": text, "requires": ["proof"], "watched_after": text,
        "maturity": {dimension: rules[2 * n : 2 * n + 2] for n, dimension in enumerate(DIMENSIONS)},
    } | changes  # fmt: skip
    held = {"proof": {"verdict": "pass", **{f"p{n}": "yes" for n in range(points)}}}
    return Scenario.model_validate(fields), held


@pytest.mark.parametrize(("impact", "expectancy", "maturity", "residual"), [(5, 4, 8, 6), (5, 5, 4, 16), (5, 5, 8, 9)])
def test_the_labs_test_vectors_come_out(impact, expectancy, maturity, residual):
    made, held = scenario(impact, expectancy, maturity)
    assert assess(held, scenarios=[made], policy=RiskPolicy()).overall == residual


def test_every_impact_expectancy_and_maturity_scores_as_the_standard_says():
    for impact, expectancy, maturity in itertools.product(range(1, 6), range(1, 6), range(9)):
        lower = {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 2, 7: 2, 8: 2}[maturity]
        expected = max(1, impact - lower) * max(1, expectancy - lower)
        made, held = scenario(impact, expectancy, maturity)
        risk = assess(held, scenarios=[made], policy=RiskPolicy()).scenarios[0]
        assert (risk.inherent, risk.maturity, risk.residual) == (impact * expectancy, maturity, expected)
        assert risk.residual_impact * risk.residual_expectancy == risk.residual
        assert residual_factors(impact, expectancy, maturity=maturity) == (risk.residual_impact, risk.residual_expectancy)
        low, high = {"Low": (1, 4), "Medium": (5, 9), "Medium-High": (10, 15), "High": (16, 25)}[risk.band]
        assert low <= risk.residual <= high


@pytest.mark.parametrize("points", [-1, 9])
def test_maturity_outside_its_scale_is_a_programming_error(points):
    with pytest.raises(ValueError, match="0 to 8"):
        reduction(points)


def test_overall_is_the_highest_residual_and_nothing_is_averaged():
    low, held = scenario(1, 1, 8, id="R01")
    high, _ = scenario(5, 5, 8, id="R02")
    found = assess(held, scenarios=[low, high], policy=RiskPolicy())
    assert (found.overall, found.band, found.required_roles) == (9, "Medium", {"ai-risk-officer": 1})


def test_high_residual_asks_the_cto_and_four_of_the_board():
    made, held = scenario(5, 5, 0)
    found = assess(held, scenarios=[made], policy=RiskPolicy())
    assert found.required_roles == {"cto": 1, "board": 4}
    assert found.quorum == 5
    assert "4 board (of 6)" in found.summary


def test_missing_evidence_earns_nothing_and_cannot_tell():
    found = assess({}, scenarios=load_scenarios(), policy=RiskPolicy())
    assert found.verdict is Verdict.CANNOT_TELL
    assert all(risk.maturity == 0 and risk.residual == risk.inherent for risk in found.scenarios)
    assert any("'bias'" in reason for reason in found.reasons)


def test_an_empty_document_is_as_good_as_none():
    made, _ = scenario()
    assert assess({"proof": {}}, scenarios=[made], policy=RiskPolicy()).verdict is Verdict.CANNOT_TELL


def test_each_verdict_that_is_not_pass_lowers_maturity_somewhere(evidence):
    scenarios = load_scenarios()
    best = sum(risk.maturity for risk in assess(evidence, scenarios=scenarios, policy=RiskPolicy()).scenarios)
    for name in ("hand_off", "golden", "data", "evaluation", "bias", "benchmark", "registration", "serving"):
        for verdict in ("fail", "cannot tell", None):
            worse = {**evidence, name: {**evidence[name], "verdict": verdict}}
            assert sum(risk.maturity for risk in assess(worse, scenarios=scenarios, policy=RiskPolicy()).scenarios) < best, (name, verdict)


def test_a_first_release_with_all_gates_passed_needs_the_risk_officer(evidence):
    evidence["serving"]["rollback_available"] = False
    found = assess(evidence, scenarios=load_scenarios(), policy=RiskPolicy())
    assert (found.verdict, found.band) == (Verdict.PASS, "Medium")


def test_evidence_of_every_path_earns_every_point():
    documents: dict = {}
    for scenario in load_scenarios():
        for dimension in DIMENSIONS:
            for rule in getattr(scenario.maturity, dimension):
                put(documents, rule.evidence.split("."), satisfying(rule))
    found = assess(documents, scenarios=load_scenarios(), policy=RiskPolicy())
    assert [finding for risk in found.scenarios for finding in risk.findings if not finding.held] == []
    assert all(risk.maturity >= 5 for risk in found.scenarios)


def put(inner: dict, keys: list[str], value: object) -> None:
    if "*" in keys:
        inner.setdefault(keys[0], {})[keys[1]] = [{keys[3]: value}]
        return
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    inner[keys[-1]] = value


def satisfying(rule: Rule) -> object:
    if rule.present:
        return "Public-External" if rule.evidence == "hand_off.data_class" else "x"
    return next(value for value in (rule.equals, rule.at_least, rule.at_most) if value is not None)


def test_a_scenario_that_cannot_happen_decides_nothing_and_says_why(evidence):
    injection = next(one for one in load_scenarios() if one.id == "R03")
    found = assess(evidence, scenarios=load_scenarios(), policy=RiskPolicy(highest_by_scenario={"R03": 1}))
    (row,) = [one for one in found.to_dict()["scenarios"] if "not_applicable_because" in one]
    assert (row["id"], found.verdict) == ("R03", Verdict.PASS)
    assert (
        row["not_applicable_because"][0]
        == "every input is an array of numbers, in which no order can hide (hand_off.model.inputs.*.dtype: float32)"
    )
    # and it applies as soon as one input is none, or nothing is known of them
    texts = copy.deepcopy(evidence)
    texts["hand_off"]["model"]["inputs"].append({"name": "prompt", "dtype": "string"})
    del evidence["hand_off"]["model"]
    for documents in (texts, evidence):
        applying = assess(documents, scenarios=[injection], policy=RiskPolicy(highest_by_scenario={"R03": 1}))
        assert (applying.verdict, applying.scenarios[0].not_applicable_because) == (Verdict.FAIL, ())


def test_a_release_that_nothing_can_happen_to_cannot_be_told(evidence):
    injection = next(one for one in load_scenarios() if one.id == "R03")
    found = assess(evidence, scenarios=[injection], policy=RiskPolicy())
    assert (found.verdict, found.overall) == (Verdict.CANNOT_TELL, found.scenarios[0].residual)


def test_every_scenario_names_subcategories_of_the_framework():
    refs = {row.nist_ref for row in fill({}).rows}
    assert [(one.id, set(one.nist) - refs) for one in load_scenarios() if not one.nist or set(one.nist) - refs] == []


def test_a_policy_maximum_fails_the_release_without_asking_anybody():
    made, held = scenario(5, 5, 8)
    found = assess(held, scenarios=[made], policy=RiskPolicy(highest_residual=8))
    assert found.verdict is Verdict.FAIL
    assert "at most 8" in found.reasons[0]
    assert assess(held, scenarios=[made], policy=RiskPolicy(highest_by_scenario={"R99": 8})).verdict is Verdict.FAIL
    assert assess(held, scenarios=[made], policy=RiskPolicy(highest_by_scenario={"R98": 1})).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("rule", "value", "held"),
    [
        ({"is": "pass"}, "pass", True),
        ({"is": "pass"}, "cannot tell", False),
        ({"is": True}, True, True),
        ({"is": True}, 1, False),
        ({"is": 1}, True, False),
        ({"is": True}, "true", False),
        ({"at_least": 8}, 8, True),
        ({"at_least": 8}, 7.9, False),
        ({"at_least": 8}, float("nan"), False),
        ({"at_least": 8}, float("inf"), False),
        ({"at_least": 0}, True, False),
        ({"at_least": 8}, "9", False),
        ({"at_most": 300}, 30, True),
        ({"at_most": 300}, 301, False),
        ({"at_most": 300}, MISSING, False),
        ({"present": True}, "abc", True),
        ({"present": True}, "", False),
        ({"present": True}, "none", False),
        ({"present": True}, {}, False),
        ({"present": True}, MISSING, False),
        ({"present": True}, ["a", ""], False),
        ({"each_of": ["a", "b"]}, ["b", "a"], True),
        ({"each_of": ["a", "b"]}, ["a", "c"], False),
        ({"each_of": ["a", "b"]}, [], False),
        ({"each_of": ["a", "b"]}, "a", False),
        ({"each_of": ["a", "b"]}, MISSING, False),
    ],
)
def test_a_rule_holds_only_for_the_right_value_of_the_right_type(rule, value, held):
    assert Rule.model_validate({"evidence": "a.b", "because": "long enough", **rule}).holds(value) is held


@pytest.mark.parametrize("tests", [{}, {"is": "pass", "present": True}, {"at_least": 1, "at_most": 2}])
def test_a_rule_gives_exactly_one_test(tests):
    with pytest.raises(ValidationError, match="exactly one"):
        Rule.model_validate({"evidence": "a.b", "because": "long enough", **tests})


def test_looking_up_climbs_no_further_than_the_documents():
    assert look_up({"a": {"b": None}}, "a.b") is MISSING
    assert look_up({"a": "text"}, "a.upper") is MISSING
    assert look_up({"a": {"b": {"c": 3}}}, "a.b.c") == 3
    rows = {"a": {"rows": [{"n": 1}, {"n": 2}]}}
    assert look_up(rows, "a.rows.*.n") == [1, 2]
    assert look_up({"a": {"rows": [{"n": 1}, {}]}}, "a.rows.*.n") is MISSING
    assert look_up({"a": {"rows": []}}, "a.rows.*.n") is look_up({"a": {"rows": "text"}}, "a.rows.*") is MISSING


def test_the_shipped_scenarios_cover_what_the_lab_asks_for():
    ids = {one.id for one in load_scenarios()}
    assert {f"R{number:02}" for number in range(1, 13)} | {f"F{number:02}" for number in range(1, 8)} <= ids


def test_the_shipped_files_follow_the_published_schema_and_the_schema_is_the_models():
    import yaml

    schema = json.loads((SHIPPED / "scenario.schema.json").read_text())
    for path in SHIPPED.glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    model = Scenario.model_json_schema(by_alias=True)
    assert {key: schema[key] for key in model} == model


def test_adding_a_scenario_needs_no_code(tmp_path: Path):
    text = (SHIPPED / "F01-drift.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("id: F01", "id: F77").replace("impact: 3", "impact: 5"))
    (one,) = load_scenarios(tmp_path)
    assert (one.id, one.impact) == ("F77", 5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("impact: 3", "impact: 6"), "impact"),
        (("id: F01", "id: [F01]"), "id"),
        (("format: firstlight/risk-scenario/v1", "format: v2"), "format"),
        (("expectancy: 5", "expectancy: 5\nmaturity_override: 8"), "maturity_override"),
        (("impact: 3", "impact: &a 3\nother: *a"), "alias"),
        (("impact: 3", "impact: 3\nimpact: 1"), "twice"),
        (("impact: 3", "impact: !!python/object/apply:os.system [true]"), "plain YAML"),
        (("id: F01", "id: F01\n\t- broken"), "plain YAML"),
    ],
)
def test_a_bad_scenario_file_is_one_sentence_naming_it(tmp_path: Path, change, says):
    (tmp_path / "bad.yaml").write_text((SHIPPED / "F01-drift.yaml").read_text().replace(*change))
    with pytest.raises(ScenarioError, match=says) as caught:
        load_scenarios(tmp_path)
    assert "bad.yaml" in str(caught.value)


def test_two_files_with_one_id_and_an_empty_folder_are_refused(tmp_path: Path):
    with pytest.raises(ScenarioError, match="at least one"):
        load_scenarios(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text((SHIPPED / "F01-drift.yaml").read_text())
    with pytest.raises(ScenarioError, match="two files"):
        load_scenarios(tmp_path)


def test_bands_with_a_gap_or_nobody_to_ask_are_no_policy():
    with pytest.raises(ValidationError, match="without gap"):
        RiskPolicy(bands=(Band(name="all", low=1, high=24, approvers={"cto": 1}),))
    with pytest.raises(ValidationError, match="at least one person"):
        Band(name="free", low=1, high=25, approvers={"cto": 0})
    with pytest.raises(ValidationError):
        Band(name="free", low=1, high=25, approvers={})


def test_a_policy_file_gives_its_risk_section_or_names_what_is_wrong():
    assert parse_risk_policy(b"data: {rows: 3}\nrisk: {validity_days: 3}\n").validity_days == 3
    assert parse_risk_policy(b"data: {}\n") == RiskPolicy()
    with pytest.raises(PolicyError, match=r"risk\.validity_days"):
        parse_risk_policy(b"risk: {validity_days: 0}\n", "prod.yaml")
    with pytest.raises(PolicyError, match="not a regular expression"):
        parse_risk_policy(b"risk: {placeholder_names: ['(']}\n")


@pytest.mark.parametrize(
    "name",
    ["TODO", "todo: ask", "xxx", "XX XX", "Your Name", "[NAME]", "<name>", "{approver}", "anonymous", "Anonymous Coward", "admin", "Administrator", "test",
     "Test User", "n/a", "N.A.", "Ｔest", "ad\u200bmin", "TBD", "John Doe", "human_via_slack", "Human via Slack", "reviewer", "name", "Approver Name",
     "YYYY-MM-DD", "...", "???", "",
     "  ", "A", "12345", "root", "me", "foo", "None", "a" * 300],
)  # fmt: skip
def test_placeholder_names_are_nobody(name):
    assert RiskPolicy().is_placeholder(name)


@pytest.mark.parametrize(
    "name",
    ["Vera Rubin", "Li Wu", "Ó Súilleabháin", "Nguyễn Thị Minh", "王貞儀", "Test Pilotson", "Roman Root", "Mei Adminova", "Xander Xu"],
)
def test_real_names_are_people(name):
    assert not RiskPolicy().is_placeholder(name)


def test_the_assessment_travels_as_canonical_json(evidence):
    document = assess(evidence, scenarios=load_scenarios(), policy=RiskPolicy()).to_dict()
    assert list(document)[:3] == ["verdict", "summary", "reasons"]
    assert json.loads(canonical_json(document)) == document
