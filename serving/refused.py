"""What its own model server would not vouch for stands in the ledger: once for every version and sentence, as long as this supervisor lives."""

import logging
from collections.abc import Mapping

from firstlight.errors import FirstlightError
from rollout.store import Store

_LOG = logging.getLogger(__name__)
_WHAT = "refused-model"
_BY = "firstlight serve"


class RefusedVersions:
    """Remembers what it has written down of one model."""

    def __init__(self, store: Store, *, environment: str, model: str) -> None:
        """Nothing is written yet."""
        self._store, self._environment, self._model = store, environment, model
        self._told: set[tuple[str, str]] = set()

    def tell(self, refused: Mapping[str, str]) -> None:
        """Write down each version of ``refused`` (version -> why) that was not yet; where the store is away, the next round does it."""
        for version, why in refused.items():
            if not why or (version, why) in self._told:
                continue
            try:
                digest = self._store.version(self._model, version).model_digest
                detail = f"version {version} is not served: {why}"
                self._store.record(self._environment, self._model, what=_WHAT, digest=digest, detail=detail, by=_BY)
                self._told.add((version, why))
            except FirstlightError as error:
                _LOG.warning("a refused version could not be written into the ledger", extra={"version": version, "why": str(error)})
