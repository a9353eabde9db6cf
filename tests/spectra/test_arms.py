"""Arms combine as the survey's own coadd_cameras does; the reference here is written pixel by pixel from its definition."""

import numpy as np
import pytest

from spectra.arms import ArmSpectra, combine, snr

SIZES = {"B": (0, 2751), "R": (2700, 2326), "Z": (4900, 2881)}


def arms(rows: int = 3, seed: int = 1, dtype: str = ">f4") -> dict[str, ArmSpectra]:
    rng = np.random.default_rng(seed)
    result = {}
    for name, (_, size) in SIZES.items():
        mask = rng.choice([0, 0, 0, 0, 1, 4, 512], size=(rows, size)).astype(">i4")
        ivar = np.where(mask, 0, 10.0 ** rng.uniform(-3, 3, (rows, size))).astype(dtype)
        result[name] = ArmSpectra(flux=rng.normal(0, 30, (rows, size)).astype(dtype), ivar=ivar, mask=mask)
    return result


def reference(given: dict[str, ArmSpectra]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """coadd_cameras as design/desi.md states it, in float64."""
    rows = len(given["B"].flux)
    ivar, weighted, mask = np.zeros((rows, 7781)), np.zeros((rows, 7781)), np.zeros((rows, 7781), np.int64)
    for name, (start, size) in SIZES.items():
        weight = given[name].ivar.astype(np.float64)
        ivar[:, start : start + size] += weight
        weighted[:, start : start + size] += weight * given[name].flux.astype(np.float64)
        mask[:, start : start + size] |= given[name].mask
    flux = np.where(ivar > 0, weighted / np.where(ivar > 0, ivar, 1), 0)
    mask[ivar > 0] = 0
    return flux, ivar, mask


@pytest.mark.parametrize(("dtype", "atol"), [(">f4", 0), ("<f4", 0), (">f8", 1e-5)])  # doubles are cut to float32 before they can cancel
def test_combination_equals_the_definition_to_a_millionth(dtype, atol):
    given = arms(dtype=dtype)
    combined = combine(given)
    flux, ivar, mask = reference(given)
    np.testing.assert_allclose(combined.flux, flux, rtol=1e-6, atol=atol)
    np.testing.assert_allclose(combined.ivar, ivar, rtol=1e-6, atol=0)
    np.testing.assert_array_equal(combined.mask, mask)


def test_result_is_native_contiguous_and_of_the_documented_types():
    combined = combine(arms())
    for array, dtype in ((combined.flux, np.float32), (combined.ivar, np.float32), (combined.mask, np.uint32)):
        assert array.dtype == np.dtype(dtype)
        assert array.dtype.isnative
        assert array.flags.c_contiguous
        assert array.shape == (3, 7781)


def test_masks_of_an_overlap_are_joined_by_or_and_cleared_where_one_arm_is_good():
    given = arms(rows=1)
    for name in given:
        given[name].mask[:] = 0
        given[name].ivar[:] = 1
    given["B"].mask[0, 2700:2703] = 4, 4, 0
    given["R"].mask[0, 0:3] = 16, 0, 0
    given["B"].ivar[0, 2700:2703] = 0, 0, 1
    given["R"].ivar[0, 0:3] = 0, 1, 1
    assert combine(given).mask[0, 2700:2703].tolist() == [20, 0, 0]


def test_flux_without_inverse_variance_counts_nowhere():
    given = arms(rows=1)
    given["B"].ivar[:] = 0
    given["B"].flux[:] = 1e6
    combined = combine(given)
    assert not combined.flux[0, :2700].any()
    np.testing.assert_array_equal(combined.flux[0, 2700:2751] != 0, given["R"].ivar[0, :51] > 0)
    assert np.abs(combined.flux).max() < 1e3


def test_a_flagged_pixel_is_not_used_even_when_it_claims_an_inverse_variance():
    given = arms(rows=1)
    given["R"].mask[0, 1000], given["R"].ivar[0, 1000] = 64, 5
    combined = combine(given)
    assert combined.ivar[0, 3700] == 0
    assert combined.mask[0, 3700] == 64


@pytest.mark.parametrize(("flux", "ivar"), [(np.nan, 1), (np.inf, 1), (1, np.nan), (1, np.inf), (1, -1)], ids=str)
def test_a_broken_pixel_loses_its_weight_and_is_marked(flux, ivar):
    given = arms(rows=2)
    given["Z"].mask[1, 2000] = 0
    given["Z"].flux[1, 2000], given["Z"].ivar[1, 2000] = flux, ivar
    combined = combine(given)
    assert combined.broken.tolist() == [0, 1]
    assert (combined.flux[1, 6900], combined.ivar[1, 6900], combined.mask[1, 6900]) == (0, 0, 1)
    assert np.isfinite(combined.flux).all()


def test_absurd_weights_do_not_overflow_into_infinity():
    given = arms(rows=1)
    for name in given:
        given[name].ivar[:] = np.finfo(np.float32).max
        given[name].mask[:] = 0
    combined = combine(given)
    assert np.isfinite(combined.ivar).all()
    assert np.isfinite(combined.flux).all()
    assert np.isfinite(snr(combined.flux, combined.ivar)).all()


def test_a_file_without_masks_has_none():
    given = {name: ArmSpectra(flux=arm.flux, ivar=arm.ivar, mask=None) for name, arm in arms().items()}
    assert not combine(given).mask.any()


def test_chosen_rows_and_no_masks_are_the_same_rows_of_the_whole():
    given, keep = arms(rows=90), np.array([3, 4, 5, 40, 41, 88])
    whole, some, unmasked = combine(given), combine(given, keep=keep), combine(given, keep=keep, masks=False)
    for name in ("flux", "ivar", "mask", "broken"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[keep])
    np.testing.assert_array_equal(unmasked.flux, some.flux)
    np.testing.assert_array_equal(unmasked.ivar, some.ivar)
    assert unmasked.mask.shape == some.mask.shape
    assert not unmasked.mask.any()


def test_the_stored_arrays_stay_as_they_were():
    given = arms(dtype="<f4")
    before = {name: (arm.flux.copy(), arm.ivar.copy(), arm.mask.copy()) for name, arm in given.items()}
    combine(given)
    for name, (flux, ivar, mask) in before.items():
        np.testing.assert_array_equal(given[name].flux, flux)
        np.testing.assert_array_equal(given[name].ivar, ivar)
        np.testing.assert_array_equal(given[name].mask, mask)


def test_snr_is_the_median_over_usable_pixels_only():
    flux, ivar = np.array([[1, 2, 3, 100], [1, 1, 1, 1]], np.float32), np.array([[4, 4, 4, 0], [0, 0, 0, 0]], np.float32)
    measured = snr(flux, ivar)
    assert measured[0] == 4
    assert np.isnan(measured[1])
