"""The page of a release with hostile text in every field has exactly the elements and attributes of one with harmless text."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from governance import papers
from governance.dossier.page import Facts, StageRow, render
from governance.evidence import evidence_names, read_evidence, write_evidence
from governance.waiver import WaiverInForce
from tests.governance.test_verify_made import read_lines, write_lines

HOSTILE = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(2)></td></table><a href=javascript:alert(3)>x</a><!--{{ 7*7 }}{% raw %}&lt;"
)
HARMLESS = "h" * len(HOSTILE)
WAIVER = dict.fromkeys((field for field in WaiverInForce.__slots__ if field != "controls"), "text") | {"controls": ["text"], "used": True}
GLASS = dict.fromkeys(
    ("name", "email", "role", "reason", "fingerprint", "signed_at", "expires_at", "ratify_by", "source", "digest"), "text"
)


class Elements(HTMLParser):
    """Every start and end tag in order, with the names of its attributes."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page.read_text())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", ()))

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", ()))


def worded(value: Any, text: str) -> Any:
    """Return ``value`` with ``text`` for every string in it, keys of mappings as they are."""
    if isinstance(value, dict):
        return {key: worded(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [worded(item, text) for item in value]
    return text if isinstance(value, str) else value


def page(folder: Path, text: str) -> Path:
    """Return the page of the release in ``folder`` with ``text`` everywhere: evidence, waivers, broken glass, ledger, facts, stages and pictures."""
    evidence = {name: read_evidence(folder, name) for name in evidence_names(folder)}
    evidence["risk"] |= {"waivers": [WAIVER], "waived": ["text"]}
    evidence["sign_off"] |= {
        "break_glass": {**GLASS, "ratified": False},
        "conditions": ["text"],
        "decision_id": "text",
        "change_id": "text",
    }
    write_lines(folder / "ledger", [worded(line, text) for line in read_lines(folder / "ledger")])
    named = {field: text for field in Facts.__slots__ if field not in ("digests", "commands", "links")}
    facts = Facts(**named, digests={text: text}, commands={text: text}, links={text: text})
    stages = [StageRow(name=text, verdict=text, key_figure=text, seconds=1.0)]
    shown = {name: worded(document, text) for name, document in evidence.items()}
    return render(folder, facts=facts, stages=stages, pictures={f"slice-{text}": text.encode()}, evidence=shown)


def test_hostile_text_in_every_field_makes_no_element_and_no_attribute(release: Path) -> None:
    harmless = Elements(page(release, HARMLESS)).found
    hostile = Elements(page(release, HOSTILE)).found
    assert len(harmless) > 500
    assert hostile == harmless


@pytest.mark.parametrize("name", ["model-card.html", "aisia.html"])
def test_hostile_text_in_the_evidence_makes_no_element_in_a_paper(release: Path, name: str) -> None:
    def made(change: Callable[[str], str]) -> list[tuple[str, tuple[str, ...]]]:
        for document in ("hand_off", "sign_off", "registration"):
            original = read_evidence(release, document)
            write_evidence(
                release,
                document,
                {key: change(item) if isinstance(item, str) and key != "verdict" else item for key, item in original.items()},
            )
        target = release / "made.html"
        target.write_bytes(papers.PAPERS[name](papers.read_facts(release)))
        return Elements(target).found

    assert made(lambda text: f"h{text[-3:]}") == made(lambda text: HOSTILE)
