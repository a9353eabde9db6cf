"""The seam to the serving world: three methods suffice, because an effect is stated as what should be true."""

from typing import Protocol

from rollout.spec import Traffic


class ServingBackend(Protocol):
    """Where versions run and who splits the requests between them. May raise TransientError; never leaves half a change."""

    def apply(self, traffic: Traffic) -> None:
        """Ask that live traffic match ``traffic``. Applying twice is applying once. Returns before it is true: see ``current``."""
        ...

    def current(self) -> Traffic | None:
        """Return what is true now, as read back from the world, or None when nobody can tell."""
        ...

    def is_ready(self, version: str) -> bool:
        """Return whether ``version`` is up and has proved that it answers as it was judged."""
        ...
