"""DESI coadd and spectra files: every trap that design/desi.md lists in section 1 is one test here."""

import numpy as np
import pytest
from astropy.io import fits

from spectra import SpectraError, read


def reasons(batch):
    return {row.row: row.reason for row in batch.refused}


def test_a_coadd_is_read_whole(coadd, tmp_path):
    path = coadd.write(tmp_path / "coadd-sv3-dark-26065.fits")
    batch = read(path)
    assert len(batch) == 4
    assert batch.targetid.tolist() == coadd.ids.tolist() == batch.metadata.targetid.tolist()
    assert batch.refused == ()
    assert set(batch.metadata.source_file) == {str(path)}
    np.testing.assert_array_equal(batch.flux[:, :2700], coadd.images["B_FLUX"][:, :2700])
    expected = np.median(batch.flux[0].astype(float) * np.sqrt(batch.ivar[0].astype(float)))
    assert batch.metadata.snr[0] == pytest.approx(expected, rel=1e-6)


def test_target_ids_beyond_float_precision_stay_exact_through_every_join(coadd, table_file, tmp_path):
    # Given ids that differ by one beyond 2**53, and a redrock file in the opposite order
    z = np.arange(4) * 0.5
    table_file(
        tmp_path / "redrock-x.fits", "REDSHIFTS", {"TARGETID": coadd.ids[::-1].copy(), "Z": z[::-1].copy(), "ZWARN": np.zeros(4, np.int64)}
    )
    # When / Then
    batch = read(coadd.write(tmp_path / "coadd-x.fits"))
    assert batch.targetid.dtype == np.int64
    assert batch.metadata.z.tolist() == z.tolist()


def test_hdus_are_found_by_name_in_any_order(coadd, tmp_path):
    plain = read(coadd.write(tmp_path / "coadd-1.fits"))
    turned = read(coadd.write(tmp_path / "coadd-2.fits", order=lambda hdus: hdus[::-1]))
    np.testing.assert_array_equal(plain.flux, turned.flux)
    np.testing.assert_array_equal(plain.ivar, turned.ivar)


def test_a_dead_fibre_with_a_clean_mask_is_refused(coadd, tmp_path):
    for arm in "BRZ":
        coadd.images[f"{arm}_FLUX"][1] = coadd.images[f"{arm}_IVAR"][1] = 0
    batch = read(coadd.write(tmp_path / "coadd.fits"))
    assert len(batch) == 3
    assert "dead" in reasons(batch)[1]
    assert batch.refused[0].targetid == coadd.ids[1]


def test_flux_where_the_inverse_variance_is_zero_becomes_zero(coadd, tmp_path):
    coadd.images["R_FLUX"][:, 500], coadd.images["R_IVAR"][:, 500], coadd.images["R_MASK"][:, 500] = 99, 0, 512
    batch = read(coadd.write(tmp_path / "coadd.fits"))
    assert not batch.flux[:, 3200].any()
    assert set(batch.mask[:, 3200]) == {512}
    assert batch.metadata.masked_fraction.tolist() == pytest.approx([1 / 7781] * 4)


@pytest.mark.parametrize(
    ("column", "value", "word"),
    [
        ("TARGETID", -1695072, "negative"),
        ("OBJTYPE", "SKY", "SKY"),
        ("COADD_FIBERSTATUS", 512, "status"),
        ("COADD_FIBERSTATUS", 9, "status"),
    ],
    ids=["stuck or unassigned", "sky", "bad status", "restricted and stuck"],
)
def test_a_fibre_that_saw_no_object_is_refused_with_its_reason(coadd, tmp_path, column, value, word):
    coadd.fibermap[column][2] = value
    batch = read(coadd.write(tmp_path / "coadd.fits"))
    assert len(batch) == 3
    assert word in reasons(batch)[2]


def test_a_restricted_fibre_is_good(coadd, tmp_path):
    coadd.fibermap["COADD_FIBERSTATUS"][:] = 8
    batch = read(coadd.write(tmp_path / "coadd.fits"))
    assert len(batch) == 4
    assert set(batch.metadata.fiberstatus) == {8}


def test_sky_is_told_by_its_target_bit_where_objtype_is_missing(coadd, tmp_path):
    del coadd.fibermap["OBJTYPE"]
    coadd.fibermap["DESI_TARGET"] = np.array([0, 1 << 32, 4, 0])
    batch = read(coadd.write(tmp_path / "coadd.fits"))
    assert list(reasons(batch)) == [1]
    assert batch.metadata.desi_target.tolist() == [0, 4, 0]


def test_negative_ids_that_repeat_are_each_refused_and_cost_no_other_row(coadd, tmp_path):
    coadd.fibermap["TARGETID"][[0, 3]] = -7
    batch = read(coadd.write(tmp_path / "coadd.fits"))
    assert [row.row for row in batch.refused] == [0, 3]
    assert len(batch) == 2


