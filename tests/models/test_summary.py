"""One row of numbers per spectrum."""

import numpy as np
import pytest

from models.summary import SummaryError, signal_to_noise, summarise


def spectra(rows: int = 5, pixels: int = 101) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {"flux": generator.normal(2, 1, (rows, pixels)).astype(np.float32), "ivar": np.full((rows, pixels), 4, np.float32)}


def test_a_2d_input_becomes_median_p95_and_zero_fraction() -> None:
    inputs = spectra()
    inputs["flux"][0, :10] = 0

    table = summarise(inputs, {})

    assert list(table) == ["flux_median", "flux_p95", "flux_zero_fraction", "ivar_median", "ivar_p95", "ivar_zero_fraction", "snr"]
    np.testing.assert_allclose(table["flux_median"], np.median(inputs["flux"], axis=1), rtol=1e-6)
    np.testing.assert_allclose(table["flux_p95"], np.percentile(inputs["flux"], 95, axis=1), rtol=1e-6)
    np.testing.assert_allclose(table["flux_zero_fraction"], [10 / 101, 0, 0, 0, 0])


def test_outputs_are_named_scalars_or_numbered_vectors_and_wide_ones_are_left_out() -> None:
    outputs = {"score": np.arange(3.0), "chi2": np.ones((3, 1)), "latent": np.eye(3, 16), "reconstruction": np.ones((3, 17))}

    table = summarise({}, outputs)

    assert list(table) == ["score", "chi2", *(f"latent_{i}" for i in range(16))]
    assert table["latent_1"].tolist() == [0, 1, 0]
    assert (table.dtypes == np.float64).all()


def test_signal_to_noise_counts_only_usable_pixels() -> None:
    flux = np.array([[2, 4, 6, 1e9, np.nan]], np.float32)
    ivar = np.array([[4, 4, 4, 0, 4]], np.float32)

    assert signal_to_noise(flux, ivar).tolist() == [8.0]


def test_rows_without_any_value_give_nan_and_no_warning() -> None:
    flux = np.array([[np.nan, np.inf], [0, 0]], np.float32)

    table = summarise({"flux": flux, "ivar": np.zeros((2, 2), np.float32)}, {})

    assert np.isnan(table.loc[0, "flux_median"])
    assert table.loc[0, "flux_zero_fraction"] == 1
    assert table["snr"].isna().all()


def test_nan_pixels_do_not_move_the_median() -> None:
    table = summarise({"signal": np.array([[1, np.nan, 3, 2]])}, {})

    assert table.loc[0, "signal_median"] == 2


def test_no_rows_are_a_table_with_the_same_columns() -> None:
    full = summarise(spectra(), {"score": np.zeros(5)})
    none = summarise(spectra(rows=0), {"score": np.zeros(0)})

    assert list(none) == list(full)
    assert len(none) == 0


def test_summaries_of_chunks_are_the_summary_of_the_whole() -> None:
    inputs, outputs = spectra(rows=6), {"latent": np.arange(12.0).reshape(6, 2)}
    whole = summarise(inputs, outputs)

    for row in range(6):
        alone = summarise({k: v[row : row + 1] for k, v in inputs.items()}, {k: v[row : row + 1] for k, v in outputs.items()})
        assert alone.iloc[0].tolist() == whole.iloc[row].tolist()


def test_arrays_of_different_batches_are_refused() -> None:
    with pytest.raises(SummaryError, match="one row per spectrum"):
        summarise({"flux": np.zeros((3, 4))}, {"score": np.zeros(2)})


def test_two_sources_of_one_column_are_refused() -> None:
    with pytest.raises(SummaryError, match="'snr'"):
        summarise(spectra(), {"snr": np.zeros(5)})
