"""The picture of a rollout: weights as steps, what happened when, and the evidence of every measurement against its two boundaries.

Plain values in (the store's points), SVG bytes out; the same values give the same bytes. Evidence is drawn as a share of what was needed, upwards for *shown
to be no worse*, downwards for *shown to be worse*: at +1 and −1 lie the boundaries, between them nothing is decided, and looking after every request is allowed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from governance.dossier.svg import document, element, line, paragraph, path, span, ticks, time_ticks, words
from governance.dossier.view import sentence

Row = Mapping[str, Any]

WIDTH = 1100
_LEFT, _RIGHT = 70, 1080
_ACROSS, _PANEL, _GAP = 3, 150, 34
_CURVE_POINTS = 300
_BEYOND = 1.3
"""Evidence is drawn up to this many times what was needed: beyond the boundary it changes nothing any more."""

_TITLES = {
    "errors": "Failed requests",
    "latency": "Answer time",
    "quality": "Right answers",
    "agreement": "Answers as they were evaluated",
    "answers": "Answers",
    "flags": "Called anomalous",
    "classes": "Mix of classes",
    "readiness": "Readiness",
}
_ENDS = {"pass": ("✓", "pass"), "fail": ("✗", "fail"), "cannot tell": ("?", "cannot")}
_HEADS = {
    "succeeded": "promoted",
    "promoting": "every step passed: may be promoted",
    "watching": "promoted, still watched",
    "failed": "turned back",
    "undecided": "turned back: could not be told in time",
    "aborted": "stopped by a person",
    "superseded": "stopped: a newer version came",
}


_PHASES = {"approving": "waits for a person's word", "watching": "champion, still watched"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to a rollout."""

    t_s: float
    """Seconds since it began."""
    what: str
    """``pause``, ``resume``, ``approve``, ``abort``, ``rollback`` …"""
    by: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a rollout ended, or stands."""

    verdict: str
    """``pass``, ``fail`` or ``cannot tell``."""
    phase: str
    """``rollout.spec.Phase`` as text."""
    sentence: str


@dataclass(frozen=True, slots=True)
class _Curve:
    """Evidence of one measurement: requests, share of the evidence needed to pass (0 to 1.3), the same to fail."""

    name: str
    requests: tuple[float, ...]
    passing: tuple[float, ...]
    failing: tuple[float, ...]
    last: Row


def rollout_picture(
    points: Sequence[Row], *, ending: Ending, events: Sequence[Event] = (), budget: Mapping[str, Any] | None = None
) -> bytes:
    """Return the SVG of one rollout. It may be empty, and any value may be missing or nonsense: what cannot be drawn is left out.

    Each point: ``t_s``, ``phase``, ``weight`` (percent), ``requests``, ``verdict`` and ``checks``, a list of measurements with ``name``, ``verdict``, ``reason``,
    ``log_evidence_pass``, ``log_evidence_fail``, what was ``needed`` of either, and ``requests``. ``budget``: ``rollout.policy.ErrorBudget`` as plain values.
    """
    drawn, y = _head(ending)
    steps, y = _steps(points, [*events, *_events_of(points)], ending, y + 14)
    curves, y = _curves(points, y + 30)
    split, y = _budget(budget, y + 8)
    return document(drawn + steps + curves + split, width=WIDTH, height=y + 16, title=f"Rollout: {_headline(ending)}. {ending.sentence}")


def _headline(ending: Ending) -> str:
    return _HEADS.get(ending.phase, ending.phase or "under way")


def _head(ending: Ending) -> tuple[str, float]:
    sign, look = _ENDS.get(ending.verdict, ("–", "soft"))
    drawn = words(24, 34, f"{sign} {_headline(ending)[:1].upper()}{_headline(ending)[1:]}", look=f"title {look}")
    said, y = paragraph(24, 58, sentence(ending.sentence), width=WIDTH - 48, most=4)
    return drawn + said, y


def _events_of(points: Sequence[Row]) -> list[Event]:
    """Return what the points themselves say: orders, and phases in which the weight tells nothing."""
    found, before = [], ""
    for point in points:
        seconds, phase = _number(point.get("t_s")), str(point.get("phase") or "")
        if seconds is not None and point.get("event") not in (None, "", "none"):
            found.append(Event(t_s=seconds, what=str(point["event"]), by=str(point.get("by") or "")))
        elif seconds is not None and phase != before and phase in _PHASES:
            found.append(Event(t_s=seconds, what=_PHASES[phase]))
        before = phase
    return found


# weights over time


def _steps(points: Sequence[Row], events: Iterable[Event], ending: Ending, top: float) -> tuple[str, float]:
    """Draw the canary's share of the requests over time, with every event."""
    marks = [
        (seconds, weight)
        for point in points
        if (seconds := _number(point.get("t_s"))) is not None and (weight := _number(point.get("weight"))) is not None
    ]
    happened = sorted({event.t_s: event for event in events if _number(event.t_s) is not None}.values(), key=lambda event: event.t_s)
    until = max([seconds for seconds, _ in marks] + [event.t_s for event in happened], default=0.0) or 1.0
    floor, ceiling = top + 190.0, top + 50.0

    def x(seconds: float) -> float:
        return _LEFT + (_RIGHT - 40 - _LEFT) * min(max(seconds, 0.0), until) / until

    def y(weight: float) -> float:
        return floor - (floor - ceiling) * min(max(weight, 0.0), 100.0) / 100

    drawn = words(24, top + 6, "Share of the requests that the new version answered", look="strong")
    for weight in (0, 25, 50, 75, 100):
        drawn += line(_LEFT, y(weight), _RIGHT - 40, y(weight), look="grid") + words(
            _LEFT - 8, y(weight) + 4, f"{weight} %", look="small soft", anchor="end"
        )
    for seconds in time_ticks(until):
        drawn += line(x(seconds), floor, x(seconds), floor + 4, look="axis") + words(
            x(seconds), floor + 18, span(seconds), look="small soft", anchor="middle"
        )
    shape = [(x(seconds), y(weight)) for seconds, weight in _changes(marks)]
    if shape:
        shape += [(x(until), shape[-1][1]), *_fall(ending, x(until), floor)]
        drawn += element("path", d=_area(shape, floor), class_="tint blue") + path(shape, look="line blue", steps=True)
    drawn += "".join(_event(event, x(event.t_s), ceiling, floor, row=place % 2) for place, event in enumerate(happened))
    sign, look = _ENDS.get(ending.verdict, ("–", "soft"))
    drawn += words(x(until) + 10, (y(100) + floor) / 2, sign, look=f"title {look}")
    drawn += words(_RIGHT - 40, floor + 36, "time since the rollout began", look="small soft", anchor="end")
    return drawn, floor + 40


