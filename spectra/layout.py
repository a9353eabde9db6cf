"""Is a file laid out as FITS, within its own length? Asked before anything parses it or allocates for it.

A FITS header states how many bytes of data follow. A truncated file states more than there is, a hostile one states
petabytes; a parser that believes it allocates first and fails later. This walk reads headers only, in a few
microseconds each, and refuses a file whose statements do not fit into its bytes (FITS standard 4.0, sections 3.3 and 4.4).
"""

import math
from dataclasses import dataclass
from typing import BinaryIO, Final

from spectra.errors import SpectraError

BLOCK: Final = 2880
"""Bytes; headers and data fill whole blocks."""

_CARD: Final = 80
_MAX_HEADER_BLOCKS: Final = 2000
"""72,000 keywords; the longest real primary header (1485 input files of a coadd) has 60 blocks."""

_MAX_HDUS: Final = 2000
"""An SDSS file has four to about a hundred, a DESI file under thirty."""

_SIZE_KEYWORDS: Final = ("BITPIX", "NAXIS", "PCOUNT", "GCOUNT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """Where one HDU's header lies and how many bytes of data it declares."""

    start: int
    header: bytes
    """Its blocks, as stored."""
    data_bytes: int

    @property
    def header_bytes(self) -> int:
        """Length of the header."""
        return len(self.header)

    @property
    def end(self) -> int:
        """First byte after the declared data, without its padding."""
        return self.start + self.header_bytes + self.data_bytes

    @property
    def next_start(self) -> int:
        """First byte of the next header."""
        return self.start + self.header_bytes + math.ceil(self.data_bytes / BLOCK) * BLOCK


def check(stream: BinaryIO, *, size: int, name: str) -> list[Extent]:
    """Walk the headers of ``stream`` (``size`` bytes, called ``name`` in messages), leave it at its start, and return where the HDUs are.

    Raises SpectraError when it is not FITS, is truncated, or declares more than it has.
    """
    start, found = 0, []
    for number in range(_MAX_HDUS):
        extent = _extent(stream, start=start, number=number, name=name)
        if extent.end > size:
            raise SpectraError(
                f"{name} must hold all it declares, but HDU {number} declares data up to byte {extent.end} and the file has {size}; "
                "it is truncated or damaged: fetch it again"
            )
        found.append(extent)
        start = extent.next_start
        if start >= size:
            stream.seek(0)
            return found
    raise SpectraError(f"{name} must have at most {_MAX_HDUS} HDUs, found more; it is no file of spectra: leave it out")


def _extent(stream: BinaryIO, *, start: int, number: int, name: str) -> Extent:
    header = _header(stream, start=start, number=number, name=name)
    return Extent(start=start, header=header, data_bytes=_data_bytes(header, number=number, name=name))


def _header(stream: BinaryIO, *, start: int, number: int, name: str) -> bytes:
    """Return the header's blocks up to and including the one with END."""
    stream.seek(start)
    opening = b"XTENSION=" if number else b"SIMPLE  ="
    blocks: list[bytes] = []
    while len(blocks) < _MAX_HEADER_BLOCKS:
        block = stream.read(BLOCK)
        if not blocks and not block.startswith(opening):
            raise _foreign(block, opening=opening, number=number, name=name)
        if len(block) < BLOCK:
            raise SpectraError(f"{name} ends inside the header of HDU {number}; it is truncated: fetch it again")
        blocks.append(block)
        if _has_end(block):
            return b"".join(blocks)
    raise SpectraError(f"{name} has a header of HDU {number} without END in {_MAX_HEADER_BLOCKS} blocks; it is damaged: fetch it again")


def _foreign(block: bytes, *, opening: bytes, number: int, name: str) -> SpectraError:
    if number == 0:
        return SpectraError(f"{name} must be a FITS file starting with {opening.decode()!r}, found {block[:9]!r}; give FITS files only")
    return SpectraError(f"{name} must have {opening.decode()!r} at the start of HDU {number}, found {block[:9]!r}; fetch it again")


def _has_end(block: bytes) -> bool:
    return any(block[at : at + 8] == b"END     " for at in range(0, BLOCK, _CARD))


def _data_bytes(header: bytes, *, number: int, name: str) -> int:
    """Return |BITPIX|/8 · GCOUNT · (PCOUNT + NAXIS1·…·NAXISn), in Python's unbounded integers."""
    try:
        values = _integers(header)
        axes = [values[f"NAXIS{axis}"] for axis in range(1, values["NAXIS"] + 1)]
        elements = math.prod(axes) if axes else 0
        counts = values.get("PCOUNT", 0), values.get("GCOUNT", 1)
        if min(*axes, *counts, 0) < 0:
            raise ValueError(f"a negative size in {values}")
        return abs(values["BITPIX"]) // 8 * counts[1] * (counts[0] + elements)
    except (ValueError, KeyError) as error:
        raise SpectraError(f"{name} must state the size of HDU {number} in its header, found {error!s}; fetch it again") from error


def _integers(header: bytes) -> dict[str, int]:
    """Return the keywords that state sizes; the first of a repeated keyword counts, as it does for astropy."""
    found: dict[str, int] = {}
    for at in range(0, len(header), _CARD):
        card = header[at : at + _CARD]
        if not card.startswith((b"BITPIX", b"NAXIS", b"PCOUNT", b"GCOUNT")) or card[8:9] != b"=":
            continue
        keyword = card[:8].decode("latin-1").strip()
        if keyword in _SIZE_KEYWORDS or keyword[5:].isdigit():
            found.setdefault(keyword, int(card[9:].split(b"/")[0]))
    if not 0 <= found.get("NAXIS", 0) <= 999:
        raise ValueError(f"NAXIS = {found['NAXIS']}")
    return found
