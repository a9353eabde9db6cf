"""What a release's manifest vouches for."""

from pathlib import Path

from governance.manifest import MANIFEST_FILE, lists


def test_a_manifest_vouches_for_what_it_lists_and_one_that_is_missing_or_broken_for_nothing(release: Path) -> None:
    assert lists(release, "evidence/risk.json")
    assert not lists(release, "evidence/promotion.json")
    (release / MANIFEST_FILE).write_text("{}")
    assert not lists(release, "evidence/risk.json")
    (release / MANIFEST_FILE).unlink()
    assert not lists(release, "evidence/risk.json")
