"""Writing a hand-off: it appears whole and good, or not at all."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import HandOffError
from models.handoff import Data, Epsilon, HandOff, Trainer, load, write
from models.program import export
from tests.models.tiny import TinyModel, tiny_facts, tiny_signals, tiny_table, write_tiny_handoff


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
