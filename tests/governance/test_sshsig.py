"""Our SSHSIG and OpenSSH's agree in both directions, and nothing else gets through."""

import base64
import hashlib
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from governance import sshsig
from governance.errors import SignatureError

MESSAGE = "a sign-off of 1 Å\n".encode()


def _write(path: Path, private) -> Path:
    pem, openssh, public = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.PublicFormat.OpenSSH
    path.write_bytes(private.private_bytes(pem, openssh, serialization.NoEncryption()))
    path.chmod(0o600)
    path.with_suffix(".pub").write_bytes(private.public_key().public_bytes(serialization.Encoding.OpenSSH, public))
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssh")
    made = {
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "ecdsa": ec.generate_private_key(ec.SECP256R1()),
        "rsa": rsa.generate_private_key(65537, 2048),
    }
    return {name: _write(folder / name, private) for name, private in made.items()}


def _public(path: Path) -> sshsig.PublicKey:
    return sshsig.public_key(path.with_suffix(".pub").read_text())


KINDS = ("ed25519", "ecdsa", "rsa")


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_sign_stock_ssh_keygen_verifies(kind, keys, ssh_keygen, tmp_path):
    signature = tmp_path / "s.sig"
    signature.write_bytes(sshsig.sign(MESSAGE, key_file=keys[kind]))
    allowed = tmp_path / "allowed"
    allowed.write_text(f"vera@lab.example {_public(keys[kind]).line}\n")
    arguments = ("-Y", "verify", "-f", allowed, "-I", "vera@lab.example", "-n", sshsig.NAMESPACE, "-s", signature)
    assert ssh_keygen(*arguments, input=MESSAGE).returncode == 0
    assert ssh_keygen(*arguments, input=MESSAGE + b"x").returncode != 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_stock_ssh_keygen_signs_we_verify(kind, keys, ssh_keygen):
    signature = ssh_keygen("-q", "-Y", "sign", "-f", keys[kind], "-n", sshsig.NAMESPACE, input=MESSAGE).stdout
    sshsig.verify(MESSAGE, signature, key=_public(keys[kind]))


def test_a_fingerprint_reads_as_ssh_keygen_prints_it(keys, ssh_keygen):
    assert _public(keys["ed25519"]).fingerprint in ssh_keygen("-l", "-f", keys["ed25519"].with_suffix(".pub")).stdout.decode()


def test_a_passphrase_key_is_left_to_ssh_keygen_which_asks_its_owner(ssh_keygen, tmp_path, monkeypatch):
    # Given a key with a passphrase, and its owner at the prompt
    key = tmp_path / "locked"
    ssh_keygen("-q", "-t", "ed25519", "-N", "moon shadow", "-f", key)
    prompt = tmp_path / "prompt"
    prompt.write_text("#!/bin/sh\necho moon shadow\n")
    prompt.chmod(0o700)
    monkeypatch.setenv("SSH_ASKPASS", str(prompt))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    # When they sign
    signature = sshsig.sign(MESSAGE, key_file=key)
    # Then it verifies
    sshsig.verify(MESSAGE, signature, key=sshsig.public_key(key.with_suffix(".pub").read_text()))
    # And a wrong passphrase is a sentence
    prompt.write_text("#!/bin/sh\necho wrong\n")
    with pytest.raises(SignatureError, match="ssh-keygen must sign"):
        sshsig.sign(MESSAGE, key_file=key)


def test_without_ssh_keygen_a_locked_key_is_a_sentence(keys):
    with pytest.raises(SignatureError, match="install the OpenSSH client"):
        sshsig.sign(MESSAGE, key_file=keys["rsa"].with_suffix(".pub"), ssh_keygen="/nonexistent/ssh-keygen")


