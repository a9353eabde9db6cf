"""The synthetic sky as a whole: files of the survey's form, with the sky that the recipe asked for in them."""

import hashlib
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table, vstack
from scipy.stats import binomtest

import spectra
from spectra.sky import Anomaly, SkyError, SkyRecipe, write_sky
from spectra.sky.grid import ARMS, GRID
from spectra.sky.population import draw_targets

RECIPE = SkyRecipe(seed=11, spectra=900, file_rows=225)
SMALL = SkyRecipe(seed=5, spectra=40, file_rows=20)


@pytest.fixture(scope="module")
def coadds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_sky(RECIPE, tmp_path_factory.mktemp("sky"))


@pytest.fixture(scope="module")
def observed(coadds: list[Path]) -> spectra.SpectrumBatch:
    batch, refused = spectra.read_many(coadds)
    assert not refused
    return batch


def sibling(coadd: Path, kind: str) -> Path:
    return coadd.with_name(coadd.name.replace("coadd-", f"{kind}-"))


def tables(coadds: list[Path], kind: str, hdu: str) -> Table:
    return vstack([Table.read(sibling(path, kind), hdu=hdu) for path in coadds], metadata_conflicts="silent")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_recipe_gives_the_same_bytes_even_in_another_process(tmp_path: Path) -> None:
    # Given a sky written here
    write_sky(SMALL, tmp_path / "here")
    # When another interpreter with another hash seed writes the same recipe
    code = f"from spectra.sky import *; write_sky(SkyRecipe(seed=5, spectra=40, file_rows=20), {str(tmp_path / 'there')!r})"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": "77"}, cwd=Path(spectra.__file__).parents[1]
    )
    # Then every byte is the same
    assert len(digests(tmp_path / "here")) == 6
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


@pytest.mark.parametrize("change", [{"seed": 6}, {"night": 20261002}, {"survey": "other"}])
def test_another_seed_night_or_survey_shares_no_target_and_no_spectrum(tmp_path: Path, change: dict[str, object]) -> None:
    first, other = (write_sky(recipe, tmp_path / name) for recipe, name in ((SMALL, "a"), (replace(SMALL, **change), "b")))
    batches = [spectra.read_many(paths)[0] for paths in (first, other)]
    assert not set(batches[0].targetid) & set(batches[1].targetid)
    assert not np.array_equal(batches[0].flux, batches[1].flux)


def test_all_targets_are_read_and_only_the_fibres_without_a_target_are_refused(coadds: list[Path], observed: spectra.SpectrumBatch) -> None:
    assert len(observed) == RECIPE.spectra
    assert len(np.unique(observed.targetid)) == RECIPE.spectra
    assert (observed.targetid > 2**53).all()
    assert len(observed.refused) == 6 * len(coadds)
    assert sum(row.targetid < 0 for row in observed.refused) == 2 * len(coadds)
    assert observed.metadata.has_truth.all()


def test_the_grid_is_the_readers_grid() -> None:
    np.testing.assert_allclose(GRID, spectra.WAVELENGTH, atol=1e-9)


def test_files_have_the_pipelines_hdus_units_and_keywords(coadds: list[Path]) -> None:
    arm_hdus = [f"{arm.name}_{what}" for arm in ARMS for what in ("WAVELENGTH", "FLUX", "IVAR", "MASK")]
    with fits.open(coadds[0]) as hdus:
        assert [h.name for h in hdus] == ["PRIMARY", "FIBERMAP", "EXP_FIBERMAP", *arm_hdus, "SCORES"]
        head = hdus[0].header
        assert coadds[0].name == f"coadd-{head['SURVEY']}-{head['PROGRAM']}-{head['HPXPIXEL']}.fits"
        assert (head["HPXNSIDE"], head["HPXNEST"], head["SIMULATE"]) == (64, True, True)
        assert hdus["R_FLUX"].header["BUNIT"] == "10**-17 erg/(s cm2 Angstrom)"
        assert hdus["Z_IVAR"].header["BUNIT"] == "10**+34 (s2 cm4 Angstrom2) / erg2"
        assert hdus["B_MASK"].data.dtype == np.uint32
        assert hdus["B_FLUX"].data.dtype == np.dtype(">f4")
        assert hdus["Z_WAVELENGTH"].data[-1] == pytest.approx(9824.0)
        assert len(hdus["EXP_FIBERMAP"].data) == len(hdus["FIBERMAP"].data) * hdus["FIBERMAP"].data["COADD_NUMEXP"].max()
    with fits.open(sibling(coadds[0], "redrock")) as hdus:
        assert [h.name for h in hdus] == ["PRIMARY", "REDSHIFTS", "FIBERMAP", "EXP_FIBERMAP", "TSNR2"]
        assert hdus["REDSHIFTS"].data["COEFF"].shape == (len(hdus["FIBERMAP"].data), 10)
        assert np.array_equal(hdus["REDSHIFTS"].data["TARGETID"], hdus["FIBERMAP"].data["TARGETID"])


