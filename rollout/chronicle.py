"""The half of the store that only grows: the ledger, ids of decisions, incidents and timelines. See :class:`rollout.store.Store`."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from sqlalchemy import insert, select

from firstlight import chain
from firstlight.chain import ChainKey
from rollout import decision_ids, incident_rows, ledger_rows
from rollout.database import BUSY_SECONDS, Database
from rollout.ledger_rows import KeySource
from rollout.records import Decision, Incident, IncidentState, LedgerEntry, Severity
from rollout.tables import STEPS

DETAIL_CHARACTERS = 500
"""What an entry from outside the store may say."""
_LEDGER_SINCE = 4
"""The schema with the ledger."""
_EVERYWHERE = ""  # the environment and model of what is about the whole store


class Chronicle:
    """What happened, for good. Each method is one transaction."""

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] = time.time,
        busy_seconds: float = BUSY_SECONDS,
        ledger_key: ChainKey | KeySource | None = None,
    ) -> None:
        """Open the store and make its tables. ``ledger_key`` seals the ledger's entries: one key, or who knows them by their ids."""
        self._clock = clock
        self._keys = _source(ledger_key)
        self._database = Database(url, busy_seconds=busy_seconds, writer_options={ledger_rows.KEY_SOURCE: self._keys})
        if self._keys is not None and 0 < self._database.found < _LEDGER_SINCE:
            self.vouch_for_adopted()

    def close(self) -> None:
        """Give back every connection; the store may be used again afterwards."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # the ledger

    def record(self, environment: str, model: str, *, what: str, digest: str, detail: str, by: str, once: bool = False) -> int:
        """Append an action from outside the store, or a refusal, to the ledger; return its sequence.

        ``detail`` is cut at 500 characters. ``once``: where the same (what, digest, by) stands there already, nothing is written and
        the sequence of that is returned. Raises ValueError for a word that only the store itself may say.
        """
        if what in (chain.ROTATION, chain.REPLACEMENT):
            raise ValueError(f"only a change of the ledger's key is called {what!r}; use rotate_ledger_key")
        with self._database.writing() as connection:
            known = ledger_rows.found(connection, environment, model, what=what, digest=digest, by=by) if once else None
            if known is not None:
                return known
            detail = ledger_rows.plain(detail, DETAIL_CHARACTERS)
            return ledger_rows.append(connection, environment, model, what=what, digest=digest, detail=detail, by=by, at=self._clock())

    def ledger(self, first: int = 1, last: int | None = None) -> list[LedgerEntry]:
        """Return the entries ``first`` to ``last`` (None: the end) of all environments and models, in order."""
        with self._database.reading() as connection:
            return ledger_rows.entries(connection, first=first, last=last)

    def head(self) -> LedgerEntry | None:
        """Return the last entry, or None before the first."""
        with self._database.reading() as connection:
            return ledger_rows.head(connection)

    def latest(self) -> float | None:
        """Return the latest time of any entry (unix seconds), which is later than the head's where a clock was set back; None before the first."""
        with self._database.reading() as connection:
            return ledger_rows.latest(connection)

    def vouch_for_adopted(self) -> None:
        """Seal what a migration has made of the decisions there were, as it was found; nothing where that is done, or there is no key."""
        before = self.head()
        if self._keys is None or before is None or not before.adopted:
            return
        detail = f"{before.sequence} entries of before there was a ledger were adopted as they were found"
        self.record(_EVERYWHERE, _EVERYWHERE, what="adopt-ledger", digest=before.entry_digest, detail=detail, by="firstlight", once=True)

    def rotate_ledger_key(self, new: ChainKey, *, by: str, lost: bool = False) -> int:
        """Let ``new`` seal from the next entry on; return the sequence of the entry that says so, which the key before it seals.

        ``lost``: the key before is not to be had; then ``new`` seals that entry, and every check says so for good. Raises RolloutError
        when the key before is not at hand (and not ``lost``), or is ``new`` itself.
        """
        with self._database.writing() as connection:
            return ledger_rows.rotate(connection, new, by=by, lost=lost, at=self._clock())

    def decide(self, environment: str, model: str, *, what: str, digest: str, detail: str, by: str) -> None:
        """Append a decision of another kind to the ledger; as :meth:`record`."""
        self.record(environment, model, what=what, digest=digest, detail=detail, by=by)

    def decisions(self, environment: str, model: str) -> list[Decision]:
        """Return every entry of the ledger about one model in one environment, oldest first."""
        with self._database.reading() as connection:
            return ledger_rows.decisions(connection, environment, model)

    def decision_id(self, release_id: str, *, year: int, by: str = "firstlight") -> str:
        """Return the id of the decision on a release, ``DEC-YYYY-NNN``; the next of ``year`` where it has none. Raises UnknownRelease."""
        with self._database.writing() as connection:
            return decision_ids.allocate(connection, release_id, year=year, by=by, at=self._clock())

    # incidents

    def open_incident(
        self,
        environment: str,
        model: str,
        *,
        cause: str,
        severity: str,
        summary: str,
        evidence_digest: str,
        owner: str,
        by: str,
        release_id: str | None = None,
    ) -> Incident:
        """Return the open incident of this cause, opened now where there is none. ``severity``: ``warning`` or ``critical``.

        Raises ValueError for a severity there is not, or a field that says nothing.
        """
        with self._database.writing() as connection:
            new = Incident(
                id="",
                environment=environment,
                model=model,
                cause=ledger_rows.plain(cause, ledger_rows.NAME_CHARACTERS),
                severity=Severity(severity),
                state=IncidentState.OPEN,
                summary=ledger_rows.plain(summary, DETAIL_CHARACTERS),
                evidence_digest=evidence_digest,
                owner=ledger_rows.plain(owner, ledger_rows.NAME_CHARACTERS),
                release_id=release_id,
                opened_by=ledger_rows.plain(by, ledger_rows.NAME_CHARACTERS),
                opened_at=self._clock(),
            )
            return incident_rows.open_one(connection, new)

    def acknowledge_incident(self, identifier: str, *, by: str) -> Incident:
        """Write down that somebody looks at it; again changes nothing. Raises UnknownIncident, IncidentClosed."""
        with self._database.writing() as connection:
            return incident_rows.acknowledge(
                connection, identifier, by=ledger_rows.plain(by, ledger_rows.NAME_CHARACTERS), at=self._clock()
            )

    def resolve_incident(self, identifier: str, *, reason: str, by: str) -> Incident:
        """Write down that its cause is gone, and why; again changes nothing. Raises UnknownIncident, IncidentClosed."""
        reason, by = ledger_rows.plain(reason, DETAIL_CHARACTERS), ledger_rows.plain(by, ledger_rows.NAME_CHARACTERS)
        with self._database.writing() as connection:
            return incident_rows.resolve(connection, identifier, reason=reason, by=by, at=self._clock())

    def incident(self, identifier: str) -> Incident:
        """Return one incident. Raises UnknownIncident."""
        with self._database.reading() as connection:
            return incident_rows.get(connection, identifier)

    def incidents(self, environment: str | None = None, model: str | None = None, *, open_only: bool = False) -> list[Incident]:
        """Return the incidents of an environment and model (None: of all), oldest first; with ``open_only`` those not resolved yet."""
        with self._database.reading() as connection:
            return incident_rows.all_of(connection, environment, model, open_only=open_only)

    # timelines

    def add_point(self, release_id: str, point: Mapping[str, Any]) -> None:
        """Append one point (plain finite JSON values) to a release's timeline."""
        with self._database.writing() as connection:
            connection.execute(insert(STEPS).values(release_id=release_id, point=dict(point)))

    def points(self, release_id: str) -> list[dict[str, Any]]:
        """Return a release's timeline in the order it was written."""
        with self._database.reading() as connection:
            rows = connection.execute(select(STEPS.c.point).where(STEPS.c.release_id == release_id).order_by(STEPS.c.number))
            return [dict(row.point) for row in rows]


def _source(key: ChainKey | KeySource | None) -> KeySource | None:
    if not isinstance(key, ChainKey):
        return key
    return lambda wanted: key if wanted in (None, key.id) else None
