"""Model folders under OpenSSF model-signing: good for exactly what was signed, by a key that counts today, and the stock tool agrees."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from model_signing._cli import main as stock_tool

from governance import model_keys, model_signature
from governance.errors import SignatureError
from governance.model_keys import KeySource, ModelKey, ModelKeys

TODAY = date(2026, 11, 23)
DAY = timedelta(days=1)
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "desi-vae-0123456789ab"
    place.mkdir()
    (place / "handoff.yaml").write_text("name: desi-vae\n")
    (place / "model.pt2").write_bytes(b"weights")
    return place


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Where a key of this module lies, and the file that trusts it."""
    place = tmp_path_factory.mktemp("keys") / "private"
    model_keys.ensure_model_key(place / "model-signing", place / "model-keys.yaml", today=TODAY)
    return place


@pytest.fixture(scope="module")
def source(made):
    return KeySource(file=made / "model-signing")


@pytest.fixture(scope="module")
def trusted(made):
    return model_keys.read_model_keys(made / "model-keys.yaml")


def private_pem(key, password: bytes | None = None) -> bytes:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def test_what_was_signed_is_said_with_every_file_and_the_key(folder, source, trusted):
    signature = model_signature.sign(folder, source)
    signed = model_signature.verify(folder, signature, trusted=trusted, today=TODAY)
    facts = signed.to_dict()
    assert sorted(facts["files"]) == ["handoff.yaml", "model.pt2"]
    assert facts["key_fingerprint"] == trusted.keys[0].fingerprint == model_keys.fingerprint_of(facts["public_key"])
    with pytest.raises(SignatureError, match=r"must be over the model\.pt2 with sha256 000000000000"):
        signed.require("model.pt2", "0" * 64, where=folder)
    assert signature not in [path.read_bytes() for path in folder.iterdir()], "the folder has the files it had"


def test_a_folder_that_was_moved_and_renamed_is_the_same(folder, source, trusted):
    signature = model_signature.sign(folder, source)
    model_signature.verify(folder.rename(folder.with_name("elsewhere")), signature, trusted=trusted, today=TODAY)


def change(folder):
    (folder / "model.pt2").write_bytes(b"Weights")


def add(folder):
    (folder / ".gitattributes").write_text("*.pt2 filter=lfs")


def remove(folder):
    (folder / "model.pt2").unlink()


def rename(folder):
    (folder / "model.pt2").rename(folder / "model.bin")


def link(folder):
    kept = (folder / "model.pt2").rename(folder.with_name("kept"))
    (folder / "model.pt2").symlink_to(kept)


def nest(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "code.py").write_text("print()")


def pipe(folder):
    (folder / "model.pt2").unlink()
    os.mkfifo(folder / "model.pt2")


@pytest.mark.parametrize(
    ("tamper", "why"),
    [(change, "model.pt2 was changed"), (add, "added: .gitattributes"), (remove, "missing: model.pt2"), (rename, "added: model.bin"),
     (link, "symlink"), (nest, "added: sub/code.py"), (pipe, "model.pt2")],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_a_folder_that_is_not_what_was_signed_is_refused_by_file(folder, source, trusted, tamper, why):
    signature = model_signature.sign(folder, source)
    tamper(folder)
    with pytest.raises(SignatureError, match="is not what was signed with key") as refused:
        model_signature.verify(folder, signature, trusted=trusted, today=TODAY)
    assert why in str(refused.value)


def test_a_folder_without_a_signature_is_refused(folder, trusted):
    assert model_signature.read_signature(folder) is None
    with pytest.raises(SignatureError, match=r"found no signature desi-vae-0123456789ab\.sig beside it: release its hand-off again"):
        model_signature.verify(folder, None, trusted=trusted, today=TODAY)


@pytest.mark.parametrize(
    "noise", [b"", b"{}", b"[1]", b"null", b'{"a":1,"a":2}', b"\xff" * 20, b'{"verificationMaterial":{"publicKey":{}}}']
)
def test_what_is_no_bundle_is_a_sentence(folder, trusted, noise):
    with pytest.raises(SignatureError, match="must be"):
        model_signature.verify(folder, noise, trusted=trusted, today=TODAY)


def test_no_byte_of_a_signature_can_be_changed_to_say_something_else(folder, source, trusted):
    signature = model_signature.sign(folder, source)
    good = model_signature.verify(folder, signature, trusted=trusted, today=TODAY)
    for place in range(0, len(signature), 7):
        changed = bytearray(signature)
        changed[place] ^= 1
        try:
            found = model_signature.verify(folder, bytes(changed), trusted=trusted, today=TODAY)
        except SignatureError:
            continue
        assert (found.digests, found.fingerprint) == (good.digests, good.fingerprint), f"byte {place}"


def test_a_signature_that_is_a_link_or_huge_is_not_read(folder, tmp_path):
    place = model_signature.signature_path(folder)
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SignatureError, match="symbolic link"):
        model_signature.read_signature(folder)
    place.unlink()
    place.write_bytes(b" " * (model_signature.SIZE_LIMIT + 1))
    with pytest.raises(SignatureError, match="at most"):
        model_signature.read_signature(folder)


