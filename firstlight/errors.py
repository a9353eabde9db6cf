"""The error tree. Every message says what must hold, what was found, and what to do.

    FirstlightError             shown to a person as one sentence, never as a traceback
    ├── RefusedError            the input is wrong: repeating it unchanged cannot succeed
    │   └── SpectraError, HandOffError, ... (each in its own room)
    └── TransientError          the world is in the way: may succeed if repeated unchanged

Retries look at one thing only: is it a :class:`TransientError`.
"""


class FirstlightError(Exception):
    """Base of every error this project raises on purpose."""


class RefusedError(FirstlightError):
    """The input or request cannot be accepted; the message says why and what to change."""


class TransientError(FirstlightError):
    """Something outside is not answering; the same call may succeed later."""
