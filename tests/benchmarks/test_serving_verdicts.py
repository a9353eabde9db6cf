"""The verdicts of docs/benchmarks.md follow from the figures, and the page from the report that lies in benchmarks/results."""

import copy
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.serving import page, verdicts
from benchmarks.serving.chart import draw, speed
from benchmarks.serving.plan import point
from firstlight.verdict import Verdict

POINTS = ("binary 1x1", "binary 1x32", "binary 16x8", "json 1x1")
REPOSITORY = Path(__file__).parent.parent.parent

LIMITS = {"limit-eager": 1000.0, "limit-aot": 2000.0}
SPEEDS = {"ours-eager": 970.0, "gateway-eager": 900.0, "ours-aot": 1910.0, "gateway-aot": 1800.0, "litserve": 600.0, "kserve": 200.0}
P50 = {"limit-eager": 4.0, "ours-eager": 4.5, "gateway-eager": 4.7, "limit-aot": 1.0, "ours-aot": 1.9, "gateway-aot": 2.1}


def facts(name):
    kind = {"ours": "model", "gateway": "gateway"}.get(name.partition("-")[0], "peer")
    drain = {"requests": 6, "rows": 64, "answered": 6, "in_flight": 4, "seconds_to_end": 0.5, "processes_left": 0}
    return {
        "title": name,
        "kind": kind,
        "workers": 2,
        "backend": "aot" if name.endswith("aot") else "eager",
        "behind": None,
        "as_deployed": False,
        "note": "",
        "status": "measured",
        "startup_seconds": 3.0,
        "largest_difference": 0.0,
        "memory_start": {"pss_mb": 400, "rss_mb": 500, "processes": 3},
        "memory_after_load": {"pss_mb": 900, "rss_mb": 1000, "processes": 3},
        "drain": drain,
    }


def report():
    samples = [
        {
            "round": turn,
            "contender": name,
            "point": at,
            "rows_per_second": speed * (1 + 0.02 * (turn - 2)),
            "p50_ms": P50.get(name, 10.0),
            "p99_ms": 20.0,
            "answered": 50,
            "failed": {},
            "cpu_ms_per_row": 1.0,
            "client_cores": 0.1,
            "others_cores": 0.05,
        }
        for turn in (1, 2, 3)
        for at in POINTS
        for name, speed in {**LIMITS, **SPEEDS}.items()
        if not (at.startswith("json") and name.startswith(("limit", "gateway")))
    ]
    return {
        "date": "2026-11-23T00:00:00+00:00",
        "command": "python -m benchmarks.serving",
        "seconds": 60,
        "machine": {
            "processor": "p", "cores_used": 2, "memory_gib": 8, "system": "s", "python": "3.11", "torch": "2", "accelerator": None,
        },
        "model": {"name": "m", "digest": "d" * 64, "inputs": {"flux": [7781]}, "outputs": {"chi2": []}},
        "choice": {"chosen": "aot", "report": {}},
        "plan": {"points": list(POINTS), "rounds": 3, "seconds": 1.0, "long_seconds": 2.0, "repeats": 1},
        "left_out": {},
        "contenders": {name: facts(name) for name in SPEEDS},
        "samples": samples,
        "in_process": [{"backend": "eager", "workers": 1, "threads": 1, "batch": 1, "rows_per_second": 500.0, "p50_ms": 2.0, "others_cores": 0}],
        "gpu": {"status": "skipped", "reason": "there is none"},
    }  # fmt: skip


def outcome(document, words):
    found = [one for one in verdicts.verdicts(document) if words in one.target]
    assert len(found) == 1, [one.target for one in verdicts.verdicts(document)]
    return found[0]


def changed(document, name, at=None, turn=None, **values):
    for sample in document["samples"]:
        if sample["contender"] == name and at in (None, sample["point"]) and turn in (None, sample["round"]):
            sample.update(values)
    return document


def test_everything_is_met_when_every_figure_is():
    assert {one.verdict for one in verdicts.verdicts(report())} == {Verdict.PASS}


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("16 and more, eager: at least 0.95", {"name": "ours-eager", "at": "binary 16x8", "rows_per_second": 930.0}),
        ("16 and more, aot: at least 0.95", {"name": "ours-aot", "at": "binary 16x8", "rows_per_second": 1800.0}),
        ("behind no peer", {"name": "kserve", "at": "binary 16x8", "rows_per_second": 1100.0}),
        ("concurrency 32", {"name": "litserve", "at": "binary 1x32", "rows_per_second": 800.0}),
        ("alone, eager", {"name": "ours-eager", "at": "binary 1x1", "p50_ms": 5.2}),
        ("alone, aot", {"name": "ours-aot", "at": "binary 1x1", "p50_ms": 2.2}),
        ("at every point, binary", {"name": "litserve", "at": "binary 1x1", "rows_per_second": 1400.0}),
        ("at every point, JSON", {"name": "ours-aot", "at": "json 1x1", "rows_per_second": 800.0}),
        ("the gateway, eager: adds", {"name": "gateway-eager", "at": "binary 1x1", "p50_ms": 4.9}),
        ("the gateway, aot: keeps", {"name": "gateway-aot", "at": "binary 16x8", "rows_per_second": 1600.0}),
        ("answered 200", {"name": "ours-eager", "at": "binary 1x1", "failed": {"503": 1}}),
    ],
)
def test_one_figure_too_low_fails_its_target(words, change):
    assert outcome(report(), words).verdict is Verdict.PASS
    assert outcome(changed(report(), **change), words).verdict is Verdict.FAIL


