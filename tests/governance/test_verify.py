"""A finished release verifies; every way of tampering with a copy of it is found and named."""

import json
import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from firstlight.digest import sha256_bytes, write_json
from governance.errors import ApproversError, EvidenceError
from governance.evidence import evidence_digest, evidence_names, read_evidence, write_evidence
from governance.manifest import MANIFEST_FILE, SIGNATURE_FILE, read_manifest, write_manifest
from governance.statement import Decision, draft, sign_statement, store
from governance.subject import Subject, read_subject, snapshot_approvers
from governance.verify import examine, verify


def remanifest(folder: Path) -> None:
    """A careful forger also rewrites the manifest."""
    write_manifest(folder, release=folder.name)


def edit(path: Path, **changes) -> None:
    write_json(path, {**json.loads(path.read_bytes()), **changes})


def sentences(folder: Path, **options) -> str:
    return "\n".join(str(finding) for finding in verify(folder, **options))


def test_a_finished_release_verifies_also_as_a_copy_elsewhere(release, tmp_path):
    model = tmp_path / "model.pt2"
    model.write_bytes(b"not really a model")
    copy = shutil.copytree(release, tmp_path / "usb stick" / "copy")
    found = examine(copy, model_file=model)
    assert found.holds, found.findings
    for words in ("manifest", "evidence digest", "policy", "risk follows", "model file", "approved by Vera Rubin"):
        assert any(words in line for line in found.checked), words


def test_a_release_stopped_before_its_sign_off_verifies_by_its_manifest(tmp_path):
    write_evidence(tmp_path, "data", {"verdict": "fail"})
    remanifest(tmp_path)
    assert verify(tmp_path) == []


def test_a_changed_added_or_missing_file_is_named(release):
    (release / "extra.txt").write_text("hello")
    (release / "allowed_signers").unlink()
    (release / "policy.yaml").write_text("risk: {}\n")
    text = sentences(release)
    assert "extra.txt: added" in text
    assert "allowed_signers: missing" in text
    assert "policy.yaml: changed: the manifest says sha256" in text


def test_a_release_without_manifest_or_with_a_forged_one_does_not_verify(release):
    (release / MANIFEST_FILE).write_text("{}")
    assert "manifest.json" in sentences(release)
    (release / MANIFEST_FILE).unlink()
    assert "found none" in sentences(release)


def test_a_swapped_report_is_found_even_with_a_new_manifest(release):
    edit(release / "evidence" / "bias.json", summary="all is well")
    remanifest(release)
    assert "evidence/bias.json: changed after it was put forward" in sentences(release)


def test_a_report_and_subject_swapped_together_void_the_signatures(release):
    # Given a forger who rewrites report, subject and manifest consistently
    write_evidence(release, "benchmark", {"verdict": "pass", "summary": "very fast"})
    subject = json.loads((release / "subject.json").read_bytes())
    names = list(subject["evidence"])
    subject["evidence"]["benchmark"] = sha256_bytes((release / "evidence" / "benchmark.json").read_bytes())
    write_json(release / "subject.json", {**subject, "evidence_digest": evidence_digest(release, names)})
    remanifest(release)
    # Then the signature no longer counts
    text = sentences(release)
    assert "vera@lab.example.json: no longer counts: the evidence changed after the signature" in text
    assert "the signatures say 'cannot tell'" in text


def test_a_risk_typed_in_by_hand_is_computed_again(release):
    edit(release / "evidence" / "risk.json", overall=1)
    remanifest(release)
    assert "overall does not follow from the evidence: says 1, follows 6" in sentences(release)


def test_a_weaker_requirement_is_found(release):
    subject = json.loads((release / "subject.json").read_bytes())
    edit(release / "subject.json", requirement={**subject["requirement"], "roles": {"intern": 1}})
    remanifest(release)
    assert "required_roles does not follow" in sentences(release)


def test_another_model_than_the_signed_one_is_found(release, tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"not really a model, one weight swapped")
    assert "is not the model that was signed" in sentences(release, model_file=tmp_path / "model.pt2")
    assert "cannot be read" in sentences(release, model_file=tmp_path / "nowhere.pt2")


def test_an_edited_approvers_file_is_found(release):
    text = (release / "approvers.yaml").read_text()
    (release / "approvers.yaml").write_text(text.replace("Annie Cannon", "Eve Mallory"))
    remanifest(release)
    assert "approvers.yaml: changed after people were asked" in sentences(release)
    with pytest.raises(ApproversError, match="changed after"):
        snapshot_approvers(release, read_subject(release))


def test_an_edited_or_vanished_signature_is_found(release):
    signature = release / "signoffs" / "vera@lab.example.json.sig"
    signature.write_bytes(signature.read_bytes().replace(b"A", b"B", 1))
    remanifest(release)
    assert "no longer counts" in sentences(release)
    signature.unlink()
    remanifest(release)
    assert "signature beside it" in sentences(release)
    (release / "signoffs" / "vera@lab.example.json").unlink()
    remanifest(release)
    assert "it is not there any more" in sentences(release)


def test_a_decision_typed_in_without_signatures_is_found(release):
    shutil.rmtree(release / "signoffs")
    remanifest(release)
    assert "says 'pass', the signatures say 'cannot tell'" in sentences(release)


def test_traffic_moved_without_a_sign_off_is_found(release):
    shutil.rmtree(release / "signoffs")
    (release / "evidence" / "sign_off.json").unlink()
    write_evidence(release, "canary", {"verdict": "pass"})
    remanifest(release)
    assert "traffic was moved without a valid sign-off" in sentences(release)


