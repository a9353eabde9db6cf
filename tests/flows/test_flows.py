"""Flows and retries against a real Prefect server of their own."""

import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.exceptions import FailedRun, Pause
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.states import Pending, Scheduled
from prefect.testing.utilities import prefect_test_harness

from firstlight import settings
from firstlight.cli import releasing, waiving
from firstlight.errors import RefusedError, TransientError
from firstlight.verdict import Verdict
from flows import release_model as release_module
from flows.reassess import reassess
from flows.release_model import release_model
from flows.watch_drift import watch_drift
from rollout.spec import ServableVersion
from tasks import doors, governing, incidents
from tasks.registering import REGISTERED, Candidate, announce, event_id
from tasks.releases import OpenedRelease
from tasks.retries import ATTEMPTS, retrying
from tasks.stages import StageResult
from tests.whole import toy
from tests.whole.house import CTO, write_people

pytestmark = [
    pytest.mark.flow,
]

CANDIDATE = Candidate(name="toy", version="3", model_digest="a" * 64)


@pytest.fixture(scope="module", autouse=True)
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with (
        prefect_test_harness(server_startup_timeout=90),
        temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path_factory.mktemp("results")}),
    ):
        yield


@pytest.fixture(autouse=True)
def empty_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FIRSTLIGHT_POLICY_FILE", str(toy.write_policy(tmp_path / "policy.yaml")))
    monkeypatch.setenv("FIRSTLIGHT_STATE_DIR", str(tmp_path / "state"))
    settings.current.cache_clear()
    yield tmp_path / "state"
    settings.current.cache_clear()


def test_drift_without_a_champion_cannot_be_told_and_that_is_no_failure(empty_state: Path) -> None:
    state = watch_drift(model="toy", return_state=True)
    assert (state.name, state.is_completed()) == ("Cannot tell", True)
    assert state.message == "no champion answers yet, so there is nothing to compare"
    assert (empty_state / "drift" / "toy" / "latest.json").is_file()


def test_too_little_evidence_is_no_success(empty_state: Path, tmp_path: Path) -> None:
    # Given a hand-off with fewer held-out rows than the policy asks for
    scarce = toy.write_toy(tmp_path / "scarce", rows=toy.POLICY["data"]["min_reference_rows"] - 20)
    # When it is released
    state = release_model(str(scarce), return_state=True)
    # Then the run is not green, ends as exit code 3 does, and says what could not be told
    assert (state.is_failed(), releasing.CODES[str(state.name)]) == (True, releasing.CANNOT_TELL)
    with pytest.raises(FailedRun, match="data: "):  # what Prefect's engine logs: this sentence
        state.result()
    here = settings.current()
    with doors.store(here) as records:
        (ended,) = records.releases("local", toy.NAME)
        assert (ended.status.value, records.champion("local", toy.NAME)) == ("cannot-tell", None)
    # and the version stays, without being a candidate, with a dossier that says so
    known = doors.registry(here)
    assert (known.version(toy.NAME, "1").version, known.aliases(toy.NAME)) == ("1", {})
    assert (empty_state / "releases" / ended.id / "dossier.html").is_file()


@pytest.mark.parametrize(
    ("error", "tries"), [(TransientError("the store does not answer"), ATTEMPTS + 1), (RefusedError("the digest is wrong"), 1)]
)
def test_only_a_transient_error_is_tried_again(error: Exception, tries: int) -> None:
    seen = []

    # delays of seconds are left out, the rule is not
    @task(**{**retrying(), "retry_delay_seconds": 0, "retry_jitter_factor": None})
    def step() -> None:
        seen.append(1)
        raise error

    @flow
    def steps() -> None:
        step()

    assert steps(return_state=True).is_failed()
    assert len(seen) == tries


def test_a_candidate_that_is_announced_twice_is_one_event() -> None:
    announce(CANDIDATE, environment="local")
    announce(CANDIDATE, environment="local")
    announce(CANDIDATE, environment="lab")
    EventsWorker.drain_all()
    expected = {event_id(CANDIDATE, environment=name) for name in ("local", "lab")}
    assert len(expected) == 2
    deadline = time.monotonic() + 30
    while len(found := events(REGISTERED)) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert sorted(found) == sorted(map(str, expected))


