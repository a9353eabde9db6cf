"""From spectra to a hand-off folder, on a small synthetic sky."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from models.evaluation import Evaluation, evaluate, examples
from models.golden import replay
from models.handoff import HandOff, load
from models.program import Program
from models.spectrum_vae import SpectrumVAE
from models.split import Part, split
from models.training import Recipe, TrainingError, _started_model, survey_labels, train
from spectra import SpectrumBatch, read_many
from spectra.sky import SkyRecipe, write_sky

SMALL = Recipe(epochs=3, warm_epochs=1, channels=(4, 8), hidden=32, rank=12, fault_rows=60, threads=1, device="cpu")


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> SpectrumBatch:
    folder = tmp_path_factory.mktemp("sky")
    write_sky(SkyRecipe(seed=5, spectra=260, file_rows=130, anomaly_share=0.2), folder)
    return read_many([folder])[0]


@pytest.fixture(scope="module")
def files(sky: SpectrumBatch) -> list[Path]:
    return [Path(name) for name in sorted(set(sky.metadata["source_file"]))]


def trained(sky: SpectrumBatch, files: list[Path], out: Path, recipe: Recipe = SMALL, **changes: object) -> HandOff:
    facts = {"trainer": ("Vera Rubin", "vera@carnegie.edu"), "data_uri": "file://sky", "data_files": files}
    return load(train(sky, recipe, out=out, **(facts | changes)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def handoff(sky: SpectrumBatch, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> HandOff:
    return trained(sky, files, tmp_path_factory.mktemp("out") / "handoff")


@pytest.fixture(scope="module")
def evaluation(handoff: HandOff) -> Evaluation:
    return evaluate(handoff)


def test_training_ends_in_a_handoff_that_replays_and_keeps_its_claims(handoff: HandOff, evaluation: Evaluation) -> None:
    # Given a hand-off fresh from training, when it is replayed and evaluated from its bytes alone
    golden = replay(Program.load(handoff), handoff)

    # Then the answers are those the trainer saw, and every claimed figure is found again
    assert golden.verdict == "pass"
    assert handoff.metrics
    for name, value in handoff.metrics.items():
        assert evaluation.metrics[name] == pytest.approx(value, abs=0.01), name
    assert not [reason for reason in evaluation.reasons if "claims" in reason]
    assert {"latent", "reconstruction", "chi2", "anomaly_score", "class_probabilities"} == {spec.name for spec in handoff.model.outputs}


def test_a_handoff_says_for_its_model_card_what_the_network_is_and_how_large(handoff: HandOff) -> None:
    assert str(handoff.recipe["architecture"]).startswith("SpectrumVAE: A variational autoencoder")
    assert handoff.recipe["parameters"] == sum(part.numel() for part in SpectrumVAE(SMALL.network()).parameters())


def test_held_out_targets_taught_nothing(handoff: HandOff) -> None:
    reference = handoff.reference_table()
    held = set(handoff.holdout_table()["targetid"])

    assert held == set(reference.loc[reference["part"] == "heldout", "targetid"])
    assert held.isdisjoint(reference.loc[reference["part"] != "heldout", "targetid"])
    assert len(reference) == handoff.data.spectra


def test_target_ids_survive_to_the_last_digit(handoff: HandOff, sky: SpectrumBatch) -> None:
    assert set(handoff.reference_table()["targetid"]) == set(sky.targetid.tolist())
    assert sky.targetid.max() > 2**53


def test_the_last_golden_row_is_an_empty_spectrum(handoff: HandOff) -> None:
    inputs, outputs = handoff.golden()

    assert not inputs["ivar"][-1].any()
    assert outputs["anomaly_score"][-1] == 0


def test_a_warm_start_continues_the_weights_and_another_shape_starts_fresh(
    sky: SpectrumBatch, files: list[Path], handoff: HandOff, tmp_path: Path
) -> None:
    seen: list[str] = []
    warm = trained(sky, files, tmp_path / "warm", warm_start=handoff.folder, progress=lambda phase, _: seen.append(phase))
    _, continued = _started_model(SMALL.model_copy(update={"hidden": 40}), handoff.folder)

    assert warm.recipe["warm_start"] is True
    assert warm.recipe["final_loss"] < handoff.recipe["final_loss"]
    assert sum(phase.startswith("fit") for phase in seen) == SMALL.warm_epochs
    assert {"prepare", "calibrate", "measure", "export"} <= set(seen)
    assert not continued
    assert handoff.recipe["warm_start"] is False
    assert np.abs(warm.golden()[1]["latent"] - handoff.golden()[1]["latent"]).max() > 1e-3


def test_labels_are_redrocks_and_never_the_truth(sky: SpectrumBatch) -> None:
    lying = sky.metadata.assign(true_spectype="STAR", anomaly="blend")

    np.testing.assert_array_equal(survey_labels(sky.metadata), survey_labels(lying))
    warned = survey_labels(sky.metadata.assign(zwarn=pd.array([4] * len(sky), dtype="Int64")))
    assert (warned == -1).all()


def test_real_data_without_truth_trains_to_the_same_weights_and_says_that_recall_cannot_be_told(
    sky: SpectrumBatch, files: list[Path], handoff: HandOff, tmp_path: Path
) -> None:
    # Given the same spectra as a telescope would deliver them, without a truth file
    bare = sky.take(slice(None))
    metadata = bare.metadata.assign(has_truth=False, true_spectype="", anomaly="", true_z=np.nan)
    batch = SpectrumBatch(
        wavelength=bare.wavelength, flux=bare.flux, ivar=bare.ivar, mask=bare.mask, targetid=bare.targetid, metadata=metadata
    )

    # When a model is trained with the same seed and evaluated
    real = trained(batch, files, tmp_path / "real")
    evaluation = evaluate(real)

    # Then it is the same model, for the truth teaches nothing; nothing about anomalies is claimed, and the reason is a sentence
    for name, array in handoff.golden()[1].items():
        np.testing.assert_array_equal(real.golden()[1][name], array)
    assert "anomaly_recall" not in real.metrics
    assert evaluation.metrics["anomaly_recall"] is None
    assert evaluation.verdicts["anomaly_recall"] == "cannot tell"
    assert any("no held-out row carries a truth label" in reason for reason in evaluation.reasons)
    assert evaluation.metrics["class_accuracy_galaxy"] is not None


def test_pictures_are_on_the_wavelength_grid_and_repeat(handoff: HandOff, evaluation: Evaluation) -> None:
    table = evaluation.table

    first, second = examples(handoff, table, k=3), examples(handoff, table, k=3)

    assert first["x_label"] == "wavelength [Å]"
    assert first["x"][[0, -1]].tolist() == [3600.0, 9824.0]
    assert first["kind"].count("strange") == 3
    assert first["row"][first["kind"].index("strange")] == table["anomaly_score"].idxmax()
    assert first["reconstruction"].shape == first["flux"].shape
    np.testing.assert_array_equal(first["reconstruction"], second["reconstruction"])
    assert first["caption"] == second["caption"]


def test_too_few_spectra_are_refused_before_any_work(sky: SpectrumBatch, files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least 64 train spectra, found"):
        trained(sky.take(slice(0, 30)), files, tmp_path / "few")
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_there_is_refused(sky: SpectrumBatch, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="use device='auto' or 'cpu'"):
        trained(sky, files, tmp_path / "gpu", SMALL.model_copy(update={"device": "cuda"}))


def metadata(targets: list[int], groups: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"targetid": targets, "tileid": groups, "healpix": -1, "source_file": "one.fits"})


def test_whole_tiles_are_held_out_and_their_targets_everywhere() -> None:
    # Given 40 tiles of 50 targets, and one target that was seen in two of them
    targets, tiles = list(range(2000)), [i // 50 for i in range(2000)]
    part, kind = split(metadata(targets, tiles), heldout=0.25, validation=0.2)
    held = {tile for tile, name in zip(tiles, part, strict=True) if name == Part.HELDOUT}
    spared = next(tile for tile in range(40) if tile not in held)
    shared = next(tile for tile in held) * 50

    # When it is split
    part, kind = split(metadata([*targets, shared], [*tiles, spared]), heldout=0.25, validation=0.2)

    # Then a tile is on one side, and that target is held out in both
    assert kind == "group"
    assert all(len({part[i] == Part.HELDOUT for i in range(2000) if tiles[i] == tile}) == 1 for tile in range(40))
    assert part[-1] == Part.HELDOUT
    assert 0.12 < (part == Part.HELDOUT).mean() < 0.4


def test_a_target_keeps_its_side_whatever_else_is_in_the_table() -> None:
    part, kind = split(metadata(list(range(400)), [7] * 400), heldout=0.25, validation=0.2)
    alone, _ = split(metadata(list(range(399, 99, -1)), [7] * 300), heldout=0.25, validation=0.2)

    assert kind == "target"
    assert part[100:].tolist() == alone[::-1].tolist()
    assert (part == Part.HELDOUT).mean() == pytest.approx(0.25, abs=0.07)
    assert (part == Part.VALIDATION).mean() == pytest.approx(0.15, abs=0.06)


def test_several_rows_of_one_target_stay_together() -> None:
    part, _ = split(metadata([i // 4 for i in range(400)], [7] * 400), heldout=0.25, validation=0.2)

    assert all(len(set(part[i : i + 4])) == 1 for i in range(0, 400, 4))


def test_recipes_are_strict() -> None:
    with pytest.raises(ValueError, match="epoch"):
        Recipe.model_validate({"epoch": 3})
    assert Recipe.large().network().rank > Recipe().network().rank


def test_a_trainer_who_is_nobody_is_refused_before_anything_is_trained(sky: SpectrumBatch, files: list[Path], tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(TrainingError, match=r"trainer\.name must be a person's name, found 'TODO'"):
        trained(sky, files, tmp_path / "out", trainer=("TODO", "vera@carnegie.edu"), progress=lambda phase, _: told.append(phase))
    assert told == []
    assert not (tmp_path / "out").exists()
