"""What was found of a canary, in words and with its interval. Pure."""

import math
from collections.abc import Callable

import numpy as np

from rollout import sequential
from rollout.evidence import Evidence
from rollout.judging import Question
from rollout.policy import Measure, RolloutPolicy
from rollout.sequential import Floats

Interval = tuple[float | None, float | None]
_AHEAD = np.geomspace(1.0, 3000.0, 49)


def interval(question: Question) -> Interval:
    """Return what is not refuted, as (low, high): a confidence sequence, which holds at every look. None where nothing bounds it.

    It is the test, seen from the other side: *within* is shown when ``high`` is below the margin, *beyond* when ``low`` is above what is allowed.
    Of a two-sided question both ends are at the level of *within*.
    """
    if question.edges is not None:
        above, below = question.edges
        low = _bound(question, above, rising=False, threshold=question.needed_pass)
        high = _bound(question, below, rising=True, threshold=question.needed_pass)
    else:
        low = _bound(question, question.beyond, rising=False, threshold=question.needed_fail)
        high = _bound(question, question.within, rising=True, threshold=question.needed_pass)
    return None if low <= question.low * (1 + 1e-9) else low, None if high >= question.high else high


def _bound(question: Question, evidence: Callable[[Floats], Floats], *, rising: bool, threshold: float) -> float:
    if question.measure is not Measure.LATENCY:
        return sequential.bound(evidence, low=question.low, high=question.high, threshold=threshold, rising=rising)
    low, high = math.log(question.low), math.log(question.high)
    found = sequential.bound(lambda at: evidence(np.exp(at)), low=low, high=high, threshold=threshold, rising=rising, rounds=2)
    return question.low if found == low else question.high if found == high else math.exp(found)


def requests_needed(question: Question) -> int | None:
    """Return about how many trials *within* will take in all if things go on as so far, to two figures. None when it does not look as if it ever
    would."""
    if question.foreseen is None:
        return None
    now = float(np.max(question.trials))
    ahead = max(now, 20.0) * _AHEAD if now else 20.0 * _AHEAD
    reached = question.foreseen(ahead) >= question.needed_pass
    if not reached.any():
        return None
    return max(int(now), _two_figures(float(ahead[int(reached.argmax())])))


def duration(seconds: float) -> str:
    """Return a time for a person.

    >>> duration(22800), duration(31), duration(300000)
    ('6 h 20 min', 'less than a minute', '3 d 11 h')
    """
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    days, hours, rest = minutes // 1440, minutes % 1440 // 60, minutes % 60
    return f"{days} d {hours} h" if days else f"{hours} h {rest} min" if hours else f"{rest} min"


def sentence(question: Question, policy: RolloutPolicy, evidence: Evidence, limits: Interval) -> str:
    """Return what was counted and what it shows, in one sentence."""
    if not question.trials:
        return f"nothing is known of {question.name} yet"
    return f"{_counted(question, policy, evidence)} ({_shown(question, limits)})"


def _counted(question: Question, policy: RolloutPolicy, evidence: Evidence) -> str:
    canary, control, pairs = evidence.canary, evidence.control, evidence.pairs
    if question.name == "errors":
        copies = f" and {pairs.failed} of {pairs.copied} copies" if pairs.copied else ""
        other = (
            _against(pairs.control_failed, pairs.control_total) if copies else _against(control.errors, control.requests) if control else ""
        )
        return f"{canary.errors} of {canary.requests} requests{copies} failed{other}"
    if question.measure is Measure.LATENCY:
        return f"p{100 * policy.latency_quantile:g} of {question.trials} answers"
    if question.measure is Measure.QUALITY:
        wrong, total = canary.quality_total - canary.quality_good, canary.quality_total
        other = _against(control.quality_total - control.quality_good, control.quality_total) if control else ""
        return f"{wrong} of {total} answers are wrong{other}"
    return f"{question.name}: {question.trials} pairs"


def _against(events: int, trials: int) -> str:
    return f", the control's {events} of {trials}"


def _shown(question: Question, limits: Interval) -> str:
    low, high = limits
    if question.measure is Measure.LATENCY:
        unit = "x control" if question.high == 100.0 else "s"
        return f"{_number(low, 1, '.3g', 'any')} to {_number(high, 1, '.3g', 'any')} {unit}, limit {question.margin:g}"
    if question.measure is Measure.ANSWERS:
        return f"moved by {_number(low, 1, '+.2f')} to {_number(high, 1, '+.2f')} standard deviations, margin ±{question.margin:g}"
    if question.low == 0.0:
        return f"{_number(low, 100, '.1f', '0')} to {_number(high, 100, '.1f', '100')} %, limit {100 * question.margin:.1f} %"
    sign = "±" if question.is_two_sided else ""
    moved = "moved by " if question.is_two_sided else ""
    return f"{moved}{_number(low, 100, '+.1f')} to {_number(high, 100, '+.1f')} points, margin {sign}{100 * question.margin:.1f}"


def _number(value: float | None, times: float, form: str, nothing: str = "anything") -> str:
    return nothing if value is None else format(times * value, form)


def _two_figures(value: float) -> int:
    unit = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return int(math.ceil(value / unit) * unit)
