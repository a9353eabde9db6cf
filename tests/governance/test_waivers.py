"""Waivers: what they turn into a pass, who may sign one for how long, and what they never do. Through real signatures."""

from datetime import UTC, date, datetime, timedelta

import pytest

from firstlight.digest import sha256_bytes
from firstlight.verdict import Verdict
from governance import waiver
from governance.errors import SignOffError
from governance.policy import RiskPolicy, WaiverRule
from governance.risk import assess, load_scenarios
from governance.signed import Signed, moment
from governance.sshsig import NAMESPACE, WAIVER_NAMESPACE, sign
from governance.subject import Person, Subject
from governance.waiver import Waiver, judge_waivers, may_waive, sign_waiver

NOW = datetime(2026, 11, 23, 1, 30, tzinfo=UTC)
TRAINER = Person(name="Cecilia Payne", email="cecilia@lab.example")


def words(**changes):
    facts = {
        "environment": "local",
        "model": "desi-vae",
        "scenario": "F02",
        "reason": "the slices were compared by hand for this night",
        "controls": ("a person looks at every flagged quasar",),
        "until": date(2026, 12, 31),
        "role": "cto",
        "signer": "henrietta@lab.example",
        "name": "Henrietta Leavitt",
        "signed_at": moment(NOW),
    }
    return Waiver(**(facts | changes))


@pytest.fixture
def signed(humans):
    def make(who="henrietta", *, key=None, **changes):
        return sign_waiver(words(**changes), key_file=humans[key or who].key_file)

    return make


@pytest.fixture
def judged(approvers):
    def call(*found, **changes):
        facts = {
            "environment": "local",
            "model": "desi-vae",
            "approvers": approvers,
            "policy": RiskPolicy(),
            "now": NOW,
            "trainer": TRAINER,
        }
        return judge_waivers(found, **(facts | changes))

    return call


@pytest.fixture
def evidence(pytestconfig):
    plugins = pytestconfig.pluginmanager.get_plugins()
    return dict(next(plugin.EVIDENCE for plugin in plugins if getattr(plugin, "MODEL_BYTES", None)))


def test_a_waiver_that_counts_says_who_waives_what_until_when(judged, signed):
    (one,) = judged(signed()).in_force
    assert one.said == f"waiver {one.id} by Henrietta Leavitt (cto) until 2026-12-31"
    assert (one.id, one.ends_at) == (f"F02-{one.digest[:12]}", datetime(2027, 1, 1, tzinfo=UTC))


def test_it_counts_on_its_last_day_and_not_on_the_next(judged, signed):
    last = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert len(judged(signed(), now=last).in_force) == 1
    (ended,) = judged(signed(), now=last + timedelta(seconds=1)).turned_down
    assert (ended.ended, "ended on 2026-12-31" in ended.why) == (True, True)


def test_a_waiver_of_another_model_or_environment_says_nothing_here(judged, signed):
    decision = judged(signed(model="other"), signed(environment="production"))
    assert (decision.in_force, decision.turned_down) == ((), ())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"signer": "eve@lab.example"}, "approvers file"),
        ({"key": "vera"}, "key listed for them"),
        ({"who": "vera", "signer": "vera@lab.example", "name": "Vera Rubin", "role": "ai-risk-officer"}, "F02 may be waived by cto"),
        ({"role": "board"}, "role they hold"),
        ({"name": "Edwin Hubble"}, "bear the name"),
        ({"reason": " "}, "a reason must be given"),
        ({"reason": "x" * 10_000_000}, "shorten"),
        ({"controls": ("to be done: [control]",)}, "a compensating control must be written out"),
        ({"until": date(2027, 3, 1)}, "must end between then and 2027-02-21"),
        ({"until": date(2026, 11, 22)}, "must end between"),
        ({"signed_at": "2026-11-23T01:36:00Z"}, "dated in the future"),
    ],
    ids=["stranger", "other key", "no authority", "role not theirs", "other name", "no reason", "endless reason", "placeholder", "too long",
         "ended before it began", "future"],
)  # fmt: skip
def test_a_waiver_that_does_not_count_says_why(judged, signed, changes, says):
    decision = judged(signed(**changes))
    assert decision.in_force == ()
    assert says in decision.turned_down[0].why


def test_the_trainer_waives_nothing_of_their_own_model(judged, signed):
    trainer = Person(name="H. L.", email="HENRIETTA@lab.example")
    assert "trained this model" in judged(signed(), trainer=trainer).turned_down[0].why


def test_a_revoked_key_waives_nothing_whatever_the_date(judged, signed, approvers):
    people = [
        person.model_copy(update={"keys": (person.keys[0].model_copy(update={"revoked": date(2026, 11, 23)}),)})
        if person.email == "henrietta@lab.example"
        else person
        for person in approvers.approvers
    ]
    listed = approvers.model_copy(update={"approvers": tuple(people)})
    assert "revoked" in judged(signed(), approvers=listed).turned_down[0].why


def test_a_sign_off_is_no_waiver_and_a_waiver_no_sign_off(judged, humans):
    data = words().to_bytes()
    wrong = Signed(source="w.json", statement=data, signature=sign(data, key_file=humans["henrietta"].key_file, namespace=NAMESPACE))
    assert "must be for 'firstlight-waiver'" in judged(wrong).turned_down[0].why


def test_one_changed_word_is_refused(judged, signed):
    good = signed()
    longer = Signed(source="w.json", statement=good.statement.replace(b"2026-12-31", b"2027-01-31"), signature=good.signature)
    assert "match the signed bytes" in judged(longer).turned_down[0].why


