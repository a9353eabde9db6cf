"""handoff.yaml is plain and means something, or is refused in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.meaning import is_placeholder
from models.strict_yaml import parse_yaml
from tests.models.breaking import rewrite, words


class TestTheDocument:
    def test_a_yaml_bomb_is_refused_unexploded(self, broken: Path) -> None:
        levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 30)]
        (broken / "handoff.yaml").write_text("\n".join(["a0: &a0 [x, x]", *levels]))
        assert "anchor or alias (write the value out) in line 1" in words(broken)

    def test_an_oversize_document_is_refused(self, broken: Path) -> None:
        (broken / "handoff.yaml").write_bytes(b"a: " + b"x" * 300_000)
        assert "at most 262144 bytes" in words(broken)

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("a: !!python/object/apply:os.system [id]", "tag"),
            ("a: !!binary aGk=", "tag"),
            ("a: 1\na: 2", "given twice"),
            ("1: a", "key must be text"),
            ("a: .nan", "NaN"),
            ("a: -.inf", "infinite"),
            ("a: [" * 40, "levels"),
            ("a: \x01", "control"),
            ("<<: {a: 1}\nb: [", "plain YAML"),
            ("a: 1\n---\nb: 2", "document"),
            ("\ttab", "plain YAML"),
        ],
    )
    def test_yaml_that_says_more_than_json_is_refused(self, broken: Path, text: str, found: str) -> None:
        (broken / "handoff.yaml").write_text(text)
        assert found in words(broken)

    def test_bytes_that_are_no_text_are_refused(self, broken: Path) -> None:
        (broken / "handoff.yaml").write_bytes(b"\xff\xfe\x00")
        assert "UTF-8" in words(broken)

    @pytest.mark.parametrize("text", ["", "[]", "hello", "null", "3"])
    def test_a_document_of_another_kind_is_refused(self, broken: Path, text: str) -> None:
        (broken / "handoff.yaml").write_text(text)
        assert "handoff.yaml" in words(broken)

    def test_numbers_are_read_as_people_write_them(self) -> None:
        assert parse_yaml(b"[1e-4, 1E5, -3, 0.5, no, yes, 2026-01-01, 0123, 1_000]", where="x") == [
            1e-4,
            1e5,
            -3,
            0.5,
            "no",
            "yes",
            "2026-01-01",
            "0123",
            "1_000",
        ]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_a_metric_that_is_no_number_is_refused(self, broken: Path, value: float) -> None:
        rewrite(broken, lambda content: content["metrics"].update(loss=value))
        assert "NaN or infinite" in words(broken)

    @pytest.mark.parametrize("name", ["TODO", "todo: name", "xxx", "Anonymous", "n/a", "John Doe", "test", "?", "aaaa", "Your Name", "123"])
    def test_a_trainer_who_is_nobody_is_refused(self, broken: Path, name: str) -> None:
        rewrite(broken, lambda value: value["trainer"].update(name=name))
        assert "trainer.name" in words(broken)

    @pytest.mark.parametrize("name", ["Vera Rubin", "Bo Li", "Ana Todorova", "Nobuyuki Xu", "李明", "Jörg Müller-Test", "O'Neil"])
    def test_a_real_name_is_none_of_that(self, name: str) -> None:
        assert not is_placeholder(name)

    def test_a_placeholder_address_and_purpose_are_refused(self, broken: Path) -> None:
        rewrite(broken, lambda value: (value["trainer"].update(email="todo@lab.org"), value.update(purpose="TODO", not_for="tbd")))
        found = words(broken)
        assert "trainer.email" in found
        assert "purpose" in found
        assert "not_for" in found

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (lambda model: model["classes"].append("third"), "one column for each of the 3 classes"),
            (lambda model: model["classes"].__setitem__(1, "calm"), "found ['calm'] twice"),
            (lambda model: model["roles"].update(chi2="speed"), "must be one of the outputs"),
            (lambda model: model["roles"].update(score="embedding"), "one number per row"),
            (lambda model: model["roles"].update(reconstruction="embedding"), "shape of an input"),
            (lambda model: model["roles"].pop("score"), "needs an output in the role score"),
            (lambda model: model["roles"].pop("class_probabilities"), "need an output in the role class_probabilities"),
            (lambda model: model["outputs"].append(dict(model["outputs"][1], name="score")), "found ['score'] twice"),
        ],
    )
    def test_a_form_that_contradicts_itself_is_refused(self, broken: Path, change: Callable[[Any], object], found: str) -> None:
        rewrite(broken, lambda value: change(value["model"]))
        assert found in words(broken)

    def test_a_moment_that_never_was_is_refused(self, broken: Path) -> None:
        rewrite(broken, lambda value: value.update(created="2026-02-30T00:00:00Z"))
        assert "must be a moment" in words(broken)