def test_the_daily_look_opens_an_incident_for_a_model_that_nobody_signed_and_tells_of_it_once() -> None:
    # Given a champion without a release folder
    here = settings.current()
    with doors.store(here) as records:
        records.add_version(ServableVersion(model=toy.NAME, version="1", folder="/nowhere", model_digest="a" * 64, handoff_digest="b" * 64))
        digests = {"handoff_digest": "b" * 64, "model_digest": "a" * 64, "policy_digest": "p"}
        release = records.open_release("local", toy.NAME, **digests, by="a test")
        records.promote("local", toy.NAME, version="1", digest="a" * 64, release_id=release.id, expected_champion=None, by="a test")
        # When the flow looks, and somebody tells of the incident again
        state = reassess(model=toy.NAME, return_state=True)
        (incident,) = records.incidents("local", toy.NAME)
    incidents.tell(here, incident)
    EventsWorker.drain_all()
    # Then the run is not green, and there is one event
    assert (state.name, state.is_failed(), incident.id in str(state.message)) == ("Incidents open", True, True)
    deadline = time.monotonic() + 30
    while not (found := events(incidents.OPENED)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == [str(incidents.event_id(incident))]


def events(name: str) -> list[str]:
    """Return the ids of all events of that name that the server has."""
    question = {"filter": {"event": {"name": [name]}}}
    answer = httpx.post(f"{PREFECT_API_URL.value()}/events/filter", json=question, timeout=20)
    return [event["id"] for event in answer.json()["events"]]


@pytest.mark.parametrize("change", [{"version": "4"}, {"model_digest": "b" * 64}, {"name": "other"}])
def test_another_candidate_is_another_event(change: dict[str, str]) -> None:
    assert event_id(CANDIDATE.model_copy(update=change), environment="local") != event_id(CANDIDATE, environment="local")


@flow(persist_result=True, result_serializer="json")
def waits() -> str:
    """What release_model does when it waits for people."""
    note = release_module._suspend("May it go on?", key="sign-off-0")
    return f"{note.reviewer}|{note.note}"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"reviewer": "Vera", "note": "looks good"}, "Vera|looks good"),
        ({"reviewer": 5, "note": ["x"]}, "|"),
        ({"note": "x" * 10_000_000}, "|"),
        (["not", "an", "answer"], "|"),
        (None, "|"),
    ],
    ids=["right", "wrong kinds", "endless", "a list", "none"],
)
def test_a_wrong_answer_is_none_and_does_not_end_the_waiting_run(answer: Any, said: str) -> None:
    with get_client(sync_client=True) as client:
        # Given a run that was suspended to wait for an answer
        made = client.create_flow(waits)
        deployment = client.create_deployment(flow_id=made, name="waiting", work_queue_name=None)
        run = client.create_flow_run_from_deployment(deployment, state=Pending())
        with pytest.raises(Pause):
            run_flow(waits, flow_run=run)
        waiting = client.read_flow_run(run.id)
        assert waiting.state is not None
        assert waiting.state.is_paused()
        # When it is resumed with this answer, whoever let it through
        keys = waiting.state.state_details.run_input_keyset
        assert keys is not None
        if answer is not None:
            client.create_flow_run_input(run.id, keys["response"], orjson.dumps(answer).decode())
        client.set_flow_run_state(run.id, Scheduled(), force=True)
        client.set_flow_run_state(run.id, Pending(), force=True)
        # Then it goes on, with the answer or as if nothing had been said
        assert run_flow(waits, flow_run=client.read_flow_run(run.id)) == said


def test_a_waiver_that_ends_while_people_are_asked_ends_the_asking(empty_state: Path, tmp_path: Path) -> None:
    # Given a release whose risk was assessed with a waiver in force
    here = settings.current()
    write_people(tmp_path / "keys", here.approvers_path)
    key, until = tmp_path / "keys" / CTO, datetime.now(UTC).date() + timedelta(days=1)
    words = {"signer": CTO, "reason": "looked at by hand tonight", "controls": ("a person looks at each",), "until": until}
    waiving.waive(here, "F02", toy.NAME, key=key, **words, role=None, ask=False)
    with doors.store(here) as records:
        digests = {"handoff_digest": "b" * 64, "model_digest": "a" * 64, "policy_digest": "p"}
        opened = records.open_release("local", toy.NAME, **digests, by="a test")
    facts = {"trainer_name": toy.TRAINER.name, "trainer_email": toy.TRAINER.email, "folder": str(here.folder("releases", opened.id))}
    release = OpenedRelease(id=opened.id, environment="local", model=toy.NAME, handoff="/nowhere", **digests, **facts)

    def used() -> list[bool]:
        return [one["used"] for one in json.loads(release.evidence("risk").read_bytes()).get("waivers", [])]

    @flow
    def asks() -> StageResult:
        governing.assess_risk(release)
        assert used() == [True]
        # When it is gone by the time the signatures are looked at
        shutil.rmtree(here.state / "waivers")
        return governing.sign_off(release)

    ended = asks()
    # Then nobody is asked about a risk that is not accepted any more, and the evidence says so
    assert (ended.verdict, used()) == (Verdict.FAIL, [])
    assert ended.summary.startswith("the risk is not acceptable any more: waiver F02-")
    assert "it is not there any more" in ended.summary
    assert records_refused(here) == []


def records_refused(here: settings.Settings) -> list[str]:
    with doors.store(here) as records:
        return [line.detail for line in records.ledger() if line.what.startswith("refused")]
