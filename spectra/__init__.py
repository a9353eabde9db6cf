"""What is observed: readers for DESI and SDSS files, the common wavelength grid, a synthetic sky."""

from spectra.batch import RefusedFile, RefusedRow, SpectrumBatch, concatenate
from spectra.errors import SpectraError
from spectra.grid import WAVELENGTH
from spectra.reading import find, pieces, read, read_many

__all__ = ["WAVELENGTH", "RefusedFile", "RefusedRow", "SpectraError", "SpectrumBatch", "concatenate", "find", "pieces", "read", "read_many"]
