"""Waivers and broken glass of a release, judged again from a copy of its folder."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from firstlight.digest import sha256_bytes, write_json
from governance import waiver
from governance.approvers import read_approvers
from governance.evidence import read_evidence, write_evidence
from governance.policy import RiskPolicy
from governance.risk import assess, load_scenarios
from governance.signed import moment
from governance.signoff import judge
from governance.statement import Decision, collect, draft, sign_statement, store
from governance.subject import Person, Requirement, Subject, open_for_sign_off
from governance.verify import Trust, examine
from tests.governance.conftest import EVIDENCE, MODEL_BYTES, NOW
from tests.governance.described import complete

LIMIT = b"risk:\n  validity_days: 14\n  highest_by_scenario: {F01: 1}\n"
POLICY = RiskPolicy(validity_days=14, highest_by_scenario={"F01": 1})


def found(folder: Path, *, at: datetime = NOW + timedelta(days=1), **trust: Any) -> str:
    return "\n".join(str(finding) for finding in examine(folder, trust=Trust(**trust), now=at).findings)


@pytest.fixture
def exceptional(release: Path, humans: dict[str, Any]) -> Path:
    """A release that went on by a waiver of the CTO's for F01 and by her break-glass, before anybody had signed."""
    cto = humans["henrietta"]
    shutil.rmtree(release / "signoffs")
    words = waiver.Waiver(
        environment="local",
        model="desi-vae",
        scenario="F01",
        reason="the champion before it is worse",
        controls=("a person looks at the drift every morning",),
        until=(NOW + timedelta(days=20)).date(),
        role="cto",
        signer=cto.approver.email,
        name=cto.approver.name,
        signed_at=moment(NOW),
    )
    waiver.store(release, waiver.sign_waiver(words, key_file=cto.key_file))
    people, _ = read_approvers(release / "approvers.yaml")
    counted = waiver.judge_waivers(
        waiver.collect(release)[0], environment="local", model="desi-vae", approvers=people, policy=POLICY, now=NOW
    ).in_force
    risk = assess(EVIDENCE, scenarios=load_scenarios(), policy=POLICY, waivers=counted)
    write_evidence(release, "risk", risk.to_dict())
    subject = open_for_sign_off(
        release,
        release=release.name,
        model="desi-vae",
        model_digest=sha256_bytes(MODEL_BYTES),
        policy=LIMIT,
        trainer=Person(name="Cecilia Payne", email="cecilia@lab.example"),
        requirement=Requirement(band=risk.band, roles=dict(risk.required_roles), validity_days=risk.validity_days),
        approvers=(release / "approvers.yaml").read_bytes(),
        names=[*EVIDENCE, "risk"],
        environment="local",
    )
    sign(release, subject, cto, role="cto", decision=Decision.BREAK_GLASS, valid=timedelta(hours=24))
    decide(release, subject)
    return release


def sign(folder: Path, subject: Subject, human: Any, **choices: Any) -> None:
    words = draft(subject, approver=human.approver, reason="the telescope waits", now=NOW, **choices)
    store(folder, sign_statement(words, key_file=human.key_file), email=human.approver.email)


def decide(folder: Path, subject: Subject) -> None:
    people, _ = read_approvers(folder / "approvers.yaml")
    decision = judge(collect(folder)[0], subject=subject, approvers=people, policy=POLICY, now=NOW)
    write_evidence(folder, "sign_off", decision.to_dict())
    complete(folder)


def test_a_good_copy_verifies_and_says_by_what_it_went_on(exceptional: Path) -> None:
    assert read_evidence(exceptional, "risk")["waived"], "without the waiver it would not have gone on"
    done = examine(exceptional, now=NOW + timedelta(hours=1))
    assert done.findings == ()
    said = "\n".join(done.checked)
    assert "BREAK-GLASS by Henrietta Leavitt (cto)" in said
    assert "by waiver F01-" in said


def test_a_broken_glass_that_nobody_ratified_in_time_is_found(exceptional: Path, humans: dict[str, Any]) -> None:
    late = NOW + timedelta(hours=73)
    assert "signoffs/break-glass/henrietta@lab.example.json: the break-glass of Henrietta Leavitt (cto) was to be ratified by" in found(
        exceptional, at=late
    )
    # and once the quorum has signed, it is not
    subject = Subject.model_validate(json.loads((exceptional / "subject.json").read_bytes()))
    for role in subject.requirement.roles:
        sign(exceptional, subject, humans["vera"], role=role, decision=Decision.APPROVE)
    decide(exceptional, subject)
    assert found(exceptional, at=late) == ""


def test_a_broken_glass_taken_out_of_the_record_is_found(exceptional: Path) -> None:
    record = read_evidence(exceptional, "sign_off")
    write_json(exceptional / "evidence" / "sign_off.json", {**record, "break_glass": None, "summary": "approved by everybody"})
    text = found(exceptional)
    assert "evidence/sign_off.json: break_glass does not follow from the signatures: says None" in text
    assert "summary does not follow from the signatures: says approved by everybody" in text


@pytest.mark.parametrize("change", ["a word", "its signature", "the whole"])
def test_a_waiver_that_was_changed_or_taken_away_waives_nothing(exceptional: Path, change: str) -> None:
    (words,) = (exceptional / "waivers").glob("*.json")
    signature = words.with_name(f"{words.name}.sig")
    if change == "a word":
        words.write_bytes(words.read_bytes().replace(b"is worse", b"is awful"))
    elif change == "its signature":
        signature.unlink()
    else:
        words.unlink()
        signature.unlink()
    assert "evidence/risk.json: verdict does not follow from the evidence: says pass, follows fail" in found(exceptional)


def test_a_waiver_whose_key_was_revoked_since_is_found_with_the_labs_own_file(exceptional: Path, approvers: Any) -> None:
    assert found(exceptional, approvers=approvers) == ""

    def changed(person: Any) -> Any:
        keys = tuple(key.model_copy(update={"revoked": NOW.date()}) for key in person.keys)
        return person.model_copy(update={"keys": keys}) if person.name == "Henrietta Leavitt" else person

    since = approvers.model_copy(update={"approvers": tuple(map(changed, approvers.approvers))})
    assert f"revoked on {NOW.date()}: the signature proves nothing any more" in found(exceptional, approvers=since)
    without = approvers.model_copy(update={"approvers": approvers.approvers[:1]})
    assert "must be by a person and a key in the approvers file that was given" in found(exceptional, approvers=without)


def test_the_moment_by_which_a_waiver_was_counted_cannot_be_moved_past_its_end(exceptional: Path) -> None:
    risk = read_evidence(exceptional, "risk")
    risk["waivers"][0]["counted_at"] = moment(datetime(2027, 6, 1, tzinfo=UTC))
    write_json(exceptional / "evidence" / "risk.json", risk)
    assert "verdict does not follow from the evidence: says pass, follows fail" in found(exceptional)
