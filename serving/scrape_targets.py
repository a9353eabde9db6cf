"""Where Prometheus finds us: lists of addresses in the form of its file_sd, kept by the supervisor as servers come and go.

``<state>/prometheus/gateway.<environment>.<model>.json`` and ``model.<environment>.<model>.json``; deployments/monitoring/prometheus.yml reads
them. One folder for all, because Prometheus takes a wildcard in the file name only.
"""

import contextlib
import json
import logging
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from firstlight.digest import write_atomic

_LOG = logging.getLogger(__name__)


class ScrapeTargets:
    """The two lists of one supervisor."""

    def __init__(self, state: Path, *, environment: str, model: str) -> None:
        """Nothing is written before the first :meth:`tell`."""
        folder = Path(state) / "prometheus"
        self._files = {role: folder / f"{role}.{environment}.{model}.json" for role in ("gateway", "model")}
        self._labels = {"environment": environment}
        self._told: dict[str, bytes] = {}

    def tell(self, *, gateway: str | None, servers: Collection[str]) -> None:
        """Write the addresses (URLs) where they changed. A disk that fails costs the list, not the serving: it is tried again next time."""
        for role, urls in (("gateway", [gateway] if gateway else []), ("model", sorted(servers))):
            text = json.dumps([self._group(url) for url in urls]).encode()
            if self._told.get(role) == text:
                continue
            try:
                write_atomic(self._files[role], text)
                self._files[role].chmod(0o644)  # Prometheus is another user; addresses are no secret
            except OSError as error:
                _LOG.warning("the list for Prometheus could not be written", extra={"why": str(error)})
                continue
            self._told[role] = text

    def clear(self) -> None:
        """Take the lists away: nobody is served any more."""
        for path in self._files.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        self._told.clear()

    def _group(self, url: str) -> dict[str, object]:
        parts = urlsplit(url)
        return {"targets": [parts.netloc], "labels": {**self._labels, "__scheme__": parts.scheme}}
