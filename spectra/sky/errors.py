"""What the synthetic sky refuses."""

from firstlight.errors import RefusedError


class SkyError(RefusedError):
    """A recipe cannot be observed, or its files cannot be written where asked."""
