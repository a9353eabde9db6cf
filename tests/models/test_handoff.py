"""A hand-off folder is whole or refused: every fault is found, in words, and nothing unverified is parsed."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from firstlight.digest import sha256_bytes
from models.errors import HandOffError
from models.handoff import check, data_digest, load, write
from models.handoff_check import GOLDEN_ROWS
from models.program import export
from models.strict_yaml import parse_yaml
from models.tensors import read_tensors, write_tensors
from tests.models import attacks
from tests.models.breaking import document, parquet, put, rewrite, words
from tests.models.tiny import ROWS, tiny_facts, tiny_signals, tiny_table


class TestAGoodFolder:
    def test_has_no_problems(self, tiny_handoff: Path) -> None:
        assert check(tiny_handoff) == []

    def test_loads_with_its_facts_and_digests(self, tiny_handoff: Path) -> None:
        handoff = load(tiny_handoff)
        assert handoff.name == "tiny"
        assert handoff.folder == tiny_handoff
        assert handoff.digest == sha256_bytes((tiny_handoff / "handoff.yaml").read_bytes())
        assert handoff.model_digest == sha256_bytes((tiny_handoff / "model.pt2").read_bytes())
        assert handoff.role("latent") == "embedding"
        assert handoff.role("chi2") is None
        assert handoff.environment.torch == torch.__version__

    def test_gives_its_tables_and_arrays(self, tiny_handoff: Path) -> None:
        handoff = load(tiny_handoff)
        np.testing.assert_array_equal(handoff.holdout_inputs()["signal"], tiny_signals())
        pd.testing.assert_frame_equal(handoff.holdout_table(), tiny_table())
        assert len(handoff.reference_table()) == ROWS
        inputs, outputs = handoff.golden()
        assert set(inputs) == {"signal"}
        assert set(outputs) == {"score", "embedding", "class_probabilities"}

    def test_its_document_is_plain_and_says_the_same_again(self, tiny_handoff: Path) -> None:
        assert load(tiny_handoff).document() == parse_yaml((tiny_handoff / "handoff.yaml").read_bytes(), where="handoff.yaml")

    def test_may_carry_a_listed_note(self, broken: Path) -> None:
        put(broken, "README.md", b"# read me\n")
        assert check(broken) == []
        assert load(broken).read("README.md") == b"# read me\n"

    def test_may_leave_out_classes_roles_and_threshold(self, broken: Path) -> None:
        rewrite(broken, lambda value: [value["model"].pop(key) for key in ("classes", "roles", "score_threshold")])
        assert check(broken) == []
        assert load(broken).role("score") is None

    def test_refuses_to_change(self, tiny_handoff: Path) -> None:
        with pytest.raises(ValueError, match="frozen"):
            load(tiny_handoff).name = "other"  # type: ignore[misc]


def test_no_folder_and_no_document_are_sentences(tmp_path: Path) -> None:
    assert "found no folder" in words(tmp_path / "none")
    assert "handoff.yaml must be a plain file" in words(tmp_path)
    (tmp_path / "file").write_text("x")
    assert "found no folder" in words(tmp_path / "file")
    with pytest.raises(HandOffError, match="found no folder"):
        load(tmp_path / "none")


@pytest.mark.parametrize("field", ["purpose", "trainer", "data", "model", "files", "metrics", "format"])
def test_a_missing_field_is_named(broken: Path, field: str) -> None:
    rewrite(broken, lambda value: value.pop(field))
    assert f"handoff.yaml: {field}: field required" in words(broken)
    with pytest.raises(HandOffError, match=f"{field}: field required"):
        load(broken)


class TestFiles:
    def test_a_changed_byte_is_found(self, broken: Path) -> None:
        data = bytearray((broken / "model.pt2").read_bytes())
        data[-1] ^= 1
        (broken / "model.pt2").write_bytes(data)
        assert "model.pt2: must have sha256" in words(broken)
        with pytest.raises(HandOffError, match="must have sha256"):
            load(broken)

    def test_another_size_is_found_without_hashing(self, broken: Path) -> None:
        with open(broken / "holdout.parquet", "ab") as stream:
            stream.write(b"x")
        assert "holdout.parquet: must have" in words(broken)

    def test_a_missing_file_is_found(self, broken: Path) -> None:
        (broken / "reference.parquet").unlink()
        assert "reference.parquet: handoff.yaml lists this file, but it is not there" in words(broken)
        with pytest.raises(HandOffError, match="not there"):
            load(broken)

    def test_an_extra_file_is_found(self, broken: Path) -> None:
        (broken / "notes.txt").write_text("hello")
        assert "notes.txt: is not listed" in words(broken)
        with pytest.raises(HandOffError, match="not listed"):
            load(broken)

    def test_a_symlink_is_found_even_when_it_leads_to_the_right_bytes(self, broken: Path, tiny_handoff: Path) -> None:
        (broken / "model.pt2").unlink()
        (broken / "model.pt2").symlink_to(tiny_handoff / "model.pt2")
        assert "model.pt2: must be a plain file, found a symbolic link" in words(broken)
        with pytest.raises(HandOffError, match="symbolic link"):
            load(broken)

    def test_a_symlinked_document_is_not_followed(self, broken: Path, tiny_handoff: Path) -> None:
        (broken / "handoff.yaml").unlink()
        (broken / "handoff.yaml").symlink_to(tiny_handoff / "handoff.yaml")
        assert "plain file" in words(broken)

    def test_a_pipe_does_not_hang_the_check(self, broken: Path) -> None:
        (broken / "golden.safetensors").unlink()
        os.mkfifo(broken / "golden.safetensors")
        assert "golden.safetensors: must be a plain file" in words(broken)

    def test_a_folder_inside_is_found(self, broken: Path) -> None:
        (broken / "code").mkdir()
        assert "code: must be a plain file" in words(broken)

    @pytest.mark.parametrize("name", ["../outside.json", "/etc/hostname", "sub/file.json", "..", "a\\b.json", ".hidden"])
    def test_a_path_that_climbs_out_is_refused_and_not_read(self, broken: Path, name: str) -> None:
        rewrite(broken, lambda value: value["files"].__setitem__(name, {"sha256": "0" * 64, "bytes": 1}))
        assert f"handoff.yaml: files.{name}" in words(broken)
        with pytest.raises(HandOffError, match="files"):
            load(broken)

    def test_an_unreadable_file_is_a_sentence(self, broken: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("root reads everything")
        (broken / "model.pt2").chmod(0)
        assert "model.pt2" in words(broken)

    @pytest.mark.parametrize("name", ["weights.pkl", "model.pth", "last.ckpt", "array.npy", "notes.txt", "data.json"])
    def test_a_listed_pickle_is_refused_under_any_name(self, broken: Path, tmp_path: Path, name: str) -> None:
        marker = tmp_path / "ran"
        put(broken, name, attacks.pickled(marker))
        assert f"{name}: must not be a pickle" in words(broken)
        assert not marker.exists()

    def test_a_torch_file_in_disguise_is_refused(self, broken: Path, tmp_path: Path) -> None:
        put(broken, "notes.json", attacks.torch_saved(tmp_path / "ran"))
        assert "notes.json: must not be a pickle" in words(broken)

    def test_a_pickle_in_place_of_the_model_is_refused_and_does_not_run(self, broken: Path, tmp_path: Path) -> None:
        marker = tmp_path / "ran"
        put(broken, "model.pt2", attacks.pickled(marker))
        assert "the file is a pickle" in words(broken)
        assert not marker.exists()

    def test_a_program_in_the_folder_is_refused(self, broken: Path) -> None:
        put(broken, "loader.py", b"print('hello')")
        assert "loader.py: must end in one of" in words(broken)

    def test_bytes_that_change_after_loading_are_refused_when_read(self, broken: Path) -> None:
        handoff = load(broken)
        (broken / "holdout.safetensors").write_bytes(write_tensors({"signal": tiny_signals(seed=9)}))
        with pytest.raises(HandOffError, match="must have the sha256"):
            handoff.holdout_inputs()


class TestContents:
    def test_labels_for_other_rows_are_found(self, broken: Path) -> None:
        put(broken, "holdout.parquet", parquet(tiny_table(ROWS - 1)))
        assert f"holdout.parquet: must have one row for each of the {ROWS} rows of holdout.safetensors, found {ROWS - 1}" in words(broken)

    @pytest.mark.parametrize(
        ("arrays", "found"),
        [
            ({"signal": np.zeros((ROWS, 51), np.float32)}, "must be float32 [-1, 50], found float32 [40, 51]"),
            ({"signal": np.zeros((ROWS, 50), np.float64)}, "found float64"),
            ({"signal": np.zeros(50, np.float32)}, "found float32 [50]"),
            ({"other": np.zeros((ROWS, 50), np.float32)}, "must hold the tensors ['signal'], found ['other']"),
        ],
    )
    def test_held_out_inputs_of_another_form_are_found(self, broken: Path, arrays: dict[str, Any], found: str) -> None:
        put(broken, "holdout.safetensors", write_tensors(arrays))
        assert found in words(broken)

    @pytest.mark.parametrize("rows", [0, 7, 33])
    def test_golden_rows_are_8_to_32(self, broken: Path, rows: int) -> None:
        tensors = read_tensors((broken / "golden.safetensors").read_bytes(), where="golden")
        put(
            broken,
            "golden.safetensors",
            write_tensors({name: np.resize(array, (rows, *array.shape[1:])) for name, array in tensors.items()}),
        )
        assert f"must have {GOLDEN_ROWS.start} to 32 rows, found {rows}" in words(broken)

    def test_golden_outputs_that_are_no_numbers_are_found(self, broken: Path) -> None:
        tensors = read_tensors((broken / "golden.safetensors").read_bytes(), where="golden")
        tensors["output.score"][2] = np.nan
        put(broken, "golden.safetensors", write_tensors(tensors))
        assert "output 'score' must be finite" in words(broken)

    def test_golden_outputs_the_model_does_not_give_are_found(self, broken: Path) -> None:
        tensors = read_tensors((broken / "golden.safetensors").read_bytes(), where="golden")
        tensors["output.score"][3] += 0.01
        put(broken, "golden.safetensors", write_tensors(tensors))
        assert "row 3 of output 'score'" in words(broken)

    @pytest.mark.parametrize("name", ["golden.safetensors", "holdout.safetensors", "holdout.parquet", "reference.parquet", "model.pt2"])
    @pytest.mark.parametrize("content", [b"", b"garbage", b"PAR1" + bytes(40) + b"PAR1", b"\xff" * 100])
    def test_a_damaged_file_with_a_right_digest_is_a_sentence(self, broken: Path, name: str, content: bytes) -> None:
        put(broken, name, content)
        assert f"{name}: " in words(broken)

    def test_an_empty_reference_is_found(self, broken: Path) -> None:
        put(broken, "reference.parquet", parquet(tiny_table().iloc[:0]))
        assert "reference.parquet: must have at least one row" in words(broken)

    def test_a_model_that_gives_something_else_is_found(self, broken: Path) -> None:
        rewrite(broken, lambda value: value["model"]["outputs"][1].update(name="features", shape=[-1, 4]))
        rewrite(broken, lambda value: value["model"]["roles"].pop("latent"))
        tensors = read_tensors((broken / "golden.safetensors").read_bytes(), where="golden")
        tensors["output.features"] = tensors.pop("output.embedding")
        put(broken, "golden.safetensors", write_tensors(tensors))
        assert "the model must give the outputs ['score', 'features', 'class_probabilities']" in words(broken)

    def test_a_model_that_takes_something_else_is_found(self, broken: Path, tmp_path: Path) -> None:
        class Other(torch.nn.Module):
            def forward(self, other: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"score": other.sum(1)}

        facts = {
            **tiny_facts(),
            "exported": export(Other(), {"other": tiny_signals(4)}),
            "classes": (),
            "roles": {},
            "score_threshold": None,
        }
        facts |= {"input_units": {"other": "1"}, "output_meanings": {"score": "sum"}, "golden": {"other": tiny_signals(8)}}
        other = write(tmp_path / "other", **{**facts, "holdout": {"other": tiny_signals()}})
        put(broken, "model.pt2", (other.folder / "model.pt2").read_bytes())
        assert "model.inputs must name what model.pt2 takes, ['other'], found ['signal']" in words(broken)

    def test_nothing_is_parsed_whose_digest_is_wrong(self, broken: Path) -> None:
        (broken / "model.pt2").write_bytes(bytes(os.path.getsize(broken / "model.pt2")))
        found = words(broken)
        assert "model.pt2: must have sha256" in found
        assert "zip" not in found


def test_all_faults_are_told_at_once(broken: Path) -> None:
    rewrite(broken, lambda value: (value.pop("purpose"), value["trainer"].pop("email"), value["data"].update(spectra=0)))
    (broken / "extra.txt").write_text("x")
    (broken / "reference.parquet").unlink()
    put(broken, "holdout.parquet", parquet(tiny_table(3)))
    (broken / "golden.safetensors").write_bytes(b"x")
    found = words(broken)
    for fault in ("purpose", "trainer.email", "data.spectra", "extra.txt", "reference.parquet", "rows of holdout", "golden.safetensors"):
        assert fault in found


def test_load_says_the_first_faults_and_how_to_see_the_rest(broken: Path) -> None:
    for name in ("model.pt2", "golden.safetensors", "holdout.safetensors", "holdout.parquet"):
        (broken / name).unlink()
    with pytest.raises(HandOffError, match="and 1 more: firstlight handoff check"):
        load(broken)


def test_the_data_digest_does_not_depend_on_order_or_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        (tmp_path / folder / "one.fits").write_bytes(b"1")
        (tmp_path / folder / "two.fits").write_bytes(b"2")
    one = data_digest([tmp_path / "a" / "one.fits", tmp_path / "a" / "two.fits"])
    assert one == data_digest([tmp_path / "b" / "two.fits", tmp_path / "b" / "one.fits"])
    shutil.copy(tmp_path / "b" / "two.fits", tmp_path / "b" / "one.fits")
    assert one != data_digest([tmp_path / "b" / "two.fits", tmp_path / "b" / "one.fits"])


def test_check_never_raises_on_any_damaged_byte(broken: Path, tiny_handoff: Path) -> None:
    generator = np.random.default_rng(1)
    good = (tiny_handoff / "handoff.yaml").read_bytes()
    for position in generator.integers(0, len(good), 60):
        damaged = bytearray(good)
        damaged[position] = int(generator.integers(0, 256))
        (broken / "handoff.yaml").write_bytes(damaged)
        check(broken)
    assert document(tiny_handoff)["format"] == "firstlight/hand-off/v1"