def test_a_target_twice_in_a_coadd_is_kept_once(coadd, tmp_path):
    coadd.fibermap["TARGETID"][3] = coadd.ids[0]
    batch = read(coadd.write(tmp_path / "coadd.fits"))
    assert len(set(batch.targetid.tolist())) == len(batch) == 3
    assert "earlier row" in reasons(batch)[3]


def test_a_spectra_file_keeps_one_row_per_exposure(coadd, tmp_path):
    coadd.fibermap["TARGETID"][:] = coadd.ids[0]
    coadd.fibermap["FIBERSTATUS"] = coadd.fibermap.pop("COADD_FIBERSTATUS")
    coadd.fibermap["FIBERSTATUS"][1] = 512
    coadd.fibermap |= {"NIGHT": np.array([20210401, 20210402, 20210403, 20210404]), "FIBER": np.array([1, 2, 3, 4])}
    coadd.tables["SCORES"] = {"TARGETID": coadd.ids, "MEDIAN_CALIB_SNR_B": np.array([1.0, 2.0, 3.0, 4.0])}
    batch = read(coadd.write(tmp_path / "spectra-sv3-dark-26065.fits"))
    assert batch.metadata.night.tolist() == [20210401, 20210403, 20210404]
    assert batch.metadata.fiber.tolist() == [1, 3, 4]
    assert batch.metadata.snr_b.tolist() == [1, 3, 4]


def test_a_file_with_nothing_but_target_ids_in_its_fibermap_is_enough(coadd, tmp_path):
    coadd.fibermap = {"TARGETID": coadd.ids}
    coadd.header = {}
    batch = read(coadd.write(tmp_path / "coadd.fits"))
    row = batch.metadata.iloc[0]
    assert (row.survey, row.program, row.spectype, row.true_spectype, row.anomaly) == ("", "", "", "", "")
    assert (row.healpix, row.tileid, row.petal, row.fiber, row.fiberstatus, row.night, row.zwarn) == (-1,) * 7
    assert batch.metadata[["z", "zerr", "deltachi2", "ebv", "mag_r", "snr_b", "true_z"]].isna().all().all()
    assert not batch.metadata.has_truth.any()


def test_a_fibermap_without_target_ids_is_refused(coadd, tmp_path):
    del coadd.fibermap["TARGETID"]
    with pytest.raises(SpectraError, match="column TARGETID"):
        read(coadd.write(tmp_path / "coadd.fits"))


def test_target_ids_stored_as_floats_are_refused(coadd, tmp_path):
    coadd.fibermap["TARGETID"] = coadd.ids.astype(float)
    with pytest.raises(SpectraError, match="integer TARGETIDs"):
        read(coadd.write(tmp_path / "coadd.fits"))


@pytest.mark.parametrize(
    ("nested", "expected"), [("True", 26065), (True, 26065), ("False", -1), (False, -1)], ids=["EDR text", "boolean", "ring text", "ring"]
)
def test_nested_is_a_text_in_old_files_and_a_boolean_in_new_ones(coadd, tmp_path, nested, expected):
    coadd.header["HPXNEST"] = nested
    assert set(read(coadd.write(tmp_path / "coadd.fits")).metadata.healpix) == {expected}


def test_the_header_wins_over_a_file_name_that_disagrees(coadd, tmp_path):
    metadata = read(coadd.write(tmp_path / "coadd-main-bright-11.fits")).metadata
    assert (metadata.survey[0], metadata.program[0], metadata.healpix[0]) == ("sv3", "dark", 26065)


def test_the_file_name_speaks_where_the_header_is_silent(coadd, tmp_path):
    coadd.header = {}
    metadata = read(coadd.write(tmp_path / "coadd-main-bright-11.fits")).metadata
    assert (metadata.survey[0], metadata.program[0], metadata.healpix[0]) == ("main", "bright", 11)


def test_petal_and_fibre_of_a_healpix_coadd_come_from_the_first_good_exposure(coadd, tmp_path):
    ids = coadd.ids
    coadd.tables["EXP_FIBERMAP"] = {
        "TARGETID": np.array([ids[1], ids[0], ids[0], ids[0], ids[2]]),
        "FIBERSTATUS": np.array([0, 512, 0, 8, 2]),
        "PETAL_LOC": np.array([1, 3, 4, 5, 6]),
        "FIBER": np.array([11, 1571, 2435, 5, 66]),
        "TILEID": np.array([270, 271, 272, 273, 274]),
        "NIGHT": np.array([20210401, 20210409, 20210407, 20210408, 20210402]),
    }
    metadata = read(coadd.write(tmp_path / "coadd.fits")).metadata
    assert metadata.petal.tolist() == [4, 1, 6, -1]
    assert metadata.fiber.tolist() == [2435, 11, 66, -1]
    assert metadata.tileid.tolist() == [272, 270, 274, -1]
    assert metadata.night.tolist() == [20210409, 20210401, 20210402, -1]


