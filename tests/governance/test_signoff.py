"""Who counts, who does not, and why: one rule per test, all through real signatures."""

import json
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.digest import canonical_json
from firstlight.verdict import Verdict
from governance.approvers import ApproverKey, Approvers, parse_approvers, read_approvers, write_approvers
from governance.errors import ApproversError, SignOffError
from governance.policy import RiskPolicy
from governance.signoff import judge, may_sign
from governance.statement import Decision, Signed, collect, moment, parse_statement, sign_statement, store
from governance.subject import Person, Requirement


@pytest.fixture
def now(pytestconfig):
    return next(plugin.NOW for plugin in pytestconfig.pluginmanager.get_plugins() if getattr(plugin, "MODEL_BYTES", None))


@pytest.fixture
def decide(subject, approvers, now):
    def call(*signed, **changes):
        facts = {"subject": subject, "approvers": approvers, "policy": RiskPolicy(), "now": now} | changes
        return judge(signed, **facts)

    return call


@pytest.fixture
def signed_by(humans, statement_of):
    def make(who="vera", *, key=None, **changes):
        return sign_statement(statement_of(who, **changes), key_file=humans[key or who].key_file, source=f"{who}.json")

    return make


def replaced(approvers, who, **changes):
    people = [person.model_copy(update=changes) if person.email == who else person for person in approvers.approvers]
    return approvers.model_copy(update={"approvers": tuple(people)})


def with_key(approvers, who, **changes):
    person = approvers.by_email(who)
    return replaced(approvers, who, keys=(person.keys[0].model_copy(update=changes),))


def refusal(decision):
    assert decision.verdict is Verdict.CANNOT_TELL
    assert not decision.accepted
    ((who, why),) = decision.refused
    return f"{who}: {why}"


def test_one_right_signature_is_enough_for_medium_risk(decide, signed_by):
    decision = decide(signed_by())
    assert decision.verdict is Verdict.PASS
    assert decision.summary == "approved by Vera Rubin (ai-risk-officer)"
    assert (decision.accepted[0].fingerprint[:7], decision.missing) == ("SHA256:", {})


def test_nobody_yet_is_waiting_not_a_failure(decide):
    decision = decide()
    assert decision.verdict is Verdict.CANNOT_TELL
    assert decision.summary == "waiting for 1 ai-risk-officer; 0 of 1 given"
    assert decision.missing == {"ai-risk-officer": 1}


def test_high_risk_takes_the_cto_and_four_different_board_members(decide, signed_by, subject, humans):
    high = subject.model_copy(update={"requirement": Requirement(band="High", roles={"cto": 1, "board": 4}, validity_days=30)})
    given = [signed_by("henrietta"), *(signed_by(f"board{n}") for n in range(3))]
    first = decide(*given, subject=high)
    assert first.missing == {"board": 1}, first.refused
    assert decide(*given, signed_by("board2"), subject=high).missing == {"board": 1}
    assert decide(*given, signed_by("board3"), subject=high).verdict is Verdict.PASS


def test_one_valid_rejection_stops_the_release(decide, signed_by):
    decision = decide(signed_by(), signed_by("annie", decision=Decision.REJECT, reason="QSO recall is too low"))
    assert decision.verdict is Verdict.FAIL
    assert "Annie Cannon (ai-risk-officer) rejected: QSO recall is too low" in decision.reasons


def test_a_listed_person_may_reject_in_any_role_they_hold(decide, signed_by):
    assert decide(signed_by("henrietta", decision=Decision.REJECT)).verdict is Verdict.FAIL


def test_a_person_who_says_both_yes_and_no_has_said_no(decide, signed_by):
    decision = decide(signed_by(), signed_by(decision=Decision.REJECT))
    assert decision.verdict is Verdict.FAIL
    assert "already decided" in decision.refused[0][1]


