"""Going on before the quorum has signed, and the statements of today and of before: one rule per test, through real signatures."""

import json
from datetime import timedelta

import pytest

from firstlight.digest import canonical_json
from firstlight.verdict import Verdict
from governance.errors import SignOffError
from governance.policy import BreakGlass, RiskPolicy
from governance.signed import Signed
from governance.signoff import judge, may_sign, who_may_sign
from governance.sshsig import NAMESPACE, sign
from governance.statement import Decision, Statement, collect, draft, moment, parse_statement, sign_statement, store
from governance.subject import Requirement, Subject, check_change_id

GLASS = {"decision": Decision.BREAK_GLASS, "role": "cto", "reason": "the old model crashes on tonight's data"}


@pytest.fixture
def now(pytestconfig):
    return next(plugin.NOW for plugin in pytestconfig.pluginmanager.get_plugins() if getattr(plugin, "MODEL_BYTES", None))


@pytest.fixture
def decide(subject, approvers, now):
    def call(*signed, **changes):
        return judge(signed, **({"subject": subject, "approvers": approvers, "policy": RiskPolicy(), "now": now} | changes))

    return call


@pytest.fixture
def signed_by(humans, statement_of):
    def make(who="vera", **changes):
        return sign_statement(statement_of(who, **changes), key_file=humans[who].key_file, source=f"{who}.json")

    return make


@pytest.fixture
def glass(signed_by, now):
    def make(who="henrietta", **changes):
        return signed_by(who, **{**GLASS, "expires_at": moment(now + timedelta(hours=24)), **changes})

    return make


def test_the_glass_lets_a_release_go_on_and_says_so_until_the_quorum_has_signed(decide, glass, signed_by, now):
    broken = decide(glass())
    assert (broken.verdict, broken.missing, broken.accepted) == (Verdict.PASS, {"ai-risk-officer": 1}, ())
    assert broken.summary.startswith(
        "BREAK-GLASS by Henrietta Leavitt (cto), to be ratified by 2026-11-26T01:30:00Z: waiting for 1 ai-risk-officer"
    )
    assert (broken.break_glass.ratified, broken.break_glass.reason) == (False, GLASS["reason"])
    ratified = decide(glass(), signed_by(signed_at=moment(now), expires_at=moment(now + timedelta(days=30))), now=now + timedelta(hours=60))
    assert (ratified.verdict, ratified.missing, ratified.break_glass.ratified) == (Verdict.PASS, {}, True)
    assert ratified.summary == "approved by Vera Rubin (ai-risk-officer); this ratifies the break-glass of Henrietta Leavitt (cto)"


def test_a_rejection_is_stronger_than_a_broken_glass(decide, glass, signed_by):
    assert decide(glass(), signed_by("annie", decision=Decision.REJECT)).verdict is Verdict.FAIL


def test_a_broken_glass_lets_nothing_go_on_after_its_hours(decide, glass, now):
    late = decide(glass(), now=now + timedelta(hours=24))
    assert (late.verdict, late.break_glass) == (Verdict.CANNOT_TELL, None)
    assert "expired" in late.refused[0][1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"who": "vera", "role": "ai-risk-officer"}, "the glass may be broken by cto"),
        ({"who": "henrietta", "role": "board"}, "role they hold"),
        ({"release": "desi-vae-older"}, "about release"),
        ({"evidence_digest": "f" * 64}, "evidence changed"),
        ({"expires_at": "2026-11-25T01:30:00Z"}, "within 24 hours"),
        ({"reason": "TODO"}, "placeholder"),
        ({"reason": "x" * 10_000_000}, "shorten"),
    ],
    ids=["wrong person", "role not theirs", "another release", "other evidence", "too long", "no reason", "endless reason"],
)
def test_a_glass_broken_wrongly_stays_whole(decide, glass, changes, says):
    decision = decide(glass(**changes))
    assert (decision.verdict, decision.break_glass) == (Verdict.CANNOT_TELL, None)
    assert says in decision.refused[0][1]


def test_where_nobody_may_break_the_glass_nobody_can(decide, glass):
    decision = decide(glass(), policy=RiskPolicy(break_glass=BreakGlass(roles=())))
    assert "nobody in this environment" in decision.refused[0][1]


def test_the_trainer_never_breaks_the_glass(decide, glass, subject, humans):
    trainer = subject.trainer.model_copy(update={"email": "Henrietta+x@lab.example"})
    assert "trained this model" in decide(glass(), subject=subject.model_copy(update={"trainer": trainer})).refused[0][1]


