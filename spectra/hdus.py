"""The HDUs of an open FITS file: the plain ones are read where they lie, the others by astropy.

astropy makes an object of every header card and every column before the first number is read: 15 to 30 ms a file of tables with a hundred
columns, half as long as a model needs for its spectra. What nearly every file has, uncompressed images and columns of plain numbers and
texts without scaling, needs none of that: the layout check has walked all headers, and says where the bytes are. Scaled, compressed,
variable-length and odd things are astropy's, and so is every value of a header card that is not an integer or a text.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from spectra.layout import Extent

_CARD: Final = 80
_INTEGER: Final = re.compile(rb"= *([+-]?[0-9]{1,18}) *(?:/.*)?")
_TEXT: Final = re.compile(rb"= *'((?:[^']|'')*)' *(?:/.*)?")
_FORM: Final = re.compile(r"([0-9]{0,9})([LXBIJKAEDCMPQ])(.*)")
_PIXELS: Final = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_NUMBERS: Final = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_WIDTHS: Final = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_MAX_COLUMNS: Final = 999
"""Of the FITS standard."""


@dataclass(frozen=True, slots=True)
class _Column:
    offset: int
    letter: str
    repeat: int
    is_plain: bool


class Hdu:
    """One HDU: its header's values, and its image or table where that is plain."""

    def __init__(self, extent: Extent, handle: int, *, whole: Callable[[], Any]) -> None:
        """Take the place of an HDU in the file with the descriptor ``handle``; ``whole`` returns astropy's object of it."""
        self._extent, self._handle, self._whole = extent, handle, whole

    @cached_property
    def name(self) -> str:
        """EXTNAME in upper case, PRIMARY for the first HDU without one, else empty."""
        return str(self.get("EXTNAME") or ("" if self._extent.start else "PRIMARY")).upper()

    def get(self, keyword: str, default: Any = None) -> Any:
        """Return the value of a header keyword, ``default`` where it is not there."""
        card = self._cards.get(keyword.encode())
        if card is None:
            return default
        if found := _INTEGER.fullmatch(card, 8):
            return int(found[1])
        if found := _TEXT.fullmatch(card, 8):
            return found[1].decode("ascii").replace("''", "'").rstrip()
        return fits.Card.fromstring(card).value

    @property
    def whole(self) -> Any:
        """astropy's object of this HDU."""
        return self._whole()

    @cached_property
    def is_table(self) -> bool:
        """Whether it is a binary table, and none that holds a compressed image."""
        return self.get("XTENSION") == "BINTABLE" and b"ZIMAGE" not in self._cards

    @cached_property
    def rows(self) -> int:
        """Rows of a table."""
        return int(self.get("NAXIS2", 0))

    @property
    def data_bytes(self) -> int:
        """Bytes of its data."""
        return self._extent.data_bytes

    @cached_property
    def shape(self) -> tuple[int, ...] | None:
        """Of an image whose numbers are stored as they are meant, or unsigned; None for anything else."""
        kind, axes = self.get("XTENSION", "IMAGE"), self.get("NAXIS")
        odd = {b"BLANK", b"GROUPS", b"ZIMAGE"} & self._cards.keys()
        odd |= set() if self._is_unsigned else {b"BSCALE", b"BZERO"} & self._cards.keys()
        if kind != "IMAGE" or odd or self.get("BITPIX") not in _PIXELS or self.get("PCOUNT", 0) != 0 or self.get("GCOUNT", 1) != 1:
            return None
        shape = tuple(int(self.get(f"NAXIS{axis}")) for axis in range(axes, 0, -1))
        fits_in = math.prod(shape) * np.dtype(_PIXELS[self.get("BITPIX")]).itemsize == self._extent.data_bytes
        return shape if shape and fits_in else None

    def pixels(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows from ``start`` to before ``stop`` along the first axis of an image that has a :attr:`shape`, as stored."""
        assert self.shape is not None
        array = np.empty((stop - start, *self.shape[1:]), _PIXELS[self.get("BITPIX")])
        self._fill(array, offset=start * math.prod(self.shape[1:]) * array.itemsize)
        if not self._is_unsigned:
            return array
        size = array.itemsize
        flipped = array.view(f"u{size}")
        flipped ^= np.array(0x80, f"u{size}") if np.little_endian else np.array(1 << (8 * size - 1), f"u{size}")
        return array.view(f">u{size}")

    @cached_property
    def _is_unsigned(self) -> bool:
        """Whether an image has unsigned numbers, as FITS stores them: less half of their range, which is the first bit turned over."""
        bits = self.get("BITPIX")
        return bits in (16, 32, 64) and self.get("BZERO") == 1 << (bits - 1) and self.get("BSCALE", 1) == 1

    @cached_property
    def columns(self) -> list[str]:
        """Names of a table's columns, as written."""
        return [str(self.get(f"TTYPE{number}", "")) for number in range(1, self._fields + 1)]

    def column(self, at: int) -> NDArray[Any]:
        """Return column ``at``, from 0, of a table: numbers as stored, texts decoded, one row each."""
        found = self._form[at] if self._form else None
        if found is None or not found.is_plain:
            return np.asarray(self.whole.data.field(at))
        width = int(self.get("NAXIS1"))
        if found.letter == "A":
            texts: NDArray[Any] = np.ndarray((self.rows,), f"S{found.repeat}", self._data, found.offset, (width,))
            return texts.astype(str)
        dtype = np.dtype(_NUMBERS[found.letter])
        if found.repeat == 1:
            return np.ndarray((self.rows,), dtype, self._data, found.offset, (width,))
        return np.ndarray((self.rows, found.repeat), dtype, self._data, found.offset, (width, dtype.itemsize))

    @cached_property
    def _cards(self) -> dict[bytes, bytes]:
        header = self._extent.header
        cards: dict[bytes, bytes] = {}
        for at in range(0, len(header), _CARD):
            keyword = header[at : at + 8].rstrip()
            if keyword == b"END":
                break
            cards.setdefault(keyword, header[at : at + _CARD])  # of a repeated keyword the first counts, as for astropy
        return cards

    @cached_property
    def _fields(self) -> int:
        return min(int(self.get("TFIELDS", 0)), _MAX_COLUMNS)

    @cached_property
    def _form(self) -> list[_Column]:
        """The columns' places in a row; empty when they do not add up to a row, or one has a form that is not known."""
        columns, offset = [], 0
        for number in range(1, self._fields + 1):
            found = _FORM.fullmatch(str(self.get(f"TFORM{number}", "")).strip())
            if found is None:
                return []
            repeat, letter = int(found[1] or 1), found[2]
            changed = {f"TSCAL{number}".encode(), f"TZERO{number}".encode(), f"TDIM{number}".encode()} & self._cards.keys()
            plain = repeat > 0 and not found[3] and not changed and (letter in _NUMBERS or letter == "A")
            columns.append(_Column(offset, letter, repeat, plain))
            offset += -(-repeat // 8) if letter == "X" else repeat * _WIDTHS[letter]
        return columns if offset == self.get("NAXIS1") and self.rows * offset <= self._extent.data_bytes else []

    @cached_property
    def _data(self) -> NDArray[np.uint8]:
        data = np.empty(self.rows * int(self.get("NAXIS1")), np.uint8)
        self._fill(data, offset=0)
        return data

    def _fill(self, array: NDArray[Any], *, offset: int) -> None:
        """Read ``array``'s bytes from ``offset`` in the data. Raises EOFError when the file has become shorter."""
        target = memoryview(array).cast("B") if array.size else memoryview(b"")  # type: ignore[arg-type]
        at = self._extent.start + self._extent.header_bytes + offset
        while len(target):
            count = os.preadv(self._handle, [target], at)
            if count == 0:
                raise EOFError(f"the file ends at byte {at}, inside the data of {self.name or 'an HDU'}")
            target, at = target[count:], at + count


class Hdus:
    """The HDUs of an open file, by number or name; of several with one name the first."""

    def __init__(self, extents: Sequence[Extent], handle: int, *, astropy: Callable[[], fits.HDUList]) -> None:
        """``astropy`` opens the same file; it is called when something is not plain, once."""
        self._open, self._opened = astropy, None
        self._hdus = [Hdu(extent, handle, whole=partial(self._whole, number)) for number, extent in enumerate(extents)]

    @property
    def astropy(self) -> fits.HDUList:
        """The file as astropy has it."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _whole(self, number: int) -> Any:
        return self.astropy[number]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {hdu.name: number for number, hdu in reversed(list(enumerate(self._hdus)))}

    @property
    def names(self) -> list[str]:
        """The HDUs' names, in the order of the file."""
        return [hdu.name for hdu in self._hdus]

    def number(self, name: str) -> int:
        """Return the number of the HDU ``name``. Raises KeyError when there is none."""
        return self._numbers[name]

    def __contains__(self, name: str) -> bool:
        """Say whether there is an HDU ``name``."""
        return name in self._numbers

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._hdus)

    def __getitem__(self, key: int | str) -> Hdu:
        """Return an HDU by number or name."""
        return self._hdus[self._numbers[key] if isinstance(key, str) else key]
