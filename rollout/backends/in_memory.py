"""A world without processes, for dry runs and for everything that is tested above a backend."""

from collections.abc import Collection, Mapping
from typing import Any

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

    def is_baseline_ready(self) -> bool:
        """Return whether a baseline is wanted: it is up at once."""
        now = self.current()
        return now is not None and now.baseline

    @property
    def problems(self) -> tuple[str, ...]:
        """Which versions were told to stay unready."""
        return tuple(f"version {version} was told to stay unready" for version in sorted(self._unready))


class InMemoryDrills:
    """Rehearsals without processes: every order is followed by the reports it was given, one at a look; the last one stays."""

    def __init__(self, *reports: Mapping[str, Any] | None) -> None:
        """``reports``: fields of ``Observed.drill``; ``asked`` and ``version`` are those of the order where they are left out. None: nobody reports."""
        self.orders: list[str] = []
        """The names under which rehearsals were ordered, oldest first."""
        self._reports = reports
        self._looks = 0

    def order(self, version: str) -> str:
        """Begin with the first report again."""
        self.orders.append(f"{version}#{len(self.orders) + 1}")
        self._looks = 0
        return self.orders[-1]

    def report(self) -> Mapping[str, Any] | None:
        """Return the next report."""
        if not self.orders or not self._reports:
            return None
        found = self._reports[min(self._looks, len(self._reports) - 1)]
        self._looks += 1
        if found is None:
            return None
        return {"asked": self.orders[-1], "version": self.orders[-1].rpartition("#")[0], "answered": 0, "failed": 0, **found}
