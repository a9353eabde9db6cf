"""One signed statement joins the model with every file of its release; somebody else's tools read it."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from firstlight.digest import canonical_json, sha256_file
from governance import dsse, intoto, sshsig
from governance.errors import EvidenceError, SignatureError
from governance.evidence import read_evidence, write_evidence
from governance.manifest import files_of
from tests.governance.conftest import make_key
from tests.governance.test_papers import RELEASE

KIND = "application/vnd.example+json"
KEYS: dict[str, Any] = {
    "ed25519": lambda: ed25519.Ed25519PrivateKey.generate(),
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
}
SCHEMES = {"ed25519": "ed25519", "ecdsa": "ecdsa-sha2-nistp256", "rsa": "rsassa-pss-sha256"}


def key_file_of(path: Path, private: Any) -> Path:
    openssh = serialization.PrivateFormat.OpenSSH
    path.write_bytes(private.private_bytes(serialization.Encoding.PEM, openssh, serialization.NoEncryption()))
    return path


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    make_key(tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.fixture
def bundled(release: Path, key_file: Path) -> Path:
    """A release with a bundle that our key signed."""
    write_evidence(release, "release", RELEASE)
    intoto.write_bundle(release, key_file=key_file)
    return release


@pytest.mark.parametrize("kind", KEYS)
def test_an_envelope_is_verified_by_securesystemslib_and_a_changed_one_is_not(kind: str, tmp_path: Path) -> None:
    private = KEYS[kind]()
    envelope = json.loads(dsse.sign(b'{"a":1}', payload_type=KIND, key_file=key_file_of(tmp_path / "key", private)))
    keyid = envelope["signatures"][0]["keyid"]
    key = SSlibKey.from_crypto(private.public_key(), keyid=keyid, scheme=SCHEMES[kind])
    assert list(Envelope.from_dict(json.loads(json.dumps(envelope))).verify([key], 1)) == [keyid]
    envelope["payload"] = base64.b64encode(b'{"a":2}').decode()
    with pytest.raises(VerificationError):
        Envelope.from_dict(envelope).verify([key], 1)


@pytest.mark.parametrize("kind", KEYS)
def test_what_we_signed_we_verify_with_the_public_key_alone(kind: str, tmp_path: Path) -> None:
    path = key_file_of(tmp_path / "key", KEYS[kind]())
    envelope = dsse.sign(b"words", payload_type=KIND, key_file=path)
    assert dsse.verify(envelope, payload_type=KIND, trusted=[dsse.public_of(path)]) == b"words"


def test_an_envelope_by_another_key_of_another_kind_or_changed_is_refused(key_file: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    own, other = dsse.public_of(key_file), dsse.public_of(tmp_path / "other")
    envelope = json.loads(dsse.sign(b"words", payload_type=KIND, key_file=key_file))
    with pytest.raises(SignatureError, match=f"must be signed by a trusted key \\({other.fingerprint.split('+')[0][:20]}"):
        dsse.verify(canonical_json(envelope), payload_type=KIND, trusted=[other])
    with pytest.raises(SignatureError, match="must hold text/plain"):
        dsse.verify(canonical_json(envelope), payload_type="text/plain", trusted=[own])
    changed = {**envelope, "payload": base64.b64encode(b"other words").decode()}
    with pytest.raises(SignatureError, match="no signature of one that holds"):
        dsse.verify(canonical_json(changed), payload_type=KIND, trusted=[own])
    with pytest.raises(SignatureError, match="no signature of one that holds"):
        dsse.verify(canonical_json({**envelope, "payloadType": "text/plain"}), payload_type="text/plain", trusted=[own])
    assert dsse.verify(canonical_json(envelope), payload_type=KIND, trusted=[other, own]) == b"words"


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"payload":"%","payloadType":"a","signatures":[]}', b'{"payload":1,"payloadType":"a"}'], ids=repr
)
def test_what_is_no_envelope_is_refused_with_a_sentence(text: bytes) -> None:
    with pytest.raises(SignatureError, match="envelope must be"):
        dsse.verify(text, payload_type=KIND, trusted=[])


def test_a_signature_with_the_key_for_another_purpose_is_none_for_a_bundle(key_file: Path) -> None:
    """The pipeline's key signs versions and anchors too, as SSHSIG: none of those is a signature over a DSSE payload."""
    armored = sshsig.sign(dsse.pae(KIND, b"words"), key_file=key_file, namespace="firstlight-version")
    forged = {"payload": base64.b64encode(b"words").decode(), "payloadType": KIND}
    raw = base64.b64encode(sshsig.parse(armored).raw[4:]).decode()
    envelope = canonical_json({**forged, "signatures": [{"keyid": "", "sig": raw}]})
    with pytest.raises(SignatureError, match="no signature of one that holds"):
        dsse.verify(envelope, payload_type=KIND, trusted=[dsse.public_of(key_file)])


