"""Experiments end to end on a real store and a real gateway: who may take part, what is counted, and an end that nobody has to be there for."""

import json
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from firstlight import settings
from firstlight.cli import app, experimenting
from firstlight.errors import RefusedError
from rollout.errors import ExperimentRunning, NoExperiment, RolloutRunning, StaleChampion, UnknownVersion
from rollout.reconciler import effective_traffic
from rollout.records import ReleaseStatus
from rollout.spec import RolloutPolicy, RolloutSpec, ServableVersion, Traffic
from serving.errors import UnreachableError
from serving.routes import Routes
from tasks import doors, experiments
from tasks.experiments import Plan
from tests.serving.acting import INFER, Actor, echo, stage, whole

MODEL = "m"
DAY = 86_400.0


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> settings.Settings:
    """Versions 1 to 4: 1 was champion, 2 is, 3 passed its gates and not its canary, 4 was never looked at, 5 failed a gate."""
    found = settings.load(state_dir=tmp_path / "state")
    monkeypatch.setattr(settings, "current", lambda: found)
    with doors.store(found) as records:
        for version in "12345":
            digest = version * 64
            records.add_version(
                ServableVersion(model=MODEL, version=version, folder="/nowhere", model_digest=digest, handoff_digest=digest)
            )
        for version, status in (("1", None), ("2", None), ("3", ReleaseStatus.CANNOT_TELL), ("5", ReleaseStatus.FAILED)):
            digest = version * 64
            release = records.open_release(
                found.environment, MODEL, handoff_digest=digest, model_digest=digest, policy_digest="0" * 64, by="test"
            )
            if status is None:
                before = records.champion(found.environment, MODEL)
                records.promote(
                    found.environment,
                    MODEL,
                    version=version,
                    digest=digest,
                    release_id=release.id,
                    expected_champion=before.version if before else None,
                    by="test",
                )
            records.add_point(release.id, {"weight": 5})
            records.close_release(release.id, status or ReleaseStatus.PROMOTED, "the end")
    return found


def plan(**changed) -> Plan:
    return Plan(
        **{"name": "one", "a": "2", "b": "1", "share": 50, "sticky": "client", "until": time.time() + DAY, "by": "ada@lab", **changed}
    )


def quiet() -> dict:
    return {"epoch": "e", "generation": 1, "tracks": []}


def gone() -> dict:
    raise UnreachableError("nobody answers")


def follow(here: settings.Settings, made, versions: dict[str, Actor], *, now: float) -> None:
    """What a supervisor does: make the desired traffic true."""
    with doors.store(here) as records:
        desired = records.desired(here.environment, MODEL)
    traffic = effective_traffic(desired, now)
    made.control.put_routes(
        Routes(
            generation=desired.generation,
            stable=versions[traffic.stable].target,
            canary=versions[traffic.canary].target if traffic.canary else None,
            canary_weight=traffic.canary_weight,
            sticky=desired.sticky,
        )
    )


def test_callers_are_split_and_counted_from_the_start_until_an_end_that_comes_by_itself(here):
    versions = {"2": echo("2"), "1": Actor(lambda ask: ask.body() and whole(b"{}", status=500), version="1")}
    with stage(*versions.values()) as made, httpx.Client(base_url=made.url, trust_env=False) as client:

        def post(caller: str) -> None:
            assert client.post(INFER, content=b"ab", headers={"x-firstlight-client": caller}).status_code == 200

        follow(here, made, versions, now=time.time())
        post("before")
        wanted = plan()
        experiments.start(here, MODEL, wanted, look=made.control.evidence)
        follow(here, made, versions, now=time.time())
        sides = {}
        for user in range(20):
            for _ in range(2):  # b is ill: a answers in its place, and nobody notices
                post(f"u{user}")
                sides.setdefault(user, []).append(len(versions["1"].asked))
        # each caller stayed on one side: b was asked by a caller both times or never
        asked = [
            second - before
            for before, (_, second) in zip([0, *(last for _, last in list(sides.values())[:-1])], sides.values(), strict=True)
        ]
        assert set(asked) == {0, 2}
        found = experiments.report(here, MODEL, look=made.control.evidence)
        assert found.is_running
        b_requests = found.requests[1]
        assert 0 < b_requests == sum(asked)
        errors = found.comparisons[0]
        assert (errors.a.value, errors.b.value, errors.shown) == (0.0, 1.0, "version 1 fails more often")
        assert [remark for remark in found.remarks if "one caller's requests" in remark]
        # asked again it knows the same, and a gateway that is away takes nothing from it
        assert experiments.report(here, MODEL, look=made.control.evidence).requests == found.requests
        away = experiments.report(here, MODEL, look=gone)
        assert (away.requests, away.is_running) == (found.requests, True)
        assert "nobody answers" in away.remarks[0]
        # the end: nobody renews, so the supervisor's next round gives everything to the champion
        later = wanted.until + 1
        follow(here, made, versions, now=later)
        before = len(versions["1"].asked)
        for user in range(20):
            post(f"u{user}")
        assert len(versions["1"].asked) == before
        over = experiments.report(here, MODEL, look=made.control.evidence, clock=lambda: later)
        assert (over.is_running, over.requests[1]) == (False, b_requests)
        # whatever comes later is not the experiment's any more
        assert experiments.report(here, MODEL, look=gone, clock=lambda: later + DAY).requests == over.requests


