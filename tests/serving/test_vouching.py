"""What a nursery and its workers vouch for: the registered digests, the archive, and golden vectors that come out again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from firstlight.digest import sha256_file
from firstlight.errors import RefusedError
from models.tensors import read_tensors, write_tensors
from serving import nursery, worker
from serving.errors import ModelRefusedError


@pytest.fixture(scope="module")
def handoff(tmp_path_factory, tiny):
    return tiny.write_tiny_handoff(tmp_path_factory.mktemp("engine") / "tiny")


@pytest.fixture
def copy(handoff, tmp_path):
    return Path(shutil.copytree(handoff, tmp_path / "copy"))


def verify(folder, **known):
    order = nursery.Order(folder=str(folder), **{"name": "tiny", **known})
    runner, note = nursery.opened(order, nursery.verified(order))
    assert note == ""
    worker.vouch(runner)
    return runner


def test_a_good_hand_off_answers_with_its_own_golden_vectors(handoff):
    runner = verify(handoff, model_digest=sha256_file(handoff / "model.pt2"), handoff_digest=sha256_file(handoff / "handoff.yaml"))
    golden = read_tensors((handoff / "golden.safetensors").read_bytes(), where="golden")
    outputs = runner({"signal": golden["input.signal"]})
    assert [spec.name for spec in worker.specs(runner.outputs)] == ["score", "embedding", "class_probabilities"]
    np.testing.assert_allclose(outputs["score"], golden["output.score"], rtol=1e-4, atol=1e-4)


def test_a_model_changed_by_one_byte_is_refused_by_its_digest(copy):
    data = bytearray((copy / "model.pt2").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.pt2").write_bytes(data)
    with pytest.raises(RefusedError, match=r"model\.pt2"):
        verify(copy)


def test_a_folder_that_agrees_with_itself_but_not_with_the_registry_is_refused(handoff):
    with pytest.raises(ModelRefusedError, match="model digest"):
        verify(handoff, model_digest="0" * 64)
    with pytest.raises(ModelRefusedError, match="hand-off digest"):
        verify(handoff, handoff_digest="0" * 64)
    with pytest.raises(ModelRefusedError, match="model name"):
        verify(handoff, name="other")


def test_golden_vectors_that_do_not_come_out_again_are_refused_by_name(copy):
    # Given a hand-off that is whole, but whose recorded outputs are another model's
    golden = {name: np.array(array) for name, array in read_tensors((copy / "golden.safetensors").read_bytes(), where="golden").items()}
    golden["output.score"][3] += 0.5
    (copy / "golden.safetensors").write_bytes(write_tensors(golden))
    document = yaml.safe_load((copy / "handoff.yaml").read_text())
    path = copy / "golden.safetensors"
    document["files"]["golden.safetensors"] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    (copy / "handoff.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    # Then it is not served, and the sentence names the output
    with pytest.raises(ModelRefusedError, match="score"):
        verify(copy)
