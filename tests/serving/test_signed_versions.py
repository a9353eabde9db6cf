"""Where keys are trusted, a model server asks for the pipeline's signature and for the folder's before it opens anything."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from firstlight.digest import sha256_file
from governance import model_keys, model_signature
from governance.attestation import VersionStatement, attest, ensure_key
from governance.model_keys import KeySource
from rollout.spec import ServableVersion
from serving import __main__ as serving_main
from serving import adoption, nursery, process
from serving.errors import ModelRefusedError
from serving.fleet import Fleet
from serving.nursery import Order, verified
from serving.options import ModelOptions, Options

TODAY = datetime.now(UTC).date()


@pytest.fixture(scope="module")
def handed(tmp_path_factory, tiny):
    return tiny.write_tiny_handoff(tmp_path_factory.mktemp("handed") / "over")


@pytest.fixture
def keys(tmp_path):
    """The file of trusted model keys; the private one lies beside it."""
    trusted = tmp_path / "keys" / "model-keys.yaml"
    model_keys.ensure_model_key(trusted.with_name("model-signing"), trusted, today=TODAY - timedelta(days=30))
    return trusted


def signed(folder: Path, keys: Path) -> Path:
    model_signature.signature_path(folder).write_bytes(model_signature.sign(folder, KeySource(file=keys.with_name("model-signing"))))
    return folder


@pytest.fixture
def order(tmp_path, handed, keys):
    folder = signed(Path(shutil.copytree(handed, tmp_path / "kept")), keys)
    key = ensure_key(tmp_path / "pipeline")
    digests = {"model_digest": sha256_file(folder / "model.pt2"), "handoff_digest": sha256_file(folder / "handoff.yaml")}
    statement = VersionStatement(model="tiny", version="3", backend="eager", backend_digest=None, **digests)
    attested = {"signature": attest(statement, key_file=key), "trusted_keys": f"{key}.pub"}
    return Order(folder=str(folder), name="tiny", version="3", model_keys=str(keys), **attested, **digests)


def test_a_version_that_the_pipeline_signed_is_opened(order):
    assert verified(order).digest == order.handoff_digest


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"signature": None}, "found no signature"),
        ({"version": "4"}, "not what its pipeline signed"),
        ({"backend": "aot", "backend_digest": "e" * 64}, "not what its pipeline signed"),
        ({"model_digest": "f" * 64}, "not what its pipeline signed"),
        ({"handoff_digest": None}, "must come with the digests"),
        ({"trusted_keys": "/nowhere/keys"}, "must be readable"),
    ],
)
def test_anything_else_is_refused_before_the_folder_is_even_opened(order, change, why):
    with pytest.raises(ModelRefusedError, match=why):
        verified(replace(order, folder="/there/is/no/such/folder", **change))


def test_a_pipeline_that_is_not_trusted_is_refused(order, tmp_path):
    stranger = ensure_key(tmp_path / "stranger")
    with pytest.raises(ModelRefusedError, match="must be signed by a trusted pipeline key"):
        verified(replace(order, trusted_keys=f"{stranger}.pub"))


# --- the folder's own signature ---------------------------------------------------------------------------------------


def breaks(folder: Path, keys: Path, how: str) -> None:
    """Break what a model server asks for in one way."""
    trusted = model_keys.read_model_keys(keys)
    (key,) = trusted.keys
    changed = {
        "revoked": trusted.revoking(key.fingerprint, on=TODAY, reason="the laptop was lost"),
        "expired": trusted.ending(key.fingerprint, last_day=TODAY - timedelta(days=1)),
    }
    if how in changed:
        model_keys.write_model_keys(keys, changed[how])
    elif how == "unknown":
        keys.unlink()
        model_keys.ensure_model_key(keys.with_name("another"), keys, today=TODAY)
    elif how == "untrusting":
        keys.unlink()
    elif how == "unsigned":
        model_signature.signature_path(folder).unlink()
    elif how == "added":
        (folder / ".gitignore").write_text("model.pt2")
    else:
        model = folder / next(name for name in ("model.pt2", "model.so") if (folder / name).exists())
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(data)


BROKEN = {
    "changed": r"model\.\w+ was changed",
    "added": r"added: \.gitignore",
    "unsigned": r"must be signed, found no signature",
    "unknown": "must be signed by a trusted model key",
    "expired": "counted until .*firstlight keys sign",
    "revoked": r"was revoked on .*the laptop was lost",
    "untrusting": "the file of trusted model keys must be there",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_folder_that_is_not_what_a_key_in_force_signed_is_refused_before_it_is_parsed(order, keys, how, monkeypatch):
    breaks(Path(order.folder), keys, how)
    monkeypatch.setattr("models.handoff.load", lambda folder: pytest.fail("a byte was parsed"))
    with pytest.raises(ModelRefusedError, match=BROKEN[how]):
        verified(order)


def test_a_good_signature_of_another_folder_is_refused(order, tiny, keys, tmp_path):
    """Both files are the trainer's own and well signed, and are not the version that was asked for."""
    other = signed(tiny.write_tiny_handoff(tmp_path / "other", seed=5), keys)
    with pytest.raises(ModelRefusedError, match=r"must be over the handoff\.yaml with sha256"):
        verified(replace(order, folder=str(other)))


