"""The survey's own code as an independent judge: desispec combines the arms, and reads what we write.

desispec lives in its own interpreter (784 MB), named by FIRSTLIGHT_ORACLE_PYTHON. It shares no code with ours.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from spectra import read

COMBINE = """
import sys, numpy as np
from desispec.io import read_spectra
from desispec.coaddition import coadd_cameras
for source, target in zip(sys.argv[1::2], sys.argv[2::2]):
    given = read_spectra(source, skip_hdus=["RESOLUTION"])
    given.flux = {band: given.flux[band].astype("f8") for band in given.bands}
    given.ivar = {band: given.ivar[band].astype("f8") for band in given.bands}
    done = coadd_cameras(given)
    np.savez(target, wave=done.wave["brz"], flux=done.flux["brz"], ivar=done.ivar["brz"], mask=done.mask["brz"],
        targetid=np.asarray(done.fibermap["TARGETID"]))
"""

WRITE = """
import sys, numpy as np
from astropy.table import Table
from desispec.spectra import Spectra
from desispec.io import write_spectra
rng, rows = np.random.default_rng(5), 6
wave = {"b": 3600 + .8 * np.arange(2751), "r": 5760 + .8 * np.arange(2326), "z": 7520 + .8 * np.arange(2881)}
flux = {band: rng.normal(1, 9, (rows, grid.size)) for band, grid in wave.items()}
mask = {band: rng.choice([0, 0, 0, 2, 1024], (rows, grid.size)).astype(np.uint32) for band, grid in wave.items()}
ivar = {band: np.where(mask[band], 0, rng.uniform(.01, 90, mask[band].shape)) for band in wave}
ids = 39627866878511337 + np.arange(rows)
for target in sys.argv[1:]:
    write_spectra(target, Spectra(bands=["b", "r", "z"], wave=wave, flux=flux, ivar=ivar, mask=mask,
        resolution_data={band: np.ones((rows, 11, grid.size)) for band, grid in wave.items()},
        fibermap=Table({"TARGETID": ids, "COADD_FIBERSTATUS": np.zeros(rows, "i4")}), scores=Table({"TARGETID": ids}),
        meta={"SURVEY": "sv3", "PROGRAM": "dark", "HPXPIXEL": 26065, "HPXNSIDE": 64, "HPXNEST": True}))
"""


def ask(python: str, script: str, *arguments: Path) -> None:
    """Run ``script`` in the oracle's interpreter; its words are shown when it fails."""
    environment = {"DESI_LOGLEVEL": "WARNING", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(arguments[-1].parent)}
    done = subprocess.run(
        [python, "-I", "-c", script, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def compare(python: str, paths: list[Path], folder: Path) -> int:
    """Compare every usable row of ``paths`` with coadd_cameras to 1e-6 relative, and return how many there are.

    Where no arm has weight, desispec leaves the flux of a single arm as it was and we have 0: there, only that is checked.
    """
    answers = [folder / f"oracle-{number}.npz" for number in range(len(paths))]
    ask(python, COMBINE, *(name for pair in zip(paths, answers, strict=True) for name in pair))
    return sum(compare_one(path, answer) for path, answer in zip(paths, answers, strict=True))


def compare_one(path: Path, answer: Path) -> int:
    ours = read(path)
    kept = np.setdiff1d(np.arange(len(ours) + len(ours.refused)), [row.row for row in ours.refused])
    with np.load(answer) as theirs:
        np.testing.assert_allclose(ours.wavelength, theirs["wave"], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(ours.targetid, theirs["targetid"][kept])
        np.testing.assert_allclose(ours.ivar, theirs["ivar"][kept], rtol=1e-6, atol=0, err_msg=str(path))
        np.testing.assert_allclose(ours.flux, np.where(ours.ivar > 0, theirs["flux"][kept], 0), rtol=1e-6, atol=0, err_msg=str(path))
        np.testing.assert_array_equal(ours.mask, theirs["mask"][kept], err_msg=str(path))
    return len(ours)


def test_our_own_interpreter_has_no_desispec_so_that_the_oracle_is_independent():
    done = subprocess.run([sys.executable, "-c", "import desispec"], capture_output=True, check=False)
    assert done.returncode != 0


def test_arms_of_real_files_combine_as_in_the_survey_pipeline(oracle_python, real_spectra, tmp_path):
    paths = [path for path in sorted((real_spectra / "desi").glob("*.fits")) if path.name.startswith(("coadd-", "spectra-"))]
    assert len(paths) == 6
    assert compare(oracle_python, paths, tmp_path) == 7


def test_what_desispec_writes_is_read_and_combined_as_it_would(oracle_python, tmp_path):
    paths = [tmp_path / "coadd-sv3-dark-26065.fits", tmp_path / "coadd-sv3-dark-26066.fits.gz"]
    ask(oracle_python, WRITE, *paths)
    assert compare(oracle_python, paths, tmp_path) == 12
    metadata = read(paths[1]).metadata
    assert (metadata.survey[0], metadata.program[0], metadata.healpix[0]) == ("sv3", "dark", 26065)


def test_desispec_reads_the_synthetic_sky(oracle_python, tmp_path):
    from spectra.sky import SkyRecipe, write_sky

    written = write_sky(SkyRecipe(seed=1, spectra=12), tmp_path / "sky")
    coadds = [path for path in written if path.name.startswith("coadd-")]
    assert coadds
    assert compare(oracle_python, coadds, tmp_path) > 0
