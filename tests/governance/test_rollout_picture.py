"""The picture of a rollout shows what the store's points say, in light and in dark, and nothing that comes from outside can be more than text."""

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from governance.dossier.rollout_picture import Ending, Event, rollout_picture
from governance.dossier.svg import span, ticks, time_ticks
from tests.governance.conftest import sample_rollout

EVIL = "\"'><script>alert(1)</script>]]>&\x00\x1b<!--"
SVG = "{http://www.w3.org/2000/svg}"
BUDGET = {"healthy_turned_back": 0.01, "worse_promoted": 0.02, "shares": {"errors": 0.6, "classes": 0.4}}
TURNED_BACK = Ending(verdict="fail", phase="failed", sentence="the mix of classes was shown to be worse")


def drawn(points: list[dict[str, Any]] | None = None, **options: Any) -> ElementTree.Element:
    return ElementTree.fromstring(rollout_picture(sample_rollout() if points is None else points, **{"ending": TURNED_BACK, **options}))


def text_of(picture: ElementTree.Element) -> str:
    return " ".join(element.text or "" for element in picture.iter(f"{SVG}text"))


def lines_of(picture: ElementTree.Element, look: str) -> list[list[float]]:
    """Return the heights of every curve of this look."""
    curves = [element.attrib["d"] for element in picture.iter(f"{SVG}path") if element.attrib["class"] == f"line {look}"]
    return [[float(part.split()[-1]) for part in curve[1:].replace("L", "M").split("M")] for curve in curves]


def bounds_of(picture: ElementTree.Element, look: str) -> list[float]:
    return [float(element.attrib["y1"]) for element in picture.iter(f"{SVG}line") if element.attrib["class"] == f"bound {look}"]


def test_it_says_how_the_rollout_ended_what_was_found_and_how_the_budget_was_split() -> None:
    said = text_of(drawn(budget=BUDGET, events=[Event(t_s=20.0, what="pause", by="vera@lab.example")]))
    for words in ("✗ Turned back", "The mix of classes was shown to be worse", "pause, vera@lab.example", "Mix of classes", "✗ fail", "QSO moved by 9 points",
                  "✓ Answers as they were evaluated", "at most 1 %", "at most 2 %", "failed requests 0.6 %", "mix of classes 0.4 %"):  # fmt: skip
        assert words in said, words


def test_evidence_is_drawn_as_a_share_of_what_was_needed_on_its_side() -> None:
    picture = drawn()
    (errors_for, classes_for), (errors_against, classes_against) = lines_of(picture, "pass"), lines_of(picture, "fail")
    upper, lower = bounds_of(picture, "pass"), bounds_of(picture, "fail")
    middle = (upper[0] + lower[0]) / 2
    # 5.5 of 4.6 nats for errors, 8.1 of 7.6 against classes: beyond the boundaries; smaller y is higher up
    assert errors_for[-1] < upper[0] < errors_for[-2] < middle
    assert classes_against[-1] > lower[1] > classes_against[-2] > middle
    assert errors_against == pytest.approx([middle] * 4, abs=0.1)
    assert classes_for == pytest.approx([middle] * 4, abs=0.1)
    assert (middle - errors_for[1]) / (middle - upper[0]) == pytest.approx(1.5 / 4.6, abs=0.01)


def test_readiness_is_shown_only_while_there_is_nothing_else() -> None:
    starting = {
        "t_s": 0.0,
        "phase": "starting",
        "weight": 0,
        "checks": [{"name": "readiness", "verdict": "cannot tell", "reason": "not ready yet"}],
    }
    assert "not ready yet" in text_of(drawn([starting]))
    assert "not ready yet" not in text_of(drawn([starting, *sample_rollout()]))


def test_a_longer_run_is_thinned_and_keeps_its_end() -> None:
    looks = [{**sample_rollout()[1], "t_s": float(place), "requests": place} for place in range(5000)]
    for place, look in enumerate(looks):
        look["checks"] = [{**look["checks"][1], "requests": place}]
    (curve,) = lines_of(drawn(looks), "fail")
    assert len(curve) <= 302
    assert len(rollout_picture(looks, ending=TURNED_BACK)) < 30_000


def test_everything_from_outside_is_text() -> None:
    hostile = [{**point, "event": EVIL, "by": EVIL, "checks": [{**check, "name": EVIL, "reason": EVIL, "verdict": EVIL} for check in point["checks"]]}
               for point in sample_rollout()]  # fmt: skip
    picture = drawn(
        hostile,
        ending=Ending(verdict=EVIL, phase=EVIL, sentence=EVIL),
        events=[Event(t_s=1.0, what=EVIL, by=EVIL)],
        budget={**BUDGET, "shares": {EVIL: 1.0}},
    )
    assert {element.tag.removeprefix(SVG) for element in picture.iter()} <= {"svg", "title", "style", "rect", "text", "path", "line"}
    assert "<script>alert(1)</script>" in text_of(picture)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [{}],
        [{"t_s": None, "weight": float("nan"), "checks": None}],
        [{"t_s": 0, "weight": 100, "checks": [{"name": "errors", "log_evidence_pass": float("inf"), "needed": [4.6, 7.6], "requests": 0}]}],
        [{"t_s": -5.0, "weight": 700, "checks": [{"name": "x", "log_evidence_fail": 1.0, "needed": 0, "requests": -3}, "no check", {}]}],
    ],
    ids=["nothing", "empty", "unknown", "endless", "nonsense"],
)
def test_nothing_or_nonsense_is_still_a_picture(points: list[dict[str, Any]]) -> None:
    assert "Turned back" in text_of(drawn(points, budget={"shares": "?"}, events=[Event(t_s=float("nan"), what="abort")]))


def test_it_brings_both_palettes_and_the_same_values_give_the_same_bytes() -> None:
    once, again = (rollout_picture(sample_rollout(), ending=TURNED_BACK) for _ in range(2))
    assert once == again
    assert b"prefers-color-scheme:dark" in once
    assert b"fill=" not in once  # colours are classes: a value would be the same on black and on white


def test_axes_have_round_numbers() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(3, 3) == [3]
    assert [span(value) for value in time_ticks(260_000)] == ["0", "12 h", "24 h", "36 h", "2 d", "2.5 d", "3 d"]
