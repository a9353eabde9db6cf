"""A hand-off folder is whole or refused: every fault is found, in words, and nothing unverified is parsed."""

import os
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from firstlight.digest import sha256_bytes
from models.errors import HandOffError
from models.handoff import Data, Epsilon, HandOff, Trainer, check, data_digest, load, write
from models.handoff_check import GOLDEN_ROWS
from models.meaning import is_placeholder
from models.program import export
from models.strict_yaml import parse_yaml
from models.tensors import read_tensors, write_tensors
from tests.models import attacks
from tests.models.breaking import document, put, rewrite
from tests.models.tiny import ROWS, TinyModel, tiny_facts, tiny_signals, tiny_table, write_tiny_handoff


def words(folder: Path) -> str:
    """Return every problem of a folder as one text, and hold each to the form of a sentence with advice."""
    problems = check(folder)
    assert all(problem.where and problem.what and problem.mend for problem in problems)
    return "\n".join(str(problem) for problem in problems)


def parquet(table: pd.DataFrame) -> bytes:
    buffer = BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


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


class TestTheDocument:
    def test_a_yaml_bomb_is_refused_unexploded(self, broken: Path) -> None:
        levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 30)]
        (broken / "handoff.yaml").write_text("\n".join(["a0: &a0 [x, x]", *levels]))
        assert "anchor or alias (write the value out) in line 1" in words(broken)

    def test_an_oversize_document_is_refused(self, broken: Path) -> None:
        (broken / "handoff.yaml").write_bytes(b"a: " + b"x" * 300_000)
        assert "at most 262144 bytes" in words(broken)

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("a: !!python/object/apply:os.system [id]", "tag"),
            ("a: !!binary aGk=", "tag"),
            ("a: 1\na: 2", "given twice"),
            ("1: a", "key must be text"),
            ("a: .nan", "NaN"),
            ("a: -.inf", "infinite"),
            ("a: [" * 40, "levels"),
            ("a: \x01", "control"),
            ("<<: {a: 1}\nb: [", "plain YAML"),
            ("a: 1\n---\nb: 2", "document"),
            ("\ttab", "plain YAML"),
        ],
    )
    def test_yaml_that_says_more_than_json_is_refused(self, broken: Path, text: str, found: str) -> None:
        (broken / "handoff.yaml").write_text(text)
        assert found in words(broken)

    def test_bytes_that_are_no_text_are_refused(self, broken: Path) -> None:
        (broken / "handoff.yaml").write_bytes(b"\xff\xfe\x00")
        assert "UTF-8" in words(broken)

    @pytest.mark.parametrize("text", ["", "[]", "hello", "null", "3"])
    def test_a_document_of_another_kind_is_refused(self, broken: Path, text: str) -> None:
        (broken / "handoff.yaml").write_text(text)
        assert "handoff.yaml" in words(broken)

    def test_numbers_are_read_as_people_write_them(self) -> None:
        assert parse_yaml(b"[1e-4, 1E5, -3, 0.5, no, yes, 2026-01-01, 0123, 1_000]", where="x") == [
            1e-4,
            1e5,
            -3,
            0.5,
            "no",
            "yes",
            "2026-01-01",
            "0123",
            "1_000",
        ]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_a_metric_that_is_no_number_is_refused(self, broken: Path, value: float) -> None:
        rewrite(broken, lambda content: content["metrics"].update(loss=value))
        assert "NaN or infinite" in words(broken)

    @pytest.mark.parametrize("name", ["TODO", "todo: name", "xxx", "Anonymous", "n/a", "John Doe", "test", "?", "aaaa", "Your Name", "123"])
    def test_a_trainer_who_is_nobody_is_refused(self, broken: Path, name: str) -> None:
        rewrite(broken, lambda value: value["trainer"].update(name=name))
        assert "trainer.name" in words(broken)

    @pytest.mark.parametrize("name", ["Vera Rubin", "Bo Li", "Ana Todorova", "Nobuyuki Xu", "李明", "Jörg Müller-Test", "O'Neil"])
    def test_a_real_name_is_none_of_that(self, name: str) -> None:
        assert not is_placeholder(name)

    def test_a_placeholder_address_and_purpose_are_refused(self, broken: Path) -> None:
        rewrite(broken, lambda value: (value["trainer"].update(email="todo@lab.org"), value.update(purpose="TODO", not_for="tbd")))
        found = words(broken)
        assert "trainer.email" in found
        assert "purpose" in found
        assert "not_for" in found

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (lambda model: model["classes"].append("third"), "one column for each of the 3 classes"),
            (lambda model: model["classes"].__setitem__(1, "calm"), "found ['calm'] twice"),
            (lambda model: model["roles"].update(chi2="speed"), "must be one of the outputs"),
            (lambda model: model["roles"].update(score="embedding"), "one number per row"),
            (lambda model: model["roles"].update(reconstruction="embedding"), "shape of an input"),
            (lambda model: model["roles"].pop("score"), "needs an output in the role score"),
            (lambda model: model["roles"].pop("class_probabilities"), "need an output in the role class_probabilities"),
            (lambda model: model["outputs"].append(dict(model["outputs"][1], name="score")), "found ['score'] twice"),
        ],
    )
    def test_a_form_that_contradicts_itself_is_refused(self, broken: Path, change: Callable[[Any], object], found: str) -> None:
        rewrite(broken, lambda value: change(value["model"]))
        assert found in words(broken)

    def test_a_moment_that_never_was_is_refused(self, broken: Path) -> None:
        rewrite(broken, lambda value: value.update(created="2026-02-30T00:00:00Z"))
        assert "must be a moment" in words(broken)


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


