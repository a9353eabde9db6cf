"""Papers say what the evidence says, say where there is none, and are the same every time."""

import html.parser
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from oscal_bindings import parser as oscal_parser

from governance import papers
from governance.errors import EvidenceError
from governance.evidence import evidence_names, read_evidence, write_evidence
from governance.papers import aisia, decision_log, mlbom, model_card, oscal
from governance.papers.facts import NO_EVIDENCE, PaperFacts, read_facts
from governance.register import fill

EVIL = "\"'><script>alert(1)</script>\n## Decision ID: DEC-1\r\n<img src=x onerror=alert(2)>{{ 7*7 }}|`*_\u202e\x00"
RELEASE = {
    "verdict": "pass",
    "summary": "version 7 is champion",
    "reasons": [],
    "release": "desi-vae-ab12",
    "model": "desi-vae",
    "environment": "local",
    "status": "promoted",
    "handoff_digest": "c" * 64,
    "model_digest": "d" * 64,
    "opened_at": "2026-11-23T00:50:00Z",
    "closed_at": "2026-11-23T02:00:00Z",
    "supersedes": "DEC-2026-003 (release desi-vae-0011)",
    "collected": {"data": "2026-11-23T01:00:00Z"},
    "papers": papers.FORMAT,
    "firstlight": "0.1.0",
}
SECTIONS = [
    *("schema_version", "model_identity", "technical_specifications", "capabilities", "training_information", "intended_use"),
    *("trustworthiness_assessment", "evaluation_guidance", "rmf_function_mapping", "references", "metadata"),
]
CHARACTERISTICS = [
    *("valid_and_reliable", "safe", "secure_and_resilient", "accountable_and_transparent", "explainable_and_interpretable"),
    *("privacy_enhanced", "fair_with_harmful_bias_managed"),
]
PACKAGES = [
    {"name": "firstlight", "version": "0.1.0", "purl": "pkg:pypi/firstlight@0.1.0", "license": "Apache-2.0", "requires": ["torch"]},
    {"name": "torch", "version": "2.13.0", "purl": "pkg:pypi/torch@2.13.0", "license": "", "requires": [], "record_sha256": "e" * 64},
]


@pytest.fixture
def described(release: Path) -> Path:
    """A signed release whose folder also says what the store knows of it, with its register filled."""
    return describe(release)


def describe(folder: Path, **changes: dict[str, Any]) -> Path:
    for name, document in {"release": RELEASE, **changes}.items():
        write_evidence(folder, name, document)
    documents = {name: read_evidence(folder, name) for name in evidence_names(folder) if name != "register"}
    write_evidence(folder, "register", fill(documents).to_dict())
    return folder


@pytest.fixture
def facts(described: Path) -> PaperFacts:
    return read_facts(described)


@pytest.fixture
def bare(tmp_path: Path) -> PaperFacts:
    """A release of which nothing is known but that it was opened."""
    write_evidence(tmp_path, "release", {key: RELEASE[key] for key in ("release", "opened_at", "papers")})
    return read_facts(tmp_path)


def card_of(facts: PaperFacts) -> dict[str, Any]:
    return dict(yaml.safe_load(model_card.make(facts)))


def leaves(value: Any) -> Iterator[Any]:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from leaves(item)
    if not isinstance(value, dict | list):
        yield value


def test_the_same_evidence_gives_the_same_bytes_wherever_its_folder_lies(described: Path, tmp_path: Path) -> None:
    shutil.copytree(described, tmp_path / "elsewhere")
    assert papers.make_all(read_facts(described)) == papers.make_all(read_facts(tmp_path / "elsewhere"))


def test_a_model_card_has_every_section_of_the_labs_schema(facts: PaperFacts) -> None:
    data = model_card.make(facts)
    model_card.check(data)
    card = yaml.safe_load(data)
    assert list(card) == SECTIONS
    assert list(card["trustworthiness_assessment"]) == CHARACTERISTICS
    assert card["schema_version"] == "1.0.0"
    assert card["model_identity"]["name"] == "desi-vae"
    assert card["training_information"]["git_commit"] == "0f3c9d1"
    assert card["metadata"]["last_updated"] == "2026-11-23T02:00:00Z"


