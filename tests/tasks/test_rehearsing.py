"""The way back is rehearsed, recorded whatever it showed, and blocks a release by policy when it cannot be shown."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from firstlight import settings as settings_module
from firstlight.cli import drilling, standing
from firstlight.settings import Settings
from firstlight.verdict import Verdict
from models import handoff
from rollout.backends.in_memory import InMemoryDrills
from rollout.policy import DrillPolicy
from rollout.records import Drill
from rollout.spec import Observed, ServableVersion
from rollout.store import Store
from tasks import doors, rehearsing, vouching
from tasks.registering import signed
from tests.models.tiny import write_tiny_handoff

MODEL = "tiny"
AT_ONCE = rehearsing.Patience(notice=0.05, beyond_limit=0.05, poll=0.001)
REQUIRED = DrillPolicy(required=True, valid_hours=48, limit_seconds=10)
COMES_UP = (
    {"state": "waiting"},
    {"state": "starting"},
    {"state": "answering", "seconds": 2.0},
    {"state": "done", "seconds": 2.0, "answered": 20},
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_handoff(tmp_path_factory.mktemp("rehearsing") / "hand-off")


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings_module.load(state_dir=tmp_path / "state")


@pytest.fixture
def records(here: Settings) -> Iterator[Store]:
    with doors.store(here) as opened:
        yield opened


@pytest.fixture
def champion(here: Settings, records: Store, made: Path, tmp_path: Path) -> ServableVersion:
    """Version 1 is champion, as the release flow leaves it: its own copy of the hand-off, signed."""
    folder = tmp_path / "kept"
    shutil.copytree(made, folder)
    papers = handoff.load(folder)
    version = ServableVersion(model=MODEL, version="1", folder=str(folder), model_digest=papers.model_digest, handoff_digest=papers.digest)
    vouching.sign(here, papers)
    version = replace(version, signature=signed(here, version))
    records.add_version(version)
    digests = {"handoff_digest": papers.digest, "model_digest": papers.model_digest, "policy_digest": "p"}
    release = records.open_release("local", MODEL, **digests, by="a test")
    records.promote("local", MODEL, version="1", digest=papers.model_digest, release_id=release.id, expected_champion=None, by="a test")
    return version


def rehearse(records: Store, here: Settings) -> Drill:
    return rehearsing.rehearse(records, here, MODEL, "1", rules=REQUIRED, by="a test", patience=AT_ONCE)


def way_back(records: Store, here: Settings, rules: DrillPolicy = REQUIRED) -> dict[str, object]:
    return rehearsing.way_back(records, here, MODEL, rules=rules, by="a test", patience=AT_ONCE).to_dict()


def remember(records: Store, version: ServableVersion, *, hours_ago: float = 1.0, **changes: object) -> None:
    """Record that version 1 was rehearsed with success."""
    passed = Drill(environment="local", model=MODEL, version="1", digest=version.model_digest, verdict="pass", seconds=3.0, answered=20, failed=0,
                   reason="could take the traffic after 3.0 s", at=time.time() - 3600 * hours_ago)  # fmt: skip
    records.record_drill(replace(passed, **changes))  # type: ignore[arg-type]


def test_what_comes_up_is_asked_while_it_can_be_asked_and_passes() -> None:
    drills, asked = InMemoryDrills(*COMES_UP), []
    found = rehearsing.carry_out(drills, "1", ask=lambda: asked.append(1), limit_seconds=10, patience=AT_ONCE)
    assert (found.verdict, found.answered, drills.orders, asked) == (Verdict.PASS, 20, ["1#1"], [1])
    assert found.seconds == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("reports", "verdict"),
    [((), Verdict.CANNOT_TELL), (COMES_UP[:1], Verdict.CANNOT_TELL), (COMES_UP[:2], Verdict.CANNOT_TELL), (COMES_UP[:3], Verdict.CANNOT_TELL),
     (({"state": "done", "seconds": 11.0, "answered": 20},), Verdict.FAIL), (({"state": "failed", "reason": "killed"},), Verdict.FAIL)],
    ids=["nobody", "waits", "hangs", "unasked", "slow", "killed"],
)  # fmt: skip
def test_a_rehearsal_that_does_not_end_well_does_not_pass(reports: tuple[dict[str, object], ...], verdict: Verdict) -> None:
    patience = replace(AT_ONCE, beyond_limit=-9.9)
    found = rehearsing.carry_out(InMemoryDrills(*reports), "1", ask=lambda: None, limit_seconds=10, patience=patience)
    assert found.verdict is verdict


def test_a_supervisor_that_dies_or_is_given_another_order_meanwhile_shows_nothing_against_the_version() -> None:
    starts = InMemoryDrills({"state": "starting"}, None)
    patience = replace(AT_ONCE, beyond_limit=60.0)
    lost = rehearsing.carry_out(starts, "1", ask=lambda: None, limit_seconds=10, patience=patience)
    assert (lost.verdict, "stopped reporting" in lost.reason) == (Verdict.CANNOT_TELL, True)
    other = InMemoryDrills({"state": "starting"}, {"state": "waiting", "asked": "2#9"})
    replaced = rehearsing.carry_out(other, "1", ask=lambda: None, limit_seconds=10, patience=patience)
    assert (replaced.verdict, "another one was ordered meanwhile, 2#9" in replaced.reason) == (Verdict.CANNOT_TELL, True)


def test_one_changed_byte_fails_before_anything_is_started(records: Store, here: Settings, champion: ServableVersion) -> None:
    model = Path(champion.folder) / "model.pt2"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    found = rehearse(records, here)
    assert (found.verdict, found.seconds) == ("fail", None)
    assert "model.pt2" in found.reason
    assert records.drills("local", MODEL) == [found]
    assert records.desired("local", MODEL).drill is None  # type: ignore[union-attr]


def test_a_missing_signature_fails(records: Store, here: Settings, champion: ServableVersion) -> None:
    records.set_backend(MODEL, "1", backend="eager", digest=None, signature=None)
    assert "signed by the pipeline" in rehearse(records, here).reason


def test_a_compiled_file_that_is_gone_fails(records: Store, here: Settings, champion: ServableVersion) -> None:
    compiled = replace(champion, backend="onnx", backend_digest="e" * 64)
    records.set_backend(MODEL, "1", backend="onnx", digest="e" * 64, signature=signed(here, compiled))
    found = rehearse(records, here)
    assert found.verdict == "fail"
    assert "e" * 12 in found.reason


def test_without_a_supervisor_it_cannot_be_told_and_that_is_recorded_too(records: Store, here: Settings, champion: ServableVersion) -> None:
    found = rehearse(records, here)
    assert found.verdict == "cannot tell"
    assert "firstlight serve" in found.reason
    assert records.drills("local", MODEL) == [found]


def test_a_supervisor_of_the_past_is_not_believed(records: Store, here: Settings, champion: ServableVersion) -> None:
    report = {"asked": "1#1", "version": "1", **COMES_UP[-1]}
    records.observe(Observed(environment="local", model=MODEL, generation=1, traffic=None, heartbeat=time.time() - 60, drill=report))
    assert rehearse(records, here).verdict == "cannot tell"


def test_a_first_release_has_no_way_back_to_rehearse(records: Store, here: Settings) -> None:
    assert (way_back(records, here)["verdict"], records.drills("local", MODEL)) == ("pass", [])


def test_an_unrehearsed_champion_blocks_by_policy_and_only_then(records: Store, here: Settings, champion: ServableVersion) -> None:
    assert way_back(records, here, DrillPolicy(required=False))["verdict"] == "pass"
    assert records.drills("local", MODEL) == []
    found = way_back(records, here)
    assert (found["verdict"], len(records.drills("local", MODEL))) == ("cannot tell", 1)


def test_a_fresh_rehearsal_is_not_repeated(records: Store, here: Settings, champion: ServableVersion) -> None:
    remember(records, champion)
    assert way_back(records, here)["verdict"] == "pass"
    assert len(records.drills("local", MODEL)) == 1


@pytest.mark.parametrize("change", [{"hours_ago": 49.0}, {"verdict": "fail"}, {"digest": "0" * 64}], ids=["old", "failed", "other bytes"])
def test_an_old_failed_or_foreign_rehearsal_is_repeated(
    records: Store, here: Settings, champion: ServableVersion, change: dict[str, object]
) -> None:
    remember(records, champion, **change)  # type: ignore[arg-type]
    assert way_back(records, here)["verdict"] == "cannot tell"
    assert len(records.drills("local", MODEL)) == 2


def test_the_command_says_it_in_a_line_and_an_exit_code_and_the_status_keeps_it(
    records: Store, here: Settings, champion: ServableVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drilling.drill(here, "unknown", None, as_json=False) == 3
    assert "no champion" in " ".join(capsys.readouterr().out.split())
    Path(champion.folder, "handoff.yaml").unlink()
    assert drilling.drill(here, MODEL, None, as_json=True) == 2
    assert '"verdict": "fail"' in capsys.readouterr().out
    (kept,) = standing.standing(here, MODEL)["drills"]
    assert (kept["version"], kept["verdict"]) == ("1", "fail")
    standing.status(here, MODEL, as_json=False)
    assert "way back to 1" in capsys.readouterr().out
