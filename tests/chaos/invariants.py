"""What must hold whatever is broken. Pure: a client's record, what was done to the world and what the database's witness saw go in, sentences about
what did not hold come out; none means that everything did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.digest import sha256_json
from rollout.records import Champion, Decision
from rollout.spec import Traffic
from tests.chaos.client import Asked
from tests.chaos.witness import Written

_NOTICED_SECONDS = 15.0
"""A dropped connection is noticed by its caller within this time."""
_UNAVAILABLE = 503
_TORN_REPORTS = 3
"""So many reports in a row may show a share at a version that is not ready: it died, and has been seen and not been acted on yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Happened:
    """Something that was done to the world. Times are the steady clock's."""

    at: float
    what: str
    """``kill``, ``stop``, ``slow``, ``read-only``, ``jump``, …"""
    victim: str = ""
    place: str = ""
    """Phase of the rollout."""
    answered: tuple[str, ...] = ()
    """Roles that had a share of the requests just before."""
    mended: float | None = None
    """When it was over, and what a service manager starts again had been started."""
    healed: float | None = None
    """When the world was as desired again."""

    @property
    def left_nobody(self) -> bool:
        """Whether it was stable's process, and nobody else had a share of the requests. A canary always has stable to stand in for it."""
        return self.what == "kill" and self.victim == "stable" and set(self.answered) <= {self.victim}


@dataclass(frozen=True, kw_only=True, slots=True)
class Excused:
    """How many requests were not simply answered, and may have been."""

    repeated: int
    """The connection was dropped by a gateway that was killed; asked once more, they were answered."""
    met_nobody: int
    """They were in flight in the only process that answers when it was killed, or waited for the next one as long as the gateway lets them."""


def failed_requests(
    asked: Sequence[Asked], happened: Sequence[Happened], *, callers: int, wait_seconds: float
) -> tuple[list[str], Excused]:
    """Return what no caller should have met, and what one may meet. The gateway lets a request wait ``wait_seconds`` for a process that is started again."""
    wrong, met_nobody = [], 0
    for one in asked:
        if one.ok:
            continue
        if any(done.left_nobody and _may_fail(one, done, wait_seconds) for done in happened):
            met_nobody += 1
            continue
        wrong.append(f"request {one.number} got {one.status or 'no answer'} after {one.ended - one.began:.2f} s: {one.error}")
    gateways = [done for done in happened if done.what == "kill" and done.victim == "gateway"]
    drops = [moment for one in asked for moment in one.dropped]
    for moment in drops:
        if not any(done.at <= moment <= done.at + _NOTICED_SECONDS for done in gateways):
            wrong.append(f"a connection was dropped at {moment:.2f} and no gateway was killed then")
    if len(drops) > callers * len(gateways):
        wrong.append(f"{len(drops)} connections were dropped by {len(gateways)} killed gateways, with {callers} callers")
    return wrong, Excused(repeated=sum(bool(one.dropped) and one.ok for one in asked), met_nobody=met_nobody)


def _may_fail(one: Asked, done: Happened, wait_seconds: float) -> bool:
    """In flight when the process was killed; or it came while there was none, and got 503 after it had waited its whole time, no sooner."""
    if one.began <= done.at <= one.ended:
        return True
    came = one.ended >= done.at and (done.healed is None or one.began <= done.healed)
    return came and one.status == _UNAVAILABLE and one.ended - one.began >= wait_seconds


def champions(history: Sequence[Champion], written: Sequence[Written]) -> list[str]:
    """At every moment there is one champion, and what should answer is it."""
    wrong = [
        f"champion {at + 1} has sequence {line.sequence}" for at, line in enumerate(history) if line.sequence != at + 1
    ]  # the sequence is unique in the database; here: without gaps
    present: str | None = None
    for one in written:
        if one.table == "champions":
            present = one.row["version"]
        elif one.table == "desired_state" and present is not None and one.row["stable"] != present:
            wrong.append(f"generation {one.row['generation']} wants stable {one.row['stable']} while {present} is champion")
    return wrong


def ready_before_traffic(written: Sequence[Written]) -> list[str]:
    """Nobody gets a share before he is ready, or keeps one for long after he is not."""
    wrong, before, torn = [], frozenset[str](), dict[str, int]()
    was_ready = frozenset[str]()
    for one in written:
        if one.table != "observed_state":
            continue
        traffic, ready = one.row["traffic"], _ready(one.row)
        having = _having(traffic)
        for version in sorted(having - before - ready - was_ready):
            wrong.append(f"version {version} got a share of the requests and was not ready (generation {one.row['generation']})")
        torn = {version: torn.get(version, 0) + 1 for version in having - ready}
        for version, times in torn.items():
            if times == _TORN_REPORTS + 1:
                wrong.append(f"version {version} kept its share for {times} reports and was not ready")
        before, was_ready = having, ready
    return wrong


