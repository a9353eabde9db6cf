"""Files beside a file, folders, gzip and lists of paths."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from spectra import SpectraError, read, read_many
from spectra.reading import siblings, spectra_files


@pytest.fixture
def redshifts(coadd):
    order = [2, 0, 3, 1]
    return {
        "TARGETID": coadd.ids[order],
        "Z": np.array([2.0, 0.0, 3.0, 1.0]),
        "ZERR": np.full(4, 1e-4),
        "ZWARN": np.array([4, 0, 0, 0]),
        "SPECTYPE": np.array(["QSO   ", "GALAXY", "STAR  ", "GALAXY"]),
        "SUBTYPE": np.array(["HIZ", "", "G", ""]),
        "DELTACHI2": np.array([9.0, 50, 60, 70]),
    }


@pytest.mark.parametrize("name", ["redrock-x.fits", "redrock-x.fits.gz", "zbest-x.fits"])
def test_redshifts_beside_the_file_are_joined_on_targetid(coadd, redshifts, table_file, tmp_path, name):
    table_file(tmp_path / name, "ZBEST" if name.startswith("zbest") else "REDSHIFTS", redshifts)
    metadata = read(coadd.write(tmp_path / "coadd-x.fits")).metadata
    assert metadata.z.tolist() == [0, 1, 2, 3]
    assert metadata.spectype.tolist() == ["GALAXY", "GALAXY", "QSO", "STAR"]
    assert metadata.subtype.tolist() == ["", "", "HIZ", "G"]
    assert metadata.zwarn.tolist() == [0, 0, 4, 0]
    assert metadata.deltachi2.tolist() == [50, 70, 9, 60]


def test_a_target_without_a_redshift_keeps_the_missing_values(coadd, redshifts, table_file, tmp_path):
    table_file(tmp_path / "redrock-x.fits", "REDSHIFTS", {name: values[:2] for name, values in redshifts.items()})
    metadata = read(coadd.write(tmp_path / "coadd-x.fits")).metadata
    assert metadata.z.isna().tolist() == [False, True, False, True]
    assert metadata.zwarn.tolist() == [0, -1, 4, -1]
    assert metadata.spectype.tolist() == ["GALAXY", "", "QSO", ""]


def test_refused_rows_do_not_shift_the_join(coadd, redshifts, table_file, tmp_path):
    coadd.fibermap["OBJTYPE"][1] = "SKY"
    table_file(tmp_path / "redrock-x.fits", "REDSHIFTS", redshifts)
    assert read(coadd.write(tmp_path / "coadd-x.fits")).metadata.z.tolist() == [0, 2, 3]


def test_truth_beside_the_file_is_joined(coadd, table_file, tmp_path):
    columns = {
        "TARGETID": coadd.ids[[1, 0]],
        "TRUESPECTYPE": np.array(["QSO", "STAR"]),
        "TRUEZ": np.array([1.5, 0]),
        "ANOMALY": np.array(["blend", ""]),
    }
    table_file(tmp_path / "truth-x.fits", "TRUTH", columns)
    metadata = read(coadd.write(tmp_path / "coadd-x.fits")).metadata
    assert metadata.true_spectype.tolist() == ["STAR", "QSO", "", ""]
    assert metadata.anomaly.tolist() == ["", "blend", "", ""]
    assert metadata.has_truth.tolist() == [True, True, False, False]
    assert metadata.true_z.tolist()[:2] == [0, 1.5]


def test_a_catalogue_of_another_kind_beside_the_file_is_refused_by_its_name(coadd, table_file, tmp_path):
    table_file(tmp_path / "truth-x.fits", "REDSHIFTS", {"TARGETID": coadd.ids})
    with pytest.raises(SpectraError, match=r"truth-x\.fits must have an HDU TRUTH"):
        read(coadd.write(tmp_path / "coadd-x.fits"))


def test_a_compressed_file_finds_its_plain_siblings(coadd, redshifts, table_file, tmp_path):
    table_file(tmp_path / "redrock-x.fits", "REDSHIFTS", redshifts)
    path = coadd.write(tmp_path / "plain.fits")
    packed = tmp_path / "coadd-x.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    assert read(packed).metadata.z.tolist() == [0, 1, 2, 3]


def test_siblings_are_only_those_of_desi_files():
    assert siblings("a/coadd-sv3-dark-1.fits.gz")[0] == "a/redrock-sv3-dark-1.fits"
    assert "s3://b/k/truth-1.fits" in siblings("s3://b/k/spectra-1.fits")
    assert siblings("spec-0266-51602-0013.fits") == []


def test_a_folder_stands_for_its_spectra_with_a_coadd_before_its_exposures():
    names = [
        "f/redrock-1.fits",
        "f/coadd-1.fits",
        "f/spectra-1.fits.gz",
        "f/spectra-2.fits",
        "f/spec-3.fits",
        "f/truth-1.fits",
        "g/spectra-1.fits",
        "f/coadd-9.txt",
    ]
    assert spectra_files(names) == ["f/coadd-1.fits", "f/spec-3.fits", "f/spectra-2.fits", "g/spectra-1.fits"]


def test_many_files_are_one_batch_in_order_and_a_file_given_twice_counts_once(desi_file, tmp_path):
    first, second = desi_file(rows=2, seed=1), desi_file(rows=3, seed=2)
    second.fibermap["OBJTYPE"][0] = "SKY"
    paths = [first.write(tmp_path / "coadd-1.fits"), second.write(tmp_path / "coadd-2.fits")]
    batch, refused = read_many([paths[1], paths[0], str(paths[1])])
    assert refused == []
    assert [Path(name).name for name in batch.metadata.source_file] == ["coadd-2.fits"] * 2 + ["coadd-1.fits"] * 2
    assert [row.row for row in batch.refused] == [0]
    assert batch.metadata.index.tolist() == [0, 1, 2, 3]


def test_a_folder_without_spectra_and_a_missing_path_are_refused_and_nothing_raised(tmp_path):
    batch, refused = read_many([tmp_path, tmp_path / "absent.fits"])
    assert len(batch) == 0
    assert len(refused) == 2


def test_a_single_path_may_be_given_alone(coadd, tmp_path):
    batch, refused = read_many(coadd.write(tmp_path / "coadd-1.fits"))
    assert (len(batch), refused) == (4, [])


@pytest.mark.parametrize("uri", ["s3://bucket/coadd-1.fits", "https://example.org/coadd-1.fits"])
def test_a_uri_without_a_store_is_a_sentence(uri):
    with pytest.raises(SpectraError, match="object store"):
        read(uri)