def test_a_key_revoked_since_is_found_with_the_labs_own_file(release, approvers):
    vera = approvers.by_email("vera@lab.example")
    key = vera.keys[0].model_copy(update={"revoked": date(2026, 12, 24)})
    people = [vera.model_copy(update={"keys": (key,)}) if person is vera else person for person in approvers.approvers]
    trusted = approvers.model_copy(update={"approvers": tuple(people)})
    assert "revoked on 2026-12-24" in sentences(release, approvers=trusted, now=datetime(2027, 1, 1, tzinfo=UTC))
    assert sentences(release, approvers=trusted, now=datetime(2026, 12, 1, tzinfo=UTC)) == ""


def test_people_the_lab_does_not_know_do_not_count(release, approvers):
    others = approvers.model_copy(update={"approvers": tuple(person for person in approvers.approvers if person.name != "Vera Rubin")})
    assert "approvers file" in sentences(release, approvers=others)


def test_a_sign_off_that_has_expired_since_was_good_when_it_was_used(release):
    assert verify(release, now=datetime(2030, 1, 1, tzinfo=UTC)) == []


def test_a_sign_off_replayed_on_another_release_does_not_count(release, make_release_in, tmp_path):
    other = make_release_in(tmp_path / "releases" / "desi-vae-cd34")
    for path in (release / "signoffs").iterdir():
        shutil.copy(path, other / "signoffs" / path.name)
    remanifest(other)
    assert "about release 'desi-vae-cd34', found one about 'desi-vae-ab12'" in sentences(other)


@pytest.mark.parametrize("junk", [b'\xff{"files": 3}', b"[" * 50_000], ids=["bytes", "brackets"])
@pytest.mark.parametrize(
    "name", ["subject.json", "manifest.json", "evidence/risk.json", "evidence/sign_off.json", "approvers.yaml", "policy.yaml"]
)
def test_junk_anywhere_is_a_finding_and_never_a_traceback(release, name, junk):
    (release / name).write_bytes(junk)
    assert verify(release)


def test_a_link_in_a_release_folder_is_refused_and_found(release):
    (release / "evidence" / "shadow.json").symlink_to("/etc/hostname")
    with pytest.raises(EvidenceError, match="symbolic link"):
        remanifest(release)
    assert "evidence/shadow.json: added" in sentences(release)
    (release / "policy.yaml").unlink()
    (release / "policy.yaml").symlink_to("/etc/hostname")
    assert "policy.yaml: is a symbolic link" in sentences(release)


def test_a_folder_that_is_no_release_is_a_finding(tmp_path):
    assert "the folder is not a release" in sentences(tmp_path)
    assert "the folder is not a release" in sentences(tmp_path / "nowhere")


def test_signing_again_replaces_ones_own_earlier_word(release, humans):
    subject = read_subject(release)
    vera = humans["vera"]
    word = draft(subject, approver=vera.approver, role="system-owner", decision=Decision.REJECT, reason="no", now=datetime.now(UTC))
    store(release, sign_statement(word, key_file=vera.key_file), email=vera.approver.email)
    assert len(list((release / "signoffs").glob("*.json"))) == 1


def test_stock_ssh_keygen_verifies_a_sign_off_from_the_release_folder_alone(release, ssh_keygen):
    statement = (release / "signoffs" / "vera@lab.example.json").read_bytes()
    signature = release / "signoffs" / "vera@lab.example.json.sig"
    arguments = ("-Y", "verify", "-f", release / "allowed_signers", "-I", "vera@lab.example", "-n", "firstlight-sign-off", "-s", signature)
    assert ssh_keygen(*arguments, input=statement).returncode == 0
    assert ssh_keygen(*arguments, input=statement.replace(b"approve", b"reject ")).returncode != 0


def test_evidence_is_canonical_and_its_digest_needs_every_document(tmp_path):
    digest = write_evidence(tmp_path, "data", {"b": 1, "a": "Å"})
    assert (tmp_path / "evidence" / "data.json").read_bytes() == '{"a":"Å","b":1}'.encode()
    assert digest == sha256_bytes('{"a":"Å","b":1}'.encode())
    assert (evidence_names(tmp_path), read_evidence(tmp_path, "data")) == (("data",), {"a": "Å", "b": 1})
    whole = evidence_digest(tmp_path, ["data"])
    write_evidence(tmp_path, "bias", {})
    assert evidence_digest(tmp_path, ["data"]) == whole != evidence_digest(tmp_path, ["bias", "data"])
    with pytest.raises(EvidenceError, match="readable file"):
        evidence_digest(tmp_path, ["data", "golden"])


@pytest.mark.parametrize(
    ("name", "document"), [("../x", {}), ("Data", {}), ("a/b", {}), ("", {}), ("data", {"x": float("nan")}), ("data", {"x": object()})]
)
def test_evidence_with_a_bad_name_or_a_nan_is_refused(tmp_path, name, document):
    with pytest.raises(EvidenceError, match="evidence"):
        write_evidence(tmp_path, name, document)
    assert not list(tmp_path.rglob("*.json"))


def test_a_release_that_was_not_put_forward_says_so(tmp_path):
    with pytest.raises(EvidenceError, match="has not come to its sign-off"):
        read_subject(tmp_path)


def test_the_manifest_lists_every_file(release):
    listed = set(read_manifest(release)["files"])
    present = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}
    assert listed == present - {MANIFEST_FILE, SIGNATURE_FILE}
    assert isinstance(read_subject(release), Subject)