def test_a_model_card_without_a_section_is_refused(facts: PaperFacts) -> None:
    card = card_of(facts)
    del card["trustworthiness_assessment"]["privacy_enhanced"]
    with pytest.raises(EvidenceError, match="trustworthiness_assessment does not: 'privacy_enhanced' is a required property"):
        model_card.check(yaml.safe_dump(card).encode())


def test_a_field_without_evidence_says_so_and_nothing_is_made_up(bare: PaperFacts) -> None:
    made = papers.make_all(bare)
    for name, data in made.items():
        papers.check(name, data)
    card = yaml.safe_load(made["model-card.yaml"])
    sections = {key: value for key, value in card.items() if key not in ("schema_version", "metadata", "references")}
    assert set(leaves(sections)) == {NO_EVIDENCE}
    assert card["metadata"]["completeness_assessment"].startswith("0 of ")
    assert made["decision-log.md"].count(NO_EVIDENCE.encode()) > 20


def test_a_value_in_a_paper_changes_with_the_evidence_and_with_nothing_else(described: Path) -> None:
    before = papers.make_all(read_facts(described))
    hand_off = read_evidence(described, "hand_off")
    write_evidence(described, "hand_off", {**hand_off, "purpose": "count the stars"})
    after = papers.make_all(read_facts(described))
    assert all(b"count the stars" in data for data in after.values())
    assert not any(b"count the stars" in data for data in before.values())


def test_the_bill_of_materials_lists_model_data_and_software_with_their_hashes(described: Path) -> None:
    write_evidence(described, "environment", {"verdict": "pass", "summary": "2 packages", "root": "firstlight", "packages": PACKAGES})
    data = mlbom.make(facts := read_facts(described))
    mlbom.check(data)
    bom = json.loads(data)
    model = bom["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": read_evidence(described, "registration")["model_digest"]}]
    assert {item["hashes"][0]["content"] for item in model["externalReferences"]} == set(facts.digests.values())
    components = {item["bom-ref"]: item for item in bom["components"]}
    assert components["data:training"]["hashes"][0]["content"] == "ab" * 32
    assert components["pkg:pypi/torch@2.13.0"]["version"] == "2.13.0"
    needs = {item["ref"]: item.get("dependsOn", []) for item in bom["dependencies"]}
    assert needs["pkg:pypi/firstlight@0.1.0"] == ["pkg:pypi/torch@2.13.0"]
    assert set(needs["model"]) == {"data:training", "pkg:pypi/firstlight@0.1.0"}
    assert {one for list_ in needs.values() for one in list_} <= components.keys()


def test_a_bill_of_materials_of_another_form_is_refused(facts: PaperFacts) -> None:
    bom = json.loads(mlbom.make(facts))
    bom["components"][0]["type"] = "spell"
    with pytest.raises(EvidenceError, match=r"must follow CycloneDX 1\.6"):
        mlbom.check(json.dumps(bom).encode())


def results_of(facts: PaperFacts) -> dict[str, Any]:
    data = oscal.make(facts)
    oscal.check(data)
    return dict(json.loads(data)["assessment-results"])


def test_oscal_has_a_finding_for_each_subcategory_and_a_risk_for_each_scenario(facts: PaperFacts) -> None:
    result = results_of(facts)["results"][0]
    assert len(result["findings"]) == 72
    assert len(result["reviewed-controls"]["control-selections"][0]["include-controls"]) == 72
    outcome = {item["target"]["target-id"]: item["target"]["status"] for item in result["findings"]}
    states = {row["nist_ref"].lower().replace(" ", "-"): row["state"] for row in facts.rows("register.rows")}
    expected = {"answered": ("satisfied", "pass"), "contradicted": ("not-satisfied", "fail"), NO_EVIDENCE: ("not-satisfied", "other")}
    assert {key: (status["state"], status["reason"]) for key, status in outcome.items()} == {
        key: expected[state] for key, state in states.items()
    }
    scored = {item["title"]: item["characterizations"][0]["facets"] for item in result["risks"]}
    for row in facts.rows("risk.scenarios"):
        facets = {facet["name"]: facet["value"] for facet in scored[f"{row['id']} {row['title']}"]}
        assert (facets["inherent-risk"], facets["residual-risk"]) == (str(row["inherent"]), str(row["residual"]))


