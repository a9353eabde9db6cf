"""Releases by command, through a real Prefect server, worker, supervisor and gateway: killed, waiting, signed, turned back, and back.

The first release is a story told once (the fixture ``first``): the flow's process is killed with -9 at every stage, server and worker
while it waits for people. The tests look at what it left, and go on from there.
"""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

import psutil
import pytest

from firstlight.cli import releasing, signing, verifying
from firstlight.cli.plane import Plane
from firstlight.errors import RefusedError
from serving import control
from serving.client import InferenceClient, UnreachableError
from tasks.journal import Reader
from tests.whole import toy
from tests.whole.house import OWNER, PLACEHOLDER, STRANGER, TRAINER, House, until
from tests.whole.killing import STAGES, by_command, by_hand, kill_at, kill_plane, left_behind, run_by_hand

pytestmark = [pytest.mark.whole, pytest.mark.timeout(1200)]  # the first test waits for the story of the first release

GOOD, BETTER, WRONG = 1.0, 2.0, -1.0


@dataclass(frozen=True, kw_only=True)
class First:
    """What happened when the first model was released, killed all the way."""

    release: str
    folder: Path
    waiting: CompletedProcess[str]
    started_last: list[str]
    """Stages that the last run before the sign-off started."""
    waiting_still: int
    """Exit code of the same command after server and worker were killed."""
    refusals: dict[str, str]
    signed: CompletedProcess[str]
    done: CompletedProcess[str]
    once_more: int
    """Exit code of the flow's process when the release is run again after that."""


@pytest.fixture(scope="module")
def first(house: House) -> Iterator[First]:
    """Release the first model, with everything killed once, and let the plane run until the last test is over."""
    with Plane(house.settings) as serving, by_hand(house) as start_by_hand:
        serving.supervisor()
        with Plane(house.settings) as plane:
            plane.orchestration()
            kill_at(house, "hand-off", by_command(house))
            for stage in STAGES[1 : STAGES.index("rehearsal")]:
                kill_at(house, stage, start_by_hand)
            lines = Reader.from_now(house.settings)
            waiting = house.run("release", house.handoff(GOOD))
            started = [line["stage"] for line in lines.new() if line["event"] == "started"]
            release = house.open_release()
            until(lambda: not house.flow_processes(), what="the waiting run holds no process")
            kill_plane(plane)
        with Plane(house.settings) as plane:
            plane.orchestration()
            waiting_still = releasing.release(house.settings, str(house.handoff(GOOD)))
            refusals = {who: sign_refused(house, release, who) for who in (TRAINER, STRANGER, PLACEHOLDER)}
            refusals["another key"] = sign_refused(house, release, OWNER, key=STRANGER)
            signed = house.sign(release)
            kill_at(house, "canary", by_command(house))
            for stage in ("promotion", "drift"):
                kill_at(house, stage, start_by_hand)
            yield First(
                release=release,
                folder=house.settings.folder("releases", release),
                waiting=waiting,
                started_last=started,
                waiting_still=waiting_still,
                refusals=refusals,
                signed=signed,
                done=house.run("release", house.handoff(GOOD)),
                once_more=run_by_hand(start_by_hand),
            )


def sign_refused(house: House, release: str, who: str, *, key: str = "") -> str:
    """Sign off in this process and return why it was refused."""
    private = house.folder / "keys" / (key or who)
    with pytest.raises(RefusedError) as refused:
        signing.sign_off(house.settings, release, key=private, signer=who, reason="looks good", role=None, reject=False, ask=False)
    return str(refused.value)


def test_a_release_waits_for_a_signature_and_says_how_to_give_it(first: First) -> None:
    assert first.waiting.returncode == releasing.WAITING
    last = first.waiting.stdout.splitlines()[-1]
    assert last.startswith(f"waiting for sign-off: {first.release}: waiting for 1 system-owner; 0 of 1 given; read {first.folder}")
    assert f"firstlight sign-off {first.release} --key KEY --as MAIL --reason TEXT" in last


def test_only_the_right_person_may_sign(first: First) -> None:
    assert "trained this model and must not approve it" in first.refusals[TRAINER]
    assert f"{STRANGER!r} does not" in first.refusals[STRANGER]
    assert "must be a named person, found 'TBD'" in first.refusals[PLACEHOLDER]
    assert "must sign with a key listed for them" in first.refusals["another key"]
    assert first.signed.returncode == 0
    assert first.signed.stdout.splitlines()[-1] == "decided; the waiting run goes on"


