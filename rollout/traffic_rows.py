"""Desired and observed state, servable versions and decisions as rows. Every function works inside the caller's transaction."""

from sqlalchemy import Connection, Row, and_, delete, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from firstlight.digest import sha256_json
from rollout.errors import LeaseLapsed, StaleGeneration, UnknownVersion
from rollout.ledger_rows import append
from rollout.spec import Desired, Observed, ServableVersion, Traffic
from rollout.tables import DESIRED, OBSERVED, VERSIONS

_EVERYWHERE = ""
"""A version belongs to no environment."""
_BESIDE_TRAFFIC = ("lease_until", "lease_seconds", "sticky", "shadow_percent", "drill")


def desired(connection: Connection, environment: str, model: str) -> Desired | None:
    """Return the desired state, or None before the first one."""
    row = connection.execute(select(DESIRED).where(_of(DESIRED, environment, model))).one_or_none()
    if row is None:
        return None
    traffic = Traffic(stable=row.stable, canary=row.canary, canary_weight=row.canary_weight, baseline=row.baseline)
    values = {name: row._mapping[name] for name in ("generation", *_BESIDE_TRAFFIC)}
    return Desired(environment=environment, model=model, traffic=traffic, **values)


def put_desired(connection: Connection, wanted: Desired, *, by: str, at: float) -> None:
    """Write ``wanted`` over whatever was there."""
    values = {
        "generation": wanted.generation,
        "stable": wanted.traffic.stable,
        "canary": wanted.traffic.canary,
        "canary_weight": wanted.traffic.canary_weight,
        "baseline": wanted.traffic.baseline,
        **{name: getattr(wanted, name) for name in _BESIDE_TRAFFIC},
        "changed_by": by,
        "changed_at": at,
    }
    changed = connection.execute(update(DESIRED).where(_of(DESIRED, wanted.environment, wanted.model)).values(**values))
    if not changed.rowcount:
        connection.execute(insert(DESIRED).values(environment=wanted.environment, model=wanted.model, **values))


def change_traffic(
    connection: Connection,
    environment: str,
    model: str,
    traffic: Traffic,
    *,
    lease_until: float | None,
    lease_seconds: float | None = None,
    sticky: str | None = None,
    shadow_percent: int = 0,
    by: str,
    at: float,
) -> Desired:
    """Make ``traffic``, who sticks to whom and what is copied the desired state, and log it.

    The same again keeps the generation and only takes the new lease. A rehearsal that was asked for stays asked for.
    """
    now = desired(connection, environment, model)
    same = now is not None and (now.traffic, now.sticky, now.shadow_percent) == (traffic, sticky, shadow_percent)
    wanted = Desired(
        environment=environment,
        model=model,
        generation=(now.generation if now else 0) + (0 if same else 1),
        traffic=traffic,
        lease_until=lease_until,
        lease_seconds=lease_seconds,
        sticky=sticky,
        shadow_percent=shadow_percent,
        drill=now.drill if now else None,
    )
    if wanted == now:
        return wanted
    put_desired(connection, wanted, by=by, at=at)
    if not same:
        digest = sha256_json(traffic.to_dict())
        append(connection, environment, model, what="traffic", digest=digest, detail=_describe(wanted), by=by, at=at)
    return wanted


def check_generation(now: Desired | None, expected: int | None) -> None:
    """Raise StaleGeneration unless ``now`` has the expected generation (0: none yet; None: any)."""
    found = now.generation if now else 0
    if expected is not None and found != expected:
        raise StaleGeneration(
            f"the desired state must still be generation {expected}, it is {found} by now; read it again and decide again"
        )


def renew_lease(
    connection: Connection, environment: str, model: str, generation: int, *, lease_until: float, lease_seconds: float | None
) -> None:
    """Raise StaleGeneration unless the canary of this generation is still out. Without ``lease_seconds`` those of before hold."""
    still = _of(DESIRED, environment, model) & (DESIRED.c.generation == generation) & DESIRED.c.canary.is_not(None)
    values = {"lease_until": lease_until} | ({} if lease_seconds is None else {"lease_seconds": lease_seconds})
    if not connection.execute(update(DESIRED).where(still).values(**values)).rowcount:
        now = desired(connection, environment, model)
        check_generation(now, generation)
        raise StaleGeneration(
            f"a lease can be renewed only while a canary is out, generation {generation} of {model!r} has none; stop renewing"
        )


def check_lease(connection: Connection, environment: str, model: str, version: str, *, at: float) -> None:
    """Raise LeaseLapsed when ``version`` is the canary and its time is over at ``at`` (unix seconds)."""
    now = desired(connection, environment, model)
    if now is not None and now.traffic.canary == version and now.lease_until is not None and at >= now.lease_until:
        raise LeaseLapsed(
            f"a canary becomes champion while it is out, the lease of version {version!r} of {model!r} was over {at - now.lease_until:.1f} s "
            "ago: put it out again, and see it ready, first"
        )


def put_observed(connection: Connection, seen: Observed) -> None:
    """Write ``seen`` over whatever was there."""
    traffic = seen.traffic
    values = {
        "generation": seen.generation,
        "traffic": None if traffic is None else traffic.to_dict(),
        "ready": list(seen.ready),
        "gateway_url": seen.gateway_url,
        "heartbeat": seen.heartbeat,
        "problems": list(seen.problems),
        "baseline_ready": seen.baseline_ready,
        "drill": None if seen.drill is None else dict(seen.drill),
    }
    connection.execute(delete(OBSERVED).where(_of(OBSERVED, seen.environment, seen.model)))
    connection.execute(insert(OBSERVED).values(environment=seen.environment, model=seen.model, **values))


