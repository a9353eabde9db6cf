"""What must outlive every process: desired and observed state, versions, champions, releases and decisions.

Each method is one transaction: it happens as a whole or not at all, whatever is killed. Every method may raise
StoreBusy or StoreUnreachable (transient) and StoreRefused (read-only, damaged or foreign database).
"""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from sqlalchemy import insert, select

from rollout import champion_rows, release_rows, traffic_rows
from rollout.database import BUSY_SECONDS, Database
from rollout.records import Champion, Decision, Release, ReleaseStatus
from rollout.spec import Desired, Observed, ServableVersion, Traffic
from rollout.tables import STEPS


class Store:
    """The rollout store behind ``url`` (sqlite:///… or postgresql+psycopg://…); makes its tables. Usable from many threads and
    processes."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time, busy_seconds: float = BUSY_SECONDS) -> None:
        self._clock = clock
        self._database = Database(url, busy_seconds=busy_seconds)

    def close(self) -> None:
        """Give back every connection; the store may be used again afterwards."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # desired and observed state

    def desired(self, environment: str, model: str) -> Desired | None:
        """Return what should be true, or None before anybody said."""
        with self._database.reading() as connection:
            return traffic_rows.desired(connection, environment, model)

    def propose(
        self, environment: str, model: str, traffic: Traffic, *, lease_until: float | None, expected_generation: int | None, by: str
    ) -> Desired:
        """Say what should be true, by compare-and-set on the generation (0: nothing yet; None: whatever it is).

        The same traffic again keeps the generation and only takes the new lease. Where there is a champion, ``traffic.stable``
        must be it: a run that slept through a promotion or a rollback cannot undo it. Raises StaleGeneration, StaleChampion, BadTraffic.
        """
        with self._database.writing() as connection:
            traffic_rows.check_generation(traffic_rows.desired(connection, environment, model), expected_generation)
            now = champion_rows.champion(connection, environment, model)
            if now is not None:
                champion_rows.check_champion(now, traffic.stable, model=model)
            return traffic_rows.change_traffic(connection, environment, model, traffic, lease_until=lease_until, by=by, at=self._clock())

    def renew_lease(self, environment: str, model: str, generation: int, lease_until: float) -> None:
        """Let the canary of ``generation`` stay out until ``lease_until``. Raises StaleGeneration when it is not out any more."""
        with self._database.writing() as connection:
            traffic_rows.renew_lease(connection, environment, model, generation, lease_until)

    def observe(self, seen: Observed) -> None:
        """Remember what was read back from the world."""
        with self._database.writing() as connection:
            traffic_rows.put_observed(connection, seen)

    def observed(self, environment: str, model: str) -> Observed | None:
        """Return what was read back last, or None."""
        with self._database.reading() as connection:
            return traffic_rows.observed(connection, environment, model)

    # servable versions

    def add_version(self, new: ServableVersion) -> None:
        """Make a version servable; again changes nothing but its folder. Raises UnknownVersion when its number holds other bytes."""
        with self._database.writing() as connection:
            traffic_rows.add_version(connection, new, at=self._clock())

    def set_backend(self, model: str, version: str, *, backend: str, digest: str | None, signature: str | None = None) -> None:
        """Say how a version is run: the backend, the digest of its compiled file (None: it has none), the pipeline's signature over that.

        Raises UnknownVersion.
        """
        with self._database.writing() as connection:
            traffic_rows.set_backend(connection, model, version, backend=backend, digest=digest, signature=signature)

    def version(self, model: str, version: str) -> ServableVersion:
        """Return a servable version. Raises UnknownVersion."""
        with self._database.reading() as connection:
            return traffic_rows.get_version(connection, model, version)

    def version_by_digest(self, model: str, digest: str) -> ServableVersion | None:
        """Return the latest version whose model (or hand-off) has this sha256, or None."""
        with self._database.reading() as connection:
            return traffic_rows.version_by_digest(connection, model, digest)

    # releases

    def open_release(self, environment: str, model: str, *, handoff_digest: str, model_digest: str, policy_digest: str, by: str) -> Release:
        """Return the open release of these bytes: the running one is continued, a finished one opens the next attempt.

        Raises ReleaseRunning (with ``.release_id``) when a different one is open.
        """
        digests = {"handoff_digest": handoff_digest, "model_digest": model_digest, "policy_digest": policy_digest}
        with self._database.writing() as connection:
            return release_rows.open_release(connection, environment, model, **digests, by=by, at=self._clock())

    def close_release(self, identifier: str, status: ReleaseStatus | str, summary: str, *, by: str = "firstlight") -> Release:
        """End a release with one sentence; the same end again is a no-op. *promoted* is accepted exactly when it moved the champion.

        Raises ReleaseClosed, UnknownRelease, and ValueError for a status that does not exist.
        """
        with self._database.writing() as connection:
            return release_rows.close(connection, identifier, ReleaseStatus(status), summary=summary, by=by, at=self._clock())

    def release(self, identifier: str) -> Release:
        """Return one release. Raises UnknownRelease."""
        with self._database.reading() as connection:
            return release_rows.get(connection, identifier)

    def open_one(self, environment: str, model: str) -> Release | None:
        """Return the open release, or None."""
        with self._database.reading() as connection:
            return release_rows.open_one(connection, environment, model)

    def releases(self, environment: str, model: str) -> list[Release]:
        """Return every release, oldest first."""
        with self._database.reading() as connection:
            return release_rows.all_of(connection, environment, model)

    # champions

    def promote(
        self, environment: str, model: str, *, version: str, digest: str, release_id: str, expected_champion: str | None, by: str
    ) -> Champion:
        """Make ``version`` the champion and the only one that should answer; the champion before it becomes previous.

        ``digest`` is the sha256 of model.pt2 that was judged; ``expected_champion`` the version decided against (None: there was none).
        Again for the same release is a no-op that returns the same line. Raises StaleChampion, UnknownVersion, UnknownRelease,
        ReleaseClosed.
        """
        with self._database.writing() as connection:
            done = champion_rows.promoted_by(connection, environment, model, release_id)
            if done is None:
                release_rows.check_may_promote(connection, release_id, environment, model, digest=digest)
            return champion_rows.promote(
                connection,
                environment,
                model,
                version=version,
                digest=digest,
                release_id=release_id,
                expected_champion=expected_champion,
                by=by,
                at=self._clock(),
            )

    def rollback(
        self, environment: str, model: str, *, by: str, reason: str, to: str | None = None, expected_champion: str | None = None
    ) -> Champion:
        """Go back to the previous champion, or to ``to``; a canary that is out goes with it.

        ``expected_champion`` makes a repeated call harmless: it raises StaleChampion instead of going back once more.
        Raises NoPrevious, UnknownVersion, StaleChampion.
        """
        with self._database.writing() as connection:
            if expected_champion is not None:
                champion_rows.check_champion(champion_rows.champion(connection, environment, model), expected_champion, model=model)
            return champion_rows.roll_back(connection, environment, model, by=by, reason=reason, to=to, at=self._clock())

    def champion(self, environment: str, model: str) -> Champion | None:
        """Return the champion, or None before the first."""
        with self._database.reading() as connection:
            return champion_rows.champion(connection, environment, model)

    def previous(self, environment: str, model: str) -> ServableVersion | None:
        """Return the version that ``rollback`` would go to, or None."""
        with self._database.reading() as connection:
            now = champion_rows.champion(connection, environment, model)
            if now is None or now.previous is None:
                return None
            return traffic_rows.get_version(connection, model, now.previous)

    def history(self, environment: str, model: str) -> list[Champion]:
        """Return every champion there was, oldest first."""
        with self._database.reading() as connection:
            return champion_rows.history(connection, environment, model)

    # the record

    def decide(self, environment: str, model: str, *, what: str, digest: str, detail: str, by: str) -> None:
        """Append a decision of another kind to the log."""
        with self._database.writing() as connection:
            traffic_rows.log(connection, environment, model, what=what, digest=digest, detail=detail, by=by, at=self._clock())

    def decisions(self, environment: str, model: str) -> list[Decision]:
        """Return every decision, oldest first."""
        with self._database.reading() as connection:
            return traffic_rows.decisions(connection, environment, model)

    def add_point(self, release_id: str, point: Mapping[str, Any]) -> None:
        """Append one point (plain finite JSON values) to a release's timeline."""
        with self._database.writing() as connection:
            connection.execute(insert(STEPS).values(release_id=release_id, point=dict(point)))

    def points(self, release_id: str) -> list[dict[str, Any]]:
        """Return a release's timeline in the order it was written."""
        with self._database.reading() as connection:
            rows = connection.execute(select(STEPS.c.point).where(STEPS.c.release_id == release_id).order_by(STEPS.c.number))
            return [dict(row.point) for row in rows]
