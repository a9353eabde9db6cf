"""What the pipeline made of a release and signed: every way of changing a copy of it is found, and its place is named."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from firstlight import chain
from firstlight.digest import canonical_json, write_json
from governance.attestation import ensure_key
from governance.evidence import read_evidence, write_evidence
from governance.manifest import sign_manifest, write_manifest
from governance.verify import Trust, examine
from tests.governance import described
from tests.governance.described import LEDGER_KEY, WHOLE

Lines = list[dict[str, Any]]


def found(folder: Path, **trust: Any) -> str:
    return "\n".join(str(finding) for finding in examine(folder, trust=Trust(**trust)).findings)


def write_lines(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    (folder / "entries.jsonl").write_bytes(b"".join(canonical_json(line) + b"\n" for line in lines))


def read_lines(folder: Path) -> Lines:
    return [json.loads(line) for line in (folder / "entries.jsonl").read_bytes().splitlines()]


@pytest.fixture
def whole(release: Path, finished: Path, tmp_path: Path) -> Path:
    """A copy of the whole ledger, exported."""
    return shutil.copytree(finished.parent.parent / WHOLE, tmp_path / "ledger")


# --- a good copy ------------------------------------------------------------------------------------------------------


def test_a_good_copy_verifies_with_everything_brought_along_and_says_the_same_twice(release: Path, finished: Path, approvers: Any) -> None:
    trust = Trust(approvers=approvers, pipeline=described.trusted(finished), ledger=(LEDGER_KEY,))
    at = datetime(2026, 11, 24, tzinfo=UTC)
    before = {path: path.stat().st_mtime_ns for path in release.rglob("*")}
    once, twice = (examine(release, trust=trust, now=at) for _ in range(2))
    assert once == twice
    assert once.findings == ()
    assert once.believed == (), "nothing is taken on the folder's word"
    said = "\n".join(once.checked)
    for words in ("by 72 rules of firstlight's own", "6 papers are what the evidence gives", "manifest.json is signed", "bundle.dsse.json is signed",
                  "entries of the ledger (3 to 6) are one chain; nothing up to entry 6 was cut off", "every seal holds"):  # fmt: skip
        assert words in said, words
    assert {path: path.stat().st_mtime_ns for path in release.rglob("*")} == before, "a verification writes nothing"


def test_what_was_taken_on_the_folders_word_is_said(release: Path) -> None:
    done = examine(release)
    assert done.holds
    assert [line.partition(" in the folder")[0] for line in done.believed] == ["the approvers file", "pipeline.pub"]
    assert any("their seals were not checked" in line for line in done.checked)


# --- a careless forger, who changes one thing -------------------------------------------------------------------------


def edit(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        document = json.loads((folder / name).read_bytes())
        change(document)
        write_json(folder / name, document)

    return apply


def answer_a_row(register: Any) -> None:
    row = next(row for row in register["rows"] if row["state"] == "no evidence yet")
    row["state"] = "answered"
    register["counts"]["answered"] += 1


def swap(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return apply


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a row of the register answered": (
        edit("evidence/register.json", answer_a_row),
        "state does not follow from the evidence: says answered",
    ),
    "a row of the register taken out": (
        edit("evidence/register.json", lambda register: register["rows"].pop(3)),
        "evidence/register.json: GOVERN 1.4 is missing: the register has a row for every subcategory",
    ),
    "the register taken away": (remove("evidence/register.json"), "evidence/register.json: missing"),
    "a model card made better": (swap("papers/model-card.yaml", b"0.9", b"0.99"), "papers/model-card.yaml: is not what the evidence gives"),
    "a dependency left out of the bill of materials": (
        swap("papers/mlbom.cdx.json", b'"name"', b'"nam"'),
        "papers/mlbom.cdx.json: is not what",
    ),
    "a paper taken away": (remove("papers/aisia.html"), "papers/aisia.html: "),
    "a paper that nobody made": (
        lambda folder: (folder / "papers/praise.md").write_text("good"),
        "papers/praise.md: is no paper of a release",
    ),
    "another summary in the release's facts": (
        edit("evidence/release.json", lambda facts: facts.update(opened_by="eve@lab.example")),
        "papers/",
    ),
    "the bundle taken away": (remove("bundle.dsse.json"), "bundle.dsse.json: "),
    "a byte of the bundle": (swap("bundle.dsse.json", b'"payload":"ey', b'"payload":"fy'), "bundle.dsse.json: "),
    "the page": (swap("dossier.html", b"a page", b"another"), "manifest.json.sig: "),
    "the manifest's signature taken away": (remove("manifest.json.sig"), "manifest.json.sig: "),
    "the ledger's part taken away": (lambda folder: shutil.rmtree(folder / "ledger"), "ledger: "),
    "a record of the decision": (
        edit("evidence/sign_off.json", lambda record: record["accepted"][0].update(reason="all is well")),
        "evidence/sign_off.json: accepted does not follow from the signatures",
    ),
    "somebody among the allowed signers": (
        lambda folder: (folder / "allowed_signers").write_text(
            (folder / "allowed_signers").read_text() + 'eve@lab.example namespaces="firstlight-sign-off" ssh-ed25519 AAAAeve\n'
        ),
        "allowed_signers: must name the people of approvers.yaml beside it, eve@lab.example",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_thing_changed_is_found_although_the_manifest_was_written_anew(release: Path, name: str) -> None:
    change, said = CHANGES[name]
    change(release)
    write_manifest(release, release=release.name)
    text = found(release)
    assert said in text
    assert "manifest.json.sig: " in text, "nobody but the pipeline can sign the new list"


# --- a forger who makes everything fit and signs it with a key of his own -------------------------------------------------


def test_a_folder_made_anew_and_signed_by_another_key_fools_nobody_who_has_the_pipelines_key(
    release: Path, finished: Path, tmp_path: Path
) -> None:
    # Given a forger who moves evidence that people did not sign over, and makes everything follow from it
    write_evidence(release, "release", {**read_evidence(release, "release"), "closed_at": "2027-01-01T00:00:00Z"})
    described.follow(release)
    described.finish(release, key=ensure_key(tmp_path / "forger"))
    # Then the folder alone knows that the anchors are by another key, and who has the real one knows it all
    assert "signed by a trusted pipeline key" in found(release)
    text = found(release, pipeline=described.trusted(finished))
    for place in ("manifest.json.sig: ", "bundle.dsse.json: "):
        assert place in text


# --- the ledger --------------------------------------------------------------------------------------------------------------


def resealed(lines: Lines, start: int) -> Lines:
    """Chain and seal everything from place ``start`` on again, as somebody who has the ledger's key could."""
    contents = [{name: line[name] for name in (*chain.CONTENT,)} for line in lines[start:]]
    before = lines[start - 1]["entry_digest"] if start else chain.GENESIS
    return [*lines[:start], *described.chained(contents, start=before, first=start + 1)]