def _wire(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _token_signature(private, flags: int) -> tuple[sshsig.PublicKey, bytes]:
    """What a FIDO key would answer, made by hand from PROTOCOL.u2f and PROTOCOL.sshsig."""
    raw_key = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    kind = b"sk-ssh-ed25519@openssh.com"
    blob = _wire(kind, raw_key, b"ssh:")
    data = b"SSHSIG" + _wire(sshsig.NAMESPACE.encode(), b"", b"sha512", hashlib.sha512(MESSAGE).digest())
    after = bytes([flags]) + (7).to_bytes(4, "big")
    signed = private.sign(hashlib.sha256(b"ssh:").digest() + after + hashlib.sha256(data).digest())
    body = b"SSHSIG" + (1).to_bytes(4, "big") + _wire(blob, sshsig.NAMESPACE.encode(), b"", b"sha512", _wire(kind, signed) + after)
    text = base64.encodebytes(body).decode()
    return sshsig.PublicKey(kind=kind.decode(), blob=blob), f"-----BEGIN SSH SIGNATURE-----\n{text}-----END SSH SIGNATURE-----\n".encode()


def test_a_hardware_token_counts_only_when_it_was_touched(ssh_keygen, tmp_path):
    private = ed25519.Ed25519PrivateKey.generate()
    for flags, good in ((1, True), (0, False)):
        key, signature = _token_signature(private, flags)
        (tmp_path / "s.sig").write_bytes(signature)
        (tmp_path / "allowed").write_text(f"a@b {sshsig.public_key(key.line).line}\n")
        theirs = ssh_keygen(
            "-Y", "verify", "-f", tmp_path / "allowed", "-I", "a@b", "-n", sshsig.NAMESPACE, "-s", tmp_path / "s.sig", input=MESSAGE
        )
        if good:
            sshsig.verify(MESSAGE, signature, key=key)
            assert theirs.returncode == 0
        else:
            with pytest.raises(SignatureError, match="match the signed bytes"):
                sshsig.verify(MESSAGE, signature, key=key)


@pytest.mark.parametrize("kind", KINDS)
def test_any_changed_byte_of_the_message_or_the_signature_is_noticed(kind, keys):
    signature = sshsig.sign(MESSAGE, key_file=keys[kind])
    with pytest.raises(SignatureError, match="match the signed bytes"):
        sshsig.verify(MESSAGE + b" ", signature, key=_public(keys[kind]))
    body = base64.b64decode(b"".join(signature.splitlines()[1:-1]))
    for place in range(0, len(body), 7):
        changed = bytearray(body)
        changed[place] ^= 0x20
        text = b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(bytes(changed)) + b"\n-----END SSH SIGNATURE-----\n"
        with pytest.raises(SignatureError):
            sshsig.verify(MESSAGE, text, key=_public(keys[kind]))


def test_a_signature_for_git_or_by_another_key_is_no_sign_off(keys):
    with pytest.raises(SignatureError, match="found 'git'"):
        sshsig.verify(MESSAGE, sshsig.sign(MESSAGE, key_file=keys["ed25519"], namespace="git"), key=_public(keys["ed25519"]))
    with pytest.raises(SignatureError, match="must be by key"):
        sshsig.verify(MESSAGE, sshsig.sign(MESSAGE, key_file=keys["ed25519"]), key=_public(keys["ecdsa"]))


def test_rsa_with_sha1_is_refused(keys):
    private = serialization.load_ssh_private_key(keys["rsa"].read_bytes(), None)
    data = b"SSHSIG" + _wire(sshsig.NAMESPACE.encode(), b"", b"sha512", hashlib.sha512(MESSAGE).digest())
    raw = private.sign(data, padding.PKCS1v15(), hashes.SHA512())
    key = _public(keys["rsa"])
    body = b"SSHSIG" + (1).to_bytes(4, "big") + _wire(key.blob, sshsig.NAMESPACE.encode(), b"", b"sha512", _wire(b"ssh-rsa", raw))
    text = f"-----BEGIN SSH SIGNATURE-----\n{base64.b64encode(body).decode()}\n-----END SSH SIGNATURE-----\n"
    with pytest.raises(SignatureError, match="match the signed bytes"):
        sshsig.verify(MESSAGE, text, key=key)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "kind base64"),
        ("ssh-ed25519", "kind base64"),
        ("ssh-ed25519 not/base64!", "base64"),
        ("ssh-ed25519 AAAA", "cut short"),
        ("ssh-dss " + base64.b64encode(_wire(b"ssh-dss", b"p", b"q", b"g", b"y")).decode(), "ssh-dss"),
        ("ssh-rsa " + base64.b64encode(_wire(b"ssh-rsa", b"\x03", b"\x7f" * 64)).decode(), "2048"),
        ("ssh-ed25519 " + base64.b64encode(_wire(b"ssh-rsa", b"\x03", b"\x7f" * 300)).decode(), "names"),
        ("command=\"sh\" ssh-ed25519 AAAA", "base64"),
    ],
)  # fmt: skip
def test_a_bad_public_key_is_a_sentence(line, says):
    with pytest.raises(SignatureError, match=says):
        sshsig.public_key(line)


def test_a_key_file_that_is_none_is_a_sentence(tmp_path):
    with pytest.raises(SignatureError, match="--key"):
        sshsig.sign(MESSAGE, key_file=tmp_path / "missing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SignatureError, match="ssh-keygen -t ed25519"):
        sshsig.sign(MESSAGE, key_file=tmp_path / "text")
    other = _write(tmp_path / "p384", ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(SignatureError, match="must be one of"):
        sshsig.sign(MESSAGE, key_file=other)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_at_all_raise_anything_but_a_signature_error(noise):
    armored = b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(b"SSHSIG\x00\x00\x00\x01" + noise) + b"\n-----END SSH SIGNATURE-----"
    for text in (noise, armored):
        with pytest.raises(SignatureError):
            sshsig.parse(text)


def test_a_huge_signature_is_not_decoded():
    with pytest.raises(SignatureError, match="text between"):
        sshsig.parse(b"-----BEGIN SSH SIGNATURE-----\n" + os.urandom(1).hex().encode() * 100_000 + b"\n-----END SSH SIGNATURE-----")
