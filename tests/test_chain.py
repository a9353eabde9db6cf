"""Every single thing that can be done to a ledger without its key is found, and where; what a chain alone cannot find is said here too."""

import subprocess
from itertools import combinations, permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight import chain
from firstlight.chain import Break, ChainKey, broken
from firstlight.digest import canonical_json
from tests.chains import FOREIGN_KEY, KEY, NEXT_KEY, Line, entry, forged, kinds, ledger, linked, rotated

COUNT = 6
WHOLE = ledger(COUNT)
OTHER: dict[str, Any] = {"sequence": 99, "at": 1.5, "adopted": True, "key_id": None}


def changed(line: Line, name: str) -> Line:
    other = OTHER[name] if name in OTHER else "f" * 64 if name in ("previous", "entry_digest", "seal") else f"{line[name]}."
    return {**line, name: other}


def at(place: int, line: Line, lines: list[Line] = WHOLE) -> list[Line]:
    return [*lines[:place], line, *lines[place + 1 :]]


def test_what_the_store_writes_holds() -> None:
    assert broken(WHOLE) == broken(WHOLE, keys=[KEY]) == broken([]) == []
    assert broken(rotated(COUNT, 3), keys=[KEY, NEXT_KEY]) == []


def test_every_field_of_every_entry_that_is_edited_is_found_at_that_entry() -> None:
    for place, line in enumerate(WHOLE):
        for name in chain.FIELDS:
            found = broken(at(place, changed(line, name)), keys=[KEY])
            where = 99 if name == "sequence" else place + 1
            assert where in kinds(found), (place, name, found)
            if name in chain.CONTENT:
                assert "edited" in kinds(found)[where]
            if name == "seal":
                assert found == [Break(place + 1, f"wrong seal: it was not sealed with key {KEY.id}")]


def test_an_entry_edited_with_all_digests_after_it_made_again_is_found_by_its_seal() -> None:
    for place, line in enumerate(WHOLE):
        for name in set(chain.CONTENT) - {"sequence", "key_id", "adopted"}:
            lines = forged(at(place, changed(line, name)), since=place)
            assert broken(lines) == [], "a plain chain does not show it: anybody can make digests"
            assert kinds(broken(lines, keys=[KEY])) == {number: {"wrong seal"} for number in range(place + 1, COUNT + 1)}


def test_every_deletion_within_is_found_and_named() -> None:
    for length in range(1, COUNT):
        for start in range(1, COUNT - length + 1):
            gone = range(start, start + length)
            found = broken([line for line in WHOLE if line["sequence"] not in gone])
            many = f"entries {start} to {gone[-1]} are" if length > 1 else f"entry {start} is"
            assert found == [Break(start, f"deleted: {many} not there, entry {gone[-1] + 1} is")]


def test_a_deletion_with_all_after_it_numbered_and_linked_again_is_found_by_the_seals() -> None:
    for place in range(COUNT - 1):
        lines = forged([*WHOLE[:place], *WHOLE[place + 1 :]], since=place)
        assert broken(lines) == []
        assert min(kinds(broken(lines, keys=[KEY]))) == place + 1


def test_what_is_cut_off_at_the_end_is_not_found_by_a_chain() -> None:
    assert all(broken(WHOLE[:count], keys=[KEY]) == [] for count in range(COUNT))


def test_every_two_entries_that_changed_places_are_found() -> None:
    for first, second in combinations(range(COUNT), 2):
        lines = list(WHOLE)
        lines[first], lines[second] = lines[second], lines[first]
        found = kinds(broken(lines))
        assert set.union(*found.values()) == {"reordered"}
        assert set(found) <= set(range(first + 1, second + 2))


def test_every_order_but_the_right_one_is_found() -> None:
    shuffles = [list(lines) for lines in permutations(WHOLE[:5])]
    assert [lines for lines in shuffles if not broken(lines)] == [WHOLE[:5]]


def test_entries_that_changed_places_and_numbers_are_found_by_their_links_or_seals() -> None:
    for first, second in combinations(range(COUNT), 2):
        lines = list(WHOLE)
        lines[first], lines[second] = (
            {**lines[second], "sequence": first + 1},
            {**lines[first], "sequence": second + 1},
        )
        assert {first + 1, second + 1} <= set(kinds(broken(lines)))
        assert first + 1 in kinds(broken(forged(lines, since=first), keys=[KEY]))


def test_every_inserted_entry_is_found() -> None:
    for place in range(COUNT + 1):
        for line in WHOLE:
            found = broken([*WHOLE[:place], line, *WHOLE[place:]])
            assert "inserted" in kinds(found)[line["sequence"]]


