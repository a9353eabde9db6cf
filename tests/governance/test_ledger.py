"""The anchors find what a chain alone does not: a ledger that was cut off, or written anew by somebody with its key."""

import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from firstlight import chain
from governance import anchor as anchors_of
from governance import attestation, ledger, sshsig
from governance.anchor import SignedAnchor
from governance.errors import LedgerError
from governance.ledger import LedgerFinding
from governance.ledger_keys import KeyRing
from governance.sshsig import PublicKey
from tests.chains import FOREIGN_KEY, KEY, NEXT_KEY, Line, entry, linked
from tests.chains import ledger as made

COUNT = 9
ANCHORED = (3, 6, 9)
WHOLE = made(COUNT)
NOW = datetime(2026, 11, 23, 1, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attestation.ensure_key(tmp_path_factory.mktemp("keys") / "pipeline")


@pytest.fixture(scope="module")
def trusted(pipeline: Path) -> tuple[PublicKey, ...]:
    return attestation.read_trusted(pipeline.with_name("pipeline.pub"))


@pytest.fixture(scope="module")
def anchors(pipeline: Path) -> list[SignedAnchor]:
    return anchor_at(pipeline, WHOLE, ANCHORED)


def anchor_at(key: Path, lines: list[Line], places: tuple[int, ...]) -> list[SignedAnchor]:
    done: list[SignedAnchor] = []
    for place in places:
        new = anchors_of.draft(sequence=place, entry_digest=lines[place - 1]["entry_digest"], before=done[-1] if done else None, now=NOW)
        done.append(anchors_of.sign(new, key_file=key))
    return done


@pytest.fixture(scope="module")
def check(anchors: list[SignedAnchor], trusted: tuple[PublicKey, ...]) -> Callable[..., dict[str, str]]:
    """Check lines against anchors (by default all of them); return where -> what is said there first."""

    def checked(lines: list[Line], kept: list[SignedAnchor] = anchors, *, keyed: bool = True, whole: bool = True) -> dict[str, str]:
        found = ledger.check(lines, kept, trusted=trusted, keys=[KEY] if keyed else [], whole=whole)
        told: dict[str, str] = {}
        for one in found:
            told.setdefault(one.where, one.what)
        return told

    return checked


def test_a_ledger_and_its_anchors_hold(check) -> None:
    assert check(WHOLE) == check(WHOLE, keyed=False) == check(WHOLE, []) == {}
    assert check([*WHOLE, *linked([entry(10)], previous=WHOLE[-1]["entry_digest"])]) == {}


def test_a_ledger_cut_off_anywhere_before_its_last_anchor_is_found(check) -> None:
    for count in range(COUNT):
        found = check(WHOLE[:count], keyed=False)
        assert set(found) == {f"entry {place}" for place in ANCHORED if place > count}
        assert all(what.startswith("cut off: it was there on 2026-11-23T01:30:00+00:00") for what in found.values())
        held = max((place for place in ANCHORED if place <= count), default=None)
        assert (f"up to entry {held} the ledger is as it was anchored" if held else "no anchor before it") in found["entry 9"]


def test_who_has_the_key_too_can_write_nothing_anew_that_was_anchored(check) -> None:
    for place in range(1, COUNT + 1):
        contents = [
            entry(number, detail="nothing happened" if number >= place else WHOLE[number - 1]["detail"]) for number in range(1, COUNT + 3)
        ]
        found = check(linked(contents))
        assert set(found) == {f"entry {anchored}" for anchored in ANCHORED if anchored >= place}
        assert all(what.startswith("replaced: it was another one on 2026-11-23") for what in found.values())


def test_an_anchor_that_was_taken_away_changed_renamed_or_not_signed_is_found(check, anchors) -> None:
    first, second, third = anchors
    assert "is not there: it was taken away" in check(WHOLE, [first, third])["anchor 000000009"]
    assert "is not there" in check(WHOLE, [second, third])["anchor 000000006"]
    assert check(WHOLE, [first, second]) == {}, "the last one leaves no gap: it must lie where nobody can take it away"
    other = SignedAnchor(name=second.name, document=second.document.replace(b"01:30", b"01:31"), signature=second.signature)
    assert "the statement or the signature was changed" in check(WHOLE, [first, other, third])["anchor 000000006"]
    bare = SignedAnchor(name=third.name, document=third.document, signature=b"")
    assert "it has no signature" in check(WHOLE, [first, second, bare])["anchor 000000009"]
    renamed = SignedAnchor(name="000000008", document=third.document, signature=third.signature)
    assert "it was renamed" in check(WHOLE, [first, second, renamed])["anchor 000000008"]


def test_an_anchor_by_another_key_or_for_another_purpose_does_not_count(check, anchors, pipeline, tmp_path) -> None:
    stranger = attestation.ensure_key(tmp_path / "stranger")
    lines = linked([entry(number, detail="x") for number in range(1, COUNT + 1)])
    forged = anchor_at(stranger, lines, ANCHORED)
    assert "must be signed by a trusted pipeline key" in check(lines, forged)["anchor 000000003"]
    signature = sshsig.sign(anchors[0].document, key_file=pipeline, namespace="file")
    other = SignedAnchor(name=anchors[0].name, document=anchors[0].document, signature=signature)
    assert "must be for 'firstlight-ledger-head'" in check(WHOLE, [other])["anchor 000000003"]


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"null", b'{"format":"firstlight/ledger-anchor/v1"}', b'{"a":1,"a":2}', b"\xff", b'{"sequence":NaN}'],
    ids=str,
)
def test_an_anchor_that_is_none_is_a_finding(check, anchors, document: bytes) -> None:
    assert list(check(WHOLE, [SignedAnchor(name="000000003", document=document, signature=anchors[0].signature)])) == ["anchor 000000003"]