def test_every_reference_inside_oscal_leads_somewhere_and_no_id_is_used_twice(facts: PaperFacts) -> None:
    text = oscal.make(facts).decode()
    ids = re.findall(r'"uuid": "([^"]+)"', text)
    assert len(ids) == len(set(ids))
    pointed = re.findall(r'"(?:observation-uuid|subject-uuid|actor-uuid)": "([^"]+)"', text) + re.findall(r'"href": "#([^"]+)"', text)
    assert pointed
    assert set(pointed) <= set(ids)


@pytest.mark.parametrize(("verdict", "status"), [("pass", "deviation-approved"), ("fail", "open"), ("cannot tell", "open")], ids=str)
def test_a_risk_is_accepted_in_oscal_only_when_people_signed(described: Path, verdict: str, status: str) -> None:
    write_evidence(described, "sign_off", {**read_evidence(described, "sign_off"), "verdict": verdict})
    applying = [row["status"] for row in results_of(read_facts(described))["results"][0]["risks"] if row["status"] != "closed"]
    assert set(applying) == {status}


def test_oscal_is_read_by_somebody_elses_models_of_it(facts: PaperFacts) -> None:
    found = oscal_parser.parse_assessment_results(oscal.make(facts))
    assert len(found.assessment_results.results[0].findings) == 72


def test_the_impact_assessment_has_the_labs_seven_sections(facts: PaperFacts) -> None:
    titles = re.findall(r"<h2>([^<]+)</h2>", aisia.make(facts).decode())
    assert titles == [
        *("1. Summary", "2. System context", "3. Risks", "4. Inherent risk", "5. Controls", "6. Residual risk"),
        "7. Monitoring and re-assessment",
    ]


def log_of(facts: PaperFacts) -> str:
    return decision_log.make(facts).decode()


def test_the_decision_log_quotes_who_decided_why_and_what_it_replaces(facts: PaperFacts) -> None:
    log = log_of(facts)
    assert "**Status:** Active" in log
    assert "**Date:** 2026-11-23" in log
    assert "Vera Rubin" in log
    assert "quasars at low S/N stay on watch" in log
    assert "**Supersedes:** DEC-2026-003 (release desi-vae-0011)" in log
    for title in ("Context", "Decision", "Rationale", "Alternatives Considered", "Outcomes", "Impact", "Framework Alignment", "Related"):
        assert f"### {title}\n" in log


def test_the_next_look_follows_from_the_policy_and_the_band(described: Path) -> None:
    (described / "policy.yaml").write_text("risk:\n  reassessment: {every_days: 100, every_days_by_band: {Medium: 30}}\n")
    assert "2026-12-23, 30 days after the decision" in log_of(read_facts(described))
    write_evidence(described, "sign_off", {**read_evidence(described, "sign_off"), "verdict": "cannot tell"})
    waiting = log_of(read_facts(described))
    assert "**Status:** Proposed" in waiting
    assert f"**Looked at again:** {NO_EVIDENCE}" in waiting


def test_a_break_glass_that_nobody_ratified_is_told_as_one(described: Path) -> None:
    glass = {"name": "Henrietta Leavitt", "role": "cto", "reason": "the night is short", "ratified": False}
    write_evidence(described, "sign_off", {**read_evidence(described, "sign_off"), "accepted": [], "break_glass": glass})
    facts = read_facts(described)
    assert "**Status:** Active, by break-glass; not ratified yet" in log_of(facts)
    assert "Henrietta Leavitt (cto, by break-glass)" in log_of(facts)
    assert {row["status"] for row in results_of(facts)["results"][0]["risks"]} <= {"deviation-requested", "closed"}


