"""Releases by command, through a real Prefect server, worker, supervisor and gateway: good, bad, waiting, signed, and back."""

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

from firstlight.cli import releasing, signing
from firstlight.errors import RefusedError
from serving import control
from serving.client import InferenceClient, UnreachableError
from tests.whole import toy
from tests.whole.house import OWNER, PLACEHOLDER, STRANGER, TRAINER, House, until

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("plane"), pytest.mark.timeout(900)]

GOOD, BETTER, WRONG, SCARCE = 1.0, 2.0, -1.0, 3.0


@dataclass(frozen=True)
class First:
    """What happened when the first model was released."""

    release: str
    folder: Path
    waiting: CompletedProcess[str]
    refusals: dict[str, str]
    signed: CompletedProcess[str]
    done: CompletedProcess[str]


@pytest.fixture(scope="module")
def first(house: House, plane: object) -> First:
    waiting = house.run("release", house.handoff(GOOD))
    release = house.open_release()
    refusals = {who: sign_refused(house, release, who) for who in (TRAINER, STRANGER, PLACEHOLDER)}
    refusals["another key"] = sign_refused(house, release, OWNER, key=STRANGER)
    signed = house.sign(release)
    done = house.run("release", house.handoff(GOOD))
    return First(release, house.settings.folder("releases", release), waiting, refusals, signed, done)


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
def test_verify_finds_one_changed_byte(first: First, tmp_path: Path, part: str) -> None:
    assert signing.verify(first.folder) == 0
    copy = tmp_path / first.release
    shutil.copytree(first.folder, copy)
    assert signing.verify(copy) == 0
    victim = copy / part
    victim = victim if victim.is_file() else next(path for path in sorted(victim.iterdir()) if path.is_file())
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert signing.verify(copy) == 2


def test_a_candidate_with_wrong_answers_is_turned_back_by_the_canary(house: House, first: First) -> None:
    # Given a model that is always wrong about the class, whose trainer says so
    wrong = house.handoff(WRONG, metrics={"class_accuracy_macro": 0.0})
    assert releasing.release(house.settings, str(wrong)) == releasing.WAITING
    release = house.open_release()
    # When another hand-off is to be released while it waits
    assert releasing.release(house.settings, str(house.handoff(BETTER))) == releasing.ERROR
    assert house.open_release() == release
    # and it is signed
    assert house.sign(release).returncode == 0
    refused = house.run("release", wrong)
    # Then live traffic shows what it is: nothing has moved, and it is no candidate any more
    assert refused.returncode == releasing.FAILED, refused.stdout
    assert refused.stdout.splitlines()[-1].startswith(f"refused: {release}: canary: ")
    found = house.status()
    assert found["champion"]["version"] == "1"
    assert (found["candidate"], found["release"]) == (None, None)
    assert found["rollout"] == {"phase": "stable", "weight": 0, "canary": None}
    until(lambda: house.status()["serving"]["as_desired"], every=1.0, what="traffic is back on stable")


def test_too_little_evidence_is_no_success(house: House, first: First) -> None:
    scarce = house.handoff(SCARCE, rows=40)
    assert releasing.release(house.settings, str(scarce)) == releasing.CANNOT_TELL
    found = house.status()
    assert (found["champion"]["version"], found["candidate"], found["release"]) == ("1", None, None)


def test_a_second_model_replaces_the_first_without_losing_a_request_and_goes_back(house: House, first: First) -> None:
    # Given a better model that waits and is signed
    better = house.handoff(BETTER)
    assert releasing.release(house.settings, str(better)) == releasing.WAITING
    assert house.sign(house.open_release()).returncode == 0
    with asking(house) as asked:
        # When its server is killed in the middle of the canary, and somebody starts another release meanwhile
        running = house.start("release", better)
        until(lambda: house.canary_weight() == 50, seconds=90, every=0.01, what="the canary gets half of the requests")
        canary_process(house).kill()
        with pytest.raises(RefusedError, match="one release of toy at a time may run in local, one runs now"):
            releasing.release(house.settings, str(house.handoff(GOOD)))
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
    with InferenceClient(house.status()["serving"]["address"], toy.NAME, timeout=20) as client:

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
