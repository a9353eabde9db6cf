"""Seventy-two rows by NIST's ids, answered by evidence or not at all."""

import copy
import hashlib
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from firstlight.digest import canonical_json
from governance.errors import RegisterError
from governance.evidence import evidence_names, evidence_path, read_evidence
from governance.register import ANSWERED, CONTRADICTED, NOTHING, fill, framework_of, load_framework
from governance.register.framework import SHIPPED

SUBCATEGORIES = {
    "GOVERN": (7, 3, 2, 3, 2, 2),
    "MAP": (6, 3, 5, 2, 2),
    "MEASURE": (3, 13, 3, 3),
    "MANAGE": (4, 4, 2, 3),
}
"""NIST AI 100-1, tables 1 to 4: subcategories of each category, in order."""


@pytest.fixture
def evidence(finished) -> dict[str, dict]:
    return {name: read_evidence(finished, name) for name in evidence_names(finished)}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for path in SHIPPED.glob("*.yaml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def row(register, ref):
    return next(one for one in register.rows if one.nist_ref == ref)


def test_the_framework_has_the_19_categories_and_72_subcategories_of_nist():
    wanted = [
        f"{function} {category}.{number}"
        for function, sizes in SUBCATEGORIES.items()
        for category, size in enumerate(sizes, start=1)
        for number in range(1, size + 1)
    ]
    found = fill({})
    assert [one.nist_ref for one in found.rows] == wanted
    assert (len(wanted), len({one.category for one in found.rows}), found.framework) == (72, 19, "NIST AI RMF 1.0")
    assert {function: sum(sizes) for function, sizes in SUBCATEGORIES.items()} == {
        function: sum(states.values()) for function, states in found.counts["by_function"].items()
    }


def test_a_release_without_evidence_answers_nothing_and_each_row_says_so():
    found = fill({})
    assert {one.state for one in found.rows} == {NOTHING}
    assert all(answer.found == "missing" and answer.sha256 is None for one in found.rows for answer in one.answers)
    assert all(one.note or one.answers for one in found.rows)
    assert found.summary.startswith("0 of 72 subcategories")


def test_an_answer_names_the_document_it_was_found_in_by_the_digest_of_its_file(finished, evidence):
    bias = row(fill(evidence), "MEASURE 2.11")
    assert (bias.state, bias.answers[0].found, bias.answers[0].held) == (ANSWERED, "pass", True)
    assert bias.answers[0].sha256 == hashlib.sha256(evidence_path(finished, "bias").read_bytes()).hexdigest()
    assert bias.scenarios == ("F02",)


def test_evidence_that_says_otherwise_contradicts_and_cannot_tell_is_no_evidence(evidence):
    evidence["bias"]["verdict"] = "fail"
    evidence["golden"]["verdict"] = "cannot tell"
    evidence["hand_off"]["not_for"] = ""
    found = fill(evidence)
    assert row(found, "MEASURE 2.11").state == CONTRADICTED
    assert (row(found, "MEASURE 2.5").state, row(found, "MAP 3.3").state) == (NOTHING, NOTHING)
    assert found.counts[CONTRADICTED] == 1


def test_no_row_is_answered_by_part_of_its_evidence(evidence):
    for ref in [one.nist_ref for one in fill(evidence).rows if one.state == ANSWERED]:
        for answer in row(fill(evidence), ref).answers:
            less = copy.deepcopy(evidence)
            document, *_ = answer.evidence.split(".")
            del less[document]
            assert row(fill(less), ref).state == NOTHING, (ref, answer.evidence)


def test_the_register_travels_as_canonical_json_and_is_filled_again_from_what_it_holds(evidence):
    document = fill(evidence).to_dict()
    stored = json.loads(canonical_json(document))
    assert stored == document
    again = fill({**evidence, "register": stored, "later": {"verdict": "pass"}}, framework=framework_of(stored))
    assert again.to_dict() == document
    stored["definition"]["functions"] = []
    with pytest.raises(RegisterError, match="definition"):
        framework_of(stored)


def test_the_labels_of_the_lab_are_aliases_and_say_where_they_disagree():
    found = fill({})
    labels = load_framework().labels.labels
    assert [label.lab_ref for label in labels] == [f"AI.{number}" for number in range(1, 20)]
    assert (row(found, "GOVERN 4.1").lab_refs, row(found, "MAP 1.1").lab_refs, row(found, "MANAGE 4.3").lab_refs) == (
        ("AI.4",),
        ("AI.5",),
        ("AI.19",),
    )
    assert (row(found, "GOVERN 5.1").lab_refs, row(found, "GOVERN 6.1").lab_refs) == ((), ())
    differing = {one["lab_ref"] or one["nist_ref"] for one in found.disagreements}
    assert (differing, found.lab_labels_version) == ({"AI.14", "AI.15", "GOVERN 5", "GOVERN 6"}, 1)


def test_the_files_follow_the_published_schemas():
    function = json.loads((SHIPPED / "function.schema.json").read_text())
    labels = json.loads((SHIPPED / "lab-labels.schema.json").read_text())
    for path in SHIPPED.glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), labels if path.name.startswith("lab-") else function)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("nist-ai-rmf-1.0-map.yaml", ("id: MAP 1.2", "id: MAP 1.3"), "numbered"),
        ("nist-ai-rmf-1.0-map.yaml", ("owner: board", "owner: somebody"), "owner"),
        ("nist-ai-rmf-1.0-map.yaml", ("hand_off.purpose, present: true", "hand_off.purpose, present: true, is: x"), "exactly one"),
        (
            "nist-ai-rmf-1.0-govern.yaml",
            ("note: Training of people is recorded by the lab, not by a release.", "evidence: []"),
            "say in a note",
        ),
        ("nist-ai-rmf-1.0-govern.yaml", ("framework: NIST AI RMF 1.0", "framework: NIST AI RMF 2.0"), "one framework"),
        ("lab-labels-v1.yaml", ("nist_ref: MAP 5}", "nist_ref: MAP 4}"), "cover exactly"),
        ("lab-labels-v1.yaml", ("position: 5, nist_ref: MAP 5", "position: 5"), "say how the numberings disagree"),
    ],
)
def test_a_bad_framework_file_is_one_sentence(files, file, change, says):
    text = (files / file).read_text()
    assert change[0] in text
    (files / file).write_text(text.replace(*change, 1))
    with pytest.raises(RegisterError, match=says):
        load_framework(files)
