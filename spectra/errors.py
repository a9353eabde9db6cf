"""What can go wrong with a file of spectra."""

from firstlight.errors import RefusedError


class SpectraError(RefusedError):
    """A file of spectra cannot be used; the message names the file, what was found, and what to do."""
