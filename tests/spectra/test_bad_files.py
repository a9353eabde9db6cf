"""Truncated, foreign and hostile files: one SpectraError sentence each, without much memory or time, and the good files still count."""

import contextlib
import gzip
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from astropy.io import fits

from spectra import SpectraError, read, read_many
from spectra.layout import BLOCK


def refusal(path) -> str:
    """Return the sentence with which ``path`` is refused; fails when it takes much memory to find out."""
    tracemalloc.start()
    try:
        with pytest.raises(SpectraError) as caught:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert ";" in message  # what was found; what to do
    assert peak < 200e6
    return message


def header(cards: dict[str, object], *, first: str = "SIMPLE  =                    T") -> bytes:
    lines = [first, *(f"{key:<8}= {value!s:>20}" for key, value in cards.items()), "END"]
    text = "".join(line.ljust(80) for line in lines)
    return text.ljust(-(-len(text) // BLOCK) * BLOCK).encode()


PRIMARY = header({"BITPIX": 8, "NAXIS": 0, "EXTEND": "T"})


@pytest.fixture
def good(coadd, tmp_path):
    return coadd.write(tmp_path / "coadd-good.fits")


@pytest.mark.parametrize("share", [0.99, 0.9, 0.5, 0.1, 0.01])
def test_a_truncated_file_is_refused_wherever_it_ends(good, tmp_path, share):
    cut = tmp_path / "cut.fits"
    cut.write_bytes(good.read_bytes()[: int(good.stat().st_size * share)])
    assert "truncated" in refusal(cut)


def test_a_file_that_only_lacks_its_last_padding_is_read(good, tmp_path):
    with fits.open(good) as hdus:
        end = hdus[-1].fileinfo()["datLoc"] + hdus[-1].size
    cut = tmp_path / "unpadded.fits"
    cut.write_bytes(good.read_bytes()[:end])
    assert len(read(cut)) == 4


@pytest.mark.parametrize(
    "content", [b"", b"SIMPLE", b"hello world", os.urandom(5000), b"PK\x03\x04" + bytes(9000), bytes(10_000)], ids=range(6)
)
def test_what_is_no_fits_file_is_refused(tmp_path, content):
    path = tmp_path / "x.fits"
    path.write_bytes(content)
    refusal(path)


def test_a_folder_a_pipe_and_nothing_at_all_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.fits")
    (tmp_path / "folder.fits").mkdir()
    assert "pipe" in refusal(tmp_path / "pipe.fits")
    assert "folder" in refusal(tmp_path / "folder.fits")
    assert "No such file" in refusal(tmp_path / "absent.fits")
    assert "null" in refusal(tmp_path / "a\0b.fits")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(good):
    good.chmod(0)
    assert "permission" in refusal(good)


@pytest.mark.parametrize(
    "cards",
    [
        {"BITPIX": -64, "NAXIS": 2, "NAXIS1": 10**9, "NAXIS2": 10**9},
        {"BITPIX": 8, "NAXIS": 1, "NAXIS1": 2**63},
        {"BITPIX": 8, "NAXIS": 1, "NAXIS1": -5},
        {"BITPIX": 8, "NAXIS": 10**9},
        {"BITPIX": 8, "NAXIS": 2, "NAXIS1": 5},
        {"BITPIX": "'eight'", "NAXIS": 1, "NAXIS1": 1},
        {"BITPIX": 8, "NAXIS": 1, "NAXIS1": 1, "PCOUNT": 10**15},
    ],
    ids=["an exabyte", "beyond int64", "negative", "a billion axes", "missing axis", "text for a number", "a huge heap"],
)
def test_a_header_that_claims_nonsense_is_refused_before_anything_is_allocated(tmp_path, cards):
    path = tmp_path / "claim.fits"
    path.write_bytes(PRIMARY + header(cards, first="XTENSION= 'IMAGE   '") + bytes(BLOCK))
    refusal(path)


def test_headers_without_an_end_and_files_of_headers_only_are_refused(tmp_path):
    endless, many = tmp_path / "endless.fits", tmp_path / "many.fits"
    endless.write_bytes(b"SIMPLE  =                    T".ljust(BLOCK * 3000))
    many.write_bytes(PRIMARY + header({"BITPIX": 8, "NAXIS": 0}, first="XTENSION= 'IMAGE   '") * 2100)
    assert "END" in refusal(endless)
    assert "HDUs" in refusal(many)


def test_a_table_of_more_rows_than_memory_should_hold_is_refused(tmp_path):
    path = tmp_path / "rows.fits"
    rows = np.zeros(20_001, dtype=[("TARGETID", "i8")])
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(rows, name="FIBERMAP"), fits.ImageHDU(name="B_FLUX")]).writeto(path)
    assert "20000" in refusal(path)


def test_arms_that_disagree_with_the_fibermap_are_refused(coadd, tmp_path):
    coadd.images["R_IVAR"] = coadd.images["R_IVAR"][:3]
    assert "R_IVAR" in refusal(coadd.write(tmp_path / "coadd.fits"))


def test_a_table_in_place_of_an_image_and_an_image_in_place_of_a_table_are_refused(coadd, tmp_path):
    coadd.images["R_IVAR"] = fits.BinTableHDU(np.zeros(4, dtype=[("X", "f4")]), name="R_IVAR")
    assert "a table" in refusal(coadd.write(tmp_path / "1.fits"))
    image = [fits.PrimaryHDU(), fits.ImageHDU(np.zeros(3), name="FIBERMAP"), fits.ImageHDU(name="B_FLUX")]
    fits.HDUList(image).writeto(tmp_path / "2.fits")
    assert "binary table" in refusal(tmp_path / "2.fits")


