"""A world without processes, for dry runs and for everything that is tested above a backend."""

from collections.abc import Collection

from rollout.spec import Traffic


class InMemoryBackend:
    """Makes traffic true by believing it. Keeps what was applied, in order, without repetitions."""

    def __init__(self, *, unready: Collection[str] = ()) -> None:
        self.history: list[Traffic] = []
        """Every traffic that was applied and differed from the one before."""
        self._unready = frozenset(unready)

    def apply(self, traffic: Traffic) -> None:
        """Make ``traffic`` current at once."""
        if traffic != self.current():
            self.history.append(traffic)

    def current(self) -> Traffic | None:
        """Return the traffic applied last, or None before the first."""
        return self.history[-1] if self.history else None

    def is_ready(self, version: str) -> bool:
        """Return whether ``version`` is wanted by the current traffic and not one of those told to stay unready."""
        now = self.current()
        return now is not None and version in now.versions and version not in self._unready
