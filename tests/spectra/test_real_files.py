"""Every real file in the shared folder is read; what is refused is refused for the documented reasons."""

import warnings

import numpy as np
import pytest
from astropy.io import fits

from spectra import read, read_many

USABLE = {  # rows of design/desi.md and shared/data/spectra/README.md that hold data
    "coadd-sv3-dark-26065.fits": 2,
    "coadd-5-169-thru20210419.fits": 1,
    "spectra-sv3-dark-26065.fits": 1,
    "spectra-5-169-thru20210419.fits": 1,
    "coadd-4-80613-thru20210324.fits": 1,
    "coadd-special-dark-27247.fits": 1,
}


@pytest.mark.parametrize("name", USABLE)
def test_a_desi_file_gives_its_usable_rows_and_a_reason_for_each_other(real_spectra, name):
    batch = read(real_spectra / "desi" / name)
    assert len(batch) == USABLE[name]
    with fits.open(real_spectra / "desi" / name) as hdus:
        assert len(batch) + len(batch.refused) == len(hdus["FIBERMAP"].data)
    assert all(row.reason for row in batch.refused)
    assert (batch.targetid > 2**53).all()
    assert (batch.metadata.snr > 0).all()


def test_redshifts_of_the_real_redrock_files_are_joined(real_spectra):
    assert read(real_spectra / "desi/coadd-4-80613-thru20210324.fits").metadata.z[0] == pytest.approx(0.3687, abs=1e-4)
    assert read(real_spectra / "desi/coadd-special-dark-27247.fits").metadata.z[0] == pytest.approx(0.0073, abs=1e-4)


def test_the_pipelines_own_signal_to_noise_is_near_the_one_measured_here(real_spectra):
    metadata = read(real_spectra / "desi/coadd-4-80613-thru20210324.fits").metadata.iloc[0]
    assert min(metadata.snr_b, metadata.snr_z) < metadata.snr < max(metadata.snr_r, metadata.snr_z)


def test_a_healpix_target_has_the_petal_of_its_good_exposure(real_spectra):
    metadata = read(real_spectra / "desi/coadd-sv3-dark-26065.fits").metadata
    assert metadata[["petal", "fiber", "tileid"]].values.tolist() == [[3, 1566, 271], [4, 2435, 272]]


def test_sdss_lines_are_where_their_redshift_puts_them(real_spectra):
    """The centre of Hα (vacuum 6564.6 Å; 2 Å less in air) of the star-forming galaxy: vacuum, and not shifted by a pixel."""
    batch = read(real_spectra / "sdss/spec-0266-51602-0107.fits")
    expected = 6564.6 * (1 + batch.metadata.z[0])
    near = np.abs(batch.wavelength - expected) < 8
    line = batch.flux[0, near] - np.median(batch.flux[0])
    assert (batch.wavelength[near] * line).sum() / line.sum() == pytest.approx(expected, abs=0.8)


def test_sdss_signal_to_noise_and_flux_agree_with_the_catalogue(real_spectra):
    for path in sorted((real_spectra / "sdss").glob("spec-*.fits")):
        batch = read(path)
        with fits.open(path) as hdus:
            stored, row = hdus[1].data, hdus[2].data[0]
            window = (stored["loglam"] > np.log10(5000)) & (stored["loglam"] < np.log10(6000))
            flux = np.average(stored["flux"][window].astype(float), weights=10 ** stored["loglam"][window])
        inside = (batch.wavelength > 5000) & (batch.wavelength < 6000)
        assert batch.flux[0, inside].mean() == pytest.approx(flux, rel=2e-3)
        assert batch.metadata.snr[0] == pytest.approx(row["SN_MEDIAN_ALL"], rel=0.35)
        assert batch.metadata.spectype[0] == row["CLASS"].strip()


def test_the_whole_folder_is_one_batch_and_no_file_is_refused(real_spectra):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch, refused = read_many(real_spectra)
    assert refused == []
    assert len(batch) == 2 + 1 + 1 + 1 + 4  # coadds stand for their spectra- files
    assert np.isfinite(batch.flux).all()
    assert not batch.mask[batch.ivar > 0].any()
