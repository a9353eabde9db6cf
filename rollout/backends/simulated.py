"""A gateway without processes: versions answer as they are told, and everything is counted as the real gateway counts it.

For dry runs, and for everything above a gateway that is to be tested: a version that fails on the hundredth request, answers NaN, is
slow or wrong is a function of the number of its request.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from firstlight.errors import TransientError
from rollout.evidence import bucket
from rollout.spec import Traffic

_PAGE = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One answer of a version."""

    status: int = 200
    """HTTP status; 0: no answer."""
    seconds: float = 0.01
    outputs: Mapping[str, float | Sequence[float]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there are outputs."""
        return self.status == 200


Behaviour = Callable[[int, int | None], Reply]
"""(number of this version's request from 0, held-out row or None) -> what it answers."""


class SimulatedGateway:
    """Routes by the present traffic, one request after the other; ``asleep`` and :meth:`restart` are what a gateway may do to its readers."""

    def __init__(self, traffic: Callable[[], Traffic | None], versions: Mapping[str, Behaviour], *, shadow_percent: int = 100) -> None:
        """``traffic`` says how requests go now; ``versions`` how each answers."""
        self._traffic, self._versions, self._shadow_percent = traffic, versions, shadow_percent
        self._asked = dict.fromkeys(versions, 0)
        self._credit: dict[str, float] = {"canary": 50, "baseline": 50, "shadow": 50}
        self.asleep = False
        """Whether it does not answer who asks for evidence."""
        self.epoch = 0
        self._begin()

    def restart(self) -> None:
        """Be another process: everything counted is gone."""
        self._begin()

    def ask(self, requests: int = 1, *, rows: Sequence[int | None] = (None,), named: str = "live") -> list[Reply | None]:
        """Send live requests, ``rows`` in turn (None: not a held-out row); their ids are ``<named>-<row>``. None: nobody was there to answer."""
        return [self._answer(rows[turn % len(rows)], named) for turn in range(requests)]

    def evidence(self) -> dict[str, Any]:
        """Return what the real one answers to GET /evidence. Raises TransientError while it is asleep."""
        self._must_be_awake()
        tracks = [
            {
                "track": track,
                "version": version,
                **one,
                "latency": {str(at): count for at, count in one["latency"].items()},
            }
            for (track, version), one in self._totals.items()
        ]
        return {"epoch": str(self.epoch), "generation": 0, "tracks": tracks}

    def pairs(self, after: int) -> dict[str, Any]:
        """Return what the real one answers to GET /pairs. Raises TransientError while it is asleep."""
        self._must_be_awake()
        first = min(after, len(self._pairs))
        page = self._pairs[first : first + _PAGE]
        return {"epoch": str(self.epoch), "next": first + len(page), "dropped": 0, "uncompared": 0, "pairs": page}

    def _begin(self) -> None:
        self.epoch += 1
        self._totals: dict[tuple[str, str], dict[str, Any]] = {}
        self._pairs: list[dict[str, Any]] = []

    def _must_be_awake(self) -> None:
        if self.asleep:
            raise TransientError("the gateway must answer, it does not: it is asleep")

    def _answer(self, row: int | None, named: str) -> Reply | None:
        traffic = self._traffic() or Traffic()
        chosen = self._choose(traffic)
        if chosen is None:
            return None
        track, version = chosen
        reply = self._asks(version, row, track)
        other = traffic.stable if version == traffic.canary else traffic.canary
        if other is not None and self._hits("shadow", self._shadow_percent):
            self._compare(track, version, reply, other, self._asks(other, row, "shadow"), f"{named}-{row}")
        return reply

    def _choose(self, traffic: Traffic) -> tuple[str, str] | None:
        if traffic.canary is not None and self._hits("canary", traffic.canary_weight):
            return "canary", traffic.canary
        if traffic.stable is None:
            return None
        rest = 100 - traffic.canary_weight
        is_baseline = traffic.baseline_weight > 0 and self._hits("baseline", 100 * traffic.baseline_weight / rest)
        return ("baseline" if is_baseline else "stable"), traffic.stable

    def _hits(self, what: str, percent: float) -> bool:
        self._credit[what] += percent
        if self._credit[what] < 100:
            return False
        self._credit[what] -= 100
        return True

    def _asks(self, version: str, row: int | None, track: str) -> Reply:
        reply = self._versions[version](self._asked[version], row)
        self._asked[version] += 1
        one = self._totals.setdefault((track, version), {"requests": 0, "errors": 0, "refused": 0, "latency": {}})
        one["requests"] += 1
        one["errors"] += reply.status == 0 or reply.status >= 500
        one["refused"] += 400 <= reply.status < 500
        if reply.status:
            at = bucket(reply.seconds)
            one["latency"][at] = one["latency"].get(at, 0) + 1
        return reply

    def _compare(self, track: str, version: str, live: Reply, other: str, shadow: Reply, request_id: str) -> None:
        control, judged = (shadow, live) if track == "canary" else (live, shadow)
        outputs = {name: _compared(value, live.outputs.get(name), shadow.outputs.get(name)) for name, value in control.outputs.items()}
        missing = any(_is_number(value) and not _is_number(judged.outputs.get(name)) for name, value in control.outputs.items())
        self._pairs.append(
            {
                "seq": len(self._pairs) + 1,
                "at": 0.0,
                "request_id": request_id,
                "live": {"track": track, "version": version, "status": live.status},
                "shadow": {"version": other, "status": shadow.status},
                "outputs": outputs if control.ok else {},
                "failed": control.ok and (not judged.ok or missing),
            }
        )


def _compared(value: object, live: Any, shadow: Any) -> Any:
    if isinstance(value, Sequence):
        sides = [None if side is None or not _is_number(side) else max(range(len(side)), key=side.__getitem__) for side in (live, shadow)]
        distance = max(abs(a - b) for a, b in zip(live, shadow, strict=True)) if None not in sides else None
        return {"argmax": sides, "distance": distance}
    return [side if _is_number(side) else None for side in (live, shadow)]


def _is_number(value: Any) -> bool:
    if isinstance(value, Sequence):
        return all(math.isfinite(one) for one in value)
    return value is not None and math.isfinite(value)
