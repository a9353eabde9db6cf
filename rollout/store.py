"""What must outlive every process: desired and observed state, versions, champions, releases, and the ledger of all that was done.

Each method is one transaction: it happens as a whole or not at all, whatever is killed. Every method may raise
StoreBusy or StoreUnreachable (transient) and StoreRefused (read-only, damaged or foreign database).

Who drives a rollout has a fencing token (``claim_rollout``) and gives it along; each method that takes one raises Fenced when a newer
holder has claimed since, and changes nothing. Without a token acts a person, who is asked for no such thing.
"""

from collections.abc import Mapping
from typing import Any

from rollout import champion_rows, drill_rows, experiment_rows, fence_rows, release_rows, rollout_rows, traffic_rows
from rollout.chronicle import Chronicle
from rollout.records import Champion, Drill, Experiment, Release, ReleaseStatus, RolloutRecord
from rollout.spec import Desired, Observed, RolloutSpec, RolloutStatus, ServableVersion, Traffic


class Store(Chronicle):
    """The rollout store behind ``url`` (sqlite:///… or postgresql+psycopg://…); makes its tables. Usable from many threads and
    processes."""

    # desired and observed state

    def desired(self, environment: str, model: str) -> Desired | None:
        """Return what should be true, or None before anybody said."""
        with self._database.reading() as connection:
            return traffic_rows.desired(connection, environment, model)

    def propose(
        self,
        environment: str,
        model: str,
        traffic: Traffic,
        *,
        lease_until: float | None,
        expected_generation: int | None,
        by: str,
        token: int | None = None,
        lease_seconds: float | None = None,
        sticky: str | None = None,
        shadow_percent: int = 0,
    ) -> Desired:
        """Say what should be true, by compare-and-set on the generation (0: nothing yet; None: whatever it is).

        The same traffic again keeps the generation and only takes the new lease. Where there is a champion, ``traffic.stable``
        must be it: a run that slept through a promotion or a rollback cannot undo it. ``lease_seconds``, ``sticky`` and
        ``shadow_percent`` as in Desired. Raises StaleGeneration, StaleChampion, BadTraffic, Fenced, ExperimentRunning.
        """
        with self._database.writing() as connection:
            fence_rows.check(connection, environment, model, token)
            experiment_rows.check_none(connection, environment, model, now=self._clock())
            traffic_rows.check_generation(traffic_rows.desired(connection, environment, model), expected_generation)
            now = champion_rows.champion(connection, environment, model)
            if now is not None:
                champion_rows.check_champion(now, traffic.stable, model=model)
            return traffic_rows.change_traffic(
                connection,
                environment,
                model,
                traffic,
                lease_until=lease_until,
                lease_seconds=lease_seconds,
                sticky=sticky,
                shadow_percent=shadow_percent,
                by=by,
                at=self._clock(),
            )

    def renew_lease(
        self,
        environment: str,
        model: str,
        generation: int,
        lease_until: float,
        *,
        token: int | None = None,
        lease_seconds: float | None = None,
    ) -> None:
        """Let the canary of ``generation`` stay out until ``lease_until``; without ``lease_seconds`` those of before hold.

        Raises StaleGeneration when it is not out any more, Fenced.
        """
        with self._database.writing() as connection:
            fence_rows.check(connection, environment, model, token)
            traffic_rows.renew_lease(connection, environment, model, generation, lease_until=lease_until, lease_seconds=lease_seconds)

    def observe(self, seen: Observed) -> None:
        """Remember what was read back from the world."""
        with self._database.writing() as connection:
            traffic_rows.put_observed(connection, seen)

    def observed(self, environment: str, model: str) -> Observed | None:
        """Return what was read back last, or None."""
        with self._database.reading() as connection:
            return traffic_rows.observed(connection, environment, model)

    # servable versions

    def add_version(self, new: ServableVersion, *, by: str = "firstlight") -> None:
        """Make a version servable; again changes nothing but its folder. Raises UnknownVersion when its number holds other bytes."""
        with self._database.writing() as connection:
            traffic_rows.add_version(connection, new, by=by, at=self._clock())

    def set_backend(
        self, model: str, version: str, *, backend: str, digest: str | None, signature: str | None = None, by: str = "firstlight"
    ) -> None:
        """Say how a version is run: the backend, the digest of its compiled file (None: it has none), the pipeline's signature over that.

        Raises UnknownVersion.
        """
        with self._database.writing() as connection:
            at = self._clock()
            traffic_rows.set_backend(connection, model, version, backend=backend, digest=digest, signature=signature, by=by, at=at)

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
        self,
        environment: str,
        model: str,
        *,
        version: str,
        digest: str,
        release_id: str,
        expected_champion: str | None,
        by: str,
        token: int | None = None,
    ) -> Champion:
        """Make ``version`` the champion and the only one that should answer; the champion before it becomes previous.

        ``digest`` is the sha256 of model.pt2 that was judged; ``expected_champion`` the version decided against (None: there was none).
        Again for the same release is a no-op that returns the same line. Raises StaleChampion, UnknownVersion, UnknownRelease,
        ReleaseClosed, Fenced, and LeaseLapsed for a canary that was out and whose time was over before we got here: nothing runs it any more.
        """
        with self._database.writing() as connection:
            fence_rows.check(connection, environment, model, token)
            done = champion_rows.promoted_by(connection, environment, model, release_id)
            if done is None:
                release_rows.check_may_promote(connection, release_id, environment, model, digest=digest)
                traffic_rows.check_lease(connection, environment, model, version, at=self._clock())
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
        self,
        environment: str,
        model: str,
        *,
        by: str,
        reason: str,
        to: str | None = None,
        expected_champion: str | None = None,
        token: int | None = None,
    ) -> Champion:
        """Go back to the previous champion, or to ``to``; a canary that is out goes with it.

        ``expected_champion`` makes a repeated call harmless: it raises StaleChampion instead of going back once more.
        Raises NoPrevious, UnknownVersion, StaleChampion, Fenced.
        """
        with self._database.writing() as connection:
            fence_rows.check(connection, environment, model, token)
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

    # rollouts

    def claim_rollout(self, environment: str, model: str, *, release_id: str, holder: str, spec: RolloutSpec) -> RolloutRecord:
        """Take the next fencing token: from now on only its holder may drive a rollout of this model.

        The same release goes on: the record has its saved status and evidence (the evidence only, when the steps are others by
        now), and what people ordered. Raises ExperimentRunning.
        """
        with self._database.writing() as connection:
            now = self._clock()
            experiment_rows.check_none(connection, environment, model, now=now)
            return rollout_rows.claim(connection, environment, model, release_id=release_id, holder=holder, spec=spec, at=now)

    def save_rollout(
        self, environment: str, model: str, *, token: int, status: RolloutStatus, evidence: Mapping[str, Any] | None
    ) -> RolloutRecord:
        """Keep how far the rollout is, with its evidence (plain finite JSON values); return it with what people ordered since.

        A change of phase, step or weight is logged, once. Raises Fenced, NoRollout.
        """
        with self._database.writing() as connection:
            fence_rows.check(connection, environment, model, token)
            return rollout_rows.save(connection, environment, model, status=status, evidence=evidence, at=self._clock())

    def rollout(self, environment: str, model: str) -> RolloutRecord | None:
        """Return the running rollout, or the last one, or None before the first. Raises RolloutError for one of a firstlight to come."""
        with self._database.reading() as connection:
            return rollout_rows.get(connection, environment, model)

    def order(self, environment: str, model: str, what: str, *, by: str, reason: str = "") -> RolloutRecord:
        """Write down what a person wants of the running rollout: ``pause``, ``resume``, ``abort`` or ``approve``; its holder obeys.

        The same again changes nothing. Raises NoRollout when none runs, or none that asks to be approved; ValueError for another word.
        """
        with self._database.writing() as connection:
            return rollout_rows.order(connection, environment, model, what, by=by, reason=reason, at=self._clock())

    # rehearsals of the way back

    def request_drill(self, environment: str, model: str, version: str, by: str) -> str:
        """Ask for a rehearsal of ``version``'s cold start; return the request, which ``Observed.drill`` answers to.

        The generation stays. Raises UnknownVersion, and RolloutError where nothing is served yet.
        """
        with self._database.writing() as connection:
            return drill_rows.request(connection, environment, model, version, by=by, at=self._clock())

    def record_drill(self, new: Drill, *, by: str = "firstlight") -> None:
        """Write a rehearsal down for good and take back the request for it; the same again changes nothing."""
        with self._database.writing() as connection:
            drill_rows.record(connection, new, by=by, at=self._clock())

    def drills(self, environment: str, model: str) -> list[Drill]:
        """Return every rehearsal, oldest first."""
        with self._database.reading() as connection:
            return drill_rows.all_of(connection, environment, model)

    def fresh_drill(self, environment: str, model: str, version: str, *, not_before: float) -> Drill | None:
        """Return the last rehearsal of ``version`` since ``not_before`` (unix seconds), whatever its verdict, or None.

        One that lies in the future (a clock was turned back since) does not count.
        """
        with self._database.reading() as connection:
            return drill_rows.fresh(connection, environment, model, version, not_before=not_before, now=self._clock())

    # experiments

    def begin_experiment(
        self, environment: str, model: str, *, name: str, a: str, b: str, share: int, sticky: str | None, until: float, by: str
    ) -> Experiment:
        """Let ``b`` answer ``share`` percent beside the champion ``a`` until ``until`` (unix seconds), without anybody renewing a lease.

        Takes the next fencing token. Raises BadTraffic, StaleChampion, UnknownVersion, RolloutRunning, ExperimentRunning.
        """
        with self._database.writing() as connection:
            champion_rows.check_champion(champion_rows.champion(connection, environment, model), a, model=model)
            new = Experiment(
                environment=environment,
                model=model,
                name=name,
                a=a,
                b=b,
                share=share,
                sticky=sticky,
                until=until,
                begun_by=by,
                begun_at=self._clock(),
            )
            return experiment_rows.begin(connection, new)

    def end_experiment(self, environment: str, model: str, *, by: str, reason: str = "a person ended it") -> Experiment:
        """End the running experiment before its time; the champion gets all the traffic. Raises NoExperiment."""
        with self._database.writing() as connection:
            return experiment_rows.end(connection, environment, model, by=by, because=reason, at=self._clock())

    def experiment(self, environment: str, model: str) -> Experiment | None:
        """Return the experiment begun last, or None; ``Experiment.is_running`` says whether it still uses the traffic."""
        with self._database.reading() as connection:
            return experiment_rows.last(connection, environment, model)