def test_the_median_of_the_rounds_counts_not_one_bad_round():
    one = changed(report(), "ours-eager", "binary 16x8", 1, rows_per_second=500.0)
    assert outcome(one, "16 and more, eager: at least 0.95").verdict is Verdict.PASS
    two = changed(one, "ours-eager", "binary 16x8", 2, rows_per_second=500.0)
    assert outcome(two, "16 and more, eager: at least 0.95").verdict is Verdict.FAIL


def test_a_round_beside_another_load_is_left_out_and_only_such_rounds_tell_nothing():
    words = "16 and more, eager: at least 0.95"
    loud = changed(report(), "ours-eager", "binary 16x8", 1, rows_per_second=10.0, others_cores=1.0)
    assert outcome(loud, words).verdict is Verdict.PASS
    louder = changed(loud, "limit-eager", "binary 16x8", others_cores=1.0)
    found = outcome(louder, words)
    assert found.verdict is Verdict.CANNOT_TELL
    assert "another load" in found.found


def test_what_was_not_measured_cannot_be_told():
    document = report()
    document["samples"] = [sample for sample in document["samples"] if sample["contender"] not in ("litserve", "kserve")]
    for words in ("behind no peer", "concurrency 32", "at every point, binary"):
        assert outcome(document, words).verdict is Verdict.CANNOT_TELL
    document["samples"] = []
    document["contenders"] = {}
    assert {one.verdict for one in verdicts.verdicts(document)} == {Verdict.CANNOT_TELL}


def test_memory_is_judged_by_the_worker_and_drain_needs_requests_in_flight():
    document = report()
    document["contenders"]["ours-aot"]["memory_after_load"]["pss_mb"] = 1500
    assert outcome(document, "memory").verdict is Verdict.FAIL
    document["contenders"]["ours-aot"]["drain"]["in_flight"] = 0
    assert outcome(document, "drain").verdict is Verdict.CANNOT_TELL
    document["contenders"]["ours-aot"]["drain"]["answered"] = 5
    assert outcome(document, "drain").verdict is Verdict.FAIL


def test_a_server_of_ours_that_was_lost_on_the_way_fails():
    document = report()
    document["contenders"]["gateway-aot"] |= {"status": "failed", "reason": "at binary 16x8: it closed the connection"}
    assert outcome(document, "answered 200").verdict is Verdict.FAIL


def test_a_point_that_gave_no_figure_is_on_the_page_and_fails_when_it_was_ours():
    document = report()
    document["contenders"]["kserve"]["problems"] = ["at binary 16x8: every caller must be answered within 90 seconds"]
    assert outcome(document, "answered 200").verdict is Verdict.PASS
    assert "kserve: no figure at binary 16x8" in page.render(document, name="x")
    document["contenders"]["ours-aot"]["problems"] = ["at binary 16x8: it closed the connection"]
    assert outcome(document, "answered 200").verdict is Verdict.FAIL


def test_the_page_says_what_the_report_says(tmp_path):
    written, picture = page.publish(report(), name="serving-x.json", docs=tmp_path)
    text = written.read_text()
    for line in ("| ours-aot | 1,910 | 1,910 | 1,910 |", "| *in-process limit, aot* | 2,000 | 2,000 | 2,000 |", "no GPU"):
        assert line in text
    assert text.count("**pass**") == len(verdicts.verdicts(report()))
    slower = copy.deepcopy(report())
    changed(slower, "ours-aot", rows_per_second=1234.0)
    assert "1,234" in page.render(slower, name="x")
    assert "**fail**" in page.render(slower, name="x")
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


def test_the_chart_is_drawn_where_a_point_is_missing(tmp_path):
    document = report()
    document["samples"] = [sample for sample in document["samples"] if (sample["contender"], sample["point"]) != ("kserve", "binary 1x32")]
    assert speed(document, "binary 1x32", "kserve") is None
    assert speed(document, "binary 1x32", "litserve") == pytest.approx(SPEEDS["litserve"])
    for path, content in ((tmp_path / "whole.svg", report()), (tmp_path / "part.svg", document)):
        draw(content, path)
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert (tmp_path / "whole.svg").read_bytes() != (tmp_path / "part.svg").read_bytes()


def test_the_page_in_docs_is_the_one_its_report_makes():
    written = REPOSITORY / "docs" / "benchmarks.md"
    if not written.exists():
        pytest.skip("docs/benchmarks.md is made from the first full run")
    name = written.read_text().partition("benchmarks/results/")[2].partition("`")[0]
    document = json.loads((REPOSITORY / "benchmarks" / "results" / name).read_text())
    assert written.read_text() == page.render(document, name=name), "run: python -m benchmarks.serving page"


@pytest.mark.parametrize("name", [*POINTS, "binary 256x8"])
def test_points_keep_their_names(name):
    assert point(name).name == name