def test_a_glass_is_broken_once_and_never_counts_as_an_approval(decide, glass, subject, approvers, humans):
    high = subject.model_copy(update={"requirement": Requirement(band="High", roles={"cto": 1}, validity_days=30)})
    decision = decide(glass(), glass(reason="and again, for the same night"), subject=high)
    assert decision.missing == {"cto": 1}
    assert "broken once" in decision.refused[0][1]


def test_a_broken_glass_lies_beside_the_persons_approval_and_is_found_again(tmp_path, glass, signed_by, decide):
    store(tmp_path, glass(), email="henrietta@lab.example")
    store(tmp_path, signed_by("henrietta", decision=Decision.REJECT), email="henrietta@lab.example")
    found, unreadable = collect(tmp_path)
    assert ([one.source for one in found], unreadable) == (["henrietta@lab.example.json", "break-glass/henrietta@lab.example.json"], [])
    assert decide(*found).verdict is Verdict.FAIL


def test_who_may_still_sign_leaves_out_trainer_placeholder_and_who_has_signed(decide, signed_by, subject, approvers, now):
    facts = {"subject": subject, "approvers": approvers, "policy": RiskPolicy(), "now": now}
    assert [(one.name, one.role) for one in who_may_sign(decide(), **facts)] == [
        ("Annie Cannon", "ai-risk-officer"),
        ("Vera Rubin", "ai-risk-officer"),
    ]
    two = subject.model_copy(update={"requirement": Requirement(band="x", roles={"ai-risk-officer": 2}, validity_days=30)})
    left = who_may_sign(decide(signed_by(), subject=two), **{**facts, "subject": two})
    assert [one.email for one in left] == ["annie@lab.example"]
    assert who_may_sign(decide(), **{**facts, "now": now.replace(year=2025)}) == ()


@pytest.fixture
def numbered(subject):
    return subject.model_copy(update={"decision_id": "DEC-2026-007", "change_id": "CR-2026-014", "environment": "production"})


def test_a_statement_names_decision_and_change_and_one_about_others_is_refused(decide, humans, numbered, now):
    vera = humans["vera"]
    words = draft(numbered, approver=vera.approver, role="ai-risk-officer", decision=Decision.APPROVE, reason="it holds", now=now)
    assert (words.decision_id, words.change_id) == ("DEC-2026-007", "CR-2026-014")
    good = sign_statement(words, key_file=vera.key_file)
    decision = decide(good, subject=numbered)
    assert (decision.verdict, decision.decision_id, decision.change_id) == (Verdict.PASS, "DEC-2026-007", "CR-2026-014")
    other = decide(good, subject=numbered.model_copy(update={"decision_id": "DEC-2026-008"}))
    assert "must name the decision it is about, DEC-2026-008, found 'DEC-2026-007'" in other.refused[0][1]
    other = decide(good, subject=numbered.model_copy(update={"change_id": "CR-2026-015"}))
    assert "must name the change it is about, CR-2026-015" in other.refused[0][1]


def test_where_a_change_is_wanted_nobody_is_asked_before_there_is_one(decide, signed_by, glass, numbered, subject, humans, statement_of):
    strict = RiskPolicy(change_id_required=True)
    for signed in (signed_by(), glass()):
        decision = decide(signed, policy=strict)
        assert (decision.verdict, decision.summary) == (Verdict.CANNOT_TELL, "waiting for a change id (CR-YYYY-NNN)")
    assert "--change" in may_sign(statement_of(), subject=subject, approver=humans["vera"].approver, policy=strict)
    for wrong in ("CR-26-1", "cr-2026-014", "CR-2026-014\n", "DEC-2026-001", "x" * 1000):
        with pytest.raises(ValueError, match="change_id"):
            Subject.model_validate({**numbered.document(), "change_id": wrong})
        with pytest.raises(Exception, match="CR-2026-014, found"):
            check_change_id(wrong)


def test_conditions_are_signed_shown_and_must_be_written_out(decide, signed_by):
    kept = ("QSO recall is measured again by 2026-12-31", "the canary is watched for a day")
    decision = decide(signed_by(conditions=kept))
    assert decision.accepted[0].conditions == kept
    assert decision.conditions == tuple(f"Vera Rubin (ai-risk-officer): {sentence}" for sentence in kept)
    assert json.loads(canonical_json(decision.to_dict())) == decision.to_dict()
    for empty in ("", "TBD", "done by [YYYY-MM-DD]", "x" * 2001):
        assert "a condition must" in decide(signed_by(conditions=(empty,))).refused[0][1]
    with pytest.raises(SignOffError, match="at most 20 conditions"):
        draft(
            Subject.model_validate({**SUBJECT}),
            approver=None,
            role="x",
            decision=Decision.APPROVE,
            reason="x",
            now=None,
            conditions=["c"] * 21,
        )