def test_resolution_is_written_only_when_asked_and_its_rows_sum_to_one(tmp_path: Path) -> None:
    [coadd] = write_sky(SkyRecipe(seed=1, spectra=10, programs={"dark": 1.0}, resolution=True), tmp_path)
    with fits.open(coadd) as hdus:
        assert hdus["R_RESOLUTION"].data.shape == (16, 11, 2326)
        np.testing.assert_allclose(hdus["R_RESOLUTION"].data.sum(axis=1), 1, rtol=1e-5)


def test_positions_lie_in_the_healpix_pixel_of_the_file_name(coadds: list[Path]) -> None:
    # a pixel of nside 64 is 0.92 degrees wide; its targets cannot be further apart than its diagonal
    for path in coadds:
        table = Table.read(path, hdu="FIBERMAP")
        ra, dec = np.radians(table["TARGET_RA"]), np.radians(table["TARGET_DEC"])
        unit = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
        spread = np.degrees(np.arccos(np.clip(unit.T @ unit, -1, 1)).max())
        assert 0.8 < spread < 1.9


def test_class_shares_are_those_of_dr1_within_binomial_bounds(observed: spectra.SpectrumBatch) -> None:
    counts = observed.metadata.true_spectype.value_counts()
    for name, share in (("GALAXY", 0.70), ("QSO", 0.09), ("STAR", 0.21)):
        assert binomtest(int(counts[name]), len(observed), share).pvalue > 1e-4, name


def test_programs_differ_as_dark_and_bright_time_do(observed: spectra.SpectrumBatch) -> None:
    dark, bright = (observed.metadata[observed.metadata.program == p] for p in ("dark", "bright"))
    assert len(dark) == len(bright) == RECIPE.spectra // 2
    assert (dark.true_spectype == "QSO").mean() > 3 * (bright.true_spectype == "QSO").mean()
    assert dark.mag_r.median() > bright.mag_r.median() + 1


def test_signal_to_noise_has_the_measured_quantiles(observed: spectra.SpectrumBatch) -> None:
    wanted = {0.05: 0.56, 0.25: 1.23, 0.50: 2.33, 0.75: 4.66, 0.95: 12.4}
    normal = observed.metadata[observed.metadata.anomaly == ""]
    for quantile, value in wanted.items():
        assert normal.snr.quantile(quantile) == pytest.approx(value, rel=0.25), quantile


def test_quasar_redshifts_have_the_quantiles_of_dr1() -> None:
    targets = draw_targets("dark", 8000, np.random.default_rng(3), mix={"dark": 1.0})
    z = targets.z[targets.spectype == "QSO"]
    assert np.quantile(z, [0.05, 0.5, 0.95]) == pytest.approx([0.69, 1.71, 2.99], abs=0.12)
    assert z.min() > 0.05


def test_arms_agree_in_their_overlaps_as_their_noise_says(coadds: list[Path]) -> None:
    for left, right, pixels in (("B", "R", 51), ("R", "Z", 126)):
        pulls = np.concatenate([_pulls(path, left, right, pixels) for path in coadds])
        assert 0.8 < pulls.std() < 1.2
        assert abs(pulls.mean()) < 0.3


def _pulls(path: Path, left: str, right: str, pixels: int) -> np.ndarray:
    truth = Table.read(sibling(path, "truth"), hdu="TRUTH")
    normal = (np.asarray(truth["ANOMALY"]).astype(str) != Anomaly.AMPLIFIER_STEP) & (np.asarray(truth["TARGETID"]) > 0)
    with fits.open(path) as hdus:
        a, b = (
            [hdus[f"{arm}_{what}"].data[normal][:, part] for what in ("FLUX", "IVAR")]
            for arm, part in ((left, slice(-pixels, None)), (right, slice(0, pixels)))
        )
    good = (a[1] > 0) & (b[1] > 0)
    return ((a[0] - b[0])[good] / np.sqrt(1 / a[1][good] + 1 / b[1][good])).astype(float)