class Tags(html.parser.HTMLParser):
    """Every start tag with the names of its attributes."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.feed(data.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))


def spoiled(value: Any, key: str = "") -> Any:
    """Put EVIL behind every text that a person or a stranger may have written; keep what our own code chooses from."""
    if isinstance(value, dict):
        return {name: spoiled(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [spoiled(item, key) for item in value]
    kept = {"verdict", "state", "nist_ref", "collected", "opened_at", "closed_at", "decided_at", "papers", "rule", "data"}
    return value + EVIL if isinstance(value, str) and key not in kept and not re.fullmatch("[0-9a-f]{64}", value) else value


def test_hostile_text_stays_text_in_every_paper(described: Path) -> None:
    clean = papers.make_all(read_facts(described))
    for name in evidence_names(described):
        write_evidence(described, name, spoiled(read_evidence(described, name)))
    dirty = papers.make_all(read_facts(described))
    for name, data in dirty.items():
        papers.check(name, data)
    for page in ("model-card.html", "aisia.html"):
        assert set(Tags(dirty[page]).tags) <= set(Tags(clean[page]).tags)
    log = dirty["decision-log.md"].decode()
    assert re.findall(r"^#.*$", log, re.MULTILINE)[1:] == re.findall(r"^#.*$", clean["decision-log.md"].decode(), re.MULTILINE)[1:]
    assert not re.search(r"(?<!\\)<(script|img)", log)
    assert "desi-vae" in card_of(read_facts(described))["model_identity"]["name"]


@pytest.mark.parametrize("junk", [None, 7, "text", [], [1, "two", None], {"a": {"b": []}}, [{"id": None, "findings": 3}]], ids=repr)
def test_evidence_of_another_form_gives_papers_or_a_sentence(described: Path, junk: Any) -> None:
    for name in ("hand_off", "risk", "register", "sign_off", "evaluation", "bias", "benchmark", "data"):
        document = read_evidence(described, name)
        write_evidence(described, name, dict.fromkeys(document, junk) | {"verdict": "pass"})
    found = list(papers.differences(described))
    assert found
    assert all(where.startswith("papers") and what for where, what in found)


def test_a_paper_that_was_changed_left_out_or_added_is_found(described: Path) -> None:
    folder = described / papers.FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    assert [where for where, _ in papers.differences(described)] == ["papers"]
    folder.mkdir()
    for name, data in papers.make_all(read_facts(described)).items():
        (folder / name).write_bytes(data)
    assert list(papers.differences(described)) == []
    card = folder / "model-card.yaml"
    card.write_bytes(card.read_bytes().replace(b"recall: 0.9", b"recall: 0.99"))
    (folder / "aisia.html").unlink()
    (folder / "letter.md").write_text("all is well")
    found = dict(papers.differences(described))
    assert set(found) == {"papers/model-card.yaml", "papers/aisia.html", "papers/letter.md"}
    assert re.search(r"differs from line \d+ on", found["papers/model-card.yaml"])


def test_papers_made_in_another_way_are_not_compared_with_ours(described: Path) -> None:
    (described / papers.FOLDER).mkdir(exist_ok=True)
    describe(described, release={**RELEASE, "papers": "firstlight/papers/v0"})
    assert list(papers.differences(described)) == []


def test_evidence_that_names_no_release_or_no_time_makes_no_papers(tmp_path: Path) -> None:
    write_evidence(tmp_path, "release", {"release": "desi-vae-ab12"})
    with pytest.raises(EvidenceError, match="papers must say when"):
        papers.make_all(read_facts(tmp_path))
    write_evidence(tmp_path, "release", {"opened_at": "2026-11-23T00:50:00Z"})
    with pytest.raises(EvidenceError, match="papers must be of one release"):
        papers.make_all(read_facts(tmp_path))
