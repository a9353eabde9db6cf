"""What we read where it lies is what astropy reads, and what is not plain is astropy's."""

import numpy as np
import pytest
from astropy.io import fits

import spectra
from spectra import fitsfile
from tests.models.spectral import write_coadd


@pytest.fixture
def path(tmp_path):
    """A file with images and columns of every kind."""
    rng, rows = np.random.default_rng(1), 7
    columns = [
        fits.Column("LONG", "K", array=rng.integers(-(2**62), 2**62, rows)),
        fits.Column("SHORT", "I", array=rng.integers(-99, 99, rows)),
        fits.Column("UNSIGNED", "J", bzero=2**31, array=rng.integers(0, 2**32, rows, dtype=np.uint32)),
        fits.Column("SCALED", "I", array=rng.integers(0, 99, rows)),
        fits.Column("BYTE", "B", array=rng.integers(0, 255, rows, dtype=np.uint8)),
        fits.Column("FLAG", "L", array=rng.random(rows) < 0.5),
        fits.Column("BITS", "11X", array=rng.random((rows, 11)) < 0.5),
        fits.Column("VECTOR", "3E", array=rng.random((rows, 3)).astype(np.float32)),
        fits.Column("GRID", "6D", dim="(3,2)", array=rng.random((rows, 2, 3))),
        fits.Column("TEXT", "9A", array=[f"it's {number}" for number in range(rows)]),
        fits.Column("LIST", "PE()", array=np.array([np.arange(number, dtype=np.float32) for number in range(rows)], dtype=object)),
        fits.Column("LAST", "D", array=rng.random(rows)),
    ]
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="TABLE")]
    hdus[1].header["XSCAL4"] = 0.5
    hdus[0].header["SURVEY"] = ("it's main", "a / comment")
    hdus[0].header["NUMBER"], hdus[0].header["FLAG"], hdus[0].header["REAL"] = -12, True, 1.5e3
    for name, array in {
        "U16": rng.integers(0, 2**16, (6, 5), dtype=np.uint16),
        "U32": rng.integers(0, 2**32, (6, 5), dtype=np.uint32),
        "U64": rng.integers(0, 2**63, (6, 5), dtype=np.uint64) * 2,
        "I16": rng.integers(-99, 99, (6, 5), dtype=np.int16),
        "U8": rng.integers(0, 255, (6, 5), dtype=np.uint8),
        "F4": rng.random((6, 5)).astype(np.float32),
        "CUBE": rng.random((6, 5, 2)),
        "LINE": rng.random(6),
    }.items():
        hdus.append(fits.ImageHDU(array, name=name))
    scaled = fits.ImageHDU(rng.integers(0, 99, (6, 5)).astype(np.float64), name="SCALED")
    scaled.scale("int16", bscale=0.5, bzero=1)
    hdus += [scaled, fits.CompImageHDU(rng.integers(0, 9, (6, 5)).astype(np.int32), name="PACKED")]
    made = tmp_path / "all.fits"
    fits.HDUList(hdus).writeto(made)
    # astropy cannot write a scaled column, but read one
    made.write_bytes(made.read_bytes().replace(b"XSCAL4", b"TSCAL4"))
    return made


def test_every_image_is_the_one_that_astropy_reads(path):
    with fitsfile.opened(path, name="all") as hdus, fits.open(path) as oracle:
        assert hdus.names == [hdu.name for hdu in oracle]
        plain = []
        for hdu in oracle[2:]:
            rows = fitsfile.Rows(hdus, hdu.name, shape=hdu.shape, name="all")
            plain += [hdu.name] if rows.is_plain else []
            np.testing.assert_array_equal(rows[0 : len(hdu.data)], hdu.data)
            np.testing.assert_array_equal(rows[2:5], hdu.data[2:5])
            assert rows[0:0].shape == (0, *hdu.shape[1:])
            assert rows[:].dtype.kind == hdu.data.dtype.kind
    assert plain == ["U16", "U32", "U64", "I16", "U8", "F4", "CUBE", "LINE"]


def test_every_column_is_the_one_that_astropy_reads(path):
    with fitsfile.opened(path, name="all") as hdus, fits.open(path) as oracle:
        table, data = hdus["TABLE"], oracle["TABLE"].data
        assert table.columns == data.columns.names
        assert (table.rows, table.is_table, hdus["F4"].is_table, hdus["PACKED"].is_table) == (7, True, False, False)
        for at, name in enumerate(table.columns):
            if name == "LIST":
                assert all(np.array_equal(ours, theirs) for ours, theirs in zip(table.column(at), data[name], strict=True))
            else:
                np.testing.assert_array_equal(table.column(at), data[name])


def test_header_values_are_those_that_astropy_reads(path):
    with fitsfile.opened(path, name="all") as hdus, fits.open(path) as oracle:
        for number, hdu in enumerate(oracle):
            if not isinstance(hdu, fits.CompImageHDU):
                for keyword in hdu.header:
                    assert hdus[number].get(keyword) == hdu.header[keyword], keyword
        assert hdus[0].get("NONE", 3) == 3
        assert "F4" in hdus
        assert "NONE" not in hdus
        assert hdus[3].name == hdus["U32"].name == "U32"


def test_a_usual_file_is_read_without_astropy(tmp_path, monkeypatch):
    path = write_coadd(tmp_path / "coadd-1.fits", rows=70, bad=2)
    expected = spectra.read(path)
    monkeypatch.setattr(fits, "open", None)
    batch = spectra.read(path)
    np.testing.assert_array_equal(batch.flux, expected.flux)
    assert (len(batch), len(batch.refused)) == (68, 2)


def test_the_pieces_of_a_file_together_are_the_file_read_whole(tmp_path):
    path = write_coadd(tmp_path / "coadd-1.fits", rows=70, bad=5)
    whole = spectra.read(path)
    for size, first, stop in ((70, 0, None), (7, 0, None), (64, 0, 70), (9, 0, 1000)):
        found = [batch for batch, total in spectra.pieces(path, size=size, first=first, stop=stop) if total == 70]
        together = spectra.concatenate(found)
        for name in ("flux", "ivar", "mask", "targetid"):
            np.testing.assert_array_equal(getattr(together, name), getattr(whole, name))
        assert together.metadata.equals(whole.metadata)
        assert together.refused == whole.refused
    ((beyond, total),) = spectra.pieces(path, size=7, first=100)
    assert (len(beyond), total) == (0, 70)
    ((some, _),) = spectra.pieces(path, size=70, first=60, stop=68, wanted=("targetid", "z"), masks=False)
    assert len(some) == 5
    assert {"targetid", "z"} <= set(some.metadata) < set(whole.metadata)
    np.testing.assert_array_equal(some.ivar, whole.ivar[60:65])