def test_an_invalid_rejection_stops_nothing(decide, signed_by, statement_of, humans):
    stranger = sign_statement(statement_of(decision=Decision.REJECT), key_file=humans["annie"].key_file)
    decision = decide(signed_by(), stranger)
    assert decision.verdict is Verdict.PASS
    assert "key listed for them" in decision.refused[0][1]


def test_a_bad_statement_does_not_hide_a_good_one(decide, signed_by):
    decision = decide(Signed(source="junk.json", statement=b"{", signature=b""), signed_by(), signed_by("annie", release="other"))
    assert decision.verdict is Verdict.PASS
    assert [who for who, _ in decision.refused] == ["junk.json", "annie@lab.example"]


def test_somebody_not_in_the_file_is_refused(decide, signed_by):
    assert "approvers file" in refusal(decide(signed_by(signer="eve@lab.example")))


def test_another_persons_key_is_refused(decide, signed_by):
    assert "key listed for them" in refusal(decide(signed_by(key="annie")))


def test_words_changed_after_signing_are_refused(decide, signed_by):
    good = signed_by()
    changed = Signed(source="x", statement=good.statement.replace(b"every slice", b"no slice at"), signature=good.signature)
    assert "match the signed bytes" in refusal(decide(changed))


def test_the_trainer_never_approves_by_address_name_or_key(decide, signed_by, subject, humans):
    assert "trained this model" in refusal(decide(signed_by("cecilia")))
    for email, name in (("Vera+work@LAB.example", "V. R."), ("v@elsewhere.example", "VERA  Rubín"), ("v@elsewhere.example", "V. R.")):
        fingerprints = (humans["vera"].approver.keys[0].public.fingerprint,) if name == "V. R." and email.startswith("v@") else ()
        trainer = Person(name=name, email=email, fingerprints=fingerprints)
        assert "trained this model" in refusal(decide(signed_by(), subject=subject.model_copy(update={"trainer": trainer})))


def test_one_person_counts_once_however_often_they_sign(decide, signed_by, subject):
    two = subject.model_copy(update={"requirement": Requirement(band="x", roles={"ai-risk-officer": 2}, validity_days=30)})
    decision = decide(signed_by(), signed_by(reason="again"), subject=two)
    assert decision.missing == {"ai-risk-officer": 1}
    assert "counts once" in decision.refused[0][1]
    assert decide(signed_by(), signed_by("annie"), subject=two).verdict is Verdict.PASS


def test_one_person_cannot_fill_two_roles(decide, signed_by, subject):
    both = subject.model_copy(
        update={"requirement": Requirement(band="x", roles={"ai-risk-officer": 1, "system-owner": 1}, validity_days=30)}
    )
    assert decide(signed_by(), signed_by(role="system-owner"), subject=both).verdict is Verdict.CANNOT_TELL


def test_a_role_not_theirs_or_not_asked_for_is_refused(decide, signed_by):
    assert "role they hold" in refusal(decide(signed_by(role="cto")))
    assert "must be approved by 1 ai-risk-officer" in refusal(decide(signed_by("henrietta")))


def test_a_placeholder_in_the_approvers_file_is_nobody(decide, signed_by, approvers):
    listed = replaced(approvers, "vera@lab.example", name="[Your Name]")
    assert "named person" in refusal(decide(signed_by(name="[Your Name]"), approvers=listed))
    listed = replaced(approvers, "vera@lab.example", email="admin@lab.example")
    assert "named person" in refusal(decide(signed_by(signer="admin@lab.example"), approvers=listed))


def test_a_statement_under_another_name_is_refused(decide, signed_by):
    assert "bear the name" in refusal(decide(signed_by(name="Edwin Hubble")))


@pytest.mark.parametrize(("field", "says"), [("model_digest", "model"), ("evidence_digest", "evidence"), ("policy_digest", "policy")])
def test_a_changed_digest_voids_the_sign_off(decide, signed_by, field, says):
    why = refusal(decide(signed_by(**{field: "f" * 64})))
    assert f"the {says} changed after the signature" in why
    assert "void" in why


