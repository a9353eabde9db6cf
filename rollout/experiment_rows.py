"""Experiments as rows: traffic for two versions until a date. Every function works inside the caller's transaction.

An experiment's canary holds a lease until the experiment's end and nobody renews it, so it ends by itself; that it did is written
down by whoever writes next.
"""

from dataclasses import replace
from math import isfinite

from sqlalchemy import Connection, insert, select, update

from rollout import fence_rows, ledger_rows, rollout_rows, traffic_rows
from rollout.errors import BadTraffic, ExperimentRunning, NoExperiment, RolloutRunning
from rollout.records import Experiment
from rollout.spec import Traffic
from rollout.tables import EXPERIMENTS


def last(connection: Connection, environment: str, model: str) -> Experiment | None:
    """Return the experiment begun last, or None."""
    mine = select(EXPERIMENTS).where(EXPERIMENTS.c.environment == environment, EXPERIMENTS.c.model == model)
    row = connection.execute(mine.order_by(EXPERIMENTS.c.number.desc()).limit(1)).one_or_none()
    return None if row is None else Experiment(**{name: row._mapping[name] for name in Experiment.__slots__})


def begin(connection: Connection, new: Experiment) -> Experiment:
    """Give ``new`` its traffic beside the champion ``new.a``. Raises BadTraffic, UnknownVersion, RolloutRunning, ExperimentRunning."""
    environment, model, now = new.environment, new.model, new.begun_at
    _check(new)
    check_none(connection, environment, model, now=now)
    servable = traffic_rows.get_version(connection, model, new.b)
    _check_no_rollout(connection, new)
    fence_rows.take(connection, environment, model)
    connection.execute(insert(EXPERIMENTS).values({name: getattr(new, name) for name in Experiment.__slots__}))
    detail = f"experiment {new.name}: {new.share} % to version {new.b} beside {new.a}"
    ledger_rows.append(
        connection, environment, model, what="begin-experiment", digest=servable.model_digest, detail=detail, by=new.begun_by, at=now
    )
    traffic = Traffic(stable=new.a, canary=new.b, canary_weight=new.share)
    traffic_rows.change_traffic(connection, environment, model, traffic, lease_until=new.until, sticky=new.sticky, by=new.begun_by, at=now)
    return new


def end(connection: Connection, environment: str, model: str, *, by: str, because: str, at: float) -> Experiment:
    """End the experiment and give stable all the traffic. Raises NoExperiment."""
    now = last(connection, environment, model)
    if now is None or now.ended_at is not None:
        found = "there has been none" if now is None else f"{now.name!r} ended already"
        raise NoExperiment(f"an experiment of {model!r} must run in {environment!r} to be ended, {found}; nothing to do")
    if not now.is_running(at):
        by, because = "firstlight", "its end had come"
    ended = close(connection, now, by=by, because=because, at=at)
    desired = traffic_rows.desired(connection, environment, model)
    if desired is not None and desired.traffic.canary == now.b:
        traffic_rows.change_traffic(connection, environment, model, Traffic(stable=now.a), lease_until=None, by=by, at=at)
    return ended


def check_none(connection: Connection, environment: str, model: str, *, now: float) -> None:
    """Raise ExperimentRunning while one runs; one whose end has come is written down as ended."""
    found = last(connection, environment, model)
    if found is None or found.ended_at is not None:
        return
    if found.is_running(now):
        raise ExperimentRunning(
            f"the traffic of {model!r} in {environment!r} must be free, experiment {found.name!r} of {found.begun_by} uses it; "
            "wait for its end, or end it with firstlight experiment stop"
        )
    close(connection, found, by="firstlight", because="its end had come", at=now)


def close_any(connection: Connection, environment: str, model: str, *, by: str, because: str, at: float) -> None:
    """Write down that an experiment is over, if one runs; the caller changes the traffic."""
    found = last(connection, environment, model)
    if found is not None and found.ended_at is None:
        close(connection, found, by=by, because=because, at=at)


def close(connection: Connection, open_one: Experiment, *, by: str, because: str, at: float) -> Experiment:
    """Write down the end of an experiment."""
    values = {"ended_at": at, "ended_by": by, "ended_because": because}
    mine = (EXPERIMENTS.c.environment == open_one.environment) & (EXPERIMENTS.c.model == open_one.model) & EXPERIMENTS.c.ended_at.is_(None)
    connection.execute(update(EXPERIMENTS).where(mine).values(**values))
    digest = traffic_rows.get_version(connection, open_one.model, open_one.b).model_digest
    detail = f"experiment {open_one.name} ended: {because}"
    ledger_rows.append(connection, open_one.environment, open_one.model, what="end-experiment", digest=digest, detail=detail, by=by, at=at)
    return replace(open_one, ended_at=at, ended_by=by, ended_because=because)


def _check(new: Experiment) -> None:
    if type(new.share) is not int or not 1 <= new.share <= 99:
        raise BadTraffic(f"an experiment's share must be a whole percent from 1 to 99, got {new.share!r}; give one")
    if not (isfinite(new.until) and new.until > new.begun_at):
        raise BadTraffic(f"an experiment must end after it begins, it would end {new.begun_at - new.until:g} s before; give a later end")
    if not new.name:
        raise BadTraffic("an experiment must have a name that its report can be found by, got none; give one")


def _check_no_rollout(connection: Connection, new: Experiment) -> None:
    running = rollout_rows.running(connection, new.environment, new.model, at=new.begun_at)
    desired = traffic_rows.desired(connection, new.environment, new.model)
    canary_out = desired is not None and desired.lease_until is not None and new.begun_at < desired.lease_until
    if running is None and not canary_out:
        return
    found = f"release {running.release_id} is rolled out" if running else f"version {desired.traffic.canary} is out as a canary"  # type: ignore[union-attr]
    raise RolloutRunning(
        f"the traffic of {new.model!r} in {new.environment!r} must be free, {found}; wait for its end, or end it with firstlight rollout abort"
    )
