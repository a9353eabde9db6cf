"""What one process makes of a unit of files: the scores of the good, the reasons of the bad, in the memory that is there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

import spectra
from models import handoff
from models.errors import HandOffError, ProgramError
from models.handoff import HandOff
from models.program import Program
from models.scored_table import score_batch, scores
from models.scoring_worker import Desk
from models.tensors import Array, read_tensors, write_tensors
from spectra import WAVELENGTH
from spectra.grid import ARMS
from spectra.sky import SkyRecipe, write_sky
from tests.models.breaking import put
from tests.models.scored import made, post
from tests.models.spectral import write_coadd


def test_the_scores_of_a_unit_are_those_of_the_same_spectra_in_memory(spectral: HandOff, desk: Desk, coadds: list[str]) -> None:
    table, side, pieces = made(desk, *coadds[:2])
    program = Program.load(spectral)
    for file, piece in zip(coadds[:2], pieces, strict=True):
        batch = spectra.read(file)
        outputs = score_batch(program, batch)
        assert set(outputs) == {"anomaly_score", "z", "class_probabilities"}
        np.testing.assert_array_equal(table[table.source_file == file].anomaly_score, outputs["anomaly_score"])
        assert (piece.first, piece.end, piece.rows, piece.refused) == (0, 5, 5, 0)
    assert side == []
    assert score_batch(program, batch.take([]))["class_probabilities"].shape == (0, 3)


def test_a_score_that_is_no_number_is_no_flag_and_no_class(tmp_path: Path, spectral: HandOff) -> None:
    batch = spectra.read(write_coadd(tmp_path / "coadd-1.fits"))
    outputs = score_batch(Program.load(spectral), batch)
    outputs = {name: np.where(np.arange(5).reshape(-1, *[1] * (array.ndim - 1)) == 2, np.nan, array) for name, array in outputs.items()}
    table = scores(spectral, batch.metadata, outputs, version="1")
    assert table.flagged.isna().tolist() == (table.predicted_class == "").tolist() == [False, False, True, False, False]


def test_the_synthetic_sky_is_scored_with_what_its_siblings_know(desk: Desk, tmp_path: Path) -> None:
    found = write_sky(SkyRecipe(seed=1, spectra=12, file_rows=10), tmp_path / "sky")
    table, side, pieces = made(desk, *map(str, found))
    assert (len(table), set(table.survey), len(pieces)) == (12, {"synthetic"}, len(found))
    assert table.z.notna().all()
    assert len(side) == sum(piece.refused for piece in pieces) > 0


def test_bad_files_and_rows_are_told_with_their_reasons_and_cost_no_good_one(desk: Desk, coadds: list[str], tmp_path: Path) -> None:
    # Given a truncated, a foreign and a missing file and one with two bad rows among two good ones
    truncated = Path(coadds[1])
    truncated.write_bytes(truncated.read_bytes()[:100_000])
    (tmp_path / "spec-foreign.fits").write_bytes(b"not FITS")
    rows = write_coadd(tmp_path / "coadd-rows.fits", seed=9, bad=2)
    given = [coadds[0], coadds[1], str(tmp_path / "spec-foreign.fits"), str(tmp_path / "coadd-none.fits"), str(rows), coadds[2]]
    # When all are scored
    table, side, pieces = made(desk, *given)
    # Then the good spectra are there and each bad thing has its line
    assert [(piece.rows, piece.refused, piece.end) for piece in pieces] == [
        (5, 0, 5),
        (0, 1, 0),
        (0, 1, 0),
        (0, 1, 0),
        (3, 2, 5),
        (5, 0, 5),
    ]
    assert [line["source_file"] for line in side if line["row"] < 0] == given[1:4]
    assert [line["row"] for line in side if line["row"] >= 0] == [3, 4]
    assert all(len(line["reason"]) > 20 for line in side)
    assert table.source_file.unique().tolist() == [coadds[0], str(rows), coadds[2]]


class Failing(Program):
    """A model that fails on every row."""

    def __call__(self, inputs: Mapping[str, Array], **more: Any) -> dict[str, Array]:
        """Answer nothing for nothing."""
        if len(inputs["flux"]):
            raise ProgramError("the model must answer every valid input, torch says: no")
        return super().__call__(inputs, **more)


def test_a_file_on_which_the_model_fails_is_refused_with_what_it_said(spectral: HandOff, coadds: list[str]) -> None:
    desk = Desk(post(spectral))
    desk.runner = Failing.load(spectral)
    table, side, _ = made(desk, coadds[0])
    assert len(table) == 0
    assert side == [
        {"source_file": coadds[0], "row": -1, "targetid": -1, "reason": "the model must answer every valid input, torch says: no"}
    ]


def test_the_pieces_of_a_file_are_the_file(desk: Desk, tmp_path: Path) -> None:
    file = str(write_coadd(tmp_path / "coadd-1.fits", rows=300, bad=7))
    whole, refused, _ = made(desk, file)
    told = [made(desk, file, first=first, stop=first + 90, total=300) for first in range(0, 300, 90)]
    assert pd.concat([table for table, _, _ in told], ignore_index=True).targetid.tolist() == whole.targetid.tolist()
    np.testing.assert_allclose(pd.concat([table for table, _, _ in told]).anomaly_score, whole.anomaly_score, rtol=1e-6)
    assert [line for _, side, _ in told for line in side] == refused
    assert [(pieces[0].first, pieces[0].end) for _, _, pieces in told] == [(0, 90), (90, 180), (180, 270), (270, 300)]


def test_a_model_that_changed_or_does_not_answer_its_golden_vectors_is_not_used(spectral: HandOff, tmp_path: Path) -> None:
    with pytest.raises(HandOffError, match="must stay as it is"):
        Desk(post(spectral, digest="0" * 64))
    changed = shutil.copytree(spectral.folder, tmp_path / "changed")
    tensors = {
        name: array + (name.endswith("anomaly_score"))
        for name, array in read_tensors((changed / "golden.safetensors").read_bytes(), where="golden").items()
    }
    put(changed, "golden.safetensors", write_tensors(tensors))
    with pytest.raises(HandOffError, match=r"golden vectors before it scores.*anomaly_score"):
        Desk(post(handoff.load(changed)))


def test_a_backend_that_cannot_be_had_is_replaced_and_says_why(spectral: HandOff) -> None:
    desk = Desk(post(spectral, backend="onnx"))
    assert desk.runner.name == "eager"
    assert len(desk.instead) > 20


# --- memory -------------------------------------------------------------------------------------------------------------

_HUNGRY = """
import sys
from models import handoff
from models.benchmark_worker import peak_bytes
from models.scoring_worker import Desk, Post, Source, Unit
papers = handoff.load(sys.argv[1])
desk = Desk(Post(folder=sys.argv[1], digest=papers.digest, version="3", backend="eager", compiled=None, backend_digest=None, device="cpu"))
for file in sys.argv[2:]:
    table, _, pieces = desk.make(Unit(part="", sources=(Source(name=file, path=file, key="k"),)), tell=lambda total: None)
    print(table.num_rows, peak_bytes() >> 20)