def test_a_sign_off_of_another_release_or_model_is_refused(decide, signed_by):
    assert "about release" in refusal(decide(signed_by(release="desi-vae-older")))
    assert "about release" in refusal(decide(signed_by(model="other")))


def test_an_expired_or_future_or_too_long_sign_off_is_refused(decide, signed_by, now):
    assert "expired" in refusal(decide(signed_by(), now=now + timedelta(days=30)))
    assert decide(signed_by(), now=now + timedelta(days=29, hours=23)).verdict is Verdict.PASS
    assert "future" in refusal(decide(signed_by(), now=now - timedelta(minutes=6)))
    assert decide(signed_by(), now=now - timedelta(minutes=4)).verdict is Verdict.PASS
    assert "within 30 days" in refusal(decide(signed_by(expires_at=moment(now + timedelta(days=31)))))
    assert "within 30 days" in refusal(decide(signed_by(expires_at=moment(now))))


def test_placeholder_dates_are_no_statement(decide, statement_of, humans):
    bad = statement_of(signed_at="[YYYY-MM-DD]")
    assert "signed_at" in refusal(decide(sign_statement(bad, key_file=humans["vera"].key_file)))


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ({"revoked": date(2026, 11, 23)}, "revoked"),
        ({"revoked": date(2026, 1, 2)}, "revoked"),
        ({"valid_from": date(2026, 11, 24)}, "counts from"),
        ({"valid_until": date(2026, 11, 22)}, "counted until"),
    ],
)
def test_a_key_not_in_force_is_refused(decide, signed_by, approvers, key, says):
    assert says in refusal(decide(signed_by(), approvers=with_key(approvers, "vera@lab.example", **key)))


def test_a_revocation_still_to_come_changes_nothing(decide, signed_by, approvers):
    later = with_key(approvers, "vera@lab.example", revoked=date(2027, 1, 1))
    assert decide(signed_by(), approvers=later).verdict is Verdict.PASS


@pytest.mark.parametrize(("reason", "says"), [("", "none"), (" \n", "none"), ("x" * 2001, "2000"), ("x" * 10_000_000, "shorten")])
def test_a_reason_that_is_empty_or_endless_is_refused(decide, signed_by, reason, says):
    assert says in refusal(decide(signed_by(reason=reason)))


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"\xff\xfe", b'{"format": 1}', b"[" * 100_000, b'{"a":NaN}', b'{"a":1,"a":2}', b'"\\ud800"'],
)  # fmt: skip
def test_bytes_that_are_no_statement_are_one_sentence(decide, data):
    assert "statement" in refusal(decide(Signed(source="x.json", statement=data, signature=b"")))


def test_a_statement_that_is_not_canonical_is_refused(statement_of):
    data = statement_of().to_bytes()
    assert parse_statement(data) == statement_of()
    for other in (data + b"\n", json.dumps(json.loads(data), indent=1).encode(), data.replace(b'"reason":"', b'"reason":"\\ud800')):
        with pytest.raises(SignOffError):
            parse_statement(other)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["format", "signer", "decision", "signed_at", "reason", "role"]),
        st.none() | st.text() | st.integers() | st.floats(),
    )
)
def test_no_json_a_stranger_writes_raises(document):
    with pytest.raises(SignOffError):
        parse_statement(json.dumps(document).encode())


def test_before_a_key_is_touched_a_vain_signature_is_named(subject, statement_of, humans):
    def ask(who="vera", **changes):
        return may_sign(statement_of(who, **changes), subject=subject, approver=humans[who].approver, policy=RiskPolicy())

    assert ask() is None
    assert "trained" in ask("cecilia")
    assert "approved by" in ask("henrietta")
    assert "reason" in ask(reason="")