def test_an_entry_inserted_with_all_after_it_made_again_is_found_by_its_seal() -> None:
    new = linked([entry(1, what="promote", detail="version 9 was always here", seal="0" * 64)], keys={})[0]
    for place in range(COUNT + 1):
        lines = forged([*WHOLE[:place], new, *WHOLE[place:]], since=place)
        assert broken(lines) == []
        assert kinds(broken(lines, keys=[KEY])).get(place + 1) == {"wrong seal"}
        # nor does it help to leave the seal away, or to call the entry one of old times, but at the very beginning
        bare = {**new, "key_id": None, "seal": None}
        lines = forged([*WHOLE[:place], bare, *WHOLE[place:]], since=place)
        assert "not sealed" in kinds(broken(lines, keys=[KEY]))[place + 1]
        lines = forged([*WHOLE[:place], {**bare, "adopted": True}, *WHOLE[place:]], since=place)
        assert kinds(broken(lines, keys=[KEY]))


def test_a_ledger_sealed_anew_with_another_key_is_found() -> None:
    lines = linked([entry(number, key_id=FOREIGN_KEY.id) for number in range(1, COUNT + 1)], keys={FOREIGN_KEY.id: FOREIGN_KEY})
    assert broken(lines) == []
    assert kinds(broken(lines, keys=[KEY])) == {number: {"wrong key"} for number in range(1, COUNT + 1)}
    for place in range(1, COUNT):
        mixed = WHOLE[:place] + linked(
            [entry(number, key_id=FOREIGN_KEY.id) for number in range(place + 1, COUNT + 1)],
            keys={FOREIGN_KEY.id: FOREIGN_KEY},
            previous=WHOLE[place - 1]["entry_digest"],
        )
        assert kinds(broken(mixed))[place + 1] == {"wrong key"}, "a change of key that no entry tells of shows without any key"


def test_a_key_that_was_followed_by_another_seals_nothing_any_more() -> None:
    for place in range(1, COUNT - 1):
        good = rotated(COUNT, place)
        old = linked([entry(number) for number in range(place + 1, COUNT + 1)], previous=good[place - 1]["entry_digest"])
        found = kinds(broken(good[:place] + old, keys=[KEY, NEXT_KEY]))
        assert found[place + 1] == {"wrong key"}
    # and a rotation to one key lets no other one in
    lines = rotated(COUNT, 3)
    foreign = linked([entry(4, key_id=FOREIGN_KEY.id)], keys={FOREIGN_KEY.id: FOREIGN_KEY}, previous=lines[2]["entry_digest"])
    assert kinds(broken(lines[:3] + foreign)) == {4: {"wrong key"}}


def test_what_was_adopted_needs_no_seal_and_only_at_the_beginning() -> None:
    old = [entry(number, adopted=True, key_id=None) for number in (1, 2)]
    lines = linked([*old, entry(3), entry(4)])
    assert broken(lines, keys=[KEY]) == []
    assert kinds(broken(forged(at(0, changed(lines[0], "detail"), lines)), keys=[KEY])) == {3: {"wrong seal"}, 4: {"wrong seal"}}
    assert kinds(broken(linked([entry(1), *[{**one, "sequence": 2} for one in old[1:]], entry(3)]), keys=[KEY])) == {2: {"not sealed"}}
    assert kinds(broken(linked(old), keys=[KEY])) == {2: {"not sealed"}}


def test_a_part_of_a_ledger_is_checked_from_where_it_begins() -> None:
    part = WHOLE[2:]
    assert broken(part, keys=[KEY], first=3, start=WHOLE[1]["entry_digest"]) == broken(part, first=3, start=None) == []
    assert kinds(broken(part, first=3, start="f" * 64)) == {3: {"not linked"}}
    assert kinds(broken(part)) == {1: {"deleted"}}
    assert kinds(broken(WHOLE[1:], first=3, start=None)) == {2: {"inserted"}}


_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_JUNK = st.dictionaries(st.sampled_from([*chain.FIELDS, "x"]), _PLAIN, max_size=16)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(WHOLE) | _JUNK | _PLAIN | st.builds(lambda line, junk: {**line, **junk}, st.sampled_from(WHOLE), _JUNK), max_size=8
    )
)
def test_whatever_the_lines_hold_there_is_an_answer_and_only_the_ledger_holds(lines: list[Any]) -> None:
    for keys in ([], [KEY]):
        found = broken(lines, keys=keys)
        assert not found or all(one.what for one in found)
        assert bool(found) == (lines != WHOLE[: len(lines)])


def test_a_key_has_an_id_that_tells_nothing_and_is_not_printed() -> None:
    assert repr(KEY) == f"ChainKey(id='{KEY.id}')"
    with pytest.raises(ValueError, match="16 bytes or more, got 5"):
        ChainKey(b"short")


def test_stock_tools_make_the_same_digest_and_the_same_seal() -> None:
    """Nothing of ours is needed to check an entry: sha256 and HMAC over text that is on the page."""
    line = WHOLE[1]
    text = canonical_json({name: line[name] for name in (*chain.CONTENT, "previous")})
    digest = subprocess.run(["openssl", "dgst", "-sha256", "-r"], input=text, capture_output=True, check=True).stdout.split()[0].decode()
    key = ["-mac", "HMAC", "-macopt", f"hexkey:{KEY.secret.hex()}"]
    seal = subprocess.run(["openssl", "dgst", "-sha256", "-r", *key], input=digest.encode(), capture_output=True, check=True)
    assert (digest, seal.stdout.split()[0].decode()) == (line["entry_digest"], line["seal"])
