"""What the models room refuses, and with which words."""

from firstlight.errors import RefusedError


class HandOffError(RefusedError):
    """A hand-off folder cannot be accepted; the message says what must hold, what was found and what to change."""


class InputRefused(HandOffError):
    """Arrays given to a model do not match what its hand-off declares (name, dtype or shape)."""


class ProgramError(HandOffError):
    """A model did not do what its hand-off declares: it failed on valid input, or answered in another form."""


class BackendUnavailable(HandOffError):
    """A model cannot be run in the way that was asked for, on this machine and now; the model itself may be sound."""
