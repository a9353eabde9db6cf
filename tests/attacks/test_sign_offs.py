"""Attacks on a sign-off while its release waits: each is refused with a sentence, and the ledger has an entry that says which."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from firstlight import settings as settings_module
from firstlight.digest import sha256_file
from firstlight.errors import RefusedError
from firstlight.verdict import Verdict
from governance.approvers import Approver, ApproverKey, read_approvers, write_approvers
from governance.errors import ApproversError
from governance.evidence import write_evidence
from governance.statement import Decision, draft, sign_statement, store
from governance.subject import read_subject
from rollout.store import Store
from tasks import doors, governing, policy
from tests.governance.conftest import make_key
from tests.governance.test_signing_commands import Office

RISK = {
    "verdict": "pass",
    "summary": "residual 6",
    "reasons": [],
    "band": "Medium",
    "required_roles": {"ai-risk-officer": 1},
    "validity_days": 30,
}
REFUSED = ("refused-sign-off", "refused-approvers", "clock-set-back", "approvers-changed")


@pytest.fixture
def office(humans: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    """A release that waits, put forward by its evidence."""
    (tmp_path / "policy.yaml").write_text("risk:\n  validity_days: 30\n")
    monkeypatch.setenv("FIRSTLIGHT_POLICY_FILE", str(tmp_path / "policy.yaml"))
    monkeypatch.setenv("FIRSTLIGHT_STATE_DIR", str(tmp_path / "state"))
    settings_module.current.cache_clear()
    made = Office(humans)
    write_evidence(made.folder, "risk", RISK)
    assert look(made) is Verdict.CANNOT_TELL
    made.asked = read_subject(made.folder)
    yield made
    settings_module.current.cache_clear()


def look(office: Office) -> Verdict:
    """Let the waiting run look again: its evidence, the approvers and every signature."""
    return governing.sign_off(office.opened()).verdict


def refusals(office: Office) -> list[tuple[str, str]]:
    return [(entry.what, entry.detail) for entry in office.ledger(*REFUSED)]


def signed(office: Office, who: str = "vera", *, reason: str = "it holds", **changes: Any) -> Path:
    """Sign behind the command's back and lay it into the folder."""
    human = office.humans[who]
    words = draft(
        office.asked, approver=human.approver, role="ai-risk-officer", decision=Decision.APPROVE, reason=reason, now=datetime.now(UTC)
    )
    return store(office.folder, sign_statement(words.model_copy(update=changes), key_file=human.key_file), email=human.approver.email)


def test_a_good_sign_off_counts_and_nothing_is_refused(office: Office) -> None:
    office.sign()
    assert look(office) is Verdict.PASS
    assert refusals(office) == []


def swap_a_report(office: Office) -> None:
    write_evidence(office.folder, "bias", {"verdict": "pass", "summary": "all is even better", "reasons": []})


def swap_the_model(office: Office) -> None:
    opened = office.opened().model_copy(update={"model_digest": "cd" * 32})
    office.opened = lambda: opened  # type: ignore[method-assign]


def loosen_the_policy(office: Office) -> None:
    office.settings.policy_path.write_text("risk:\n  validity_days: 300\n")
    policy.read.cache_clear()  # the run that goes on is another process


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (swap_a_report, "the evidence changed after the signature"),
        (swap_the_model, "the model changed after the signature"),
        (loosen_the_policy, "the policy changed after the signature"),
    ],
    ids=["a report", "the model", "the policy"],
)
def test_what_is_swapped_after_the_sign_off_voids_it(office: Office, attack: Callable[[Office], None], said: str) -> None:
    office.sign()
    assert look(office) is Verdict.PASS
    attack(office)
    assert look(office) is Verdict.CANNOT_TELL, "people are asked again"
    ((what, detail),) = refusals(office)
    assert what == "refused-sign-off"
    assert said in detail


def test_a_sign_off_replayed_on_another_release_is_refused(office: Office, humans: dict[str, Any]) -> None:
    # Given a good sign-off, and the next attempt of the same bytes
    office.sign()
    with doors.store(office.settings) as records:
        records.close_release(office.release, "failed", "a gate did not hold")
    other = Office(humans)
    write_evidence(other.folder, "risk", RISK)
    assert other.release != office.release
    # When the statement is laid into its folder
    shutil.copytree(office.folder / "signoffs", other.folder / "signoffs")
    # Then it does not count there
    assert look(other) is Verdict.CANNOT_TELL
    assert [f"must be about release '{other.release}'" in detail for _, detail in refusals(other)] == [True]