def test_a_key_that_cannot_be_used_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("not a key")
    with pytest.raises(SignatureError, match="must be a private key without passphrase"):
        dsse.sign(b"", payload_type=KIND, key_file=tmp_path / "key")


def test_the_bundle_is_an_in_toto_statement_over_the_model_and_every_file(bundled: Path) -> None:
    payload = json.loads(base64.b64decode(json.loads((bundled / intoto.BUNDLE_FILE).read_bytes())["payload"]))
    assert (payload["_type"], payload["predicateType"]) == ("https://in-toto.io/Statement/v1", intoto.PREDICATE_TYPE)
    assert [item["name"] for item in payload["subject"]] == ["model.pt2", "handoff.yaml"]
    assert payload["subject"][0]["digest"] == {"sha256": RELEASE["model_digest"]}
    listed = {item["name"]: item["digest"]["sha256"] for item in payload["predicate"]["files"]}
    there = {name: sha256_file(path) for name, path in files_of(bundled) if name not in ("dossier.html", intoto.BUNDLE_FILE)}
    assert listed == there
    assert {"policy.yaml", "approvers.yaml", "subject.json", "evidence/risk.json", "signoffs/vera@lab.example.json"} <= listed.keys()
    assert payload["predicate"]["decision"] == "pass"


def test_the_statement_is_read_and_found_valid_by_in_totos_own_library(bundled: Path) -> None:
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    found = json_format.Parse(intoto.statement(bundled), statement_pb2.Statement())
    Statement.copy_from_pb(found).validate()
    assert found.subject[0].digest["sha256"] == RELEASE["model_digest"]


def test_a_whole_bundle_has_no_differences_by_its_own_key_or_by_the_one_we_trust(bundled: Path, key_file: Path) -> None:
    assert list(intoto.differences(bundled)) == []
    assert list(intoto.differences(bundled, trusted=[dsse.public_of(key_file)])) == []


def test_a_bundle_signed_by_a_stranger_is_found_by_whoever_has_the_pipelines_key(bundled: Path, key_file: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    intoto.write_bundle(bundled, key_file=tmp_path / "stranger")
    assert list(intoto.differences(bundled)) == []
    found = list(intoto.differences(bundled, trusted=[dsse.public_of(key_file)]))
    assert [where for where, _ in found] == [intoto.BUNDLE_FILE]


def test_a_file_that_was_changed_added_or_taken_away_is_named(bundled: Path) -> None:
    risk = bundled / "evidence" / "risk.json"
    risk.write_bytes(risk.read_bytes() + b" ")
    (bundled / "evidence" / "letter.json").write_text("{}")
    (bundled / "signoffs" / "vera@lab.example.json.sig").unlink()
    found = dict(intoto.differences(bundled))
    assert found.keys() == {"evidence/risk.json", "evidence/letter.json", "signoffs/vera@lab.example.json.sig"}
    assert found["evidence/risk.json"].startswith("changed: the bundle was signed over sha256")


def test_a_bundle_about_another_model_or_another_decision_is_found(bundled: Path) -> None:
    write_evidence(bundled, "release", {**RELEASE, "model_digest": "e" * 64})
    write_evidence(bundled, "sign_off", {**read_evidence(bundled, "sign_off"), "verdict": "fail"})
    found = dict(intoto.differences(bundled))
    assert "its subject, decision is not what the folder gives" in found[intoto.BUNDLE_FILE]


def test_a_bundle_of_a_release_without_a_model_is_refused(tmp_path: Path, key_file: Path) -> None:
    write_evidence(tmp_path, "release", {"release": "x"})
    with pytest.raises(EvidenceError, match="a bundle must be about a model, found no model_digest"):
        intoto.write_bundle(tmp_path, key_file=key_file)
