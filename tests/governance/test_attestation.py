"""The pipeline's signature over a version: good for exactly what was signed, by a key that is trusted, for this purpose."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest

from governance import attestation, sshsig
from governance.attestation import VersionStatement, attest, ensure_key, read_trusted, verify_attestation
from governance.errors import SignatureError

STATEMENT = VersionStatement(
    model="desi-vae", version="7", model_digest="a" * 64, handoff_digest="b" * 64, backend="aot", backend_digest="c" * 64
)


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return ensure_key(tmp_path_factory.mktemp("keys") / "private" / "pipeline")


@pytest.fixture(scope="module")
def trusted(key):
    return read_trusted(key.with_name("pipeline.pub"))


def test_what_the_pipeline_signed_is_accepted(key, trusted):
    verify_attestation(STATEMENT, attest(STATEMENT, key_file=key), trusted=trusted)


@pytest.mark.parametrize("field", [field.name for field in fields(VersionStatement)])
def test_one_changed_field_is_refused(field, key, trusted):
    signed = attest(STATEMENT, key_file=key)
    with pytest.raises(SignatureError, match="is not what its pipeline signed"):
        verify_attestation(replace(STATEMENT, **{field: "d" * 64}), signed, trusted=trusted)


def test_a_version_without_a_signature_is_refused(trusted):
    with pytest.raises(SignatureError, match="found no signature: release its hand-off again"):
        verify_attestation(STATEMENT, None, trusted=trusted)


def test_another_key_is_refused_by_name(tmp_path, trusted):
    other = ensure_key(tmp_path / "other")
    with pytest.raises(SignatureError, match="must be signed by a trusted pipeline key"):
        verify_attestation(STATEMENT, attest(STATEMENT, key_file=other), trusted=trusted)


def test_a_sign_off_by_the_same_key_is_no_attestation(key, trusted):
    sign_off = sshsig.sign(STATEMENT.to_bytes(), key_file=key).decode()
    with pytest.raises(SignatureError, match="must be for 'firstlight-version'"):
        verify_attestation(STATEMENT, sign_off, trusted=trusted)


def test_stock_ssh_keygen_verifies_it(key, ssh_keygen, tmp_path):
    signature, allowed = tmp_path / "s.sig", tmp_path / "allowed"
    signature.write_text(attest(STATEMENT, key_file=key))
    allowed.write_text("pipeline " + key.with_name("pipeline.pub").read_text())
    arguments = ("-Y", "verify", "-f", allowed, "-I", "pipeline", "-n", attestation.NAMESPACE, "-s", signature)
    done = ssh_keygen(*arguments, input=STATEMENT.to_bytes())
    assert done.returncode == 0, done.stderr


def test_many_that_come_at_once_share_one_key(tmp_path):
    path = tmp_path / "keys" / "pipeline"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ensure_key, [path] * 8))
    assert path.stat().st_mode & 0o077 == 0
    assert sorted(item.name for item in path.parent.iterdir()) == ["pipeline", "pipeline.pub"]
    verify_attestation(STATEMENT, attest(STATEMENT, key_file=path), trusted=read_trusted(path.with_name("pipeline.pub")))


@pytest.mark.parametrize(("content", "why"), [("# nobody\n", "at least one public key"), (None, "must be readable")])
def test_a_file_of_keys_that_vouches_for_nobody_is_refused(content, why, tmp_path):
    path = tmp_path / "trusted"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SignatureError, match=why):
        read_trusted(path)
