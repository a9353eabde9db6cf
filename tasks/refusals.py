"""What was refused stands in the ledger: whoever brought it got a sentence, and the same sentence is kept.

A refusal that cannot be written down is a refusal all the same: then the log says that too.
"""

import getpass
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from firstlight.errors import FirstlightError, RefusedError
from firstlight.settings import Settings
from tasks import doors

HAND_OFF = "refused-hand-off"
"""A hand-off was not what it must be, or not what it had been."""
MODEL = "refused-model"
"""A registered version could not be vouched for when somebody wanted its answers."""
SIGN_OFF = "refused-sign-off"
"""Somebody's word on a release does not count."""
RELEASE = "refused-release-folder"
"""A release folder of this environment is not what was signed and recorded."""

_LOG = logging.getLogger(__name__)


def record(settings: Settings, what: str, sentence: str, *, model: str, digest: str = "", by: str | None = None) -> None:
    """Write one refusal into the ledger: ``what`` is one of the words above, ``digest`` the sha256 of what was refused where there is one."""
    try:
        with doors.store(settings) as records:
            records.record(settings.environment, model, what=what, digest=digest, detail=sentence, by=by or who())
    except FirstlightError as error:
        _LOG.warning("a refusal could not be written into the ledger (%s): %s", error, sentence)


@contextmanager
def recorded(settings: Settings, what: str, *, model: str, digest: str = "", by: str | None = None) -> Iterator[None]:
    """Let a RefusedError of the block pass on, having written it into the ledger."""
    try:
        yield
    except RefusedError as error:
        record(settings, what, str(error), model=model, digest=digest, by=by)
        raise


@contextmanager
def of_hand_off(settings: Settings, handoff: str) -> Iterator[None]:
    """Let a refusal of the hand-off at ``handoff`` (a folder, or ``models:/name/version``) pass on, having written it into the ledger."""
    try:
        yield
    except RefusedError as error:
        from models import handoff as handoffs  # and pandas with it: a rollback must not wait for it

        name, digest = handoffs.claimed(handoff)
        record(settings, HAND_OFF, str(error), model=name or settings.model, digest=digest)
        raise


def who() -> str:
    """Return the person, by the operating system's word, in whose name this process runs."""
    try:
        return f"{getpass.getuser()} (system account)"
    except (KeyError, OSError):  # a container whose user has no name
        return f"user {os.getuid()} (system account)"