def _ready(row: dict[str, Any]) -> frozenset[str]:
    stable = (row["traffic"] or {}).get("stable")
    return frozenset(row["ready"]) | (frozenset({stable}) if row["baseline_ready"] and stable else frozenset())


def _having(traffic: dict[str, Any] | None) -> frozenset[str]:
    if traffic is None:
        return frozenset()
    found = Traffic(**traffic)
    return frozenset(version for version in found.versions if found.share(version) > 0)


def healed_in_time(happened: Sequence[Happened], *, seconds: float) -> list[str]:
    """After everything that was done, the world was as desired within ``seconds`` of its being over."""
    wrong = []
    for done in happened:
        if done.healed is None or done.mended is None:
            wrong.append(f"after {done.what} {done.victim} in {done.place} the world never was as desired again")
        elif done.healed - done.mended > seconds:
            wrong.append(f"after {done.what} {done.victim} in {done.place} it took {done.healed - done.mended:.1f} s, not {seconds:.1f}")
    return wrong


def audit(decisions: Sequence[Decision], written: Sequence[Written]) -> list[str]:
    """The trail tells every change of state exactly once, in order, and what should be true can be told from it."""
    expected: dict[str, list[str]] = {}
    desired: tuple[Any, ...] | None = None
    status: tuple[Any, ...] | None = None
    orders: dict[str, Any] = {}
    for one in written:
        row = one.row
        if one.table == "desired_state":
            now = tuple(row[name] for name in ("stable", "canary", "canary_weight", "baseline", "sticky", "shadow_percent"))
            if now != desired:
                expected.setdefault("traffic", []).append(_digest(row))
            desired = now
        elif one.table == "champions":
            expected.setdefault(row["action"], []).append(row["digest"])
        elif one.table == "fences":
            expected.setdefault("claim-rollout", []).append("")
        elif one.table == "releases" and (one.is_new or row["status"] != "open"):
            expected.setdefault("open-release" if one.is_new else "close-release", []).append(row["model_digest"])
        elif one.table == "rollouts":
            place, said = _place(row), {"paused": bool(row["paused"]), "abort": bool(row["abort"]), "approved": row["approved_by"]}
            if not one.is_new:  # a new row is a claim's, which the fence told
                if place is not None and place != status:
                    expected.setdefault("rollout", []).append("")
                for what in _ordered(orders, said):
                    expected.setdefault(what, []).append("")
            status, orders = place, said
    return _differences(expected, decisions)


def _differences(expected: dict[str, list[str]], decisions: Sequence[Decision]) -> list[str]:
    told: dict[str, list[str]] = {}
    for decision in decisions:
        known = expected.get(decision.what, [])
        told.setdefault(decision.what, []).append(decision.digest if known and known[0] else "")
    wrong = [
        f"the trail tells {len(told.get(what, []))} times {what}, it happened {len(expected.get(what, []))} times"
        for what in sorted({*expected, *told})
        if len(told.get(what, [])) != len(expected.get(what, []))
    ]
    wrong += [f"the trail tells {what} of other things than happened" for what in expected if not wrong and told[what] != expected[what]]
    numbers = [decision.number for decision in decisions]
    return wrong + (["the trail's numbers do not rise"] if numbers != sorted(set(numbers)) else [])


def _digest(row: dict[str, Any]) -> str:
    traffic = Traffic(stable=row["stable"], canary=row["canary"], canary_weight=row["canary_weight"], baseline=bool(row["baseline"]))
    return sha256_json(traffic.to_dict())


def _place(row: dict[str, Any]) -> tuple[Any, ...] | None:
    status = row["status"]
    return None if status is None else (status["canary"], status["phase"], status["step"], status["weight"])


def _ordered(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    if before == now or not before:
        return []
    found = []
    if before["paused"] != now["paused"]:
        found.append("pause-rollout" if now["paused"] else "resume-rollout")
    if now["abort"] and not before["abort"]:
        found.append("abort-rollout")
    if now["approved"] and not before["approved"]:
        found.append("approve-rollout")
    return found
