"""A model that was changed after people signed is served to nobody, and the ledger says so, sealed like everything else."""

from dataclasses import replace
from pathlib import Path

from firstlight.cli.serving import supervisor_arguments
from firstlight.settings import Settings
from serving import __main__ as serving
from serving.refused import RefusedVersions
from tasks import doors
from tests.rollout.stores import MODEL, servable

WHY = "model.pt2 must have the sha256 it was registered with, found another"


def test_a_version_that_its_own_server_refuses_is_told_once(here: Settings) -> None:
    with doors.store(here) as records:
        told = RefusedVersions(records, environment=here.environment, model=MODEL)
        # Given a version that the store does not know yet: nothing can be written
        told.tell({"2": WHY})
        assert records.ledger() == []
        # When it is there, and its server goes on refusing it, round after round
        records.add_version(replace(servable("2"), folder="/anywhere"))
        for _ in range(3):
            told.tell({"2": WHY, "3": ""})
        # Then one entry says so, with the digest of the model that was approved and a seal
        (entry,) = [entry for entry in records.ledger() if entry.what == "refused-model"]
        assert (entry.digest, entry.detail) == (servable("2").model_digest, f"version 2 is not served: {WHY}")
        assert entry.seal
        # and another reason is another entry
        told.tell({"2": "another reason"})
        assert [entry.what for entry in records.ledger()].count("refused-model") == 2


def test_the_supervisor_is_told_where_the_keys_are_that_seal_what_it_writes(here: Settings) -> None:
    arguments = supervisor_arguments(here, port=0)
    parsed = serving._parser().parse_args([str(word) for word in arguments[2:]])
    assert parsed.ledger_keys == Path(here.ledger_key_path)
