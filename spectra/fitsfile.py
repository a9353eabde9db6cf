"""Opening FITS files of unknown origin: plain or gzip, checked before they are parsed, every failure one SpectraError.

astropy raises a dozen exception types on damaged files and only warns about some damage. This module is the one place
where both become a :class:`~spectra.errors.SpectraError`. Data are read when asked for, HDU by HDU, so that the large
RESOLUTION arrays are never touched. Files are read, not memory-mapped: a mapped file that shrinks kills the process.
"""

import math
import os
import stat
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from firstlight.errors import FirstlightError
from spectra import layout
from spectra.errors import SpectraError
from spectra.hdus import Hdus

MAX_BYTES: Final = 16 << 30
"""Bytes of one file, after decompression; the largest DESI spectra files are a few GB."""

_MAX_RATIO: Final = 100
"""Decompressed over compressed size; spectra compress about 1.5 times, masks more, and a bomb about 1000 times."""

_RATIO_FROM: Final = 64 << 20
"""Bytes below which the ratio does not matter: small files of mostly zeros are legitimate and harmless."""

_CODECS: Final = ("RICE_1", "GZIP_1", "GZIP_2", "PLIO_1", "NOCOMPRESS")
"""Tile codecs accepted; EDR spectra files have GZIP_1 masks, astropy's default is RICE_1."""

_IMAGES: Final = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)
_CHUNK: Final = 1 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b"


@contextmanager
def opened(path: Path, *, name: str) -> Iterator[Hdus]:
    """Open the FITS file at ``path``, called ``name`` in messages, for the length of the context.

    Raises SpectraError for whatever is wrong with it, also when that shows only while its data are read inside the context.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", AstropyUserWarning)
            stream, size = _plain(stack.enter_context(_opened_regular(path, name=name)), stack=stack, name=name)
            extents = layout.check(stream, size=size, name=name)
            yield Hdus(extents, stream.fileno(), astropy=lambda: stack.enter_context(fits.open(stream, memmap=False, lazy_load_hdus=True)))
        except FirstlightError:
            raise
        except Exception as error:  # a parser of hostile bytes may raise anything; see the module's docstring
            detail = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise SpectraError(f"{name} must be a readable FITS file, but reading it stopped at {detail}; fetch it again") from error


def _opened_regular(path: Path, *, name: str) -> BinaryIO:
    """Open ``path`` unless it is a folder, pipe or device: opening a pipe would wait for ever."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise SpectraError(f"{name} must be a file, found a {_kind(mode)}; give the FITS file itself")
        return path.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpectraError(f"{name} must be a readable file, but opening it says {reason!r}; check the path and its permissions") from error


def _kind(mode: int) -> str:
    return "folder" if stat.S_ISDIR(mode) else "device or pipe"


def _plain(stream: BinaryIO, *, stack: ExitStack, name: str) -> tuple[BinaryIO, int]:
    """Return the stream and its size, decompressed to an unnamed temporary file where it is gzip (told by its bytes, not its name)."""
    size = stream.seek(0, 2)
    stream.seek(0)
    if size == 0:
        raise SpectraError(f"{name} must be a FITS file, found 0 bytes; fetch it again")
    if stream.read(2) != _GZIP_MAGIC:
        return stream, _bounded(size, name=name)
    stream.seek(0)
    limit = min(MAX_BYTES, max(_RATIO_FROM, size * _MAX_RATIO))
    with tempfile.TemporaryFile(prefix="firstlight-") as target:
        written = _gunzip(stream, target, limit=limit, name=name)
        target.flush()
        plain = os.fdopen(os.dup(target.fileno()), "rb")  # astropy will not read from a handle that may write
    stack.enter_context(plain).seek(0)
    return plain, written


def _bounded(size: int, *, name: str) -> int:
    if size > MAX_BYTES:
        raise SpectraError(f"{name} must have at most {MAX_BYTES} bytes, found {size}; split it")
    return size