def test_a_release_killed_at_every_stage_goes_on_where_it_was(house: House, first: First) -> None:
    # kill_at has seen at every stage that none that had finished was started again
    assert first.started_last == ["risk"]
    assert first.waiting_still == releasing.WAITING, "a suspended run survives the death of server and worker"
    assert (first.done.returncode, first.once_more) == (releasing.PROMOTED, 0)
    finished = {line["stage"] for line in house.journal() if line["event"] == "finished"}
    assert finished == {*STAGES, "sign-off"}
    until(lambda: not left_behind(house), what="no process that measured is left")


def test_a_release_killed_at_every_stage_ends_with_exactly_one_champion(house: House, first: First) -> None:
    with house.store() as records:
        champion = records.champion("local", toy.NAME)
        history, releases = records.history("local", toy.NAME), records.releases("local", toy.NAME)
        assert champion is not None
        chosen = json.loads((first.folder / "evidence" / "backend.json").read_bytes())
        assert records.version(toy.NAME, champion.version).backend == chosen["chosen"] == "eager"
    assert [line.version for line in history] == [champion.version]
    assert [(one.id, one.status.value) for one in releases] == [(first.release, "promoted")]
    assert house.registry().aliases(toy.NAME) == {"champion": champion.version}
    assert house.registered() == [(champion.version, champion.digest)]


def test_a_signed_release_ends_as_champion(house: House, first: First) -> None:
    assert first.done.returncode == releasing.PROMOTED, first.done.stdout
    assert first.done.stdout.splitlines()[-1].startswith(f"promoted: {first.release}: version 1 is champion, previous is none")
    found = house.status()
    assert (found["model"], found["environment"]) == (toy.NAME, "local")
    assert found["champion"] | {"since": ""} == {"version": "1", "digest": house.registered()[0][1], "since": ""}
    assert (found["previous"], found["candidate"], found["release"]) == (None, None, None)
    assert found["rollout"] == {"phase": "stable", "weight": 0, "canary": None}
    assert found["serving"]["as_desired"]
    assert found["problems"] == []


def test_there_is_no_way_back_from_the_first_champion(house: House, first: First) -> None:
    refused = house.run("rollback", "--reason", "a try", "--by", OWNER)
    assert refused.returncode == 1
    assert refused.stderr.startswith("firstlight: ")
    assert refused.stderr.count("\n") == 1
    assert house.champion() == "1"


@pytest.mark.parametrize("part", ["evidence/bias.json", "pictures", "dossier.html", "signoffs"])
def test_verify_finds_one_changed_byte(house: House, first: First, tmp_path: Path, part: str) -> None:
    assert verifying.verify(house.settings, first.folder) == 0
    copy = tmp_path / first.release
    shutil.copytree(first.folder, copy)
    assert verifying.verify(house.settings, copy) == 0
    victim = copy / part
    victim = victim if victim.is_file() else next(path for path in sorted(victim.iterdir()) if path.is_file())
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert verifying.verify(house.settings, copy) == 2


def test_a_candidate_with_wrong_answers_is_turned_back_by_the_canary(house: House, first: First) -> None:
    # Given a model that is always wrong about the class, whose trainer says so
    wrong = house.handoff(WRONG, metrics={"class_accuracy_macro": 0.0})
    assert releasing.release(house.settings, str(wrong)) == releasing.WAITING
    release = house.open_release()
    # When another hand-off is to be released while it waits
    with pytest.raises(RefusedError, match=f"one release of toy at a time may be open in local, {release} is"):
        releasing.release(house.settings, str(house.handoff(BETTER)))
    # and it is signed
    assert house.sign(release).returncode == 0
    refused = house.run("release", wrong)
    # Then live traffic shows what it is: nothing has moved, and it is no candidate any more
    assert refused.returncode == releasing.FAILED, refused.stdout
    assert refused.stdout.splitlines()[-1].startswith(f"refused: {release}: canary: ")
    found = house.status()
    assert found["champion"]["version"] == "1"
    assert [(drill["version"], drill["verdict"]) for drill in found["drills"]] == [("1", "pass")]  # rehearsed before the canary
    assert (found["candidate"], found["release"]) == (None, None)
    assert found["rollout"] == {"phase": "stable", "weight": 0, "canary": None}
    until(lambda: house.status()["serving"]["as_desired"], every=1.0, what="traffic is back on stable")