def test_the_policy_says_what_nobody_may_waive(judged, signed):
    strict = RiskPolicy(
        waivers=(WaiverRule(scenarios=("F02",), longest_days=30), WaiverRule(scenarios=("*",), roles=("cto",), longest_days=30))
    )
    assert "nobody in this environment" in judged(signed(), policy=strict).turned_down[0].why
    assert len(judged(signed(scenario="R07", until=date(2026, 12, 23)), policy=strict).in_force) == 1
    assert "nobody" in judged(signed(), policy=RiskPolicy(waivers=())).turned_down[0].why


def test_before_a_key_is_touched_a_vain_waiver_is_named(humans):
    henrietta = humans["henrietta"].approver
    assert may_waive(words(), approver=henrietta, policy=RiskPolicy()) is None
    assert "must end between" in may_waive(words(until=date(2028, 1, 1)), approver=henrietta, policy=RiskPolicy())
    assert "bear the name" in may_waive(words(), approver=humans["vera"].approver, policy=RiskPolicy())


def test_a_residual_above_its_limit_passes_with_the_waiver_named_and_stays_as_high(evidence, judged, signed):
    plain = assess(evidence, scenarios=load_scenarios(), policy=RiskPolicy())
    residual = next(risk.residual for risk in plain.scenarios if risk.id == "F02")
    strict = RiskPolicy(highest_by_scenario={"F02": residual - 1})
    assert assess(evidence, scenarios=load_scenarios(), policy=strict).verdict is Verdict.FAIL
    waived = assess(evidence, scenarios=load_scenarios(), policy=strict, waivers=judged(signed()).in_force)
    assert (waived.verdict, waived.overall, waived.required_roles) == (Verdict.PASS, plain.overall, plain.required_roles)
    (sentence,) = waived.waived
    assert f"found {residual}; accepted by waiver F02-" in sentence
    assert "by Henrietta Leavitt (cto) until 2026-12-31" in waived.summary
    assert [one["used"] for one in waived.to_dict()["waivers"]] == [True]
    # another scenario's waiver does not help
    other = assess(evidence, scenarios=load_scenarios(), policy=strict, waivers=judged(signed(scenario="R07")).in_force)
    assert (other.verdict, other.waived, other.waivers[0]["used"]) == (Verdict.FAIL, (), False)


def test_a_document_that_is_not_there_passes_only_when_every_scenario_that_needs_it_is_waived(evidence, judged, signed):
    del evidence["bias"]
    needing = [one.id for one in load_scenarios() if "bias" in one.requires]
    assert needing
    for count, verdict in ((0, Verdict.CANNOT_TELL), (len(needing) - 1, Verdict.CANNOT_TELL), (len(needing), Verdict.PASS)):
        held = judged(*(signed(scenario=name) for name in needing[:count])).in_force
        assert assess(evidence, scenarios=load_scenarios(), policy=RiskPolicy(), waivers=held).verdict is verdict


def test_a_release_without_waivers_is_assessed_as_it_always_was(evidence):
    assert not {"waivers", "waived"} & set(assess(evidence, scenarios=load_scenarios(), policy=RiskPolicy()).to_dict())


def test_the_copies_in_a_release_folder_are_judged_for_the_moment_they_were_counted(tmp_path, signed, judged, approvers, subject):
    held = judged(signed()).in_force
    waiver.store(tmp_path, signed())
    about = Subject.model_validate({**subject.document(), "environment": "local"})
    again = waiver.again(tmp_path, [one.to_dict() for one in held], subject=about, approvers=approvers, policy=RiskPolicy())
    assert again == held
    assert waiver.again(tmp_path, [], subject=about, approvers=approvers, policy=RiskPolicy()) == ()
    with pytest.raises(SignOffError, match="when it counted"):
        waiver.again(tmp_path, [{"id": "F02-x"}], subject=about, approvers=approvers, policy=RiskPolicy())


def test_stock_openssh_verifies_a_waiver_and_its_name_is_its_digest(tmp_path, signed, approvers, ssh_keygen):
    path = waiver.store(tmp_path, signed())
    assert path.name == f"F02-{sha256_bytes(path.read_bytes())[:12]}.json"
    (tmp_path / "allowed_signers").write_bytes(approvers.allowed_signers())
    command = [
        "-Y",
        "verify",
        "-f",
        tmp_path / "allowed_signers",
        "-I",
        "henrietta@lab.example",
        "-n",
        WAIVER_NAMESPACE,
        "-s",
        f"{path}.sig",
    ]
    done = ssh_keygen(*command, input=path.read_bytes())
    assert (done.returncode, b'Good "firstlight-waiver"' in done.stdout) == (0, True), done.stderr
    assert ssh_keygen(*command, input=path.read_bytes() + b" ").returncode != 0


@pytest.mark.parametrize("data", [b"", b"[]", b'{"format":"firstlight/waiver/v1"}', b"[" * 100_000, b"x" * (65 << 10)])
def test_bytes_that_are_no_waiver_are_one_sentence_and_hide_no_other(tmp_path, judged, signed, data):
    waiver.store(tmp_path, signed())
    (tmp_path / "waivers" / "junk.json").write_bytes(data)
    (tmp_path / "waivers" / "junk.json.sig").write_bytes(b"")
    (tmp_path / "waivers" / "link.json").symlink_to("/etc/passwd")
    found, unreadable = waiver.collect(tmp_path)
    decision = judged(*found)
    assert len(decision.in_force) == 1
    assert len(decision.turned_down) + len(unreadable) == 2
    with pytest.raises(SignOffError):
        waiver.store(tmp_path, Signed(source="x", statement=data, signature=b""))