def _gunzip(source: BinaryIO, target: BinaryIO, *, limit: int, name: str) -> int:
    """Decompress all gzip members of ``source`` into ``target`` and return the bytes written; stops at ``limit``."""
    written, inflater = 0, zlib.decompressobj(wbits=31)
    pending = source.read(_CHUNK)
    while pending:
        piece = inflater.decompress(pending, _CHUNK)
        written += target.write(piece)
        if written > limit:
            raise SpectraError(f"{name} decompresses to more than {limit} bytes, which no file of spectra does; leave it out")
        pending = inflater.unconsumed_tail or inflater.unused_data or source.read(_CHUNK)
        if inflater.eof and pending:
            if not pending.strip(b"\0"):
                pending = source.read(_CHUNK)  # gzip allows zero padding after a member
                continue
            inflater = zlib.decompressobj(wbits=31)
    if not inflater.eof:
        raise SpectraError(f"{name} ends inside its gzip stream after {written} bytes; it is truncated: fetch it again")
    return written


def image(hdus: Hdus, extension: str, *, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """Return the image in ``extension``, as stored (possibly big-endian). Checks the shape before reading.

    Raises SpectraError when the HDU is missing, is no image, or has another shape.
    """
    return Rows(hdus, extension, shape=shape, name=name)[:]


class Rows:
    """The rows of one image, read from the file when they are asked for and not kept."""

    __slots__ = ("_read", "_rows", "is_plain")

    def __init__(self, hdus: Hdus, extension: str, *, shape: tuple[int, ...], name: str) -> None:
        """Check the image in ``extension`` without reading it. Raises SpectraError when it is missing, is no image, or has another shape."""
        if extension not in hdus:
            raise SpectraError(f"{name} must have an HDU {extension}, found none; it is of another kind or damaged: leave it out")
        hdu = hdus[extension]
        self._read: Callable[[int, int], Any] = hdu.pixels
        found: object = hdu.shape
        self.is_plain = found is not None
        """Whether a few rows cost what a few rows are: of a compressed image more may have to be unpacked."""
        if found is None:
            section: Any = hdu.whole.section if isinstance(hdu.whole, _IMAGES) else None
            self._read = lambda start, stop: section[start:stop]
            found = tuple(hdu.whole.shape) if section is not None else "a table"
        if found != shape:
            raise SpectraError(f"{name} must have an image {shape} in {extension}, found {found}; it is of another kind: leave it out")
        if hdu.shape is None and isinstance(hdu.whole, fits.CompImageHDU):
            _check_tiles(hdus, extension, name=name)
        self._rows = shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return ``rows`` as stored (possibly big-endian)."""
        start, stop, _ = rows.indices(self._rows)
        return np.asarray(self._read(start, stop))


def _check_tiles(hdus: Hdus, extension: str, *, name: str) -> None:
    """Refuse tiles larger than their image, unbounded codecs, and gzip tiles that inflate beyond the tile."""
    hdu = hdus[extension].whole
    tiles_fit = all(tile <= side for tile, side in zip(hdu.tile_shape, hdu.shape, strict=True))
    if hdu.compression_type not in _CODECS or not tiles_fit:
        raise SpectraError(
            f"{name} must compress {extension} with one of {_CODECS} in tiles within {tuple(hdu.shape)}, "
            f"found {hdu.compression_type!r} in tiles {hdu.tile_shape}; run funpack on it"
        )
    limit = math.prod(hdu.tile_shape) * 8
    if any(_inflates_beyond(tile, limit=limit) for tile in _gzip_tiles(hdus, extension)):
        raise SpectraError(f"{name} has a tile in {extension} that inflates to more than its {limit} bytes; leave the file out")


def _gzip_tiles(hdus: Hdus, extension: str) -> Iterator[bytes]:
    """Yield the tiles that astropy will hand to gzip, compressed: all for a gzip codec, those of the fallback column for any."""
    file = hdus.astropy.fileinfo(0)["file"]
    file.seek(0)
    raw = fits.open(file, memmap=False, disable_image_compression=True)[hdus.number(extension)]
    used = ["COMPRESSED_DATA"] if hdus[extension].whole.compression_type.startswith("GZIP") else []
    for column in [*used, "GZIP_COMPRESSED_DATA"]:
        if column in raw.columns.names:
            yield from (bytes(tile) for tile in raw.data[column])


def _inflates_beyond(tile: bytes, *, limit: int) -> bool:
    return bool(tile) and len(zlib.decompressobj(wbits=47).decompress(tile, limit + 1)) > limit