def test_a_second_model_replaces_the_first_without_losing_a_request_and_goes_back(house: House, first: First) -> None:
    # Given a better model that waits, and cannot wait for who would have to sign
    better = house.handoff(BETTER)
    assert releasing.release(house.settings, str(better)) == releasing.WAITING
    release = house.open_release()
    with asking(house) as asked:
        assert house.break_glass(release).returncode == 0  # from here on the worker goes on by itself
        # When its server is killed in the middle of the canary, and somebody starts another release meanwhile
        running = house.start("release", better)
        until(lambda: house.canary_weight() == 50, seconds=90, every=0.01, what="the canary gets half of the requests")
        canary_process(house).kill()
        with pytest.raises(RefusedError, match="one release of toy at a time may be open in local"):
            releasing.release(house.settings, str(house.handoff(GOOD)))
        with pytest.raises(RefusedError, match="one release of toy at a time may run in local, one runs now"):
            releasing.release(house.settings, f"models:/{toy.NAME}/{house.version(BETTER)}")
        out, err = running.communicate(timeout=120)
        # Then it still becomes champion, because its server is started again and answers as it should
        assert running.returncode == releasing.PROMOTED, out + err
        found = house.status()
        assert (found["champion"]["version"], found["previous"]["version"]) == (house.version(BETTER), "1")
        until(lambda: asked.versions[-1:] == [house.version(BETTER)], what="the new champion answers")
        # When the way back is taken
        began = time.monotonic()
        back = house.run("rollback", "--reason", "a test of the way back", "--by", OWNER)
        seconds = time.monotonic() - began
        # Then the first is champion again in less than ten seconds
        assert back.returncode == 0, back.stderr
        assert seconds < 10
        assert "the gateway routes to it since" in back.stdout
        assert house.champion() == "1"
        until(lambda: asked.versions[-1:] == ["1"], what="the first model answers again")
    # and nobody was left without an answer at any moment
    assert asked.failures == []
    assert len(asked.versions) > 100
    aliases = house.registry().aliases(toy.NAME)
    assert aliases["champion"] == "1"
    assert "candidate" not in aliases
    assert_ratified_afterwards(house, release)


def assert_ratified_afterwards(house: House, release: str) -> None:
    """What went on by break-glass verifies, says so, and is resolved by who would have had to sign, after its release has ended."""
    folder = house.settings.folder("releases", release)

    def stands() -> tuple[int, bool, bool]:
        recorded = json.loads((folder / "evidence" / "sign_off.json").read_bytes())["break_glass"]["ratified"]
        with house.store() as records:
            (incident,) = (one for one in records.incidents("local", toy.NAME) if one.cause == f"break-glass:{release}")
        return verifying.verify(house.settings, folder), recorded, incident.is_open

    assert stands() == (0, False, True)
    assert "Not ratified" in (folder / "dossier.html").read_text()
    ratified = house.sign(release)
    assert ratified.stdout.splitlines()[-1].startswith("ratified; its incident is resolved, and the dossier says so: "), ratified.stderr
    assert stands() == (0, True, False)
    assert "Not ratified" not in (folder / "dossier.html").read_text()


@dataclass
class Asked:
    """What a client that asks all the time got: who answered, and every failure."""

    versions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextmanager
def asking(house: House) -> Iterator[Asked]:
    """Ask the gateway for one spectrum after the other."""
    flux, _ = toy.toy_sky(8)
    asked, stop = Asked(), threading.Event()
    with InferenceClient(house.status()["serving"]["address"], toy.NAME, timeout=20, key=house.key) as client:

        def ask() -> None:
            while not stop.wait(0.02):
                try:
                    answer = client.infer({"flux": flux})
                except UnreachableError as error:
                    asked.failures.append(str(error))
                    continue
                asked.versions.append(answer.version)
                if not answer.ok:
                    asked.failures.append(f"{answer.status}: {answer.error}")

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield asked
        finally:
            stop.set()
            thread.join()


def canary_process(house: House) -> psutil.Process:
    """Return the process of the canary's model server: who listens where the gateway sends the canary's requests."""
    with control.find(house.settings.state, environment="local", model=toy.NAME) as gateway:
        canary = gateway.routes()[0].canary
    assert canary is not None
    port = int(canary.url.rsplit(":", 1)[1])
    listening = (one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
    return psutil.Process(next(one.pid for one in listening if one.laddr.port == port))