def test_petal_and_tile_of_a_tile_coadd_come_from_its_fibermap(coadd, tmp_path):
    coadd.header = {"NIGHT": 20210419, "TILEID": 169, "PETAL": 5}
    coadd.fibermap |= {
        "PETAL_LOC": np.full(4, 7),
        "TILEID": np.full(4, 170),
        "SV3_DESI_TARGET": np.array([4, 5, 6, 7]),
        "DESI_TARGET": np.zeros(4, int),
    }
    metadata = read(coadd.write(tmp_path / "coadd-5-169-thru20210419.fits")).metadata
    assert set(metadata.petal) == {7}
    assert set(metadata.tileid) == {170}
    assert set(metadata.night) == {20210419}
    assert set(metadata.survey) == {"sv3"}
    assert metadata.desi_target.tolist() == [4, 5, 6, 7]


def test_facts_of_the_target_are_read(coadd, tmp_path):
    coadd.fibermap |= {
        "EBV": np.array([0.1, 0.2, 0.3, 0.4], ">f4"),
        "FLUX_R": np.array([0, 1, 100, -1], ">f4"),
        "DESI_TARGET": np.array([1, 2, 4, 1 << 60]),
    }
    coadd.tables["SCORES"] = {"TARGETID": coadd.ids[::-1].copy(), **{f"MEDIAN_COADD_SNR_{arm}": np.array([4.0, 3, 2, 1]) for arm in "BRZ"}}
    metadata = read(coadd.write(tmp_path / "coadd.fits")).metadata
    assert metadata.ebv.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert metadata.mag_r[1:3].tolist() == [22.5, 17.5]
    assert metadata.mag_r[[0, 3]].isna().all()
    assert metadata.snr_z.tolist() == [1, 2, 3, 4]
    assert metadata.desi_target[3] == 1 << 60


@pytest.mark.parametrize("codec", ["RICE_1", "GZIP_1", "GZIP_2", "RICE_1 unsigned", "unsigned", "int32"])
def test_masks_are_read_in_every_form_the_survey_wrote_them(coadd, tmp_path, codec):
    coadd.images["B_MASK"][:, 10:13], coadd.images["B_IVAR"][:, 10:13] = (1, 2, 1024), 0
    for name in ("B_MASK", "R_MASK", "Z_MASK"):
        mask = coadd.images[name].astype(np.uint32 if "unsigned" in codec else np.int32)
        tiled = fits.CompImageHDU(mask, name=name, compression_type=codec.split()[0]) if "_" in codec else None
        coadd.images[name] = tiled or fits.ImageHDU(mask, name=name)
    path = coadd.write(tmp_path / "coadd.fits")
    batch = read(path)
    assert batch.mask[0, 9:14].tolist() == [0, 1, 2, 1024, 0]
    assert batch.mask.sum() == 4 * 1027


def test_the_resolution_arrays_are_never_touched(coadd, tmp_path):
    # Given a resolution array that cannot be read: of a shape the file would have to be asked about
    coadd.images["B_RESOLUTION"] = np.zeros((4, 11, 2751), np.float32)
    path = coadd.write(tmp_path / "coadd.fits")
    with fits.open(path, mode="update") as hdus:
        hdus["B_RESOLUTION"].header["BSCALE"] = "nonsense"
    # When / Then
    assert len(read(path)) == 4


def test_a_few_broken_pixels_cost_their_weight_and_many_cost_the_row(coadd, tmp_path):
    coadd.images["B_FLUX"][0, :5] = np.nan
    for arm in "RZ":
        coadd.images[f"{arm}_IVAR"][1] = np.inf
    batch = read(coadd.write(tmp_path / "coadd.fits"))
    assert "half" in reasons(batch)[1]
    assert batch.targetid[0] == coadd.ids[0]
    assert not batch.ivar[0, :5].any()
    assert np.isfinite(batch.flux).all()
    assert np.isfinite(batch.ivar).all()


def test_a_file_of_which_every_row_is_refused_gives_an_empty_batch(coadd, tmp_path):
    coadd.fibermap["OBJTYPE"][:] = "SKY"
    batch = read(coadd.write(tmp_path / "coadd.fits"))
    assert len(batch) == 0
    assert len(batch.refused) == 4
    assert batch.flux.shape == (0, 7781)


def test_float_noise_in_wavelengths_is_allowed_and_another_grid_is_not(coadd, tmp_path):
    coadd.images["Z_WAVELENGTH"] += 5e-5
    assert len(read(coadd.write(tmp_path / "coadd-1.fits"))) == 4
    coadd.images["Z_WAVELENGTH"] += 0.4
    with pytest.raises(SpectraError, match="Z_WAVELENGTH on the DESI grid"):
        read(coadd.write(tmp_path / "coadd-2.fits"))


@pytest.mark.parametrize("missing", ["R_FLUX", "Z_IVAR", "B_WAVELENGTH"])
def test_a_file_without_an_arm_array_is_refused_by_name(coadd, tmp_path, missing):
    del coadd.images[missing]
    with pytest.raises(SpectraError, match=missing):
        read(coadd.write(tmp_path / "coadd.fits"))


def test_a_file_without_masks_is_read(coadd, tmp_path):
    for arm in "BRZ":
        del coadd.images[f"{arm}_MASK"]
    assert not read(coadd.write(tmp_path / "coadd.fits")).mask.any()
