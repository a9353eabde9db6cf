"""How much of the register is answered, function by function, in one picture. Pure."""

from collections.abc import Mapping
from typing import Any

from governance.dossier import svg
from governance.register import ANSWERED, CONTRADICTED, NOTHING

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 960, 110, 330, 34, 16
_LOOKS = {ANSWERED: "pass", CONTRADICTED: "fail", NOTHING: "nothing"}
_STYLE = svg.element("style", ".nothing{fill:var(--band);stroke:var(--soft);stroke-width:1}")


def register_picture(counts: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return an SVG of one bar for each function. ``counts``: function -> state -> how many subcategories. Numbers stand beside the bars."""
    longest = max((sum(_number(states, state) for state in _LOOKS) for states in counts.values()), default=0) or 1
    unit = (_WIDTH - _LEFT - _RIGHT) / longest
    drawn = [_bar(place, name, states, unit) for place, (name, states) in enumerate(counts.items())]
    height = _TOP * 2 + _ROW * len(drawn)
    return svg.document(
        _STYLE + "".join(drawn), width=_WIDTH, height=height, title="Subcategories answered, contradicted and without evidence, by function"
    )


def _bar(place: int, name: str, states: Mapping[str, Any], unit: float) -> str:
    y = _TOP + place * _ROW
    x = float(_LEFT)
    parts = [svg.words(_LEFT - 12, y + 17, name[:20], anchor="end", look="strong")]
    for state, look in _LOOKS.items():
        width = unit * _number(states, state)
        if width > 0:
            parts.append(svg.element("rect", x=x, y=y, width=width, height=float(_ROW - 10), class_=look))
        x += width
    told = ", ".join(f"{_number(states, state)} {state}" for state in _LOOKS)
    return "".join([*parts, svg.words(x + 12, y + 17, told)])


def _number(states: Mapping[str, Any], state: str) -> int:
    value = states.get(state)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10_000 else 0
