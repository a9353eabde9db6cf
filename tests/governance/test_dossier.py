"""The page says what is there, says what is missing, and nothing on it can run."""

import html.parser
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from firstlight.digest import canonical_json, write_atomic
from governance.dossier import charts
from governance.dossier.index import IndexRow, render_index
from governance.dossier.page import Facts, StageRow, render
from governance.dossier.view import cell, document
from governance.errors import EvidenceError
from governance.evidence import evidence_names, read_evidence
from governance.ledger import write_export
from governance.register import fill

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}javascript:alert(3)"


class Tags(html.parser.HTMLParser):
    """Every start tag with its attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def facts(**changes) -> Facts:
    fields = {
        "release": "desi-vae-ab12", "model": "desi-vae", "version": "7", "environment": "local", "verdict": "pass", "headline": "promoted", "trainer": "C. Payne",
        "purpose": "flag", "not_for": "redshifts", "data": "2000 spectra", "made": "2026-11-23", "digests": {"model": "ab" * 32},
        "commands": {"go back to the previous version": "firstlight rollback"}, "links": {"Prefect run": "http://127.0.0.1:4200/runs/1"},
    }  # fmt: skip
    return Facts(**(fields | changes))


STAGES = [
    StageRow(name="Data", verdict="pass", key_figure="3 of 4 hold", seconds=2.1),
    StageRow(name="Canary", verdict="", key_figure="", seconds=None),
]


def page_of(folder: Path, **options) -> Tags:
    settings = {"facts": facts(), "stages": STAGES, "pictures": {}, "evidence": {}} | options
    return Tags(render(folder, **settings).read_text())


def replaced_by_evil(value):
    if isinstance(value, dict):
        return {key: replaced_by_evil(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced_by_evil(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_the_page_of_a_finished_release_shows_what_a_reviewer_asks_for(release, pictures):
    evidence = {name: read_evidence(release, name) for name in evidence_names(release)}
    page = page_of(release, evidence=evidence, pictures=pictures)
    for words in ("Vera Rubin", "SHA256:", "ssh-keygen -Y verify", "firstlight rollback", "firstlight verify", "3 of 4 hold", "R12 Weak oversight",
                  "4 × 4 = 16", "golden.rows at least 8", "at most 0.3", "ab" * 32, "Residual 6 of 25 (Medium)"):  # fmt: skip
        assert words in page.text, words
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == len(pictures) + ("register" in evidence)
    assert all(source.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")) for source in sources)
    assert ("a", {"href": "http://127.0.0.1:4200/runs/1", "rel": "noopener noreferrer"}) in page.tags


def test_missing_stages_say_no_evidence(tmp_path):
    page = page_of(tmp_path)
    for words in (
        "No evidence: bias",
        "No evidence: canary",
        "No evidence: the risk was not assessed",
        "No evidence: nobody was asked",
        "– not reached",
    ):
        assert words in page.text, words


def test_the_register_has_its_72_rows_on_the_page_and_no_answer_without_evidence(release):
    register = fill({name: read_evidence(release, name) for name in evidence_names(release)}).to_dict()
    page = page_of(release, evidence={"register": register})
    rows = [given["id"] for tag, given in page.tags if tag == "tr" and "id" in given]
    assert rows == [row["nist_ref"].replace(" ", "-") for row in register["rows"]]
    assert len(rows) == 72
    assert (page.text.count("✓ answered"), page.text.count("– no evidence yet")) == (
        register["counts"]["answered"],
        register["counts"]["no evidence yet"],
    )
    assert register["summary"] in page.text
    stored = json.loads(canonical_json(register))
    page = page_of(release, evidence={"register": stored})
    functions = [given["id"] for tag, given in page.tags if tag == "details" and "id" in given]
    assert functions == ["register-GOVERN", "register-MAP", "register-MEASURE", "register-MANAGE"]
    register["rows"][0] |= {"state": "contradicted", "answers": [register["rows"][1]["answers"][0] | {"held": False, "found": "x"}]}
    assert "Contradicted by the evidence" in page_of(release, evidence={"register": register}).text


GLASS = {"name": "Henrietta Leavitt", "email": "h@lab.example", "role": "cto", "reason": "nobody is awake", "signed_at": "2026-11-23T01:30:00Z",
         "ratify_by": "2026-11-25T01:30:00Z", "ratified": False}  # fmt: skip


def test_a_broken_glass_is_loud_until_it_is_ratified(tmp_path):
    decision = {
        "verdict": "pass",
        "summary": "BREAK-GLASS by …",
        "accepted": [],
        "refused": [],
        "break_glass": GLASS,
        "decision_id": "DEC-2026-004",
        "change_id": None,
    }
    stages = [StageRow(name="sign-off", verdict="pass", key_figure="BREAK-GLASS", seconds=None)]
    loud = page_of(tmp_path, stages=stages, evidence={"sign_off": decision})
    assert loud.text.count("! break-glass") == 2
    for words in ("Not ratified", "2026-11-25 01:30:00 UTC", "nobody is awake", "DEC-2026-004", "none given"):
        assert words in loud.text, words
    quiet = page_of(tmp_path, stages=stages, evidence={"sign_off": decision | {"break_glass": GLASS | {"ratified": True}}})
    assert ("! break-glass" in quiet.text, "Ratified since" in quiet.text) == (False, True)


def test_a_waiver_stands_at_the_top_beside_its_scenario_and_can_be_checked(release):
    risk = read_evidence(release, "risk")
    waiver = {"id": "R10-0123456789ab", "scenario": "R10", "name": "Vera Rubin", "email": "vera@lab.example", "role": "cto", "reason": "one night",
              "controls": ["somebody looks every hour"], "until": "2026-12-31", "used": True}  # fmt: skip
    risk |= {
        "waivers": [waiver],
        "waived": ["R10 Logging blind spots: residual must be at most 2, found 6; accepted by waiver R10-0123456789ab"],
    }
    text = page_of(release, evidence={"risk": risk}).text
    for words in (
        "Goes on by waiver",
        "accepted by waiver R10-0123456789ab",
        "somebody looks every hour",
        "-n firstlight-waiver",
        "waivers/R10-0123456789ab.json.sig",
    ):
        assert words in text, words


def test_papers_and_ledger_are_shown_from_the_folder_and_their_absence_is_said(tmp_path):
    assert "No part of the ledger lies in this folder yet" in page_of(tmp_path).text
    write_atomic(tmp_path / "papers" / "aisia.html", b"<p>paper</p>")
    write_atomic(tmp_path / "papers" / "not-ours.html", b"<p>paper</p>")
    line = {"sequence": 7, "at": 1795429766.9, "what": "promote", "by": EVIL, "detail": "version 1", "entry_digest": "c" * 64}
    write_export(tmp_path / "ledger", [line, {"sequence": EVIL, "at": "never"}], [])
    page = page_of(tmp_path)
    assert [given["href"] for tag, given in page.tags if tag == "a" and given["href"].startswith("papers")] == ["papers/aisia.html"]
    for words in ("2 entries, number 7 to", "2026-11-23 10:29:26", "No head of it was signed yet"):
        assert words in page.text, words
    (tmp_path / "ledger" / "entries.jsonl").unlink()
    (tmp_path / "ledger" / "entries.jsonl").symlink_to(tmp_path / "dossier.html")
    assert "cannot be shown" in page_of(tmp_path).text


def test_html_in_every_field_is_inert(release, tmp_path):
    # Given a release in which every text anywhere is an attack
    evidence = {name: replaced_by_evil(read_evidence(release, name)) for name in evidence_names(release)}
    evidence |= {"more": {"verdict": EVIL, "summary": EVIL, "reasons": [EVIL], EVIL: EVIL, "t": [{EVIL: EVIL, "verdict": EVIL}]}}
    names = dict.fromkeys(
        ("release", "model", "version", "environment", "verdict", "headline", "trainer", "purpose", "not_for", "data", "made"), EVIL
    )
    head = facts(
        **names, digests={EVIL: EVIL}, commands={EVIL: EVIL}, links={EVIL: EVIL, "x": "javascript:alert(1)", "y": 'http://a b/"onclick=x'}
    )
    stages = [StageRow(name=EVIL, verdict=EVIL, key_figure=EVIL, seconds=1.0)]
    pictures = {EVIL: EVIL.encode(), "slice-" + EVIL: b"<svg onload=alert(1)>"}
    # When the page is made
    page = page_of(tmp_path, facts=head, stages=stages, pictures=pictures, evidence=evidence)
    # Then no tag, attribute or address of it came from there
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "header", "p", "h1", "h2", "h3", "span", "ol", "ul", "li", "b", "dl", "dt", "dd", "nav", "a", "main",
        "section", "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary", "figure", "figcaption", "img", "pre", "code", "br", "h4",
    }  # fmt: skip
    attributes = {name for _, given in page.tags for name in given}
    assert attributes <= {
        "lang",
        "charset",
        "name",
        "content",
        "http-equiv",
        "class",
        "id",
        "aria-label",
        "href",
        "rel",
        "src",
        "alt",
        "scope",
        "open",
    }
    links = [given["href"] or "" for tag, given in page.tags if tag == "a"]
    assert all(link.startswith(("#", "http://", "papers/", "bundle.dsse.json", "pipeline.pub")) for link in links)
    assert "{{ 7*7 }}" in page.text
    assert any(
        given.get("http-equiv") == "Content-Security-Policy" and "default-src 'none'" in (given["content"] or "") for _, given in page.tags
    )


def test_a_command_to_copy_quotes_what_a_stranger_wrote(release):
    evidence = {"sign_off": read_evidence(release, "sign_off")}
    evidence["sign_off"]["accepted"][0] |= {"email": "x'; rm -rf ~; '", "source": "$(id)"}
    text = page_of(release, evidence=evidence).text
    assert "-I 'x'\"'\"'; rm -rf ~; '\"'\"''" in text
    assert "'signoffs/$(id).sig'" in text


def test_a_forged_risk_document_is_a_sentence(tmp_path):
    for forged in (
        {"risk": {"verdict": "pass"}},
        {"register": {"rows": []}},
        {"register": {"counts": {"by_function": []}}},
        {"sign_off": {"accepted": [{}]}},
    ):
        with pytest.raises(EvidenceError, match="firstlight verify"):
            page_of(tmp_path, evidence=forged)


def test_long_tables_are_cut_worst_first_and_say_so():
    rows = [{"verdict": "pass", "n": n} for n in range(100)] + [{"verdict": "fail", "n": 100}]
    table = document("bias", {"verdict": "fail", "slices": rows}).tables[0]
    assert (table.rows[0], len(table.rows), table.left_out) == (("fail", "100"), 60, 41)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (True, "yes"), (float("nan"), "–"), (0.123456, "0.1235"), ([1, 2], "1, 2"), ({"a": 1}, "a: 1"), ("x" * 500, "x" * 159 + "…"),
     (list(range(20)), "0, 1, 2, 3, 4, 5, 6, 7, … (20 in all)")],
)  # fmt: skip
def test_a_cell_is_short(value, shown):
    assert cell(value) == shown


def test_the_index_lists_releases_and_escapes_them(tmp_path):
    row = IndexRow(release="a/../b?c", model=EVIL, version="1", environment="local", verdict="fail", headline=EVIL, when="now", live=True)
    page = Tags(render_index(tmp_path, [row]).read_text())
    assert [given["href"] for tag, given in page.tags if tag == "a"] == ["a%2F..%2Fb%3Fc/dossier.html"]
    assert "script" not in {tag for tag, _ in page.tags}
    assert "No release yet" in Tags(render_index(tmp_path, []).read_text()).text


def test_pictures_are_real_images_without_script_or_date(pictures):
    assert pictures["spectra"].startswith(b"\x89PNG")
    for name, data in pictures.items():
        if name not in ("spectra", "strangest"):
            root = ElementTree.fromstring(data)
            assert root.tag.endswith("svg")
            assert b"<script" not in data
            assert b"<dc:date>" not in data


def test_the_same_values_give_the_same_picture():
    rows = [
        {
            "dimension": "class",
            "slice": "QSO",
            "metric": "recall",
            "n": 5,
            "value": 0.9,
            "low": 0.5,
            "high": 1.0,
            "verdict": "pass",
            "rest_value": 0.8,
        }
    ]
    assert charts.slice_chart(rows, "recall") == charts.slice_chart(rows, "recall")
    assert charts.slice_chart(rows, "recall") != charts.slice_chart([{**rows[0], "value": 0.6}], "recall")


def test_the_bias_and_drift_reports_own_rows_can_be_drawn():
    ours = {
        "dimension": "class",
        "slice": "QSO",
        "metric": "recall",
        "n": 5,
        "value": 0.9,
        "low": 0.5,
        "high": 1.0,
        "verdict": "pass",
        "rest_value": 0.8,
    }
    theirs = {
        "rows": 5,
        "events": 4,
        "rate": 0.9,
        "rest_rate": 0.8,
        **{key: ours[key] for key in ("dimension", "slice", "metric", "low", "high", "verdict")},
    }
    assert charts.slice_chart([theirs], "recall") == charts.slice_chart([ours], "recall")
    flat = {"column": "snr", "edges": [0, 1, 2], "reference": [0.25, 0.75], "current": [0.5, 0.5], "effect": 0.1, "verdict": "pass"}
    nested = {
        **{key: flat[key] for key in ("column", "effect", "verdict")},
        "histogram": {**{key: flat[key] for key in ("edges", "reference", "current")}, "labels": []},
    }
    counted = {**flat, "reference": [1, 3], "current": [2, 2]}
    assert charts.drift_chart([nested]) == charts.drift_chart([flat]) == charts.drift_chart([counted])
    words = {"column": "survey", "histogram": {"edges": [], "labels": ["main", "sv3"], "reference": [0.9, 0.1], "current": [0.5, 0.5]}}
    assert charts.drift_chart([words]) != charts.drift_chart([])
    assert charts.drift_chart([{"column": "z", "histogram": None}]) == charts.drift_chart([])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.spectra_panel([]),
        lambda: charts.spectra_panel(
            [{"title": "$\\frac", "wavelength": [1, 2], "flux": [float("nan")] * 2, "sigma": None, "reconstruction": None, "caption": ""}]
        ),
        lambda: charts.slice_chart([], "recall"),
        lambda: charts.benchmark_chart([]),
        lambda: charts.benchmark_chart(
            [{"who": "candidate", "batch": 1, "latency_ms_p50": 1.0, "latency_ms_p99": None, "spectra_per_second": 0}]
        ),
        lambda: charts.drift_chart([]),
        lambda: charts.drift_chart(
            [{"column": "a" * 200, "edges": [0, 1], "reference": [0], "current": [None], "effect": None, "verdict": None}]
        ),
    ],
)
def test_nothing_or_nonsense_to_draw_is_still_a_picture(draw):
    assert len(draw()) > 500