def test_a_gateway_started_anew_is_said_and_what_was_known_stays(here):
    experiments.start(here, MODEL, plan(), look=quiet)
    tracks = [{"track": "stable", "version": "2", "requests": 10, "errors": 1, "refused": 0, "latency": {"-50": 9}}]
    assert experiments.report(here, MODEL, look=lambda: {**quiet(), "tracks": tracks}).requests == (10, 0)
    found = experiments.report(here, MODEL, look=lambda: {**quiet(), "epoch": "f", "tracks": tracks})
    assert found.requests == (20, 0)
    assert "started anew 1 times" in found.remarks[0]


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"b": "4"}, RefusedError, "no release has looked at it"),
        ({"b": "5"}, RefusedError, "release m-555555555555 failed"),
        ({"b": "9"}, UnknownVersion, "'9'"),
        ({"b": "2"}, RefusedError, "two versions"),
        ({"a": "1", "b": "2"}, StaleChampion, "champion"),
        ({"sticky": "cookie"}, RefusedError, "header:<name>"),
        ({"name": "../one"}, RefusedError, "name"),
        ({"until": float("inf")}, RefusedError, "end"),
    ],
    ids=["not-released", "failed", "unknown", "twice", "not-champion", "cookie", "path", "endless"],
)
def test_who_must_not_take_part_is_refused_in_a_sentence_and_nothing_changes(here, changed, error, words):
    with pytest.raises(error, match=words):
        experiments.start(here, MODEL, plan(**changed), look=quiet)
    with doors.store(here) as records:
        assert records.experiment(here.environment, MODEL) is None
        assert records.desired(here.environment, MODEL).traffic == Traffic(stable="2")


def test_what_passed_its_gates_may_take_part_though_it_was_never_champion(here):
    assert experiments.start(here, MODEL, plan(b="3"), look=quiet).b == "3"


def test_rollouts_and_experiments_keep_each_other_out_and_a_stopped_one_frees_the_traffic(here):
    experiments.start(here, MODEL, plan(), look=quiet)
    with pytest.raises(ExperimentRunning, match="experiment stop"):
        experiments.start(here, MODEL, plan(name="two"), look=quiet)
    assert experiments.stop(here, MODEL, by="ada@lab", reason="enough", look=gone).ended_because == "enough"
    with pytest.raises(NoExperiment):
        experiments.stop(here, MODEL, by="ada@lab", reason="again", look=quiet)
    with pytest.raises(RefusedError, match="used before"):
        experiments.start(here, MODEL, plan(), look=quiet)
    with doors.store(here) as records:
        release = records.open_release(
            here.environment, MODEL, handoff_digest="3" * 64, model_digest="3" * 64, policy_digest="1" * 64, by="test"
        )
        spec = RolloutSpec(canary="3", stable="2", policy=RolloutPolicy())
        token = records.claim_rollout(here.environment, MODEL, release_id=release.id, holder="a flow", spec=spec).token
        canary = Traffic(stable="2", canary="3", canary_weight=5)
        lease = {"lease_until": time.time() + 60, "lease_seconds": 60.0, "token": token}
        records.propose(here.environment, MODEL, canary, **lease, expected_generation=None, by="test")
    with pytest.raises(RolloutRunning, match="rollout abort"):
        experiments.start(here, MODEL, plan(name="two"), look=quiet)


def test_the_commands_say_what_they_did_and_print_the_report_for_people_and_programs(here, monkeypatch):
    document = quiet()
    monkeypatch.setattr(experimenting, "_look", lambda *_: lambda: document)

    def say(*words: str) -> str:
        result = CliRunner().invoke(app, ["experiment", *words, "--model", MODEL])
        assert result.exception is None, result.exception
        return " ".join(result.output.split())

    assert "version 1 answers 30 % beside 2, until 2099-12-01" in say(
        *("start", "--a", "2", "--b", "1", "--share", "30", "--sticky", "header:x-user", "--until", "2099-12-01", "--by", "ada@lab")
    )
    with doors.store(here) as records:
        desired = records.desired(here.environment, MODEL)
    assert (desired.sticky, desired.traffic) == ("header:x-user", Traffic(stable="2", canary="1", canary_weight=30))
    document["tracks"] = [
        {"track": track, "version": version, "requests": 200, "errors": errors, "refused": 0, "latency": {"-60": 200 - errors}}
        for track, version, errors in (("stable", "2", 0), ("canary", "1", 50))
    ]
    shown = say("report")
    assert "errors" in shown
    assert "25 % [" in shown
    told = json.loads(CliRunner().invoke(app, ["experiment", "report", "--json", "--model", MODEL]).output)
    assert told["requests"] == {"a": 200, "b": 200}
    assert told["comparisons"][0]["shown"] == "version 1 fails more often"
    assert "version 2 answers everything" in say("stop", "--by", "ada@lab")
    assert "a person ended it" in say("report")
