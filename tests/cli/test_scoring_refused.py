"""``firstlight score``, the whole command: a champion that no trusted pipeline signed is refused before a byte of it or of the spectra is read."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from firstlight import cli
from firstlight import settings as settings_module
from firstlight.settings import Settings
from governance.attestation import attest, ensure_key
from tasks import doors, vouching
from tasks.registering import signed
from tasks.vouching import statement_of
from tests.rollout.stores import MODEL, promote, servable

NOWHERE = "/there/is/no/such/folder"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """An environment of its own, whose pipeline has signed before."""
    monkeypatch.setenv("FIRSTLIGHT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FIRSTLIGHT_MODEL", MODEL)
    settings_module.current.cache_clear()
    ensure_key(settings_module.current().pipeline_key_path)
    vouching.ensure_key(settings_module.current())
    yield settings_module.current()
    settings_module.current.cache_clear()


def scored(settings: Settings, signature: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Make a champion with this signature, score with it by the command line, and return the one line it ends with."""
    with doors.store(settings) as records:
        records.add_version(replace(servable("1", folder=NOWHERE), signature=signature))
        promote(records, "1", expected=None, environment=settings.environment)
    monkeypatch.setattr(sys, "argv", ["firstlight", "score", str(settings.state), "--out", str(settings.state / "scores.parquet")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert not (settings.state / "scores.parquet").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("firstlight: ")
    return line


def test_a_champion_without_a_signature_is_refused(
    here: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "found no signature: release its hand-off again" in scored(here, None, monkeypatch, capsys)


def test_a_champion_that_another_pipeline_signed_is_refused(
    here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = attest(statement_of(servable("1")), key_file=ensure_key(tmp_path / "stranger"))
    assert "must be signed by a trusted pipeline key" in scored(here, foreign, monkeypatch, capsys)


def test_a_champion_that_was_exchanged_after_it_was_signed_is_refused(
    here: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = signed(here, replace(servable("1"), backend="onnx", backend_digest="e" * 64))
    assert "is not what its pipeline signed" in scored(here, other, monkeypatch, capsys)


def test_a_champion_that_this_pipeline_signed_comes_as_far_as_its_files(
    here: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here.state / "spec-1.fits").write_bytes(b"")
    assert NOWHERE in scored(here, signed(here, servable("1")), monkeypatch, capsys)


def test_where_no_pipeline_has_ever_signed_nothing_is_trusted(
    here: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signature = signed(here, servable("1"))
    here.trusted_keys_path.unlink()
    assert "the file of trusted pipeline keys must be readable" in scored(here, signature, monkeypatch, capsys)