def test_two_anchors_made_at_once_after_the_same_one_hold(check, anchors, pipeline) -> None:
    new = anchors_of.draft(sequence=8, entry_digest=WHOLE[7]["entry_digest"], before=anchors[1], now=NOW)
    assert check(WHOLE, [*anchors, anchors_of.sign(new, key_file=pipeline)]) == {}


def test_stock_ssh_keygen_checks_an_anchor(anchors, pipeline, tmp_path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text(f"pipeline {pipeline.with_name('pipeline.pub').read_text()}")
    (tmp_path / "a.sig").write_bytes(anchors[0].signature)
    command = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        str(allowed),
        "-I",
        "pipeline",
        "-n",
        anchors_of.NAMESPACE,
        "-s",
        str(tmp_path / "a.sig"),
    ]
    assert subprocess.run(command, input=anchors[0].document, capture_output=True, check=False).returncode == 0
    assert subprocess.run(command, input=anchors[1].document, capture_output=True, check=False).returncode != 0


def test_an_exported_part_holds_and_every_change_of_a_byte_is_found(check, anchors, trusted, tmp_path) -> None:
    ledger.write_export(tmp_path, WHOLE[3:8], anchors[:2])
    lines, kept = ledger.read_export(tmp_path)
    assert (lines, kept) == (WHOLE[3:8], anchors[:2])
    assert check(lines, kept, whole=False) == {}
    assert check(lines, kept) == {"entry 1": "deleted: entries 1 to 3 are not there, entry 4 is"}
    # the anchor of entry 3 says what stood before the part
    assert set(check(linked([entry(4)]), kept[:1], whole=False)) == {"entry 3"}
    path = tmp_path / ledger.ENTRIES_FILE
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert check(*ledger.read_export(tmp_path), whole=False), (place, good[place : place + 20])


def test_a_line_that_is_no_entry_is_named_and_the_others_are_checked_all_the_same(check, tmp_path) -> None:
    ledger.write_export(tmp_path, WHOLE, [])
    path = tmp_path / ledger.ENTRIES_FILE
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:3], b"not json", b"[1]", *lines[5:7], lines[7].replace(b"Kanarienvogel", b"Spatz"), lines[8]]))
    found = check(*ledger.read_export(tmp_path), keyed=False)
    assert found["entry 4"].startswith("deleted: entries 4 to 5") or found["entry 4"].startswith("not an entry")
    assert found["entry 5"].startswith("not an entry")
    assert found["entry 8"].startswith("edited")


def test_what_is_not_an_export_is_a_sentence(tmp_path) -> None:
    with pytest.raises(LedgerError, match=r"entries\.jsonl must be a readable file"):
        ledger.read_export(tmp_path)
    (tmp_path / ledger.ENTRIES_FILE).symlink_to("/etc/passwd")
    with pytest.raises(LedgerError, match="symbolic link"):
        ledger.read_export(tmp_path)


# the keys


def test_the_first_key_is_made_once_for_its_owner_only_and_the_old_ones_stay(tmp_path) -> None:
    ring = KeyRing(tmp_path / "keys" / "ledger", may_make=True)
    assert (ring.read(), ring("0" * 16)) == ((), None)
    first = ring(None)
    assert first is not None
    assert (ring(None), ring(first.id), oct(os.stat(ring.path).st_mode & 0o777)) == (first, first, "0o600")
    second = ring.add()
    assert (ring.read(), ring(None), ring(first.id)) == ((first, second), second, first)


def test_a_file_of_keys_that_somebody_brings_is_read_and_never_made(tmp_path) -> None:
    path = tmp_path / "brought"
    assert KeyRing(path, may_make=False)(None) is None
    assert not path.exists()
    path.write_text(f"# by hand\n{KEY.secret.hex()}\n\n{NEXT_KEY.secret.hex()}")
    ring = KeyRing(path, may_make=False)
    assert [key.id for key in ring.read()] == [KEY.id, NEXT_KEY.id]
    assert ring.add() in ring.read(), "the last line had no end"
    assert len(ring.read()) == 3


@pytest.mark.parametrize("text", ["not hex", "ab12", "é" * 64, "ab" * 40_000], ids=["no hex", "too short", "no ascii", "too long"])
def test_a_file_of_keys_that_cannot_be_used_is_a_sentence_and_does_not_stop_the_store(tmp_path, text: str, caplog) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(LedgerError, match="the ledger's keys must"):
        KeyRing(path, may_make=True).read()
    assert KeyRing(path, may_make=True)(None) is None
    assert "the ledger's keys must" in caplog.text or "each line of the ledger's keys" in caplog.text


def test_a_finding_is_one_sentence() -> None:
    assert str(LedgerFinding(where="entry 3", what="edited")) == "entry 3: edited"
    assert chain.ROTATION != chain.REPLACEMENT
    assert FOREIGN_KEY.id not in (KEY.id, NEXT_KEY.id)