def test_a_clock_that_is_set_back_revives_no_sign_off_that_has_expired(office: Office) -> None:
    # Given a sign-off that counts, and a ledger that went on for forty days
    office.sign()
    later = datetime.now(UTC) + timedelta(days=40)
    with Store(office.settings.store, clock=later.timestamp, ledger_key=doors.ledger_keys(office.settings)) as records:
        records.record("local", "other", what="traffic", digest="", detail="forty days later", by="flow")
    # When the machine's clock is set back to today
    assert look(office) is Verdict.CANNOT_TELL
    # Then the sign-off has expired all the same, and the ledger says both, once however often one looks
    look(office)
    said = dict(refusals(office))
    assert list(said) == ["clock-set-back", "refused-sign-off"]
    assert f"the ledger has an entry of {later:%Y-%m-%d}" in said["clock-set-back"]
    assert "the sign-off expired on" in said["refused-sign-off"]
    assert len(refusals(office)) == 2


def test_a_sign_off_dated_ahead_by_a_clock_set_forward_is_refused(office: Office) -> None:
    ahead = datetime.now(UTC) + timedelta(days=2)
    signed(office, signed_at=f"{ahead:%Y-%m-%dT%H:%M:%SZ}", expires_at=f"{ahead + timedelta(days=9):%Y-%m-%dT%H:%M:%SZ}")
    assert look(office) is Verdict.CANNOT_TELL
    assert ["must not be dated in the future" in detail for _, detail in refusals(office)] == [True]


def people(office: Office, change: Callable[[Approver], Approver]) -> tuple[Approver, ...]:
    known, _ = read_approvers(office.settings.approvers_path)
    return write_approvers(office.settings.approvers_path, tuple(change(person) for person in known.approvers)).approvers


def test_a_key_that_was_revoked_since_signs_nothing_any_more(office: Office) -> None:
    office.sign()
    assert look(office) is Verdict.PASS

    def revoke(person: Approver) -> Approver:
        keys = tuple(key.model_copy(update={"revoked": date(2026, 1, 2)}) for key in person.keys)
        return person.model_copy(update={"keys": keys}) if person.name == "Vera Rubin" else person

    people(office, revoke)
    assert look(office) is Verdict.CANNOT_TELL
    said = dict(refusals(office))
    assert "vera@lab.example was changed" in said["approvers-changed"]
    assert "was revoked on 2026-01-02: nothing it signed counts any more" in said["refused-sign-off"]


def add_a_key_of_eves(office: Office, tmp_path: Path) -> None:
    line = make_key(tmp_path / "eve")

    def added(person: Approver) -> Approver:
        more = (*person.keys, ApproverKey(ssh=line, valid_from=date(2026, 1, 1)))
        return person.model_copy(update={"keys": more}) if person.name == "Vera Rubin" else person

    people(office, added)


def test_an_approvers_file_edited_while_a_release_waits_is_told_with_names_and_keys(office: Office, tmp_path: Path) -> None:
    add_a_key_of_eves(office, tmp_path)
    look(office)
    ((what, detail),) = refusals(office)
    assert what == "approvers-changed"
    assert "vera@lab.example: key SHA256:" in detail
    assert detail.endswith("was added")


def test_an_approvers_file_that_is_not_the_one_laid_down_is_refused(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a place where the file's digest is laid down
    monkeypatch.setenv("FIRSTLIGHT_APPROVERS_SHA256", sha256_file(office.settings.approvers_path))
    settings_module.current.cache_clear()
    assert look(office) is Verdict.CANNOT_TELL
    # When somebody adds a key of his own and signs as Vera with it
    add_a_key_of_eves(office, tmp_path)
    human = office.humans["vera"]
    words = draft(
        office.asked, approver=human.approver, role="ai-risk-officer", decision=Decision.APPROVE, reason="good", now=datetime.now(UTC)
    )
    store(office.folder, sign_statement(words, key_file=tmp_path / "eve"), email=human.approver.email)
    # Then nobody's signature is judged by that file
    with pytest.raises(ApproversError, match="somebody changed it"):
        look(office)
    assert [what for what, _ in refusals(office)] == ["refused-approvers"]


def test_ten_megabytes_of_reason_are_refused_before_and_after_signing(office: Office) -> None:
    long = "because " * (10 << 17)
    with pytest.raises(RefusedError, match="must have at most 2000 characters, found 10485760"):
        office.sign(reason=long)
    place = signed(office, reason=long)
    assert place.stat().st_size > 10 << 20
    assert look(office) is Verdict.CANNOT_TELL
    look(office)
    first, second = refusals(office)
    assert first[0] == second[0] == "refused-sign-off"
    assert "must be at most 65536 bytes" in second[1]
    assert all(len(detail) <= 500 for _, detail in (first, second)), "the ledger keeps the sentence, not the bulk"