def test_noise_has_the_measured_shape(observed: spectra.SpectrumBatch) -> None:
    dark = observed.ivar[(observed.metadata.program == "dark").to_numpy()]
    sigma = 1 / np.sqrt(np.median(dark, axis=0))
    relative = sigma / np.median(sigma)
    for low, high, wanted in (
        (3600, 3700, 8.9),
        (3700, 3900, 4.7),
        (3900, 4300, 2.5),
        (4300, 5000, 1.5),
        (6400, 7200, 0.73),
        (7750, 9100, 0.58),
    ):
        assert np.median(relative[(low <= GRID) & (high > GRID)]) == pytest.approx(wanted, rel=0.25), low
    assert relative[np.abs(GRID - 5578.5) < 3].max() > 5


def test_spoilt_pixels_have_specmask_bits_and_no_weight(coadds: list[Path]) -> None:
    allowed = sum((1, 4, 16, 128, 1024))
    for path in coadds:
        with fits.open(path) as hdus:
            usable = hdus["R_IVAR"].data.any(axis=1)
            mask, ivar = hdus["R_MASK"].data[usable], hdus["R_IVAR"].data[usable]
        assert not (mask & ~np.uint32(allowed)).any()
        assert (ivar[mask != 0] == 0).all()
        assert (ivar[mask == 0] > 0).all()
        assert 0.001 < (mask != 0).mean() < 0.007