def observed(connection: Connection, environment: str, model: str) -> Observed | None:
    """Return what was last seen, or None when nobody has looked yet."""
    row = connection.execute(select(OBSERVED).where(_of(OBSERVED, environment, model))).one_or_none()
    if row is None:
        return None
    return Observed(
        environment=environment,
        model=model,
        generation=row.generation,
        traffic=None if row.traffic is None else Traffic(**row.traffic),
        ready=tuple(row.ready),
        gateway_url=row.gateway_url,
        heartbeat=row.heartbeat,
        problems=tuple(row.problems),
        baseline_ready=row.baseline_ready,
        drill=row.drill,
    )


def add_version(connection: Connection, new: ServableVersion, *, by: str, at: float) -> None:
    """Add a servable version; again changes nothing but the folder, how it is run least of all.

    Raises UnknownVersion when the number holds other bytes.
    """
    found = find_version(connection, new.model, new.version)
    values = {"folder": new.folder, "model_digest": new.model_digest, "handoff_digest": new.handoff_digest}
    if found is None:
        run = {"backend": new.backend, "backend_digest": new.backend_digest, "signature": new.signature}
        connection.execute(insert(VERSIONS).values(model=new.model, version=new.version, added_at=at, **values, **run))
        said = f"version {new.version} may be served with {new.backend}, hand-off {new.handoff_digest[:12]}"
        append(connection, _EVERYWHERE, new.model, what="add-version", digest=new.model_digest, detail=said, by=by, at=at)
        return
    if (found.model_digest, found.handoff_digest) != (new.model_digest, new.handoff_digest):
        raise UnknownVersion(
            f"version {new.version!r} of {new.model!r} must keep its bytes, it is model {found.model_digest[:12]} "
            f"(hand-off {found.handoff_digest[:12]}) "
            f"and was given as {new.model_digest[:12]} (hand-off {new.handoff_digest[:12]}); register it under a new number"
        )
    if found.folder != new.folder:
        at_number = and_(VERSIONS.c.model == new.model, VERSIONS.c.version == new.version)
        connection.execute(update(VERSIONS).where(at_number).values(folder=new.folder))
        said = f"version {new.version} is read from {new.folder} instead of {found.folder}"
        append(connection, _EVERYWHERE, new.model, what="move-version", digest=new.model_digest, detail=said, by=by, at=at)


def set_backend(
    connection: Connection, model: str, version: str, *, backend: str, digest: str | None, signature: str | None, by: str, at: float
) -> None:
    """Write how a version is run, and who vouches for that; the same again changes nothing. Raises UnknownVersion."""
    now = get_version(connection, model, version)
    if (now.backend, now.backend_digest, now.signature) == (backend, digest, signature):
        return
    at_number = and_(VERSIONS.c.model == model, VERSIONS.c.version == version)
    connection.execute(update(VERSIONS).where(at_number).values(backend=backend, backend_digest=digest, signature=signature))
    signed = "signed by the pipeline" if signature else "signed by nobody"
    said = f"version {version} is run with {backend}, compiled file {(digest or 'none')[:12]}, {signed}"
    append(connection, _EVERYWHERE, model, what="set-backend", digest=now.model_digest, detail=said, by=by, at=at)


def find_version(connection: Connection, model: str, version: str) -> ServableVersion | None:
    """Return a servable version, or None."""
    row = connection.execute(select(VERSIONS).where(VERSIONS.c.model == model, VERSIONS.c.version == version)).one_or_none()
    return None if row is None else _version(row)


def get_version(connection: Connection, model: str, version: str) -> ServableVersion:
    """Return a servable version. Raises UnknownVersion."""
    found = find_version(connection, model, version)
    if found is None:
        raise UnknownVersion(f"version {version!r} of {model!r} must be known to the store, it is not; register it first")
    return found


def version_by_digest(connection: Connection, model: str, digest: str) -> ServableVersion | None:
    """Return the version added last whose model or hand-off has this sha256, or None."""
    matches = (VERSIONS.c.model_digest == digest) | (VERSIONS.c.handoff_digest == digest)
    rows = connection.execute(select(VERSIONS).where(VERSIONS.c.model == model, matches).order_by(VERSIONS.c.added_at.desc()))
    row = rows.first()
    return None if row is None else _version(row)


def _of(table: object, environment: str, model: str) -> ColumnElement[bool]:
    columns = table.c  # type: ignore[attr-defined]
    return and_(columns.environment == environment, columns.model == model)


def _version(row: Row[tuple[object, ...]]) -> ServableVersion:
    values = row._mapping
    fields = ("model", "version", "folder", "model_digest", "handoff_digest", "backend", "backend_digest", "signature")
    return ServableVersion(**{name: values[name] for name in fields})


def _describe(wanted: Desired) -> str:
    traffic = wanted.traffic
    if traffic.canary is None:
        return f"generation {wanted.generation}: all traffic to {traffic.stable or 'nobody'}"
    beside = f", {traffic.baseline_weight} % to a fresh {traffic.stable} beside it" if traffic.baseline else ""
    return f"generation {wanted.generation}: {traffic.canary_weight} % to canary {traffic.canary}{beside}, the rest to {traffic.stable or 'nobody'}"
