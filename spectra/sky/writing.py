"""Writes the synthetic sky as the survey's pipeline would: coadd, redrock and truth files, HDU by HDU."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from spectra.sky import identity, pointing, tables
from spectra.sky.errors import SkyError
from spectra.sky.grid import ARMS, Arm
from spectra.sky.observing import ArmData
from spectra.sky.recipe import SkyRecipe

FLUX_UNIT = "10**-17 erg/(s cm2 Angstrom)"
IVAR_UNIT = "10**+34 (s2 cm4 Angstrom2) / erg2"
_LSF_PIXELS = {"B": 0.85, "R": 0.80, "Z": 0.94}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """One file to come."""

    program: str
    index: int
    """Number of the pointing within its program."""
    serial: int
    """Number of the pointing within the night."""
    first: int
    """Running number of its first target within the recipe."""
    rows: int
    pixel: int


def write_sky(recipe: SkyRecipe, folder: Path | str) -> list[Path]:
    """Observes ``recipe`` and writes ``coadd-<survey>-<program>-<healpix>.fits`` with its ``redrock-`` and ``truth-`` siblings.

    Returns the coadd files in the order observed. The same recipe gives the same bytes; a file of the same name is replaced.
    Raises SkyError when the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write_pointing(recipe, plan, folder) for plan in _plans(recipe)]
    except OSError as error:
        raise SkyError(f"the folder of the sky must be writable, found {str(folder)!r} ({error}): choose another folder") from error


def _plans(recipe: SkyRecipe) -> Iterator[_Plan]:
    sizes = {program: _split(count, recipe.file_rows) for program, count in recipe.program_counts().items()}
    total = sum(map(len, sizes.values()))
    pixels = identity.draw_pixels(total, np.random.default_rng([recipe.seed, recipe.night, 64]))
    serial = first = 0
    for program, parts in sizes.items():
        for index, rows in enumerate(parts):
            yield _Plan(program=program, index=index, serial=serial, first=first, rows=rows, pixel=int(pixels[serial]))
            serial, first = serial + 1, first + rows + pointing.EXTRA


def _split(count: int, most: int) -> list[int]:
    """Even parts of at most ``most``."""
    parts = -(-count // most)
    return [count // parts + (i < count % parts) for i in range(parts)]


def _write_pointing(recipe: SkyRecipe, plan: _Plan, folder: Path) -> Path:
    point = pointing.take(recipe, plan.program, plan.index, plan.rows)
    targetid = tables.ids(point, recipe, first=plan.first)
    rng = np.random.default_rng([recipe.seed, recipe.night, plan.serial, 7])
    # pipeline files come in no order of quality: sky and stuck fibres stand among the targets
    order = rng.permutation(len(targetid))
    fibers = tables.fibermap(point, recipe, targetid, plan.pixel, rng)[order]
    exposures = tables.exposure_map(point, recipe, targetid, expid=_expid(recipe, plan))
    name = f"{recipe.survey}-{plan.program}-{plan.pixel}.fits"
    head = _header(recipe, plan)
    template = tables.template_snr(targetid, point.arms)[order]
    maps = [_table("FIBERMAP", fibers), _table("EXP_FIBERMAP", _shuffled(exposures, order))]
    _save(folder / f"truth-{name}", head, [_table("TRUTH", tables.truth(point, targetid)[order])])
    _save(
        folder / f"redrock-{name}", head, [_table("REDSHIFTS", tables.redshifts(point, targetid)[order]), *maps, _table("TSNR2", template)]
    )
    arms = [hdu for arm in ARMS for hdu in _arm_hdus(arm, point.arms[arm.name], order, resolution=recipe.resolution)]
    _save(folder / f"coadd-{name}", head, [*maps, *arms, _table("SCORES", tables.scores(targetid, point.arms)[order])])
    return folder / f"coadd-{name}"


def _expid(recipe: SkyRecipe, plan: _Plan) -> int:
    """First exposure number of a pointing: never the same on two nights of up to 200 pointings."""
    return (recipe.night // 10000 % 100 * 372 + recipe.night // 100 % 100 * 31 + recipe.night % 100) * 2000 + plan.serial * 10


def _shuffled(exposures: Table, order: NDArray[np.int64]) -> Table:
    times = len(exposures) // len(order)
    return exposures[(order[:, None] * times + np.arange(times)).ravel()]


def _header(recipe: SkyRecipe, plan: _Plan) -> fits.Header:
    head = fits.Header()
    head["LONGSTRN"] = "OGIP 1.0"
    head["SPGRP"], head["SPGRPVAL"] = "healpix", plan.pixel
    head["HPXPIXEL"], head["HPXNSIDE"], head["HPXNEST"] = plan.pixel, identity.NSIDE, True
    head["SURVEY"], head["PROGRAM"] = recipe.survey, plan.program
    head["SPECPROD"] = "synthetic"
    head["SIMULATE"] = (True, "synthetic: no telescope saw this")
    return head


def _table(name: str, table: Table) -> fits.BinTableHDU:
    return fits.BinTableHDU(table, name=name)


def _arm_hdus(arm: Arm, data: ArmData, order: NDArray[np.int64], *, resolution: bool) -> list[fits.ImageHDU]:
    hdus = [
        _image(f"{arm.name}_WAVELENGTH", arm.wavelength, "Angstrom"),
        _image(f"{arm.name}_FLUX", data.flux[order], FLUX_UNIT),
        _image(f"{arm.name}_IVAR", data.ivar[order], IVAR_UNIT),
        _image(f"{arm.name}_MASK", data.mask[order], None),
    ]
    return [*hdus, _image(f"{arm.name}_RESOLUTION", _resolution(arm, len(order)), None)] if resolution else hdus


def _image(name: str, values: NDArray[np.generic], unit: str | None) -> fits.ImageHDU:
    hdu = fits.ImageHDU(values, name=name)
    if unit:
        hdu.header["BUNIT"] = unit
    return hdu


def _resolution(arm: Arm, n: int) -> NDArray[np.float32]:
    """Eleven diagonals of the resolution matrix, [n, 11, pixels]: one Gaussian for all, rows sum to 1."""
    profile = np.exp(-0.5 * ((5 - np.arange(11)) / _LSF_PIXELS[arm.name]) ** 2)
    one = np.broadcast_to((profile / profile.sum()).astype(np.float32)[None, :, None], (n, 11, arm.size))
    return np.ascontiguousarray(one)


def _save(path: Path, head: fits.Header, hdus: list[fits.ImageHDU | fits.BinTableHDU]) -> None:
    """Writes beside the target first: a reader never sees half a file."""
    part = path.with_name(f".{path.name}.part")
    try:
        fits.HDUList([fits.PrimaryHDU(header=head), *hdus]).writeto(part, overwrite=True)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
