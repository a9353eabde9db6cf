"""The scheduled look opens an incident for what is due, resolves it when the cause is gone, and takes a signed answer and nothing less."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from firstlight import settings as settings_module
from firstlight.cli import app, incident_commands, standing  # noqa: F401 - registers the commands
from firstlight.digest import sha256_bytes
from firstlight.errors import RefusedError
from firstlight.settings import Settings
from governance import statement, waiver
from governance.approvers import write_approvers
from governance.evidence import write_evidence
from governance.risk import assess, load_scenarios
from governance.signed import moment
from governance.signoff import judge
from governance.statement import Decision
from governance.subject import Person, Requirement, open_for_sign_off
from governance.waiver import Waiver
from rollout.records import Incident
from rollout.spec import ServableVersion
from rollout.store import Store
from tasks import answering, doors, policy, reassessing
from tests.governance.conftest import EVIDENCE, Human, humans  # noqa: F401 - the people

NOW = datetime.now(UTC).replace(microsecond=0)
SIGNED = NOW - timedelta(days=2)
DAY = timedelta(days=1)


@dataclass
class Here:
    """An environment in which releases go live with the signatures of made-up people."""

    settings: Settings
    records: Store
    people: dict[str, Human]

    def go_live(
        self, version: str = "1", *, who: str = "vera", decision: Decision = Decision.APPROVE, conditions: tuple[str, ...] = ()
    ) -> str:
        """Sign a release of ``version`` two days ago, make it champion, and return its id."""
        digest = sha256_bytes(version.encode())
        ids = {"handoff_digest": digest, "model_digest": digest, "policy_digest": "p"}
        release = self.records.open_release("local", "desi-vae", **ids, by="a test").id
        folder = self.settings.folder("releases", release)
        self._sign(folder, digest, who=who, decision=decision, conditions=conditions)
        self.records.add_version(
            ServableVersion(model="desi-vae", version=version, folder="/nowhere", model_digest=digest, handoff_digest=digest)
        )
        now = self.records.champion("local", "desi-vae")
        self.records.promote(
            "local",
            "desi-vae",
            version=version,
            digest=digest,
            release_id=release,
            expected_champion=now.version if now else None,
            by="a test",
        )
        self.records.close_release(release, "promoted", "")
        return release

    def _sign(self, folder: Path, digest: str, *, who: str, decision: Decision, conditions: tuple[str, ...]) -> None:
        rules = policy.read(self.settings.policy_path)
        known = write_approvers(self.settings.approvers_path, tuple(human.approver for human in self.people.values()))
        found, _ = waiver.collect(self.settings.state)
        waivers = waiver.judge_waivers(
            found, environment="local", model="desi-vae", approvers=known, policy=rules.risk, now=SIGNED
        ).in_force
        risk = assess(EVIDENCE, scenarios=load_scenarios(), policy=rules.risk, waivers=waivers)
        for name, content in {**EVIDENCE, "risk": risk.to_dict()}.items():
            write_evidence(folder, name, content)
        asked = open_for_sign_off(
            folder,
            release=folder.name,
            model="desi-vae",
            model_digest=digest,
            policy=rules.to_bytes(),
            trainer=Person(name="Cecilia Payne", email="cecilia@lab.example"),
            requirement=Requirement(band="Medium", roles={"ai-risk-officer": 1}, validity_days=30),
            approvers=self.settings.approvers_path.read_bytes(),
            names=[*EVIDENCE, "risk"],
        )
        human = self.people[who]
        role = "cto" if decision is Decision.BREAK_GLASS else "ai-risk-officer"
        valid = timedelta(hours=24) if decision is Decision.BREAK_GLASS else None
        words = statement.draft(
            asked,
            approver=human.approver,
            role=role,
            decision=decision,
            reason="it does well",
            now=SIGNED,
            conditions=conditions,
            valid=valid,
        )
        statement.store(folder, statement.sign_statement(words, key_file=human.key_file), email=human.approver.email)
        statements, _ = statement.collect(folder)
        judged = judge(statements, subject=asked, approvers=known, policy=rules.risk, now=SIGNED)
        write_evidence(folder, "sign_off", judged.to_dict())

    def ruled(self, text: str) -> "Here":
        """The same place under another policy file."""
        path = self.settings.state / f"policy-{sha256_bytes(text.encode())[:6]}.yaml"
        path.write_text(text)
        return replace(self, settings=self.settings.model_copy(update={"policy_file": path}))

    def look(self, now: datetime = NOW) -> reassessing.Looked:
        return reassessing.look(self.settings, self.records, "desi-vae", now=now)

    def causes(self, now: datetime = NOW) -> list[str]:
        """First words of the causes of what is open after a look."""
        return sorted(one.cause.partition(":")[0] for one in self.look(now).still_open)

    def ledger(self) -> list[str]:
        return [entry.what for entry in self.records.ledger()]


@pytest.fixture
def here(tmp_path: Path, humans: dict[str, Human]) -> Iterator[Here]:  # noqa: F811
    settings = settings_module.load(state_dir=tmp_path / "state", environment="local")
    with doors.store(settings) as records:
        yield Here(settings=settings, records=records, people=humans).ruled("risk: {reassessment: {every_days: 30}}")


def test_without_a_champion_or_soon_after_its_sign_off_nothing_is_due_and_the_next_date_is_said(here: Here) -> None:
    assert here.look().summary == "desi-vae has no champion yet, so nothing is due"
    release = here.go_live(conditions=("Look at quasars every week.",))
    found = here.look()
    assert (found.still_open, found.verdict.value, found.next_due) == ((), "pass", SIGNED + timedelta(days=30))
    assert f"nothing is due about {release}" in found.summary


def test_a_changed_policy_opens_one_incident_with_an_entry_in_the_ledger_and_the_old_one_back_resolves_it(here: Here) -> None:
    release = here.go_live()
    other = here.ruled("risk: {validity_days: 7, reassessment: {every_days: 30}}")
    (opened,) = other.look().opened
    assert (opened.cause.partition(":")[0], opened.release_id, opened.owner) == ("policy-changed", release, "ai-risk-officer")
    assert other.look().opened == ()
    (resolved,) = here.look().resolved
    assert (resolved.id, resolved.resolved_because, resolved.resolved_by) == (opened.id, "its cause is gone", reassessing.BY)
    assert [what for what in here.ledger() if "incident" in what] == ["open-incident", "resolve-incident"]


def test_dates_conditions_and_revoked_keys_open_incidents_when_their_time_has_come(here: Here) -> None:
    here.go_live(conditions=(f"Measure recall again by {(NOW + DAY).date()}.",))
    assert [here.causes(NOW + days * DAY) for days in (0, 3, 29)] == [[], ["condition-due"], ["condition-due", "reassessment"]]
    vera = here.people["vera"].approver
    key = vera.keys[0].model_copy(update={"revoked": date.today()})
    others = [human.approver for name, human in here.people.items() if name != "vera"]
    write_approvers(here.settings.approvers_path, (vera.model_copy(update={"keys": (key,)}), *others))
    assert "key-revoked" in here.causes(NOW + DAY)


def test_a_waiver_that_a_release_relies_on_opens_an_incident_when_it_ends_until_it_is_waived_anew(here: Here) -> None:
    here = here.ruled("risk: {highest_by_scenario: {R05: 1}}")
    write_approvers(here.settings.approvers_path, tuple(human.approver for human in here.people.values()))

    def waive(until: date, signed_at: datetime) -> None:
        cto = here.people["henrietta"]
        words = Waiver(
            environment="local", model="desi-vae", scenario="R05", reason="the mirror is being rebuilt", controls=("Every hash is compared by hand.",),
            until=until, role="cto", signer=cto.approver.email, name=cto.approver.name, signed_at=moment(signed_at),
        )  # fmt: skip
        waiver.store(here.settings.state, waiver.sign_waiver(words, key_file=cto.key_file))

    waive((NOW + 3 * DAY).date(), SIGNED)
    here.go_live()
    assert [here.causes(NOW + days * DAY) for days in (0, 5)] == [[], ["waiver-ended"]]
    waive((NOW + 20 * DAY).date(), NOW)
    assert [here.causes(NOW + days * DAY) for days in (5, 22)] == [[], ["waiver-ended"]]


def test_a_break_glass_that_is_not_ratified_in_time_opens_an_incident_until_the_quorum_has_signed(here: Here) -> None:
    release = here.go_live(who="henrietta", decision=Decision.BREAK_GLASS)
    own = here.records.open_incident(
        "local", "desi-vae", cause=f"break-glass:{release}", severity="critical", summary="loud", evidence_digest="", owner="cto", by="x"
    )
    assert here.causes(NOW) == ["break-glass"]
    assert here.causes(NOW + 2 * DAY) == ["break-glass", "not-ratified"]
    with pytest.raises(RefusedError, match="ends only with its cause"):
        resolve(here, own.id)
    here.records.resolve_incident(own.id, reason="ratified", by="quorum")
    assert here.causes(NOW + 2 * DAY) == []


def test_a_model_that_nobody_signed_is_critical_and_papers_that_cannot_be_read_resolve_nothing(here: Here) -> None:
    release = here.go_live()
    folder = here.settings.state / "releases" / release
    other = here.ruled("risk: {validity_days: 7}")
    assert other.causes() == ["policy-changed"]
    (folder / "subject.json").write_text("{}")
    assert here.causes() == ["cannot-be-judged", "policy-changed"]
    shutil.rmtree(folder)
    found = here.look()
    assert [one.severity.value for one in found.opened] == ["critical"]
    assert {one.cause.partition(":")[0] for one in found.still_open} == {"no-sign-off"}


def test_after_a_rollback_the_release_that_is_live_again_is_what_is_judged(here: Here) -> None:
    first, second = here.go_live("1"), here.go_live("2")
    assert second in here.look().summary
    here.records.rollback("local", "desi-vae", reason="slow", by="a test")
    assert first in here.look().summary


def test_many_lookers_at_once_open_one_incident_and_a_clock_that_jumped_leaves_what_is_due(here: Here) -> None:
    here.go_live()
    other = here.ruled("risk: {validity_days: 7}")
    failed: list[BaseException] = []

    def look_often() -> None:
        try:
            with doors.store(other.settings) as records:
                for days in (0, 4000, -4000):
                    reassessing.look(other.settings, records, "desi-vae", now=NOW + days * DAY)
        except BaseException as error:
            failed.append(error)

    lookers = [threading.Thread(target=look_often) for _ in range(3)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    assert failed == []
    assert other.causes(NOW) == ["policy-changed"]
    still = [one.cause for one in other.records.incidents("local", "desi-vae", open_only=True)]
    assert len(still) == len(set(still)) == 1


def resolve(here: Here, incident: str, *, who: str = "vera", role: str | None = None, key: str | None = None) -> str:
    """Answer by the command, as ``who``; with the key of ``key`` where another one is used."""
    words = [
        "--as",
        here.people[who].approver.email,
        "--key",
        str(here.people[key or who].key_file),
        "--reason",
        "the new rule asks less",
        "--yes",
    ]
    return run(here, "resolve", incident, *words, *(("--role", role) if role else ()))


def run(here: Here, *words: str, code: int = 0) -> str:
    chosen = {"STATE_DIR": here.settings.state, "ENVIRONMENT": "local", "POLICY_FILE": here.settings.policy_path}
    settings_module.current.cache_clear()
    try:
        done = CliRunner().invoke(
            app, ["incidents", *words], env={"COLUMNS": "200", **{f"FIRSTLIGHT_{name}": str(value) for name, value in chosen.items()}}
        )
    finally:
        settings_module.current.cache_clear()
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def changed(here: Here) -> tuple[Here, Incident]:
    """A release whose policy changed since, and the incident of that."""
    here.go_live()
    here = here.ruled("risk: {validity_days: 7, reassessment: {every_days: 30}}")
    return here, here.look().opened[0]


def test_a_signed_answer_resolves_its_incident_for_good_and_is_checked_again_at_every_look(changed: tuple[Here, Incident]) -> None:
    here, incident = changed
    said = resolve(here, incident.id, role="ai-risk-officer")
    assert "is resolved: answered by Vera Rubin (vera@lab.example) as ai-risk-officer: the new rule asks less" in said
    assert here.look(datetime.now(UTC)).still_open == ()
    kept = here.settings.state / reassessing.ANSWERS / f"{incident.id}.json"
    allowed = here.settings.state / "releases" / str(incident.release_id) / "allowed_signers"
    by_hand = ["ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "vera@lab.example", "-n", "firstlight-incident", "-s", f"{kept}.sig"]
    assert (
        b'Good "firstlight-incident" signature' in subprocess.run(by_hand, input=kept.read_bytes(), capture_output=True, check=True).stdout
    )
    # another change is another cause, and an answer whose key is revoked later counts no more
    assert here.ruled("risk: {validity_days: 8}").causes(datetime.now(UTC)) == ["policy-changed"]
    vera = here.people["vera"].approver
    lost = vera.model_copy(update={"keys": (vera.keys[0].model_copy(update={"revoked": date.today()}),)})
    write_approvers(here.settings.approvers_path, (lost, *(human.approver for name, human in here.people.items() if name != "vera")))
    assert "policy-changed" in here.causes(datetime.now(UTC) + DAY)


def test_a_look_on_the_calendar_that_was_answered_is_due_again_a_whole_interval_later(here: Here) -> None:
    here = here.ruled("risk: {reassessment: {every_days: 1}}")
    here.go_live()
    (incident,) = here.look().opened
    resolve(here, incident.id, role="ai-risk-officer")
    now = datetime.now(UTC)
    found = here.look(now)
    assert (found.still_open, found.next_due is not None and now < found.next_due <= now + DAY) == ((), True)
    assert here.causes(now + 2 * DAY) == ["reassessment"]


Refused = Callable[[Here, str], object]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda here, number: resolve(here, number, who="cecilia", role="ai-risk-officer"), "trained this model"),
        (lambda here, number: resolve(here, number, who="henrietta"), "answered by one of: ai-risk-officer"),
        (lambda here, number: resolve(here, number, role="cto"), "a role they hold"),
        (lambda here, number: resolve(here, number, who="annie", key="vera"), "must sign with a key listed"),
    ],
    ids=["trainer", "wrong role", "role not held", "somebody else's key"],
)  # fmt: skip
def test_an_answer_that_does_not_count_is_refused_and_stands_in_the_ledger(
    changed: tuple[Here, Incident], answer: Refused, said: str
) -> None:
    here, incident = changed
    with pytest.raises(RefusedError, match=said):
        answer(here, incident.id)
    assert (here.records.incident(incident.id).is_open, here.ledger()[-1]) == (True, answering.REFUSED)


def test_an_incident_that_was_resolved_without_a_signature_is_opened_again(changed: tuple[Here, Incident]) -> None:
    here, incident = changed
    with pytest.raises(RefusedError, match="name your SSH key with --key"):
        run(here, "resolve", incident.id, "--as", "vera@lab.example", "--reason", "because")
    here.records.resolve_incident(incident.id, reason="nothing to see here", by="somebody with the database")
    (again,) = here.look().opened
    assert (again.cause, again.id != incident.id) == (incident.cause, True)


def test_incidents_are_listed_shown_acknowledged_and_checked_at_the_command_line(changed: tuple[Here, Incident]) -> None:
    here, incident = changed
    listed, shown = run(here, "list"), run(here, "show", incident.id)
    assert all(words in listed for words in (incident.id, "warning", "open", "the policy must be"))
    assert all(
        words in shown for words in (incident.cause, "ai-risk-officer", "by nobody yet", f"firstlight incidents resolve {incident.id}")
    )
    assert "ada@lab.example looks at it since" in run(here, "ack", incident.id, "--by", "ada@lab.example")
    assert "acknowledged" in run(here, "list", "--json")
    assert "one incident is open" in run(here, "check", code=2)
    assert [one["id"] for one in standing.standing(here.settings, "desi-vae")["incidents"]] == [incident.id]
    plain = here.records.open_incident(
        "local", "other", cause="disk", severity="warning", summary="full", evidence_digest="", owner="ops", by="x"
    )
    assert "is resolved: emptied" in run(here, "resolve", plain.id, "--as", "ops@lab.example", "--reason", "emptied")
    assert plain.id not in run(here, "list")
    assert plain.id in run(here, "list", "--all")