def _fall(ending: Ending, x: float, floor: float) -> list[tuple[float, float]]:
    """Return the last stroke: all traffic back on the old version."""
    return [(x, floor)] if ending.phase in ("failed", "undecided", "aborted", "superseded") else []


def _event(event: Event, x: float, ceiling: float, floor: float, *, row: int) -> str:
    said = f"{event.what.replace('-', ' ')[:24]}{f', {event.by[:32]}' if event.by else ''}"
    at_end = x > (_LEFT + _RIGHT) / 2
    height = ceiling - 22 + 13 * row
    return line(x, height + 3, x, floor, look="event") + words(
        x + (-4 if at_end else 4), height, said, look="small halo", anchor="end" if at_end else None
    )


def _changes(marks: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points at which the weight changed."""
    kept: list[tuple[float, float]] = []
    for seconds, weight in marks:
        if not kept or kept[-1][1] != weight:
            kept.append((seconds, weight))
    return kept


def _area(shape: Sequence[tuple[float, float]], floor: float) -> str:
    drawn = f"M{shape[0][0]:.1f} {floor:.1f}V{shape[0][1]:.1f}"
    for x, y in shape[1:]:
        drawn += f"H{x:.1f}V{y:.1f}"
    return f"{drawn}V{floor:.1f}Z"


# evidence over requests


def _curves(points: Sequence[Row], top: float) -> tuple[str, float]:
    """Draw one panel a measurement, and say what was counted without a test."""
    found = _measurements(points)
    drawn = words(24, top, "Evidence of every measurement", look="strong")
    said, y = paragraph(
        24,
        top + 20,
        "Over the requests (for answers and classes: over requests that both versions answered). Upper line: shown to be no worse than the margin; lower line: shown to "
        "be worse. In between it cannot be told yet. The margin is looked at first: a difference that is shown but smaller than its margin passes. The boundaries are those of "
        "the promotion; a step with a small share of the traffic asks for less.",
        width=WIDTH - 48,
        size=11.5,
        look="small soft",
    )
    if not found:
        return drawn + said + words(24, y + 12, "No measurement was taken.", look="cannot"), y + 24
    tested, counted = [curve for curve in found if curve.requests], [curve for curve in found if not curve.requests]
    wide = (WIDTH - 48 - (_ACROSS - 1) * _GAP) / _ACROSS
    tall = _PANEL + 92.0
    for place, curve in enumerate(tested):
        drawn += _panel(curve, left=24 + (wide + _GAP) * (place % _ACROSS), top=y + 14 + tall * (place // _ACROSS), wide=wide)
    y += 20 + tall * math.ceil(len(tested) / _ACROSS)
    for curve in counted:
        sign, look = _ENDS.get(str(curve.last.get("verdict")), ("–", "soft"))
        drawn += words(24, y, f"{sign} {_title(curve.name)}", look=f"strong {look}")
        text, y = paragraph(290, y, f"{curve.last.get('reason') or 'counted only'}", width=WIDTH - 314, size=11.5, most=2, look="small")
        drawn, y = drawn + text, y + 6
    return drawn + said, y + 6


def _measurements(points: Sequence[Row]) -> list[_Curve]:
    """Return one curve per measurement, in the order in which they first appear."""
    seen: dict[str, list[tuple[int, Row]]] = {}
    for point in points:
        checks = point.get("checks")
        for check in checks if isinstance(checks, list | tuple) else ():
            if isinstance(check, Mapping) and check.get("name"):
                requests = _number(check.get("requests"))
                seen.setdefault(str(check["name"]), []).append(
                    (int(requests if requests is not None else _number(point.get("requests")) or 0), check)
                )
    if len(seen) > 1:
        seen.pop("readiness", None)  # it was about the start, and is over
    return [_curve(name, rows) for name, rows in seen.items()]


def _curve(name: str, rows: Sequence[tuple[int, Row]]) -> _Curve:
    known = [(requests, _share(check, "pass"), _share(check, "fail")) for requests, check in rows]
    drawn = _thinned([row for row in known if row[1] is not None or row[2] is not None])
    requests, passing, failing = zip(*[(r, p or 0.0, f or 0.0) for r, p, f in drawn], strict=True) if drawn else ((), (), ())
    return _Curve(name, tuple(map(float, requests)), passing, failing, rows[-1][1])


def _thinned(rows: Sequence[tuple[int, float | None, float | None]]) -> list[tuple[int, float | None, float | None]]:
    """Return at most about 300 of the rows, the first and the last among them."""
    every = max(1, math.ceil(len(rows) / _CURVE_POINTS))
    return [row for place, row in enumerate(rows) if place % every == 0 or place == len(rows) - 1]


def _share(check: Row, side: str) -> float | None:
    """Return the evidence as a share of what was needed, 0 to 1.3; None where there is no such test."""
    evidence, needed = _number(check.get(f"log_evidence_{side}"), endless=True), _needed(check, side)
    if evidence is None or needed is None or needed <= 0:
        return None
    return min(max(evidence / needed, 0.0), _BEYOND)


def _needed(check: Row, side: str) -> float | None:
    needed = check.get("needed")
    if isinstance(needed, Mapping):
        return _number(needed.get(side))
    if isinstance(needed, list | tuple):
        return _number(needed[side == "fail"]) if len(needed) == 2 else None
    return _number(check.get(f"needed_{side}", needed))


def _panel(curve: _Curve, *, left: float, top: float, wide: float) -> str:
    """Draw one measurement: title, verdict, the two lines between their boundaries, and the sentence."""
    verdict = str(curve.last.get("verdict") or "")
    sign, look = _ENDS.get(verdict, ("–", "soft"))
    drawn = words(left, top + 12, _title(curve.name), look="strong") + words(
        left + wide, top + 12, f"{sign} {verdict}", look=f"strong {look}", anchor="end"
    )
    said, _ = paragraph(left, top + _PANEL + 46, str(curve.last.get("reason") or ""), width=wide, size=11.5, most=3, look="small")
    upper, lower = top + 22, top + 22 + _PANEL - 16
    middle, half = (upper + lower) / 2, (lower - upper) / 2 / _BEYOND
    most = max(curve.requests) or 1.0

    def x(requests: float) -> float:
        return left + wide * requests / most

    drawn += element("rect", x=left, y=upper, width=wide, height=lower - upper, class_="band")
    drawn += element("rect", x=left, y=upper, width=wide, height=middle - half - upper, class_="tint pass")
    drawn += element("rect", x=left, y=middle + half, width=wide, height=lower - middle - half, class_="tint fail")
    drawn += line(left, middle, left + wide, middle, look="grid")
    drawn += line(left, middle - half, left + wide, middle - half, look="bound pass") + line(
        left, middle + half, left + wide, middle + half, look="bound fail"
    )
    drawn += words(left + 4, middle - half - 4, "shown no worse", look="small pass halo") + words(
        left + 4, middle + half + 13, "shown worse", look="small fail halo"
    )
    drawn += path([(x(r), middle - half * p) for r, p in zip(curve.requests, curve.passing, strict=True)], look="line pass")
    drawn += path([(x(r), middle + half * f) for r, f in zip(curve.requests, curve.failing, strict=True)], look="line fail")
    for requests in ticks(0, most, most=4):
        drawn += line(x(requests), lower, x(requests), lower + 4, look="axis") + words(
            x(requests), lower + 17, f"{requests:,.0f}", look="small soft", anchor="middle" if requests else None
        )
    return drawn + said


def _title(name: str) -> str:
    head, _, tail = name.partition(":") if ":" in name else name.partition(" ")
    title = _TITLES.get(head, head.replace("_", " ").replace("-", " ").capitalize())
    return f"{title}: {tail.strip().replace('_', ' ')}"[:44] if tail.strip() else title[:44]


# the error budget


def _budget(budget: Mapping[str, Any] | None, top: float) -> tuple[str, float]:
    """Draw how the chance of a false alarm was split, as one bar."""
    shares = (budget or {}).get("shares")
    known = {str(name): share for name, value in shares.items() if (share := _number(value))} if isinstance(shares, Mapping) else {}
    total, worse = (_number((budget or {}).get(key)) for key in ("healthy_turned_back", "worse_promoted"))
    if not known or total is None:
        return "", top
    drawn = words(24, top + 6, "Error budget of this release, fixed before it began", look="strong")
    said = f"Chance that a healthy version is turned back: at most {_percent(total)}, split over the measurements by width below."
    said += (
        f" Chance that a version worse than a margin is promoted: at most {_percent(worse)}; every measurement has to pass, so that is not split."
        if worse is not None
        else ""
    )
    text, y = paragraph(24, top + 26, said, width=WIDTH - 48, size=11.5, look="small soft")
    whole, left = math.fsum(known.values()), 24.0
    for place, share in enumerate(known.values()):
        wide, shown = (WIDTH - 48) * share / whole, _percent(total * share / whole)
        drawn += element("rect", x=left, y=y, width=max(wide - 3, 1), height=26, class_="tint blue" if place % 2 else "tint pass")
        drawn += words(left + 6, y + 17, shown, look="small") if 7 * len(shown) < wide else ""
        left += wide
    legend = ", ".join(f"{_title(name).lower()} {_percent(total * share / whole)}" for name, share in known.items())
    below, y = paragraph(24, y + 44, f"From left to right: {legend}.", width=WIDTH - 48, size=11.5, look="small")
    return drawn + text + below, y


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _number(value: Any, *, endless: bool = False) -> float | None:
    """Return a finite number, or None; ``endless``: an infinite one counts too."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or (math.isinf(value) and not endless):
        return None
    return float(value)