def test_fibres_of_all_petals_are_used_and_agree_with_their_petal(observed: spectra.SpectrumBatch) -> None:
    assert set(observed.metadata.petal) == set(range(10))
    assert (observed.metadata.fiber // 500 == observed.metadata.petal).all()


def test_redshifts_are_mostly_right_and_their_confidence_grows_with_signal(observed: spectra.SpectrumBatch) -> None:
    normal = observed.metadata[observed.metadata.anomaly == ""]
    wrong = (normal.z - normal.true_z).abs() / (1 + normal.true_z) > 0.005
    assert 0 < wrong.mean() < 0.08
    assert normal.snr.corr(normal.deltachi2, method="spearman") > 0.5
    assert ((normal.zwarn & 4) > 0).sum() > 0
    assert (normal.deltachi2[(normal.zwarn & 4) > 0] < 9).all()
    assert normal.deltachi2[wrong].median() < normal.deltachi2.median() / 3


def test_every_kind_of_anomaly_is_there_and_labelled_in_the_share_asked_for(observed: spectra.SpectrumBatch) -> None:
    labels = observed.metadata.anomaly
    assert set(labels) == {a.value for a in Anomaly}
    assert binomtest(int((labels != "").sum()), len(labels), RECIPE.anomaly_share).pvalue > 1e-4


def test_a_wrong_class_is_wrong_and_unsure_of_itself(observed: spectra.SpectrumBatch) -> None:
    wrong = observed.metadata[observed.metadata.anomaly == "wrong-class"]
    assert (wrong.spectype != wrong.true_spectype).all()
    assert wrong.deltachi2.median() < observed.metadata.deltachi2.median()


def test_failed_sky_subtraction_stands_out_only_beyond_7500(tmp_path: Path) -> None:
    batch = _all_anomalous(tmp_path)
    contrast = _roughness(batch, 7600, 9300) / _roughness(batch, 6000, 7400)
    failed, other = (contrast[(batch.metadata.anomaly == name).to_numpy()] for name in ("sky-residual", "wrong-class"))
    assert np.median(failed) > 1.35
    assert np.median(other) < 1.1


def test_an_amplifier_step_lifts_or_lowers_half_an_arm(tmp_path: Path) -> None:
    batch = _all_anomalous(tmp_path)
    edges = [arm.start + arm.size // 2 for arm in ARMS]
    steps = [max(_jump(batch, row, edge) for edge in edges) for row in np.flatnonzero(batch.metadata.anomaly == "amplifier-step")]
    others = [max(_jump(batch, row, edge) for edge in edges) for row in np.flatnonzero(batch.metadata.anomaly == "wrong-class")]
    assert min(steps) > 8
    assert np.median(steps) > 5 * np.median(others)


def _all_anomalous(folder: Path) -> spectra.SpectrumBatch:
    return spectra.read_many(write_sky(SkyRecipe(seed=2, spectra=120, anomaly_share=1.0), folder))[0]


def _roughness(batch: spectra.SpectrumBatch, low: float, high: float) -> np.ndarray:
    """Scatter from pixel to pixel in units of the noise; 1.4 where there is nothing but noise."""
    significance = (batch.flux * np.sqrt(batch.ivar))[:, (low < GRID) & (high > GRID)]
    return np.std(np.diff(significance, axis=1), axis=1)


def _jump(batch: spectra.SpectrumBatch, row: int, edge: int) -> float:
    """Difference of the medians of 120 pixels left and right of an edge, in standard errors."""
    left, right = (batch.flux[row, part] for part in (slice(edge - 120, edge), slice(edge, edge + 120)))
    sigma = 1 / np.sqrt(np.median(batch.ivar[row, edge - 120 : edge + 120]))
    return float(abs(np.median(left) - np.median(right)) / (sigma * np.sqrt(2 * 1.57 / 120)))


def test_a_sky_without_anomalies_has_none(tmp_path: Path) -> None:
    truth = tables(write_sky(replace(SMALL, anomaly_share=0.0), tmp_path), "truth", "TRUTH")
    assert not (np.asarray(truth["ANOMALY"]).astype(str) != "").any()


def test_a_throughput_loss_dims_the_blue_and_nothing_else(tmp_path: Path) -> None:
    usual, drifted = (spectra.read_many(write_sky(replace(SMALL, throughput_loss=loss), tmp_path / str(loss)))[0] for loss in (0.0, 0.6))
    blue, red = GRID < 4200, GRID > 6100
    bright = (usual.metadata.snr_b > 3).to_numpy()
    dimmed = np.median(drifted.flux[bright][:, blue], axis=1) / np.median(usual.flux[bright][:, blue], axis=1)
    assert np.median(dimmed) < 0.65
    np.testing.assert_array_equal(drifted.flux[:, red], usual.flux[:, red])
    assert drifted.metadata.mag_r.equals(usual.metadata.mag_r)


def test_a_noise_factor_lowers_signal_to_noise_in_proportion(tmp_path: Path) -> None:
    usual, worse = (spectra.read_many(write_sky(replace(SMALL, noise_factor=f), tmp_path / str(f)))[0] for f in (1.0, 3.0))
    assert (worse.metadata.snr / usual.metadata.snr).median() == pytest.approx(1 / 3, rel=0.1)


def test_wrong_templates_call_faint_galaxies_quasars_and_warn_of_nothing(tmp_path: Path) -> None:
    usual, mistaken = (spectra.read_many(write_sky(replace(SMALL, quasar_fault=share), tmp_path / str(share)))[0] for share in (0.0, 1.0))
    galaxy, snr = (usual.metadata.spectype == "GALAXY").to_numpy(), usual.metadata.snr.to_numpy()
    changed = (usual.metadata.spectype != mistaken.metadata.spectype).to_numpy()
    assert set(mistaken.metadata.spectype[changed]) == {"QSO"}
    assert changed[galaxy & (snr < 1.9)].all()  # the reader's S/N differs a little from the fitter's, so the edge itself is left out
    assert not changed[~galaxy | (snr > 2.1)].any()
    assert mistaken.metadata.zwarn.equals(usual.metadata.zwarn)
    assert mistaken.metadata.true_spectype.equals(usual.metadata.true_spectype)
    np.testing.assert_array_equal(mistaken.flux, usual.flux)


def test_a_file_of_250_needs_far_less_memory_than_a_gigabyte(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        write_sky(SkyRecipe(seed=1, spectra=250, programs={"dark": 1.0}), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 400e6
    finally:
        tracemalloc.stop()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SkyError, match="must be writable"):
        write_sky(SMALL, tmp_path / "file")
    with pytest.raises(SkyError, match="must be writable"):
        write_sky(SMALL, "/proc/sky")


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1}, {"spectra": 0}, {"night": 20261332}, {"night": 7}, {"survey": "a/b"}, {"survey": ""}, {"anomaly_share": 1.5}, {"file_rows": 100_000},
        {"throughput_loss": -0.1}, {"noise_factor": 0.0}, {"quasar_fault": 1.1}, {"programs": {"backup": 1.0}}, {"programs": {"dark": 0.6}}, {"anomaly_share": float("nan")},
        {"programs": {"dark": 2.0, "bright": -1.0}},
    ],
)  # fmt: skip
def test_a_recipe_out_of_range_is_refused_in_words(wrong: dict[str, object]) -> None:
    with pytest.raises(SkyError, match="change the recipe"):
        replace(SMALL, **wrong)


def test_no_unfinished_file_is_left_behind(coadds: list[Path]) -> None:
    assert not list(coadds[0].parent.glob(".*"))
    assert len(list(coadds[0].parent.iterdir())) == 3 * len(coadds)
