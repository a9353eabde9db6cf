"""The seam to the serving world: a few methods suffice, because an effect is stated as what should be true."""

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

    def is_baseline_ready(self) -> bool:
        """Return whether the second, fresh server of the stable version is up, where the traffic asks for one."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences for a person: why something asked for is not true yet."""
        ...
