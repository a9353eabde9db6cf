"""Where keys are trusted, a model server asks for the pipeline's signature before it reads a byte."""

from dataclasses import replace

import pytest

from firstlight.digest import sha256_file
from governance.attestation import VersionStatement, attest, ensure_key
from serving.errors import ModelRefusedError
from serving.nursery import Order, verified


@pytest.fixture(scope="module")
def order(tmp_path_factory, tiny):
    folder = tiny.write_tiny_handoff(tmp_path_factory.mktemp("handed") / "over")
    key = ensure_key(tmp_path_factory.mktemp("keys") / "pipeline")
    digests = {"model_digest": sha256_file(folder / "model.pt2"), "handoff_digest": sha256_file(folder / "handoff.yaml")}
    statement = VersionStatement(model="tiny", version="3", backend="eager", backend_digest=None, **digests)
    return Order(
        folder=str(folder), name="tiny", version="3", signature=attest(statement, key_file=key), trusted_keys=f"{key}.pub", **digests
    )


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