def test_a_stored_sign_off_is_found_again_and_a_bare_one_is_reported(tmp_path, signed_by):
    store(tmp_path, signed_by(), email="vera@lab.example")
    (tmp_path / "signoffs" / "bare@lab.example.json").write_bytes(b"{}")
    (tmp_path / "signoffs" / "link.json").symlink_to("/etc/passwd")
    (tmp_path / "signoffs" / "link.json.sig").write_bytes(b"")
    found, refused = collect(tmp_path)
    assert [one.source for one in found] == ["vera@lab.example.json"]
    assert ["signature beside it" in dict(refused)["bare@lab.example.json"], "symbolic link" in dict(refused)["link.json"]] == [True, True]


@pytest.mark.parametrize("email", ["../../evil", "a/b@c", ".hidden", "", ".."])
def test_an_address_cannot_climb_out_of_the_folder(tmp_path, signed_by, email):
    with pytest.raises(SignOffError, match="file name"):
        store(tmp_path, signed_by(), email=email)


def test_the_decision_travels_as_canonical_json(decide, signed_by):
    document = decide(signed_by(), signed_by("annie", release="x")).to_dict()
    assert list(document)[:3] == ["verdict", "summary", "reasons"]
    assert json.loads(canonical_json(document)) == document


def test_an_approvers_file_reads_back_as_written(tmp_path, approvers):
    again = write_approvers(tmp_path / "a.yaml", approvers.approvers)
    assert again == approvers
    assert read_approvers(tmp_path / "a.yaml")[0] == approvers


GOOD = """format: firstlight/approvers/v1
approvers:
  - name: Vera Rubin
    email: vera@lab.example
    roles: [cto]
    keys:
      - {ssh: KEY, valid_from: 2026-01-01}
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("KEY", "ssh-ed25519 AAAA", "cut short"),
        ("email: vera@lab.example", "email: vera", "email"),
        ("email: vera@lab.example", 'email: "v\'$(id)@lab.example"', "email"),
        ("roles: [cto]", "roles: []", "roles"),
        ("2026-01-01}", "2026-01-01, valid_until: 2025-01-01}", "before valid_from"),
        ("2026-01-01}", "soon}", "valid_from"),
        ("    roles: [cto]", "    roles: [cto]\n    admin: true", "admin"),
        ("format: firstlight/approvers/v1", "format: v9", "format"),
        ("roles: [cto]", "roles: &x [cto]\n    more: *x", "alias"),
    ],
)
def test_a_bad_approvers_file_names_the_field(humans, old, new, says):
    text = GOOD.replace(old, new).replace("KEY", humans["vera"].approver.keys[0].ssh)
    with pytest.raises(ApproversError, match=says):
        parse_approvers(text.encode(), "approvers.yaml")


def test_a_key_or_an_address_listed_twice_identifies_nobody(humans, approvers):
    vera, annie = humans["vera"].approver, humans["annie"].approver
    for pair in ((vera, annie.model_copy(update={"keys": vera.keys})), (vera, annie.model_copy(update={"email": "VERA+2@lab.example"}))):
        with pytest.raises(ValueError, match="twice"):
            Approvers(format="firstlight/approvers/v1", approvers=pair)


def test_a_yaml_bomb_and_a_huge_file_are_refused_quickly(tmp_path):
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
    )
    with pytest.raises(ApproversError, match="alias"):
        parse_approvers(bomb.encode())
    (tmp_path / "big.yaml").write_bytes(b"x" * (2 << 20))
    with pytest.raises(ApproversError, match="at most"):
        read_approvers(tmp_path / "big.yaml")


def test_allowed_signers_leaves_out_revoked_keys(approvers):
    assert b"vera@lab.example" in approvers.allowed_signers()
    assert b"vera@lab.example" not in with_key(approvers, "vera@lab.example", revoked=date(2026, 5, 1)).allowed_signers()
    assert isinstance(approvers.approvers[0].keys[0], ApproverKey)