SUBJECT = {
    "release": "r",
    "model": "m",
    "model_digest": "1" * 64,
    "evidence": {},
    "evidence_digest": "2" * 64,
    "policy_digest": "3" * 64,
    "approvers_digest": "4" * 64,
    "trainer": {"name": "A B", "email": "a@b.example"},
    "requirement": {"band": "Low", "roles": {"system-owner": 1}, "validity_days": 1},
}


def test_what_the_band_asks_for_must_be_brought_by_somebody_who_approves(decide, glass, signed_by, subject):
    asked = Requirement(band="x", roles={"ai-risk-officer": 1}, validity_days=30, documents=("board minutes", "acceptance memo"))
    high = subject.model_copy(update={"requirement": asked})
    half = decide(signed_by(documents={"board minutes": "a" * 64}), subject=high)
    assert (half.verdict, half.missing, half.missing_documents) == (Verdict.CANNOT_TELL, {}, ("acceptance memo",))
    assert half.summary == "waiting for acceptance memo (`firstlight sign-off --document`)"
    assert (
        decide(signed_by("annie", decision=Decision.REJECT, documents={"acceptance memo": "b" * 64}), subject=high).verdict is Verdict.FAIL
    )
    whole = decide(signed_by(documents={"board minutes": "a" * 64, "acceptance memo": "b" * 64}), subject=high)
    assert (whole.verdict, whole.accepted[0].documents["board minutes"]) == (Verdict.PASS, "a" * 64)
    assert decide(glass(), signed_by(documents={"board minutes": "a" * 64}), subject=high).break_glass.ratified is False


def test_a_statement_of_the_first_format_still_counts_for_a_release_of_that_time(decide, humans, statement_of, numbered):
    old = json.loads(statement_of().to_bytes()) | {"format": "firstlight/sign-off/v1"}
    data = canonical_json(
        {name: value for name, value in old.items() if name not in ("conditions", "documents", "decision_id", "change_id")}
    )
    signed = Signed(source="vera.json", statement=data, signature=sign(data, key_file=humans["vera"].key_file))
    assert parse_statement(data).to_bytes() == data
    assert decide(signed).verdict is Verdict.PASS
    assert "must name the decision" in decide(signed, subject=numbered).refused[0][1]
    for smuggled in (
        {"conditions": ["c"]},
        {"documents": {}},
        {"decision_id": "DEC-2026-001"},
        {"conditions": []},
        {"decision": "break-glass"},
    ):
        with pytest.raises(SignOffError):
            parse_statement(canonical_json(json.loads(data) | smuggled))


def test_a_subject_of_the_first_format_reads_back_and_knows_no_ids(subject):
    old = subject.model_copy(update={"format": "firstlight/sign-off-subject/v1"}).document()
    assert not {"environment", "decision_id", "change_id", "documents"} & {*old, *old["requirement"]}
    assert Subject.model_validate(old).document() == old
    with pytest.raises(ValueError, match="has no environment"):
        Subject.model_validate(old | {"change_id": "CR-2026-001"})


def test_half_a_character_is_a_sentence(statement_of):
    with pytest.raises(SignOffError, match="half a character"):
        statement_of(reason="\ud800").to_bytes()


def test_stock_openssh_verifies_a_broken_glass_and_a_statement_with_conditions(tmp_path, glass, signed_by, approvers, ssh_keygen):
    (tmp_path / "allowed_signers").write_bytes(approvers.allowed_signers())
    for who, signed in (("henrietta", glass()), ("vera", signed_by(conditions=("é, ü and 漢: by 2026-12-31",)))):
        path = store(tmp_path, signed, email=f"{who}@lab.example")
        words = ["-Y", "verify", "-f", tmp_path / "allowed_signers", "-I", f"{who}@lab.example", "-n", NAMESPACE, "-s", f"{path}.sig"]
        done = ssh_keygen(*words, input=path.read_bytes())
        assert (done.returncode, b'Good "firstlight-sign-off"' in done.stdout) == (0, True), done.stderr
        assert ssh_keygen(*words, input=path.read_bytes().replace(b'"release":"desi', b'"release":"desj')).returncode != 0


def test_every_field_of_the_statement_is_signed():
    assert set(Statement.model_fields) >= {"conditions", "decision_id", "change_id", "reason", "expires_at", "policy_digest"}