def edited(lines: Lines) -> Lines:
    lines[3]["detail"] = "nothing happened"
    return lines


def reordered(lines: Lines) -> Lines:
    lines[2], lines[3] = lines[3], lines[2]
    return lines


def inserted(lines: Lines) -> Lines:
    extra = described.chained(
        [{"model": "m", "what": "promote", "digest": "", "detail": "", "by": "eve"}], start=lines[2]["entry_digest"], first=4
    )
    return [*lines[:3], *extra, *lines[3:]]


def deleted(lines: Lines) -> Lines:
    return [*lines[:3], *lines[4:]]


def written_anew(lines: Lines) -> Lines:
    lines[3]["detail"] = "nothing happened"
    return resealed(lines, 3)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (edited, "entry 4: edited"),
        (reordered, "entry 3: reordered"),
        (inserted, "entry 4: inserted"),
        (deleted, "entry 4: deleted"),
        (lambda lines: lines[:-1], "entry 6: cut off"),
        (lambda lines: lines[:1], "entry 2: cut off"),
        (written_anew, "entry 6: replaced"),
        (lambda lines: [], "entries.jsonl: must hold at least one entry"),
    ],
    ids=["edited", "reordered", "inserted", "deleted", "last cut off", "all but one cut off", "written anew with the key", "emptied"],
)
def test_an_exported_ledger_that_was_tampered_with_says_where(
    whole: Path, finished: Path, attack: Callable[[Lines], Lines], said: str
) -> None:
    assert examine(whole, trust=Trust(pipeline=described.trusted(finished), ledger=(LEDGER_KEY,))).findings == ()
    write_lines(whole, attack(read_lines(whole)))
    assert said in found(whole, pipeline=described.trusted(finished), ledger=(LEDGER_KEY,))
    assert said in found(whole), "without any key from outside, too"