def test_masks_that_are_no_integers_are_refused(coadd, tmp_path):
    coadd.images["B_MASK"] = coadd.images["B_MASK"].astype(np.float32)
    assert "integers" in refusal(coadd.write(tmp_path / "coadd.fits"))


def test_a_fits_file_of_something_else_is_named_for_what_it_has(tmp_path, table_file):
    assert "REDSHIFTS" in refusal(table_file(tmp_path / "redrock-1.fits", "REDSHIFTS", {"TARGETID": [1], "Z": [0.1]}))
    fits.PrimaryHDU(np.zeros((10, 10))).writeto(tmp_path / "image.fits")
    refusal(tmp_path / "image.fits")


def test_a_damaged_column_is_one_sentence(good, tmp_path):
    damaged = good.read_bytes().replace(b"TFORM1  = 'K ", b"TFORM1  = 'Q ")
    path = tmp_path / "damaged.fits"
    path.write_bytes(damaged)
    refusal(path)


def test_gzip_is_told_by_its_bytes_and_not_by_the_name(good, tmp_path):
    plain = read(good)
    for name, content in {
        "a.fits.gz": gzip.compress(good.read_bytes(), 1),
        "b.fits": gzip.compress(good.read_bytes(), 1),
        "c.fits.gz": good.read_bytes(),
    }.items():
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read(tmp_path / name).flux, plain.flux)


def test_gzip_in_several_members_with_padding_is_read(good, tmp_path):
    content, path = good.read_bytes(), tmp_path / "members.fits.gz"
    path.write_bytes(gzip.compress(content[:70_000], 1) + gzip.compress(content[70_000:], 1) + bytes(512))
    assert len(read(path)) == 4


def test_truncated_and_damaged_gzip_is_refused(good, tmp_path):
    packed = gzip.compress(good.read_bytes(), 1)
    for name, content in {
        "cut": packed[: len(packed) // 2],
        "flip": packed[:5000] + b"\xff" * 40 + packed[5040:],
        "stub": b"\x1f\x8b",
    }.items():
        path = tmp_path / f"{name}.fits.gz"
        path.write_bytes(content)
        refusal(path)


def test_a_gzip_bomb_is_stopped_early(tmp_path):
    path, packer = tmp_path / "bomb.fits.gz", zlib.compressobj(9, wbits=31)
    path.write_bytes(packer.compress(PRIMARY) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush())
    assert "decompresses to more" in refusal(path)


def test_a_bomb_in_a_mask_tile_is_stopped(coadd, tmp_path):
    # Given a gzip-compressed mask whose first tile is replaced by one that inflates to 300 MB
    coadd.images["B_MASK"] = fits.CompImageHDU(coadd.images["B_MASK"], name="B_MASK", compression_type="GZIP_1")
    path = coadd.write(tmp_path / "coadd.fits")
    bomb = gzip.compress(bytes(300 << 20), 9)
    with fits.open(path, disable_image_compression=True) as hdus:
        at = hdus.index_of("B_MASK")
        table = hdus[at]
        start = table.fileinfo()["hdrLoc"]
        cards = table.header.copy()
        after = table.fileinfo()["datLoc"] + table.fileinfo()["datSpan"]
    cards["PCOUNT"] = len(bomb)
    descriptors = struct.pack(">ii", len(bomb), 0) * 4
    body = descriptors + bomb
    content = path.read_bytes()
    path.write_bytes(content[:start] + cards.tostring().encode() + body.ljust(-(-len(body) // BLOCK) * BLOCK, b"\0") + content[after:])
    # When / Then
    assert "inflates" in refusal(path)


def test_an_unknown_tile_codec_is_refused(coadd, tmp_path):
    image = np.zeros((4, 2751), np.int32)
    coadd.images["B_MASK"] = fits.CompImageHDU(image, name="B_MASK", compression_type="HCOMPRESS_1", tile_shape=(4, 2751))
    assert "HCOMPRESS_1" in refusal(coadd.write(tmp_path / "coadd.fits"))


def test_a_broken_redshift_file_is_not_passed_over_in_silence(coadd, tmp_path):
    path = coadd.write(tmp_path / "coadd-x.fits")
    (tmp_path / "redrock-x.fits").write_bytes(b"not FITS")
    with pytest.raises(SpectraError, match=r"redrock-x\.fits"):
        read(path)


def test_bytes_changed_at_random_never_give_anything_but_a_batch_or_a_sentence(good, tmp_path):
    rng, content = np.random.default_rng(7), bytearray(good.read_bytes())
    path = tmp_path / "fuzzed.fits"
    headers = [at for at in range(0, len(content), BLOCK) if content[at : at + 9] in (b"SIMPLE  =", b"XTENSION=")]
    for _ in range(150):
        changed = bytearray(content)
        for at in rng.choice(headers, 3):
            changed[int(at + rng.integers(0, BLOCK))] = rng.integers(32, 127)
        path.write_bytes(changed)
        with contextlib.suppress(SpectraError):  # any other exception fails the test
            assert read(path).flux.shape[1] == 7781


def test_the_other_files_of_a_batch_still_count(coadd, good, tmp_path):
    (tmp_path / "coadd-bad.fits").write_bytes(good.read_bytes()[:9000])
    (tmp_path / "spec-empty.fits").touch()
    batch, refused = read_many(tmp_path)
    assert len(batch) == 4
    assert sorted(os.path.basename(file.source_file) for file in refused) == ["coadd-bad.fits", "spec-empty.fits"]
    assert all(file.reason for file in refused)
