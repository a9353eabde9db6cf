"""The commands by which people sign, waive and break the glass, against a real store: what they refuse, what they keep, what the ledger says."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from firstlight import settings as settings_module
from firstlight.cli import signing, waiving
from firstlight.digest import sha256_file
from firstlight.errors import RefusedError
from governance import attachments, statement
from governance.approvers import write_approvers
from governance.evidence import read_evidence, write_evidence
from governance.statement import Decision, draft, sign_statement
from governance.subject import Person, Requirement, open_for_sign_off
from tasks import asking, breaking_glass, change_control, doors, governing, policy
from tasks import waiving as waiving_tasks
from tasks.releases import OpenedRelease
from tasks.stages import StageResult

MODEL, DIGEST = "desi-vae", "ab" * 32
POLICY = "risk:\n  waivers:\n  - {scenarios: [F05], longest_days: 1}\n  - {scenarios: ['*'], roles: [cto], longest_days: 90}\n"


class Office:
    """One waiting release in a state folder of its own."""

    def __init__(self, humans, *, change=None):
        self.settings, self.humans = settings_module.current(), humans
        write_approvers(self.settings.approvers_path, tuple(human.approver for human in humans.values()))
        with doors.store(self.settings) as records:
            facts = {"handoff_digest": "c" * 64, "model_digest": DIGEST, "policy_digest": "d" * 64}
            self.release = records.open_release("local", MODEL, **facts, by="cecilia@lab.example").id
            number = records.decision_id(self.release, year=2026)
        self.folder = self.settings.folder("releases", self.release)
        for name in ("bias", "risk"):
            write_evidence(self.folder, name, {"verdict": "pass", "summary": f"{name} holds", "reasons": []})
        self.asked = open_for_sign_off(
            self.folder,
            release=self.release,
            model=MODEL,
            model_digest=DIGEST,
            policy=policy.current().to_bytes(),
            trainer=Person(name="Cecilia Payne", email="cecilia@lab.example"),
            requirement=Requirement(band="Medium", roles={"ai-risk-officer": 1}, validity_days=30),
            approvers=self.settings.approvers_path.read_bytes(),
            names=["bias", "risk"],
            environment="local",
            decision_id=number,
            change_id=change,
        )

    def sign(self, who="vera", *, key=None, reason="it holds in every slice", **choices):
        mail = choices.pop("mail", None) or self.humans[who].approver.email
        choices = {"role": None, "reject": False, "ask": False} | choices
        signing.sign_off(self.settings, self.release, key=self.humans[key or who].key_file, signer=mail, reason=reason, **choices)

    def break_glass(self, who="henrietta", *, reason="the old model crashes on tonight's data", role=None):
        human = self.humans[who]
        words = {"signer": human.approver.email, "reason": reason, "role": role, "ask": False}
        signing.break_glass(self.settings, self.release, key=human.key_file, **words)

    def waive(self, scenario="R07", *, who="henrietta", days=30, reason="looked at by hand tonight", controls=("a person looks at each",)):
        human = self.humans[who]
        until = (datetime.now(UTC) + timedelta(days=days)).date()
        words = {"key": human.key_file, "signer": human.approver.email, "reason": reason, "controls": controls, "until": until}
        waiving.waive(self.settings, scenario, MODEL, **words, role=None, ask=False)

    def opened(self):
        return OpenedRelease(
            id=self.release,
            environment="local",
            model=MODEL,
            handoff="/nowhere",
            model_digest=DIGEST,
            handoff_digest="c" * 64,
            policy_digest="d" * 64,
            trainer_name="Cecilia Payne",
            trainer_email="cecilia@lab.example",
            folder=str(self.folder),
        )

    def question(self):
        with doors.store(self.settings) as records:
            decision = governing.look(self.settings, records, self.asked, self.folder)
        result = StageResult(stage="sign-off", verdict=decision.verdict, summary=decision.summary, seconds=0, sha256="e" * 64)
        return asking.question(self.opened(), result)

    def ledger(self, *what):
        with doors.store(self.settings) as records:
            return [line for line in records.ledger() if line.what in what]

    def incident(self):
        with doors.store(self.settings) as records:
            return next(iter(records.incidents("local", MODEL)), None)


@pytest.fixture
def office(humans, tmp_path, monkeypatch):
    (tmp_path / "policy.yaml").write_text(POLICY)
    monkeypatch.setenv("FIRSTLIGHT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FIRSTLIGHT_POLICY_FILE", str(tmp_path / "policy.yaml"))
    settings_module.current.cache_clear()
    yield Office(humans)
    settings_module.current.cache_clear()


def test_a_person_sees_what_they_sign_and_how_anybody_can_check_it(office, capsys, ssh_keygen):
    office.sign(conditions=("QSO recall is measured again by 2026-12-31",))
    said = capsys.readouterr().out
    assert f"Read first: {office.folder}/dossier.html" in said
    assert "bias           pass         bias holds" in said
    assert '"decision_id": "DEC-2026-001"' in said
    assert '"QSO recall is measured again by 2026-12-31"' in said
    command = next(line for line in said.splitlines() if "ssh-keygen" in line).partition(": ")[2]
    words, _, signed = command.removeprefix("ssh-keygen ").partition(" < ")
    done = ssh_keygen(*words.split(), input=Path(signed).read_bytes())
    assert b'Good "firstlight-sign-off" signature for vera@lab.example' in done.stdout


def test_a_document_that_is_brought_is_kept_signed_for_and_missed_when_it_is_changed(office, tmp_path):
    minutes = tmp_path / "Minutes of today.PDF"
    minutes.write_bytes(b"the board met and agreed")
    assert signing.named_files([f"board minutes={minutes}"]) == {"board minutes": minutes}
    office.sign(documents={"board minutes": minutes})
    (kept,) = (office.folder / "documents").iterdir()
    words = statement.parse_statement((office.folder / "signoffs" / "vera@lab.example.json").read_bytes())
    assert words.documents == {"board minutes": sha256_file(kept)}
    assert (kept.name, kept.read_bytes()) == (f"board-minutes-{sha256_file(kept)[:12]}.pdf", minutes.read_bytes())
    assert attachments.lost(office.folder, [words.documents]) == []
    kept.write_bytes(b"the board met and did not agree")
    assert attachments.lost(office.folder, [words.documents]) == [("board minutes", words.documents["board minutes"])]
    minutes.write_bytes(b" ")
    for wrong in (minutes, tmp_path, tmp_path / "nowhere.pdf"):
        with pytest.raises(RefusedError, match="must be"):
            office.sign(documents={"board minutes": wrong})
    for wrong in ("board minutes", "=x.pdf", "x="):
        with pytest.raises(RefusedError, match="NAME=FILE"):
            signing.named_files([wrong])


def test_a_sign_off_that_counts_is_one_line_in_the_ledger_however_often_it_is_looked_at(office):
    office.sign()
    with doors.store(office.settings) as records:
        for _ in range(3):
            governing.look(office.settings, records, office.asked, office.folder)
    (line,) = office.ledger("sign-off")
    file = office.folder / "signoffs" / "vera@lab.example.json"
    assert (line.by, line.digest) == ("vera@lab.example", statement.Signed(source="", statement=file.read_bytes(), signature=b"").digest)
    assert "DEC-2026-001" in line.detail
    assert "approve by Vera Rubin as ai-risk-officer" in line.detail


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"who": "cecilia"}, "trained this model and must not approve"),
        ({"who": "henrietta", "role": "cto"}, "must be approved by 1 ai-risk-officer"),
        ({"mail": "eve@lab.example"}, "'eve@lab.example' does not"),
        ({"key": "annie"}, "must sign with a key listed for them"),
        ({"reason": "TBD"}, "placeholder"),
        ({"reason": "x" * 10_000_000}, "must have at most 2000 characters, found 10000000"),
        ({"conditions": ("xxx",)}, "a condition must be written out"),
    ],
    ids=["trainer", "no authority", "stranger", "another's key", "placeholder", "endless reason", "empty condition"],
)
def test_a_refused_sign_off_is_a_sentence_and_a_line_in_the_ledger_and_leaves_nothing_else(office, choices, says):
    with pytest.raises(RefusedError, match=says):
        office.sign(**{"who": "vera", "role": "ai-risk-officer"} | choices)
    (line,) = office.ledger("refused-sign-off")
    assert (says.split(",")[0] in line.detail, line.by.startswith("claims "), len(line.detail) <= 500) == (True, True, True)
    assert not list((office.folder / "signoffs").glob("**/*.json"))


def test_somebody_elses_key_does_not_replace_a_signature_that_counts(office):
    office.sign()
    before = (office.folder / "signoffs" / "vera@lab.example.json").read_bytes()
    with pytest.raises(RefusedError, match="key listed for them"):
        office.sign(key="annie", reject=True)
    assert (office.folder / "signoffs" / "vera@lab.example.json").read_bytes() == before


def test_what_is_laid_into_the_folder_by_hand_is_refused_once_in_the_ledger(office, humans, subject):
    older = draft(
        subject,
        approver=humans["annie"].approver,
        role="ai-risk-officer",
        decision=Decision.APPROVE,
        reason="it held",
        now=datetime.now(UTC),
    )
    statement.store(office.folder, sign_statement(older, key_file=humans["annie"].key_file), email="annie@lab.example")
    (office.folder / "signoffs" / "huge.json").write_bytes(b"x" * 10_000_000)
    (office.folder / "signoffs" / "huge.json.sig").write_bytes(b"x")
    with doors.store(office.settings) as records:
        for _ in range(2):
            decision = governing.look(office.settings, records, office.asked, office.folder)
    assert decision.missing == {"ai-risk-officer": 1}
    replayed, huge = office.ledger("refused-sign-off")
    assert ("about release" in replayed.detail, replayed.by) == (True, "claims annie@lab.example")
    assert "at most 65536 bytes" in huge.detail


def test_an_ended_release_is_not_signed_any_more(office):
    with doors.store(office.settings) as records:
        records.close_release(office.release, "failed", "a gate did not hold")
    with pytest.raises(RefusedError, match=r"must be open to be signed, .* ended as failed"):
        office.sign()


def test_a_copy_on_another_machine_is_signed_without_a_ledger(office, tmp_path):
    copy = shutil.copytree(office.folder, tmp_path / "copy" / office.release)
    vera = office.humans["vera"]
    signing.sign_off(
        office.settings, str(copy), key=vera.key_file, signer="vera@lab.example", reason="it holds", role=None, reject=False, ask=False
    )
    assert (office.ledger("sign-off"), (copy / "signoffs" / "vera@lab.example.json").is_file()) == ([], True)


def test_a_broken_glass_opens_a_critical_incident_and_the_quorum_resolves_it(office, capsys):
    office.break_glass()
    said = capsys.readouterr().out
    assert "BREAK-GLASS" in said
    incident = office.incident()
    assert (incident.cause, incident.severity.value, incident.is_open) == (f"break-glass:{office.release}", "critical", True)
    assert "must be ratified by 1 ai-risk-officer until" in incident.summary
    assert "the old model crashes" in incident.summary
    with doors.store(office.settings) as records:
        write_evidence(office.folder, "sign_off", governing.look(office.settings, records, office.asked, office.folder).to_dict())
    assert read_evidence(office.folder, "sign_off")["break_glass"]["ratified"] is False
    office.sign()
    assert read_evidence(office.folder, "sign_off")["break_glass"]["ratified"] is True
    assert (office.incident().is_open, office.incident().resolved_by) == (False, "vera@lab.example")
    assert "ratifies the break-glass of Henrietta Leavitt" in office.incident().resolved_because
    assert [line.what for line in office.ledger("break-glass", "sign-off", "ratified")] == ["break-glass", "sign-off", "ratified"]
    with doors.store(office.settings) as records:
        decision = governing.look(office.settings, records, office.asked, office.folder)
        again = breaking_glass.settle(office.settings, records, office.asked, decision)
        assert (again.id, len(records.incidents("local", MODEL))) == (incident.id, 1)


def test_a_glass_that_only_the_breaker_stands_before_is_signed_instead(office):
    cto = office.asked.model_copy(update={"requirement": Requirement(band="x", roles={"cto": 1}, validity_days=30)})
    (office.folder / "subject.json").write_text(json.dumps(cto.document()))
    with pytest.raises(RefusedError, match="nothing but your own approval as cto is missing"):
        office.break_glass()


@pytest.mark.parametrize(
    ("who", "reason", "says"), [("vera", "it is late", "the glass may be broken by cto"), ("henrietta", "n/a", "placeholder")]
)
def test_a_glass_broken_wrongly_opens_nothing(office, who, reason, says):
    with pytest.raises(RefusedError, match=says):
        office.break_glass(who, reason=reason, role="ai-risk-officer" if who == "vera" else None)
    assert office.incident() is None
    assert [says in line.detail for line in office.ledger("refused-sign-off")] == [True]


def test_a_waiver_is_kept_with_its_keys_and_stands_in_the_ledger(office, capsys, ssh_keygen):
    office.waive()
    said = capsys.readouterr().out
    command = next(line for line in said.splitlines() if "ssh-keygen" in line).partition(": ")[2]
    words, _, signed = command.removeprefix("ssh-keygen ").partition(" < ")
    assert b'Good "firstlight-waiver" signature for henrietta' in ssh_keygen(*words.split(), input=Path(signed).read_bytes()).stdout
    (line,) = office.ledger("waiver")
    assert "by Henrietta Leavitt (cto)" in line.detail
    assert "instead: a person looks at each" in line.detail
    waiving.show(office.settings, MODEL)
    assert capsys.readouterr().out.startswith("in force    waiver R07-")


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"scenario": "F05"}, "F05 may be waived by nobody in this environment"),
        ({"scenario": "Z99"}, "a scenario must be one of"),
        ({"scenario": "../x"}, "a waiver's scenario must be"),
        ({"who": "vera"}, "R07 may be waived by cto"),
        ({"days": 91}, "must end between"),
        ({"reason": "x" * 10_000_000}, "shorten it"),
        ({"controls": ()}, "a waiver's controls must be"),
        ({"controls": ("TODO",)}, "a compensating control must be written out"),
    ],
    ids=["forbidden", "unknown", "no scenario", "no authority", "too long", "endless", "no control", "placeholder"],
)
def test_a_refused_waiver_is_a_sentence_and_nothing_is_kept(office, choices, says):
    with pytest.raises(RefusedError, match=says):
        office.waive(**choices)
    assert not list((office.settings.state / "waivers").glob("*.json"))
    assert all(says in line.detail for line in office.ledger("refused-waiver"))


def test_a_waiver_laid_into_the_state_folder_by_hand_is_refused_in_the_ledger_once(office):
    office.waive()
    (kept,) = (office.settings.state / "waivers").glob("*.json")
    kept.write_bytes(kept.read_bytes().replace(b'"scenario":"R07"', b'"scenario":"F02"'))
    for _ in range(2):
        assert waiving_tasks.for_release(office.settings, office.opened()) == ()
    (line,) = office.ledger("refused-waiver")
    assert "match the signed bytes" in line.detail
    assert not (office.folder / "waivers").exists() or not list((office.folder / "waivers").glob("*.json"))


def test_a_release_keeps_copies_of_its_waivers_and_notices_when_one_is_gone(office):
    office.waive()
    release = office.opened()
    (held,) = waiving_tasks.for_release(office.settings, release)
    write_evidence(office.folder, "risk", {"verdict": "pass", "summary": "", "reasons": [], "waivers": [{**held.to_dict(), "used": True}]})
    assert [path.stem for path in (office.folder / "waivers").glob("*.json")] == [held.id]
    assert waiving_tasks.no_longer_in_force(office.settings, release) == []
    shutil.rmtree(office.settings.state / "waivers")
    assert waiving_tasks.no_longer_in_force(office.settings, release) == [f"waiver {held.id}: it is not there any more"]
    assert waiving_tasks.for_release(office.settings, release) == ()
    assert not list((office.folder / "waivers").glob("*"))


def test_a_change_is_named_once_and_naming_another_is_news(office):
    for change, is_news in (("CR-2026-014", True), ("CR-2026-014", False), ("CR-2026-015", True)):
        assert change_control.name(office.settings, office.release, model=MODEL, change_id=change, by="firstlight release") is is_news
    assert change_control.read(office.folder) == "CR-2026-015"
    assert [line.detail.partition(" belongs")[2][:23] for line in office.ledger("change-id")] == [
        " to change CR-2026-014"[:23],
        " to change CR-2026-015,",
    ]
    with pytest.raises(RefusedError, match="CR-YYYY-NNN"):
        change_control.name(office.settings, office.release, model=MODEL, change_id="whatever", by="x")


def test_the_waiting_run_says_what_is_asked_of_whom_and_how_to_answer(office):
    said = office.question()
    assert said.startswith(f"### Release {office.release}: waiting for 1 ai-risk-officer; 0 of 1 given")
    assert "- **decision:** DEC-2026-001\n" in said
    assert "- ✓ pass **bias**: bias holds\n" in said
    assert f"(http://127.0.0.1:8090/{office.release}/dossier.html)" in said
    assert "- Annie Cannon (annie@lab.example) as ai-risk-officer" in said
    assert "cecilia@lab.example --role" not in said, "the trainer is not asked"
    command = f"firstlight sign-off {office.release} --as vera@lab.example --role ai-risk-officer --key ~/.ssh/id_ed25519 --reason '...'"
    assert command in said.replace(" \\\n ", "").splitlines()
    office.sign("henrietta", reject=True, reason="QSO recall is too low", role="cto")
    assert "- Henrietta Leavitt (cto) said **reject**: QSO recall is too low" in office.question()


def test_where_nobody_can_give_what_is_missing_the_waiting_run_says_so(office, humans):
    write_approvers(office.settings.approvers_path, (humans["cecilia"].approver, humans["henrietta"].approver))
    assert "Nobody on the approvers file may give what is missing" in office.question()


def test_a_note_left_in_the_ui_is_shown_and_is_only_text(office):
    hostile = "<script>alert(1)</script> | x |\n\n# big **bold** [a](javascript:b) `c`"
    asking.answered(office.opened(), reviewer="<img src=x>", note=hostile)
    asking.answered(office.opened(), reviewer="", note=" ")
    write_evidence(office.folder, "bias", {"verdict": "pass", "summary": hostile, "reasons": []})
    said = office.question()
    assert "Notes left here, unsigned" in said
    assert not any(mark in said for mark in ("<script", "<img", "**bold", "[a](", "\n# big", "| x |"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| x \\| \\# big" in said