def test_an_exported_ledger_without_anchors_says_what_that_does_not_show(whole: Path) -> None:
    shutil.rmtree(whole / "anchors")
    write_lines(whole, read_lines(whole)[:-1])
    done = examine(whole)
    assert done.holds
    assert any("there are no anchors" in line for line in done.believed)


def test_an_anchor_by_another_key_is_found(whole: Path, finished: Path, tmp_path: Path) -> None:
    last = read_lines(whole)[-1]
    mine = described.anchors([last, last], ensure_key(tmp_path / "forger"))[-1]
    (whole / "anchors" / f"{mine.name}.json.sig").write_bytes(mine.signature)
    assert "anchor 000000006: anchor 000000006 must be signed by a trusted pipeline key" in found(
        whole, pipeline=described.trusted(finished)
    )


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (lambda lines: lines[:-1], "entry 6: cut off"),
        (lambda lines: lines[1:], "must begin with the opening of release desi-vae-ab12"),
        (lambda lines: [lines[0], *lines[2:]], "must tell of the sign-off in signoffs/vera@lab.example.json"),
    ],
    ids=["its end", "its opening", "the sign-off"],
)
def test_a_releases_part_of_the_ledger_tells_of_its_opening_its_sign_offs_and_its_end(
    release: Path, attack: Callable[[Lines], Lines], said: str
) -> None:
    write_lines(release / "ledger", attack(read_lines(release / "ledger")))
    assert said in found(release)


def test_junk_in_the_ledger_is_a_finding_and_never_a_traceback(release: Path, whole: Path) -> None:
    for junk in (b"\xff\n", b"[]\n", b'{"sequence": 1e999}\n', b"[" * 50_000):
        (whole / "entries.jsonl").write_bytes(junk)
        assert found(whole)
    (release / "ledger" / "entries.jsonl").write_bytes(junk)
    assert "the last line of ledger/entries.jsonl must be a ledger entry" in found(release)


@pytest.mark.parametrize("name", ["evidence/bias.json", "papers/aisia.html", "stranger"])
def test_a_pipe_in_a_release_folder_keeps_nobody_waiting(release: Path, name: str) -> None:
    (release / name).unlink(missing_ok=True)
    os.mkfifo(release / name)
    assert f"{name}: " in found(release)


def test_a_release_folder_dressed_as_a_ledger_is_not_verified_as_one(release: Path) -> None:
    shutil.copytree(release / "ledger", release, dirs_exist_ok=True)
    (release / "manifest.json").unlink()
    assert "manifest.json: " in found(release)


def test_a_manifest_signed_for_another_purpose_does_not_count(release: Path, finished: Path) -> None:
    shutil.copy(release / "ledger" / "anchors" / "000000006.json.sig", release / "manifest.json.sig")
    assert "manifest.json.sig: " in found(release)
    sign_manifest(release, key_file=described.pipeline_key(finished))
    assert found(release) == ""