# --- which keys count -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"revoked": TODAY, "reason": "lost"}, r"was revoked on 2026-11-23 \(lost\)"),
        ({"revoked": TODAY - 300 * DAY}, "was revoked on"),
        ({"valid_until": TODAY - DAY}, "counted until 2026-11-22: sign the version with a key in force"),
        ({"valid_from": TODAY + DAY}, "counts from 2026-11-24, today is 2026-11-23"),
    ],
    ids=["revoked", "long-ago", "expired", "not-yet"],
)
def test_a_key_that_does_not_count_today_vouches_for_nothing(folder, source, trusted, change, why):
    signature = model_signature.sign(folder, source)
    keys = ModelKeys(keys=(trusted.keys[0].model_copy(update={"valid_from": TODAY - 400 * DAY, **change}),))
    with pytest.raises(SignatureError, match=why):
        model_signature.verify(folder, signature, trusted=keys, today=TODAY)


def test_a_key_that_nobody_trusts_is_refused_by_name(folder, source, tmp_path):
    model_keys.ensure_model_key(tmp_path / "other", tmp_path / "other.yaml", today=TODAY)
    others = model_keys.read_model_keys(tmp_path / "other.yaml")
    with pytest.raises(SignatureError, match=f"must be signed by a trusted model key .{others.keys[0].fingerprint[:16]}.*do not load it"):
        model_signature.verify(folder, model_signature.sign(folder, source), trusted=others, today=TODAY)


def test_after_a_rotation_the_old_key_counts_for_the_overlap_and_a_revoked_one_never(folder, tmp_path):
    file, path = tmp_path / "k" / "model-signing", tmp_path / "k" / "model-keys.yaml"
    model_keys.ensure_model_key(file, path, today=TODAY)
    before = model_signature.sign(folder, KeySource(file=file))
    # When the key is rotated
    old, new = model_keys.rotate(file, path, today=TODAY, overlap=30 * DAY)
    keys = model_keys.read_model_keys(path)
    after = model_signature.sign(folder, KeySource(file=file))
    # Then what both signed is believed for the overlap, and only the new one's afterwards
    assert (model_signature.key_of(before, where=folder), model_signature.key_of(after, where=folder)) == (old, new)
    for signature, days in ((before, (0, 30)), (after, (0, 31, 4000))):
        for later in days:
            model_signature.verify(folder, signature, trusted=keys, today=TODAY + later * DAY)
    with pytest.raises(SignatureError, match="counted until"):
        model_signature.verify(folder, before, trusted=keys, today=TODAY + 31 * DAY)
    # and a revocation is at once, stays when it is said again later, and is not undone by trusting the key once more
    gone = (
        keys.revoking(old, on=TODAY, reason="stolen").revoking(old, on=TODAY + DAY, reason="again").ending(old, last_day=TODAY + 900 * DAY)
    )
    assert gone.trusting(gone.find(old[:8]).public_key, since=TODAY) == gone
    with pytest.raises(SignatureError, match=r"was revoked on 2026-11-23 \(stolen\)"):
        model_signature.verify(folder, before, trusted=gone, today=TODAY)
    assert [key.state(TODAY) for key in gone.keys] == ["revoked", "in force"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("format: firstlight/model-keys/v2\nkeys: []\n", "format must follow"),
        ("format: firstlight/model-keys/v1\nkeys: []\n", "keys must follow"),
        ("format: firstlight/model-keys/v1\nkeys: [{public_key: x, valid_from: 2026-01-01}]\n", "public key in PEM"),
        ("a: &a [1]\nb: *a\n", "aliases"),
    ],
)
def test_a_file_of_keys_that_is_none_is_refused_by_field(text, why, tmp_path):
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(SignatureError, match=why):
        model_keys.read_model_keys(tmp_path / "keys.yaml")


def test_a_key_of_another_kind_or_twice_or_ending_before_it_begins_is_refused(trusted):
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    with pytest.raises(SignatureError, match="P-256, P-384 or P-521"):
        model_keys.load_public(edwards.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    (key,) = trusted.keys
    with pytest.raises(ValueError, match="each key must stand in the file once"):
        ModelKeys(keys=(key, key))
    with pytest.raises(ValueError, match="must not be before valid_from"):
        ModelKey(public_key=key.public_key, valid_from=TODAY, valid_until=TODAY - DAY)


# --- where the private key is -----------------------------------------------------------------------------------------


def test_many_that_come_at_once_share_one_key_that_nobody_else_can_read(tmp_path):
    file, path = tmp_path / "keys" / "model-signing", tmp_path / "keys" / "model-keys.yaml"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: model_keys.ensure_model_key(file, path, today=TODAY), range(8)))
    (key,) = model_keys.read_model_keys(path).keys
    assert key.public_key == KeySource(file=file).public_pem()
    assert file.stat().st_mode & 0o077 == 0


