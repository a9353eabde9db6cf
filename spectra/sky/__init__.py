"""A synthetic sky in the survey's own file format: what can be shown and tested when the survey's data cannot be shipped.

Answers: what would this pipeline have seen, and what was really there? ``write_sky(SkyRecipe(...), folder)`` writes
coadd, redrock and truth files. Imports numpy, scipy and astropy only; the reader does not know that this package exists.
"""

from spectra.sky.anomalies import Anomaly
from spectra.sky.errors import SkyError
from spectra.sky.recipe import SkyRecipe
from spectra.sky.writing import write_sky

__all__ = ["Anomaly", "SkyError", "SkyRecipe", "write_sky"]
