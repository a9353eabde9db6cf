"""What the gateway counted since it began, as what was seen of the canary since the last look: every request once, whatever is restarted.

The gateway's totals only grow within one ``epoch`` (one process of it); a new epoch begins at zero. So what is new is a difference,
taken here and nowhere else. The meter's state is saved in the same transaction as the evidence: a process that takes over counts on
from there, and what its predecessor saw after its last save is still in the totals.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollout.errors import BadEvidence
from rollout.evidence import Evidence, Pairs, Stream

_BEYOND = 2**53
"""A number that no pair has: asked with it, the gateway answers with no pair and the number of its last one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Which of the gateway's counts belong to whom, and what the outputs of this model mean."""

    canary: str
    stable: str | None = None
    """None at a model's first release: then there is no control."""
    baseline: bool = False
    """The control is the baseline; else every server of stable."""
    numbers: Mapping[str, str] = field(default_factory=dict)
    """Output -> name under which its differences are judged; the others are not compared."""
    score: str | None = None
    """Output that is an anomaly from a threshold on; None where the model says nothing of the kind."""
    thresholds: tuple[float, float] | None = None
    """The control's and the canary's: each was handed over with its own."""
    probabilities: str | None = None
    """Output whose largest element is the class."""
    labels: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """The control's classes and the canary's, each in the order of its own output."""
    replayed: str = ""
    """How ids of replayed requests begin; the number of the held-out row follows."""
    strata: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Held-out row -> the parts of the requests it belongs to, such as ``snr<2``."""


class Meter:
    """Turns the gateway's documents into evidence. Keeps what it has seen; decides nothing."""

    def __init__(self, reading: Reading, *, state: Mapping[str, Any] | None = None) -> None:
        """Without ``state`` (from :meth:`state`), what the gateway has counted at the first look is not evidence. Raises BadEvidence."""
        self._reading = reading
        try:
            self._epoch: str | None = state["epoch"] if state else None
            self._totals: dict[str, dict[str, Any]] = dict(state["totals"]) if state else {}
            self._pairs_epoch: str | None = state["pairs_epoch"] if state else None
            self._after = int(state["after"]) if state else _BEYOND
            self._rows: set[int] = set(state["rows"]) if state else set()
        except (KeyError, TypeError, ValueError) as error:
            raise BadEvidence(f"a saved meter must be what this version writes, found one with {error!r}; begin the rollout anew") from None

    def state(self) -> dict[str, Any]:
        """Return what to go on from, as plain JSON values."""
        return {
            "epoch": self._epoch,
            "totals": self._totals,
            "pairs_epoch": self._pairs_epoch,
            "after": self._after,
            "rows": sorted(self._rows),
        }

    @property
    def after(self) -> int:
        """Number of the last pair that was read: what to ask for the next ones with."""
        return self._after

    @property
    def place(self) -> tuple[str | None, int]:
        """Where the reading of pairs stands; a page that does not move it was the last one."""
        return self._pairs_epoch, self._after

    def streams(self, document: Mapping[str, Any], *, in_step: bool) -> Evidence:
        """Return what ``GET /evidence`` shows that the document before did not.

        ``in_step`` says that the gateway routes as the present step wants, so that the canary's requests count towards it. Raises
        BadEvidence for a document that is none.
        """
        try:
            epoch, tracks = str(document["epoch"]), {f"{one['track']}/{one['version']}": dict(one) for one in document["tracks"]}
        except (KeyError, TypeError) as error:
            raise BadEvidence(
                f"the gateway's evidence must have an epoch and tracks, found {error!r} wrong; update both together"
            ) from None
        is_first, before = self._epoch is None, self._totals if epoch == self._epoch else {}
        self._epoch, self._totals = epoch, tracks
        if is_first:
            nothing = None if self._reading.stable is None else Stream()
            return Evidence(control=nothing, stable=nothing)
        new = {name: _difference(one, before.get(name, {})) for name, one in tracks.items()}
        canary, control, stable = Stream(), Stream(), Stream()
        for name, one in tracks.items():
            if one["track"] != "drill" and one["version"] == self._reading.stable:
                stable = stable.plus(new[name])
            if one["track"] in ("shadow", "drill"):
                continue  # copies: those of a shadow are judged as pairs, those of a drill not at all
            if one["version"] == self._reading.canary:
                canary = canary.plus(new[name])
            elif self._is_control(one):
                control = control.plus(new[name])
        is_first_release = self._reading.stable is None
        return Evidence(
            canary=canary,
            control=None if is_first_release else control,
            stable=None if is_first_release else stable,
            step_requests=canary.requests if in_step else 0,
        )

    def pairs(self, document: Mapping[str, Any]) -> Evidence:
        """Return the pairs of one page of ``GET /pairs`` that are new. A gateway that was started anew is to be asked from 0 again.

        Raises BadEvidence for a document that is none.
        """
        try:
            epoch, next_ = str(document["epoch"]), int(document["next"])
            known, self._pairs_epoch = self._pairs_epoch, epoch
            if known not in (None, epoch) and self._after:
                self._after = 0  # asked with a number of the old process: ask again
                return Evidence()
            self._after = next_
            seen = Pairs()
            for pair in document["pairs"]:
                seen = seen.plus(self._pair(pair))
            return Evidence(pairs=seen)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BadEvidence(f"the gateway's pairs must be what this version reads, found {error!r} wrong; update both together") from None

    def _is_control(self, one: Mapping[str, Any]) -> bool:
        if one["version"] != self._reading.stable:
            return False
        return one["track"] == "baseline" or not self._reading.baseline

    def _pair(self, pair: Mapping[str, Any]) -> Pairs:
        """Return one pair as evidence; none when it is about other versions, or the caller's fault.

        A held-out row that was seen before fails or not anew, but its answers are no new evidence.
        """
        reading, live, shadow = self._reading, pair["live"], pair["shadow"]
        canary_is_live = (live["version"], shadow["version"]) == (reading.canary, reading.stable)
        if not canary_is_live and (live["version"], shadow["version"]) != (reading.stable, reading.canary):
            return Pairs()
        control, canary = (shadow, live) if canary_is_live else (live, shadow)
        if 400 <= control["status"] < 500:
            return Pairs()
        row = self._row(str(pair["request_id"]))
        is_judged = canary_is_live == (live["track"] == "canary")  # the gateway's ``failed`` blames the side that is not the control
        one = Pairs.of(
            live="canary" if canary_is_live else "control",
            control_failed=not 200 <= control["status"] < 300,
            canary_failed=not 200 <= canary["status"] < 300 or bool(is_judged and pair["failed"]),
            strata=reading.strata.get(row, ()) if row is not None else (),
            **self._compared(pair["outputs"], at=1 if canary_is_live else 0),
        )
        if row is None or not one.total or one.failed:
            return one
        if row in self._rows:
            return Pairs(total=one.total, copied=one.copied, control_total=one.control_total)
        self._rows.add(row)
        return one

    def _compared(self, outputs: Mapping[str, Any], *, at: int) -> dict[str, Any]:
        """Return answers, flags and classes as :meth:`Pairs.of` takes them; ``at`` is the control's place in a couple."""
        reading = self._reading
        couples = {name: _couple(outputs[name], at) for name in {*reading.numbers, reading.score} if name is not None and name in outputs}
        found: dict[str, Any] = {"answers": {known: couples[name] for name, known in reading.numbers.items() if name in couples}}
        scores = couples.get(reading.score or "")
        if scores and reading.thresholds is not None and all(map(math.isfinite, scores)):
            found["flags"] = (scores[0] >= reading.thresholds[0], scores[1] >= reading.thresholds[1])
        vector = outputs.get(reading.probabilities or "")
        if reading.labels and isinstance(vector, Mapping) and None not in (largest := vector.get("argmax", (None,))):
            found["classes"] = (reading.labels[0][largest[at]], reading.labels[1][largest[1 - at]])
        return found

    def _row(self, request_id: str) -> int | None:
        number = request_id.removeprefix(self._reading.replayed)
        return int(number) if self._reading.replayed and number != request_id and number.isdigit() else None


def _couple(value: Any, at: int) -> tuple[float, float]:
    """Return (control's, canary's) number, NaN where there is none."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return math.nan, math.nan
    control, canary = (math.nan if one is None else float(one) for one in (value[at], value[1 - at]))
    return control, canary


def _difference(now: Mapping[str, Any], before: Mapping[str, Any]) -> Stream:
    """Return what one track counted between two documents of the same process. Raises BadEvidence when a total has shrunk."""
    known = before.get("latency", {})
    try:
        latency = {int(at): count - known.get(at, 0) for at, count in now["latency"].items()}
        return Stream(
            requests=now["requests"] - before.get("requests", 0),
            errors=now["errors"] - before.get("errors", 0),
            latency={at: count for at, count in latency.items() if count},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadEvidence(f"the gateway's totals must be counts by track, found {error!r} wrong; update both together") from None
