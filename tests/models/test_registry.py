"""The registry on real MLflow: SQLite in a file, artifacts on disk and in S3."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto.server import ThreadedMotoServer

from firstlight import settings
from firstlight.digest import sha256_file
from firstlight.errors import RefusedError
from governance import model_keys, model_signature
from models import handoff as handoffs
from models.errors import HandOffError
from models.model_version import BACKEND, BACKEND_DIGEST, keyed
from models.registry import ModelVersion, Registry, RegistryError, RegistryUnreachable
from tasks import doors, releases, vouching
from tests.models.registering import client_of, counts, registry_in, with_other_papers
from tests.models.tiny import write_tiny_handoff

# --- what a version shows ---------------------------------------------------------------------------------------------


def test_a_version_shows_signature_tags_data_metrics_and_the_files_of_the_hand_off(registry: Registry, tiny_handoff: Path) -> None:
    # When a hand-off is registered
    version = registry.register(tiny_handoff, tags={"night": "20261123"})
    papers, client = handoffs.load(tiny_handoff), client_of(registry)
    found = client.get_model_version("tiny", "1")
    # Then the version carries its digests and what the caller added
    wanted = {
        "firstlight.model_digest": sha256_file(tiny_handoff / "model.pt2"),
        "firstlight.handoff_digest": sha256_file(tiny_handoff / "handoff.yaml"),
        "firstlight.data_digest": papers.data.sha256,
        "firstlight.git_commit": "none",
        "firstlight.trainer": "Vera Rubin <vera@carnegie.edu>",
        "night": "20261123",
    }
    assert wanted.items() <= found.tags.items()
    assert found.description == papers.purpose
    # and its run the metrics, the recipe and the data set
    run = client.get_run(version.run_id)
    assert (run.info.status, run.data.metrics, run.data.params) == ("FINISHED", {"loss": 0.5}, {"seed": "1"})
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.digest, json.loads(data.dataset.source)) == (papers.data.sha256[:36], {"uri": "memory://tiny"})
    # and the page behind it the signature, and the hand-off's files byte for byte, once
    page = shown_page(registry, "1")
    assert [(item["name"], item["tensor-spec"]["dtype"]) for item in json.loads(page["signature"]["inputs"])] == [("signal", "float32")]
    assert {item["name"]: item["tensor-spec"]["shape"] for item in json.loads(page["signature"]["outputs"])} == {
        "score": [-1],
        "embedding": [-1, 4],
        "class_probabilities": [-1, 2],
    }
    assert list(page["flavors"]) == ["firstlight"], "MLflow must find nothing it could load and run"
    held = Path(client.get_model_version_download_uri("tiny", "1")) / "hand-off"
    assert {file.name: sha256_file(file) for file in held.iterdir()} == {file.name: sha256_file(file) for file in tiny_handoff.iterdir()}
    assert not client.list_artifacts(version.run_id)
    assert sorted(held.parent.iterdir()) == [held.parent / "MLmodel", held], "no requirements were inferred"


def shown_page(registry: Registry, version: str) -> dict[str, Any]:
    place = Path(client_of(registry).get_model_version_download_uri("tiny", version))
    return dict(yaml.safe_load((place / "MLmodel").read_text()))


def test_version_run_and_logged_model_link_to_each_other(registry: Registry, tiny_handoff: Path) -> None:
    version, client = registry.register(tiny_handoff), client_of(registry)
    source = client.get_model_version("tiny", "1").source
    logged = client.get_logged_model(source.removeprefix("models:/"))
    assert (logged.source_run_id, str(logged.status)) == (version.run_id, "READY")
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "tiny", "version": 1}]
    assert registry.links(version, "http://127.0.0.1:5000") == {
        "version": "http://127.0.0.1:5000/#/models/tiny/versions/1",
        "run": f"http://127.0.0.1:5000/#/experiments/{version.experiment_id}/runs/{version.run_id}",
    }
    assert client.get_experiment(version.experiment_id).name == "firstlight/tiny"


def test_names_that_mlflow_refuses_do_not_stop_a_registration(registry: Registry, tmp_path: Path) -> None:
    recipe = {"learning rate (Adam)": 1e-3, "..": [1, {"a": None}], **{f"step{i}": i for i in range(130)}}
    folder = write_tiny_handoff(tmp_path / "odd", recipe=recipe, metrics={"recall@5%": 0.25, "/etc/passwd": 1.0})
    run = client_of(registry).get_run(registry.register(folder).run_id)
    assert run.data.metrics == {"recall_5_": 0.25, "_etc_passwd": 1.0}
    assert run.data.params["learning rate _Adam_"] == "0.001"
    assert len(run.data.params) == len(recipe)
    assert keyed({"plain": 1, "a.b-c d": 2}) == {"plain": 1, "a.b-c d": 2}


# --- one model, one version -------------------------------------------------------------------------------------------


def test_the_same_model_again_is_the_version_that_is_there(place: Path, tiny_handoff: Path, second_handoff: Path) -> None:
    registry = registry_in(place)
    first = registry.register(tiny_handoff)
    assert registry.register(second_handoff).version == "2"
    assert registry.aliases("tiny") == {"candidate": "2"}
    # When the first is registered again, by a new process' registry
    again = registry_in(place).register(tiny_handoff)
    # Then nothing is new but where the alias points
    assert again == first == registry.version_by_digest("tiny", first.model_digest)
    assert registry.aliases("tiny") == {"candidate": "1"}
    assert [counts(place, table) for table in ("model_versions", "runs", "logged_models")] == [2, 2, 2]


def test_the_same_model_with_other_papers_is_refused_and_changes_nothing(registry: Registry, tiny_handoff: Path, tmp_path: Path) -> None:
    version = registry.register(tiny_handoff)
    other = with_other_papers(tiny_handoff, tmp_path / "other")
    with pytest.raises(RegistryError, match=r"registered as version 1 .*hand over a newly exported model"):
        registry.register(other)
    assert registry.version("tiny", "candidate") == version


def test_a_broken_hand_off_leaves_no_trace(place: Path, broken: Path) -> None:
    (broken / "model.pt2").write_bytes(b"x")
    with pytest.raises(HandOffError, match=r"model\.pt2"):
        registry_in(place).register(broken)
    assert counts(place, "runs") == counts(place, "registered_models") == 0


def test_two_versions_of_one_model_registered_at_the_same_moment_become_one(registry: Registry, tiny_handoff: Path) -> None:
    # Given two processes that both found nothing and both created a version
    papers = handoffs.load(tiny_handoff)
    registry._create(papers, {})
    registry._create(papers, {})
    # When either goes on
    version = registry.register(tiny_handoff)
    # Then the earlier one is the version, and the other is gone
    assert version.version == "1"
    assert [item.version for item in client_of(registry).search_model_versions("name = 'tiny'")] == [1]


# --- aliases ----------------------------------------------------------------------------------------------------------


def test_an_alias_is_pointed_moved_and_taken_away_and_doing_it_twice_changes_nothing(
    registry: Registry, tiny_handoff: Path, second_handoff: Path
) -> None:
    registry.register(tiny_handoff, alias=None)
    registry.register(second_handoff, alias=None)
    assert registry.aliases("tiny") == {}
    for version in ("1", "1", "2"):
        registry.point("tiny", "champion", version)
        assert registry.version("tiny", "champion").version == version
    for _ in range(2):
        registry.point("tiny", "champion", None)
        assert registry.aliases("tiny") == {}


def test_a_version_is_tagged_with_how_it_is_run_and_again_with_what_was_chosen_last(registry: Registry, tiny_handoff: Path) -> None:
    registry.register(tiny_handoff)
    for chosen, digest in (("onnx", "d" * 64), ("aot", "e" * 64), ("aot", "e" * 64)):
        registry.tag("tiny", "1", {BACKEND: chosen, BACKEND_DIGEST: digest})
        found = client_of(registry).get_model_version("tiny", "1").tags
        assert (found[BACKEND], found[BACKEND_DIGEST]) == (chosen, digest)
    assert registry.version("tiny", "1").model_digest == handoffs.load(tiny_handoff).model_digest
    with pytest.raises(RegistryError):
        registry.tag("tiny", "9", {BACKEND: "aot"})


@pytest.mark.parametrize("wanted", ["9", "champion"])
def test_an_unknown_version_is_refused_by_name(registry: Registry, tiny_handoff: Path, wanted: str) -> None:
    registry.register(tiny_handoff)
    with pytest.raises(RegistryError, match=wanted):
        registry.version("tiny", wanted)
    with pytest.raises(RegistryError, match="unheard-of"):
        registry.version("unheard-of", wanted)
    assert registry.aliases("unheard-of") == {}
    assert registry.version_by_digest("unheard-of", "0" * 64) is None


def test_a_version_somebody_registered_without_a_hand_off_is_refused(registry: Registry, tmp_path: Path) -> None:
    client = client_of(registry)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", source=str(tmp_path))
    with pytest.raises(RegistryError, match="register its hand-off"):
        registry.version("foreign", "1")


# --- fetching ---------------------------------------------------------------------------------------------------------


def test_a_version_is_fetched_whole_and_a_verified_copy_is_kept(registry: Registry, tiny_handoff: Path, tmp_path: Path) -> None:
    registry.register(tiny_handoff)
    target = tmp_path / "kept" / "tiny"
    assert registry.fetch("tiny", "candidate", target) == target
    assert handoffs.load(target).digest == handoffs.load(tiny_handoff).digest
    before = target.stat().st_ino
    assert registry.fetch("tiny", "1", target).stat().st_ino == before
    assert [entry.name for entry in target.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("tampering", ["changed", "swapped", "removed", "added"])
def test_artifacts_that_were_tampered_with_are_refused(
    registry: Registry, tiny_handoff: Path, second_handoff: Path, tmp_path: Path, tampering: str
) -> None:
    # Given a version whose files in the artifact store are not what was registered
    registry.register(tiny_handoff)
    held = Path(client_of(registry).get_model_version_download_uri("tiny", "1")) / "hand-off"
    if tampering == "changed":
        (held / "model.pt2").write_bytes((held / "model.pt2").read_bytes()[:-1] + b"!")
    elif tampering == "swapped":
        shutil.rmtree(held)
        shutil.copytree(second_handoff, held)
    elif tampering == "removed":
        shutil.rmtree(held)
    else:
        (held / "evil.py").write_text("import os")
    # When it is fetched, then it is refused and nothing appears
    with pytest.raises(RegistryError) as refusal:
        registry.fetch("tiny", "1", tmp_path / "kept" / "tiny")
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "kept").iterdir())


def test_a_signature_is_kept_beside_the_files_given_back_and_replaced_by_a_newer_one(registry: Registry, tiny_handoff: Path) -> None:
    plain = registry.register(tiny_handoff)
    assert registry.signature(plain) is None
    for signature in (b"first", b"second", b"second"):
        assert registry.register(tiny_handoff, signature=signature) == plain
        assert registry.signature(plain) == signature
    held = Path(client_of(registry).get_model_version_download_uri("tiny", "1"))
    assert (held / "signature" / "model.sig").read_bytes() == b"second"


def test_who_fetches_is_asked_to_vouch_for_the_files_before_one_is_parsed(
    registry: Registry, tiny_handoff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register(tiny_handoff, signature=b"signature")
    target, asked = tmp_path / "kept" / "tiny", []

    def refuse(folder: Path) -> None:
        asked.append(sorted(file.name for file in folder.iterdir()))
        raise RefusedError("nobody signed it")

    with monkeypatch.context() as watched:
        watched.setattr(handoffs, "load", lambda folder: pytest.fail("a byte was parsed"))
        with pytest.raises(RefusedError, match="nobody signed it"):
            registry.fetch("tiny", "1", target, vouch=refuse)
    assert asked == [sorted(file.name for file in tiny_handoff.iterdir())]
    assert not list(target.parent.iterdir())
    # and a copy that is there already is no exception
    registry.fetch("tiny", "1", target)
    with pytest.raises(RefusedError, match="nobody signed it"):
        registry.fetch("tiny", "1", target, vouch=refuse)


def test_a_copy_of_another_version_is_not_taken_for_the_one_that_was_asked_for(
    registry: Registry, tiny_handoff: Path, second_handoff: Path
) -> None:
    registry.register(tiny_handoff)
    with pytest.raises(RegistryError, match="do not use them"):
        registry.fetch("tiny", "1", second_handoff)


def test_what_a_release_fetches_comes_with_a_signature_that_holds_or_not_at_all(place: Path, tiny_handoff: Path) -> None:
    here = settings.load(state_dir=place / "state", mlflow_tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    known, papers = doors.registry(here), releases.keep(here, str(tiny_handoff))
    version, uri, kept = known.register(papers.folder), "models:/tiny/1", papers.folder
    vouching.sign(here, papers)
    good = (beside := model_signature.signature_path(kept)).read_bytes()
    # A version that was registered before folders were signed, and one whose signature somebody exchanged
    with pytest.raises(RefusedError, match="must have the signature it was registered with, it has none"):
        releases.keep(here, uri)
    known.keep_signature(version, b"{}")
    with pytest.raises(RefusedError, match="must be an OpenSSF model-signing"):
        releases.keep(here, uri)
    # A good one, where there is no copy yet
    known.keep_signature(version, good)
    shutil.rmtree(kept)
    beside.unlink()
    assert releases.keep(here, uri).digest == papers.digest
    assert beside.read_bytes() == good
    # And one whose key does not count any more
    keys = vouching.trusted(here)
    model_keys.write_model_keys(here.model_keys_path, keys.revoking(keys.keys[0].fingerprint, on=vouching.today(), reason="stolen"))
    with pytest.raises(RefusedError, match="was revoked on"):
        releases.keep(here, uri)


# --- artifacts in S3 --------------------------------------------------------------------------------------------------


def test_artifacts_go_to_s3_when_the_setting_says_so(
    place: Path, tiny_handoff: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an S3 server and a registry whose artifacts belong there
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    told = {"MLFLOW_S3_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**told, "AWS_MAX_ATTEMPTS": "1", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}.items():
        monkeypatch.setenv(name, value)
    from spectra.object_store import ObjectStore

    store = ObjectStore(endpoint, access_key="k", secret_key="s")
    registry = Registry(f"sqlite:///{place / 'mlflow.db'}", artifact_root="s3://mlflow/firstlight/")
    # When the bucket is missing, then that is said and is not worth a retry
    with pytest.raises(RegistryError, match="check bucket"):
        registry.register(tiny_handoff)
    # When it is there, then the same call registers, and what is fetched is what was handed over
    store._client.create_bucket(Bucket="mlflow")
    version = registry.register(tiny_handoff, signature=b"signature")
    assert (version.version, counts(place, "model_versions"), registry.signature(version)) == ("1", 1, b"signature")
    assert any(uri.endswith("/hand-off/model.pt2") for uri in store.list("s3://mlflow/firstlight/tiny/"))
    assert handoffs.load(registry.fetch("tiny", "1", tmp_path / "got")).digest == version.handoff_digest
    # When the server is gone, then it may succeed later
    server.stop()
    with pytest.raises(RegistryUnreachable, match="artifact store"):
        registry.fetch("tiny", "1", tmp_path / "again")


def test_a_version_is_plain_values() -> None:
    facts = {"name": "tiny", "version": "1", "model_digest": "m", "handoff_digest": "h", "run_id": "r", "experiment_id": "e"}
    assert ModelVersion(**facts).to_dict() == facts