class TestWriting:
    def test_another_shape_can_be_handed_over(self, tmp_path: Path) -> None:
        handoff = load(write_tiny_handoff(tmp_path / "new", name="other", created=None))
        assert isinstance(handoff, HandOff)
        assert [spec.shape for spec in handoff.model.outputs] == [(-1,), (-1, 4), (-1, 2)]
        assert handoff.created.endswith("+00:00")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]

    def test_the_same_model_has_the_same_digest_twice(self, tiny_handoff: Path, tmp_path: Path) -> None:
        again = load(write_tiny_handoff(tmp_path / "again"))
        assert again.model_digest == load(tiny_handoff).model_digest
        assert load(write_tiny_handoff(tmp_path / "other", seed=2)).model_digest != again.model_digest

    def test_an_existing_folder_is_never_changed(self, tiny_handoff: Path) -> None:
        before = (tiny_handoff / "handoff.yaml").read_bytes()
        with pytest.raises(HandOffError, match="must not exist yet"):
            write_tiny_handoff(tiny_handoff)
        assert (tiny_handoff / "handoff.yaml").read_bytes() == before

    @pytest.mark.parametrize(
        ("changes", "found"),
        [
            ({"trainer": ("TODO", "a@b.org")}, "trainer.name"),
            ({"trainer": Trainer(name="Vera Rubin", email="xxx@b.org")}, "trainer.email"),
            ({"name": "Not A Name"}, "name"),
            ({"metrics": {"loss": float("nan")}}, "metrics.loss"),
            ({"metrics": {"loss": None}}, "metrics"),
            ({"recipe": {"seed": object()}}, "recipe"),
            ({"recipe": {"rate": float("inf")}}, "finite number"),
            ({"input_units": {}}, "input_units must name exactly"),
            ({"output_meanings": {"score": "x"}}, "output_meanings must name exactly"),
            ({"golden": {"signal": tiny_signals(3)}}, "8 to 32 rows"),
            ({"golden": {"signal": tiny_signals(8).astype(np.float64)}}, "float64"),
            ({"golden": {}}, "inputs must be named"),
            ({"holdout": {"signal": tiny_signals(3)}}, "one row for each of the 3 rows"),
            ({"holdout_table": tiny_table().iloc[:0], "holdout": {"signal": tiny_signals(0)}}, "at least one row"),
            ({"data": Data(uri="x", sha256="0" * 64, spectra=1, description="one"), "data_class": "secret"}, "data_class"),
            ({"classes": ("calm", "wild", "third")}, "3 classes"),
            ({"score_threshold": float("nan")}, "score_threshold"),
            ({"git_commit": "main"}, "git_commit"),
        ],
    )
    def test_a_wrong_fact_leaves_nothing_behind(self, tmp_path: Path, changes: dict[str, Any], found: str) -> None:
        with pytest.raises(HandOffError, match=found):
            write_tiny_handoff(tmp_path / "new", **changes)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_cannot_be_made_is_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(HandOffError, match="must be writable"):
            write_tiny_handoff(tmp_path / "file" / "new")

    def test_a_full_disk_leaves_nothing_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        facts = tiny_facts()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(HandOffError, match="No space left"):
            write(tmp_path / "new", **facts)
        assert list(tmp_path.iterdir()) == []

    def test_a_program_with_a_fixed_number_of_rows_is_refused(self, tmp_path: Path) -> None:
        fixed = torch.export.export(TinyModel().eval(), (torch.zeros(4, 50),))
        with pytest.raises(HandOffError, match="any number of rows, found 4 fixed"):
            write_tiny_handoff(tmp_path / "new", exported=fixed)

    def test_a_model_with_a_memory_is_refused(self, tmp_path: Path) -> None:
        class Counting(TinyModel):
            def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
                self.scale.add_(1.0)
                return super().forward(signal)

        with pytest.raises(HandOffError):
            write_tiny_handoff(tmp_path / "new", exported=export(Counting(), {"signal": tiny_signals(4)}))

    def test_a_model_that_draws_lots_is_refused(self, tmp_path: Path) -> None:
        class Gambling(TinyModel):
            def forward(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
                return super().forward(signal + torch.randn_like(signal))

        with pytest.raises(HandOffError, match="randn_like"):
            write_tiny_handoff(tmp_path / "new", exported=export(Gambling(), {"signal": tiny_signals(4)}))

    def test_a_list_used_twice_in_the_recipe_is_written_out(self, tmp_path: Path) -> None:
        widths = [8, 16]
        assert load(write_tiny_handoff(tmp_path / "new", recipe={"encoder": widths, "decoder": widths})).recipe["decoder"] == [8, 16]

    def test_a_wider_tolerance_is_kept(self, tmp_path: Path) -> None:
        assert load(write_tiny_handoff(tmp_path / "new", epsilon=Epsilon(rtol=0.01, atol=0.02))).model.epsilon == Epsilon(
            rtol=0.01, atol=0.02
        )


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
