"""What can go wrong online.

RefusedError
├── ProtocolError           the request is not valid Open Inference Protocol V2; carries its HTTP status
│   └── Refused             the caller may not ask this, or not so much; carries headers too
├── SettingsError           an address, a name or a folder given at start cannot be used
│   └── AccessFileError     the access file cannot be used
└── ModelRefusedError       the version cannot be vouched for (digest, archive or golden vectors)
TransientError
├── OverloadedError         the queue is full; carries the seconds to wait before trying again
├── NotReadyError           the model is not loaded (yet)
├── DeadlineError           the answer was not there when the caller's deadline passed
├── ModelFailedError        the model failed on a request that is in order, or workers were lost over it
└── UnreachableError        the other process did not answer
"""

from collections.abc import Mapping

from firstlight.errors import RefusedError, TransientError


class ProtocolError(RefusedError):
    """The message cannot be read as Open Inference Protocol V2; ``status`` is the HTTP code that says so."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Refused(ProtocolError):
    """The caller may not ask this (401, 403, 404), or not so much (413, 429)."""

    def __init__(self, message: str, *, status: int, headers: Mapping[str, str] | None = None, reason: str = "", who: str = "") -> None:
        super().__init__(message, status=status)
        self.headers = dict(headers or {})
        self.reason = reason
        """One word for metrics and the access log."""
        self.who = who
        """The caller's name where it is known, for the access log."""


class SettingsError(RefusedError):
    """A process cannot start with what it was given; the message says what to change."""


class AccessFileError(SettingsError):
    """The access file cannot be read, trusted or understood."""


class ModelRefusedError(RefusedError):
    """The hand-off was not verified, or its golden vectors do not come out again; it is never served."""


class OverloadedError(TransientError):
    """More work waits than is allowed; ``retry_after`` is in seconds."""

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReadyError(TransientError):
    """No model answers in this process yet; the message says why."""


class UnreachableError(TransientError):
    """The process at that address gave no answer at all."""


class DeadlineError(TransientError):
    """The deadline of a request passed before its answer was there; rows that were not begun are never computed."""


class ModelFailedError(TransientError):
    """The model failed on a valid request; the log says why, the caller is not told of our insides."""
