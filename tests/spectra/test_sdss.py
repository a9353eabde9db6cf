"""SDSS spec files: by index, vacuum, one object a file."""

import numpy as np
import pytest

from spectra import SpectraError, read

LOGLAM = (3.58 + 1e-4 * np.arange(3800)).astype(np.float32)


@pytest.fixture
def arrays():
    return {"loglam": LOGLAM, "flux": np.full(LOGLAM.size, 5.0), "ivar": np.full(LOGLAM.size, 0.25)}


def test_a_spectrum_is_on_the_grid_with_its_catalogue_row(sdss_file, arrays, tmp_path):
    extra = {
        "SPECOBJID": "    299492975510054912",
        "SUBCLASS": "AGN",
        "ZWARNING": 4,
        "RCHI2DIFF": 0.5,
        "DOF": 1000,
        "SURVEY": "sdss",
        "PROGRAMNAME": "legacy",
    }
    batch = read(sdss_file(tmp_path / "spec-1.fits", **arrays, **extra, SPECTROFLUX=np.array([1, 1, 100, 1, 1.0])))
    row = batch.metadata.iloc[0]
    assert batch.targetid.tolist() == [299492975510054912]
    assert (row.survey, row.program, row.spectype, row.subtype, row.zwarn, row.deltachi2) == ("sdss", "legacy", "GALAXY", "AGN", 4, 500)
    assert (row.fiber, row.night, row.petal) == (13, 20000228, -1)
    assert (row.z, row.mag_r, row.snr) == (pytest.approx(0.1), 17.5, pytest.approx(2.5, abs=0.5))
    inside = (batch.wavelength > 3810) & (batch.wavelength < 9100)
    np.testing.assert_allclose(batch.flux[0, inside], 5, rtol=1e-6)


def test_pixels_outside_the_spectrum_are_marked_as_without_data(sdss_file, arrays, tmp_path):
    batch = read(sdss_file(tmp_path / "spec-1.fits", **arrays))
    assert not batch.ivar[0, :240].any()
    assert set(batch.mask[0, :240]) == {256}
    assert not batch.mask[batch.ivar > 0].any()
    assert batch.metadata.masked_fraction[0] == pytest.approx((batch.ivar == 0).mean())


def test_an_identity_is_made_from_plate_fibre_and_day_where_the_file_has_none(sdss_file, arrays, tmp_path):
    batch = read(sdss_file(tmp_path / "spec-1.fits", **arrays))
    assert batch.targetid[0] == (266 << 50) | (13 << 38) | (1602 << 24)


def test_informative_mask_bits_cost_no_pixel(sdss_file, arrays, tmp_path):
    batch = read(sdss_file(tmp_path / "spec-1.fits", **arrays))  # the file has and_mask 16 everywhere
    assert (batch.ivar > 0).mean() > 0.8


def test_broken_pixels_lose_their_weight_and_half_of_them_cost_the_row(sdss_file, arrays, tmp_path):
    arrays["flux"][100:110] = np.nan
    batch = read(sdss_file(tmp_path / "spec-1.fits", **arrays))
    assert len(batch) == 1
    assert np.isfinite(batch.flux).all()
    arrays["flux"][:2000] = np.nan
    batch = read(sdss_file(tmp_path / "spec-2.fits", **arrays))
    assert (len(batch), len(batch.refused)) == (0, 1)
    assert "half" in batch.refused[0].reason


def test_a_spectrum_without_weight_is_refused(sdss_file, arrays, tmp_path):
    arrays["ivar"][:] = 0
    batch = read(sdss_file(tmp_path / "spec-1.fits", **arrays))
    assert "inverse variance is 0" in batch.refused[0].reason


@pytest.mark.parametrize(
    "change",
    [lambda x: x[::-1].copy(), lambda x: x * np.nan, lambda x: x * 0, lambda x: 10**x],
    ids=["falling", "NaN", "zero", "not logarithmic"],
)
def test_wavelengths_that_make_no_sense_are_refused(sdss_file, arrays, tmp_path, change):
    with pytest.raises(SpectraError, match="loglam"):
        read(sdss_file(tmp_path / "spec-1.fits", **{**arrays, "loglam": change(arrays["loglam"])}))


def test_a_spectrum_elsewhere_in_wavelength_is_refused_as_a_row(sdss_file, arrays, tmp_path):
    batch = read(sdss_file(tmp_path / "spec-1.fits", **{**arrays, "loglam": arrays["loglam"] + 0.6}))
    assert len(batch.refused) == 1
