"""Everything here that loads a version asks first whether a key in force signed exactly these bytes; keys are changed by command, and recorded."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from firstlight import cli
from firstlight import settings as settings_module
from firstlight.cli import standing
from firstlight.errors import RefusedError
from firstlight.settings import Settings
from governance import model_keys, model_signature
from governance.errors import SignatureError
from models import handoff
from rollout.spec import ServableVersion
from rollout.store import Store
from tasks import checking, doors, opening, rehearsing, releases, returning, training, vouching
from tasks.registering import signed
from tasks.releases import OpenedRelease
from tests.models.tiny import write_tiny_handoff

MODEL = "tiny"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("vouching")
    return write_tiny_handoff(place / "one"), write_tiny_handoff(place / "two", seed=2)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("FIRSTLIGHT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FIRSTLIGHT_MODEL", MODEL)
    settings_module.current.cache_clear()
    yield settings_module.current()
    settings_module.current.cache_clear()


@pytest.fixture
def records(here: Settings) -> Iterator[Store]:
    with doors.store(here) as opened:
        yield opened


@pytest.fixture
def champions(here: Settings, records: Store, made: tuple[Path, Path]) -> list[ServableVersion]:
    """Version 1 was champion and version 2 is, as the release flow leaves them: kept copies, signed; version 2 has a compiled file."""
    found = []
    for number, folder in enumerate(made, start=1):
        papers = releases.keep(here, str(folder))
        vouching.sign(here, papers)
        digest = compiled(here) if number == 2 else None
        version = ServableVersion(
            model=MODEL,
            version=str(number),
            folder=str(papers.folder),
            model_digest=papers.model_digest,
            handoff_digest=papers.digest,
            backend="aot" if digest else "eager",
            backend_digest=digest,
        )
        version = replace(version, signature=signed(here, version))
        records.add_version(version)
        digests = {"handoff_digest": papers.digest, "model_digest": papers.model_digest, "policy_digest": "p"}
        release = records.open_release(here.environment, MODEL, **digests, by="a test")
        before = found[-1].version if found else None
        records.promote(here.environment, MODEL, version=version.version, digest=papers.model_digest, release_id=release.id,
                        expected_champion=before, by="a test")  # fmt: skip
        records.close_release(release.id, "promoted", "all gates passed")
        found.append(version)
    return found


def compiled(here: Settings) -> str:
    """A compiled file that nothing here runs, named by the digest of its manifest."""
    from firstlight.digest import sha256_bytes

    digest = sha256_bytes(b"{}")
    folder = here.compiled / digest
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(b"{}")
    (folder / "model.so").write_bytes(b"native code")
    vouching.sign_compiled(here, digest)
    return digest


def opened(here: Settings, version: ServableVersion) -> OpenedRelease:
    digests = {"model_digest": version.model_digest, "handoff_digest": version.handoff_digest, "policy_digest": "p"}
    people = {"trainer_name": "T", "trainer_email": "t@lab.example"}
    return OpenedRelease(id="r", environment="local", model=MODEL, handoff=version.folder, folder=str(here.state), **digests, **people)


# --- every door -------------------------------------------------------------------------------------------------------


def score(here: Settings, version: ServableVersion) -> None:
    from firstlight.cli import scoring

    scoring.score(here, [str(here.state)], here.state / "scores.parquet", model=MODEL)


def rehearse(here: Settings, version: ServableVersion) -> None:
    if why := rehearsing.refusal(here, version):
        raise RefusedError(why)


DOORS: dict[str, Callable[[Settings, ServableVersion], object]] = {
    "golden": lambda here, version: opening._papers(opened(here, version)),
    "data": lambda here, version: checking.validate_data.__wrapped__(opened(here, version)),
    "evaluation": lambda here, version: checking.evaluate.__wrapped__(opened(here, version)),
    "backend": lambda here, version: checking.choose_backend.__wrapped__(opened(here, version)),
    "benchmark": checking._contender,
    "rehearsal": rehearse,
    "score": score,
    "warm start": lambda here, version: training._champion_folder(here),
    "rollback": lambda here, version: returning.go_back(here, MODEL, reason="r", by="b", to=version.version, wait_seconds=0),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def revoke(here: Settings) -> None:
    keys = vouching.trusted(here)
    model_keys.write_model_keys(here.model_keys_path, keys.revoking(keys.keys[0].fingerprint, on=vouching.today(), reason="stolen"))


BREAKS: dict[str, tuple[Callable[[Settings, ServableVersion], object], str]] = {
    "changed": (lambda here, version: flip(Path(version.folder) / "model.pt2"), r"model\.pt2 was changed"),
    "added": (lambda here, version: (Path(version.folder) / "conftest.py").write_text(""), r"added: conftest\.py"),
    "unsigned": (lambda here, version: model_signature.signature_path(version.folder).unlink(), "found no signature"),
    "revoked": (lambda here, version: revoke(here), r"was revoked on .* \(stolen\)"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_no_door_opens_for_what_no_key_in_force_signed(here: Settings, champions: list[ServableVersion], how: str) -> None:
    breaks, why = BREAKS[how]
    breaks(here, champions[1])
    for door in DOORS.values():
        with pytest.raises(RefusedError, match=why):
            door(here, champions[1])


def test_no_door_opens_for_a_version_whose_compiled_file_was_exchanged(here: Settings, champions: list[ServableVersion]) -> None:
    flip(here.compiled / str(champions[1].backend_digest) / "model.so")
    for door in ("benchmark", "rehearsal", "score", "warm start", "rollback"):
        with pytest.raises(RefusedError, match=r"model\.so was changed"):
            DOORS[door](here, champions[1])


def test_a_rollback_to_what_no_server_would_load_moves_nothing(here: Settings, records: Store, champions: list[ServableVersion]) -> None:
    flip(Path(champions[0].folder) / "model.pt2")
    with pytest.raises(SignatureError, match="do not load it, restore what was registered"):
        returning.go_back(here, MODEL, reason="r", by="b", to=None, wait_seconds=0)
    champion = records.champion(here.environment, MODEL)
    assert champion is not None
    assert champion.version == "2"
    said = [(entry.what, entry.digest, entry.by) for entry in records.ledger() if entry.what.startswith("refused")]
    assert said == [("refused-model", champions[0].model_digest, "b")]


def test_a_folder_that_agrees_with_itself_and_was_signed_is_not_another_version(
    here: Settings, champions: list[ServableVersion], made: tuple[Path, Path]
) -> None:
    """Both signatures are good, each for its own: one kept folder put in the place of the other."""
    first, second = (Path(version.folder) for version in champions)
    shutil.rmtree(second)
    shutil.copytree(first, second)
    shutil.copy(model_signature.signature_path(first), model_signature.signature_path(second))
    with pytest.raises(SignatureError, match=r"must be over the handoff\.yaml with sha256"):
        vouching.require_version(here, champions[1])
    assert vouching.open_version(here, champions[0]).digest == champions[0].handoff_digest


def test_a_hand_off_that_comes_for_the_first_time_needs_no_signature_and_gets_one(
    here: Settings, records: Store, made: tuple[Path, Path]
) -> None:
    papers = releases.keep(here, str(made[0]))
    release = opened(here, ServableVersion(model=MODEL, version="", folder=str(papers.folder), model_digest=papers.model_digest, handoff_digest=papers.digest))  # fmt: skip
    assert opening._papers(release).digest == papers.digest
    first = vouching.sign(here, papers)
    assert vouching.sign(here, papers) == first, "a signature that holds is kept"
    assert vouching.load(here, papers.folder).digest == papers.digest
    flip(papers.folder / "model.pt2")
    with pytest.raises(RefusedError):
        vouching.sign(here, papers)


# --- changing keys ----------------------------------------------------------------------------------------------------


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run ``firstlight keys`` with ``words``; return its exit code and all it says, on one line."""
    monkeypatch.setattr(sys, "argv", ["firstlight", "keys", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((said.out + said.err).split())


def test_keys_are_rotated_and_revoked_by_command_and_what_they_signed_follows(
    here: Settings, records: Store, champions: list[ServableVersion], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def keys(*words: str) -> tuple[int, str]:
        return command(monkeypatch, capsys, *words)

    monkeypatch.setattr("tasks.model_key_changes._kept_in_registry", lambda settings, version: "")
    (old,) = (key.fingerprint for key in vouching.trusted(here).keys)
    # When the key is rotated, then the new one signs all that may be loaded, and the old one still counts
    code, said = keys("rotate", "--overlap", "30")
    assert code == 0
    assert said.count("is signed with") == 2
    shown = json.loads(keys("show", "--json")[1])
    assert [(key["state"], key["versions"]) for key in shown["keys"]] == [("in force", []), ("in force", ["1", "2"])]
    assert shown["keys"][0]["valid_until"] == (vouching.today() + timedelta(days=30)).isoformat()
    new = shown["keys"][1]["fingerprint"]
    assert old != new == shown["signs_now"]
    # When the key that signs here is revoked, then another signs, and nothing of its own is loaded until it is signed again
    code, said = keys("revoke", new[:12], "--reason", "the laptop was lost", "--yes")
    assert (code, "version 2, which is live, was signed with it" in said, "firstlight keys sign 1 2" in said) == (0, True, True)
    with pytest.raises(SignatureError, match="the laptop was lost"):
        vouching.require_version(here, champions[1])
    assert "the laptop was lost" in keys("show")[1]
    # One whose bytes are no longer what was attested is not signed; the other is
    flip(Path(champions[0].folder) / "model.pt2")
    code, said = keys("sign")
    assert (code, "version 1 is NOT signed" in said, "version 2 is signed with" in said) == (2, True, True)
    vouching.require_version(here, champions[1])
    # And all of it stands in the ledger
    words = [
        entry.what for entry in records.ledger() if ("model" in entry.what and "key" in entry.what) or entry.what == "sign-model-again"
    ]
    assert words == ["rotate-model-key", "sign-model-again", "sign-model-again", "rotate-model-key", "revoke-model-key", "sign-model-again"]


def test_status_says_in_time_that_a_key_ends_and_which_version_hangs_on_it(here: Settings, champions: list[ServableVersion]) -> None:
    keys = vouching.trusted(here)
    (key,) = keys.keys

    def problems(days: int) -> list[str]:
        model_keys.write_model_keys(here.model_keys_path, keys.ending(key.fingerprint, last_day=vouching.today() + timedelta(days=days)))
        return [problem for problem in standing.standing(here, MODEL)["problems"] if "alias" not in problem]

    assert problems(31) == []
    assert [f"what signed version {number} counts until" in problem for number, problem in zip("21", problems(30), strict=True)] == [
        True,
        True,
    ]
    model_signature.signature_path(champions[1].folder).unlink()
    first, second = problems(0)
    assert "firstlight keys sign 2" in first
    assert "what signed version 1 counts until" in second
    revoke(here)
    assert "(stolen)" in standing.standing(here, MODEL)["problems"][1]


def test_a_live_versions_key_is_not_revoked_by_accident(
    here: Settings, champions: list[ServableVersion], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (key,) = vouching.trusted(here).keys
    monkeypatch.setattr("typer.confirm", lambda question: False)
    code, said = command(monkeypatch, capsys, "revoke", key.fingerprint[:8], "--reason", "r")
    assert (code, "nothing was revoked" in said, vouching.trusted(here).keys) == (1, True, (key,))
    for words, why in (
        (("revoke", "1234", "--reason", "r"), "8 digits or more"),
        (("revoke", key.fingerprint, "--reason", " "), "say why"),
    ):
        assert why in command(monkeypatch, capsys, *words)[1]


def test_a_key_from_elsewhere_signs_once_its_public_half_is_trusted(
    here: Settings, tmp_path: Path, made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model_keys.ensure_model_key(tmp_path / "lab" / "key", tmp_path / "lab" / "keys.yaml", today=vouching.today())
    monkeypatch.setenv("FIRSTLIGHT_MODEL_KEY_PEM", (tmp_path / "lab" / "key").read_text())
    settings_module.current.cache_clear()
    there = settings_module.current()
    papers = releases.keep(there, str(made[0]))
    with pytest.raises(SignatureError, match="the file of trusted model keys must be there"):
        vouching.sign(there, papers)
    assert "trusted: " in command(monkeypatch, capsys, "trust")[1]
    vouching.sign(there, papers)
    assert handoff.load(papers.folder).digest == papers.digest
    assert not there.model_key_path.exists()
    code, said = command(monkeypatch, capsys, "rotate")
    assert (code, "a key that comes from environment must be changed where it is kept" in said) == (1, True)
    assert "PRIVATE KEY" not in repr(there) + said
    assert "FIRSTLIGHT_MODEL_KEY_PEM" in settings_module.environment_for_children(there)
    served = settings_module.environment_without_keys(there)
    assert not any("PRIVATE KEY" in value for value in served.values()), "a process that serves never sees the key"
