"""What to observe: everything that decides the synthetic sky, and nothing else does."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from spectra.sky.errors import SkyError

PROGRAMS = ("dark", "bright")
MOST_SPECTRA = 2**21
"""A target id has 22 bits for the running number within one recipe; the rows that a reader must refuse need some too."""
MOST_FILE_ROWS = 1000
"""Keeps the peak memory of one file well below 1 GB."""


def _even_programs() -> Mapping[str, float]:
    return {"dark": 0.5, "bright": 0.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class SkyRecipe:
    """One night of a survey that never happened. The same recipe gives the same bytes.

    Raises :class:`SkyError` at construction when a field is out of its range.
    """

    seed: int
    """Any integer from 0: another seed is another sky."""
    spectra: int
    """Science targets with usable data; each file also carries a few rows that a reader must refuse."""
    night: int = 20261001
    """yyyymmdd; enters the seeds and the target ids, so two nights share neither."""
    survey: str = "synthetic"
    """SURVEY keyword and part of the file names; a real survey name (main, sv3) is for tests of readers only."""
    programs: Mapping[str, float] = field(default_factory=_even_programs)
    """Share of the spectra per program, dark and bright; even shares give classes 70/9/21 % overall as in DR1."""
    anomaly_share: float = 0.06
    """Share of the science targets with a labelled anomaly, 0 to 1, in even parts of the four kinds."""
    file_rows: int = 250
    """Most science targets per file (10 to 1000); a DESI healpix coadd holds a few hundred."""
    throughput_loss: float = 0.0
    """Flux lost at 3600 Å (0 to 1), fading to none at 6000 Å, which the flux calibration did not notice: a drifted instrument."""
    noise_factor: float = 1.0
    """Noise and its reported sigma are this many times the usual: a worse night."""
    quasar_fault: float = 0.0
    """Share of the faint galaxies (S/N per pixel below 2) that the redshift fitter calls quasars without a warning (0 to 1): it ran with the wrong templates."""
    resolution: bool = False
    """Whether to write the X_RESOLUTION HDUs (four fifths of a file's size)."""

    def __post_init__(self) -> None:
        _must(isinstance(self.seed, int) and self.seed >= 0, "seed must be an integer from 0", self.seed)
        _must(1 <= self.spectra < MOST_SPECTRA, f"spectra must be 1 to {MOST_SPECTRA - 1}", self.spectra)
        _must(10 <= self.file_rows <= MOST_FILE_ROWS, f"file_rows must be 10 to {MOST_FILE_ROWS}", self.file_rows)
        _must(_is_night(self.night), "night must be a date as yyyymmdd from 2000 on", self.night)
        _must(self.survey.isalnum() and self.survey.isascii(), "survey must be letters and digits", self.survey)
        _must(0 <= self.anomaly_share <= 1, "anomaly_share must lie in 0 to 1", self.anomaly_share)
        _must(0 <= self.throughput_loss <= 1, "throughput_loss must lie in 0 to 1", self.throughput_loss)
        _must(0.01 <= self.noise_factor <= 100, "noise_factor must lie in 0.01 to 100", self.noise_factor)
        _must(0 <= self.quasar_fault <= 1, "quasar_fault must lie in 0 to 1", self.quasar_fault)
        _must(set(self.programs) <= set(PROGRAMS), f"programs must be among {PROGRAMS}", dict(self.programs))
        shares = list(self.programs.values())
        _must(all(share >= 0 for share in shares), "shares of programs must not be negative", dict(self.programs))
        _must(math.isclose(math.fsum(shares), 1, abs_tol=1e-6), "shares of programs must add up to 1", dict(self.programs))

    def program_counts(self) -> dict[str, int]:
        """Whole numbers of spectra per program, dark first, that add up to ``spectra``."""
        bright = round(self.spectra * self.programs.get("bright", 0.0))
        return {"dark": self.spectra - bright, "bright": bright}


def _must(holds: bool, rule: str, found: object) -> None:
    if not holds:
        raise SkyError(f"{rule}, found {found!r}: change the recipe")


def _is_night(night: int) -> bool:
    try:
        return date(night // 10000, night // 100 % 100, night % 100).year >= 2000
    except ValueError:
        return False