@pytest.mark.parametrize("how", BROKEN)
def test_a_compiled_file_that_nobody_vouches_for_is_refused_before_it_is_loaded(order, keys, how, tmp_path, monkeypatch):
    papers = verified(order)
    digest = "c" * 64
    folder = tmp_path / "compiled" / digest
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "model.so").write_bytes(b"native code")
    signed(folder, keys)
    breaks(folder, keys, how)
    monkeypatch.setattr("models.backends.open_backend", lambda *_, **__: pytest.fail("native code was loaded"))
    with pytest.raises(ModelRefusedError, match=BROKEN[how]):
        nursery.opened(replace(order, backend="aot", backend_digest=digest, compiled=str(tmp_path / "compiled")), papers)


def test_a_server_that_was_started_before_a_key_was_revoked_does_not_fit_any_more(keys, tmp_path):
    """So a supervisor that takes it over starts another, which is refused, and then ends it: adoption is no way around a revocation."""
    servable = ServableVersion(model="tiny", version="3", folder="/kept", model_digest="a" * 64, handoff_digest="b" * 64)

    def fit(path: Path | None) -> str:
        return Fleet(folder=tmp_path, options=Options(model=ModelOptions(model_keys=path)))._fit(servable)

    before = fit(keys)
    assert before == fit(keys) != fit(None)
    breaks(Path("/nowhere"), keys, "revoked")
    assert fit(keys) != before
    assert [adoption.trusted(None), adoption.trusted(keys.with_name("none"))] == [[], ["none"]]


def test_a_model_servers_process_is_told_which_keys_count(order, keys, monkeypatch, capsys):
    """From the supervisor's options to the nursery: whoever leaves a word out leaves the checks out."""
    heard, listener = [], process.bind()

    def hire(told, **_):
        heard.append(told)
        raise ModelRefusedError("nobody is hired")

    monkeypatch.setattr("serving.process_staff.Processes", hire)
    monkeypatch.setattr("serving.process.log_as_json", lambda **_: None)
    monkeypatch.setattr("serving.process.bind", lambda **_: listener)
    options = Options(model=ModelOptions(model_keys=keys, trusted_keys=Path(order.trusted_keys)))
    servable = ServableVersion(
        model="tiny",
        version="3",
        folder=order.folder,
        model_digest=order.model_digest,
        handoff_digest=order.handoff_digest,
        signature=order.signature,
    )
    words = [*Fleet(folder=Path(order.folder), options=options)._arguments(servable), "--options", options.model_dump_json()]
    with listener:
        assert serving_main.main(words) == serving_main.FAILED
    assert heard == [order]