"""


def write_large(path: Path, *, rows: int) -> Path:
    """Write a coadd of ``rows`` flat spectra without ever having more than one of them in memory."""
    fibers = np.rec.fromarrays([np.arange(1, rows + 1), np.zeros(rows, np.int32)], names="TARGETID,COADD_FIBERSTATUS")
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(fibers, name="FIBERMAP")]).writeto(path)
    with open(path, "ab") as stream:
        for arm in ARMS:
            wavelength = fits.ImageHDU(WAVELENGTH[arm.pixels].copy(), name=f"{arm.name}_WAVELENGTH")
            stream.write(wavelength.header.tostring().encode())
            stream.write(wavelength.data.astype(">f8").tobytes().ljust(-(-arm.size * 8 // 2880) * 2880, b"\0"))
            for kind in ("FLUX", "IVAR"):
                header = fits.ImageHDU(np.zeros((1, arm.size), np.float32), name=f"{arm.name}_{kind}").header
                header["NAXIS2"] = rows
                stream.write(header.tostring().encode())
                row = np.ones(arm.size, ">f4").tobytes()
                stream.writelines(row for _ in range(rows))
                stream.write(b"\0" * (-rows * arm.size * 4 % 2880))
    return path


def test_a_file_larger_than_the_memory_it_is_scored_in_is_scored(spectral: HandOff, tmp_path: Path) -> None:
    small, large = write_large(tmp_path / "coadd-1.fits", rows=1500), write_large(tmp_path / "coadd-2.fits", rows=4500)
    asked = [sys.executable, "-c", _HUNGRY, str(spectral.folder), str(small), str(large)]
    told = subprocess.run(asked, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}).stdout
    (rows, before), (more_rows, after) = [map(int, line.split()) for line in told.splitlines()]
    assert (rows, more_rows) == (1500, 4500)
    size = large.stat().st_size >> 20
    assert size > 250
    assert after - before < size / 3, f"{before} MiB after 1500 rows, {after} MiB after {size} MiB more"