def test_a_key_from_a_variable_signs_without_touching_a_disk_and_on_a_larger_curve_too(folder, made, tmp_path, monkeypatch):
    private = ec.generate_private_key(ec.SECP384R1())
    source = KeySource(file=tmp_path / "none", pem=private_pem(private).decode())
    assert source.kind == "environment"
    keys = ModelKeys(keys=(ModelKey(public_key=source.public_pem(), valid_from=TODAY),))
    before = set(tmp_path.rglob("*"))
    model_signature.verify(folder, model_signature.sign(folder, source), trusted=keys, today=TODAY)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("key", "why"),
    [(private_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"), "unencrypted"), (private_pem(ed25519.Ed25519PrivateKey.generate()), "P-256"),
     (b"-----BEGIN PRIVATE KEY-----", "private key in PEM"), (None, "readable file")],
    ids=["encrypted", "edwards", "cut", "missing"],
)  # fmt: skip
def test_a_key_that_cannot_sign_is_refused_without_showing_it(folder, tmp_path, key, why):
    file = tmp_path / "key"
    if key is not None:
        file.write_bytes(key)
    with pytest.raises(SignatureError, match=why) as refused:
        model_signature.sign(folder, KeySource(file=file))
    assert "BEGIN" not in str(refused.value)
    assert "secret" not in repr(KeySource(file=file, pem="secret", pkcs11="secret"))


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A software token with one P-256 key, and the URI that names it; the PIN is in a file."""
    pytest.importorskip("PyKCS11") if os.environ.get("CI") != "true" else __import__("PyKCS11")
    if not SOFTHSM.exists():
        assert os.environ.get("CI") != "true", "CI installs softhsm2"
        pytest.skip("no softhsm2 on this machine: keys in a PKCS#11 token are not tested (apt-get install softhsm2)")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    (tmp_path / "pin").write_text("1234")
    (tmp_path / "key.pem").write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
    for words in (
        ("--init-token", "--free", "--label", "lab", "--pin", "1234", "--so-pin", "5678"),
        ("--import", tmp_path / "key.pem", "--token", "lab", "--label", "models", "--id", "A1", "--pin", "1234"),
    ):
        subprocess.run(["softhsm2-util", *words], check=True, capture_output=True)
    return f"pkcs11:token=lab;object=models?module-path={SOFTHSM}&pin-source=file:{tmp_path / 'pin'}"


def test_a_key_in_a_pkcs11_token_signs_and_never_leaves_it(folder, token, tmp_path):
    public = KeySource(file=tmp_path / "key.pem").public_pem()
    keys = ModelKeys(keys=(ModelKey(public_key=public, valid_from=TODAY),))
    source = KeySource(file=tmp_path / "none", pkcs11=token)
    assert (source.kind, source.public_pem()) == ("pkcs11", None)
    model_signature.verify(folder, model_signature.sign(folder, source), trusted=keys, today=TODAY)
    with pytest.raises(SignatureError, match="must be signed with the key from pkcs11, that failed"):
        model_signature.sign(folder, KeySource(file=tmp_path / "none", pkcs11=token.replace("object=models", "object=others")))
    with pytest.raises(SignatureError, match="mend the key") as refused:
        model_signature.sign(folder, KeySource(file=tmp_path / "none", pkcs11="token=lab;object=models?pin-value=987654"))
    assert "987654" not in str(refused.value)


# --- the stock tool ---------------------------------------------------------------------------------------------------


def stock(*words: str | Path) -> int:
    """Return the exit code of ``model_signing`` with ``words``."""
    return CliRunner().invoke(stock_tool, [str(word) for word in words]).exit_code


def test_the_stock_tool_agrees_about_what_holds_and_what_does_not(folder, source, trusted, tmp_path):
    signature = model_signature.signature_path(folder)
    signature.write_bytes(model_signature.sign(folder, source))
    (tmp_path / "key.pem").write_text(trusted.keys[0].public_key)
    asked = ("verify", "key", folder, "--signature", signature, "--public_key", tmp_path / "key.pem")
    assert stock(*asked) == 0
    change(folder)
    assert stock(*asked) != 0


def test_what_the_stock_tool_signed_elsewhere_is_believed_by_its_key(folder, source, trusted, made):
    signature = model_signature.signature_path(folder)
    assert stock("sign", "key", folder, "--signature", signature, "--private_key", made / "model-signing") == 0
    signed = model_signature.verify(folder, model_signature.read_signature(folder), trusted=trusted, today=TODAY)
    assert sorted(signed.digests) == ["handoff.yaml", "model.pt2"]
