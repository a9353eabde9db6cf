"""Drawing in SVG with nothing but text: elements, escaped, and the sums behind an axis. For pictures that must be read in light and in dark.

Colours are classes, not values: the picture brings one palette for each (:data:`STYLE`) and the viewer's preference chooses. The light palette is that of
``charts``; a verdict is also a word or a shape, never a colour alone.
"""

import html
import math
import textwrap
from collections.abc import Sequence

STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:13px;fill:var(--ink)}
svg{--ink:#1c2430;--soft:#5a6675;--line:#d9dfe6;--paper:#ffffff;--band:#f2f5f8;--pass:#00634b;--cannot:#8a5600;--fail:#b3340f;--blue:#0072B2}
.title{font-size:15px;font-weight:650}.small{font-size:11.5px}.soft{fill:var(--soft)}.strong{font-weight:650}
.paper{fill:var(--paper)}.band{fill:var(--band)}.grid{stroke:var(--line);stroke-width:1;fill:none}.axis{stroke:var(--soft);stroke-width:1;fill:none}
.pass{fill:var(--pass)}.cannot{fill:var(--cannot)}.fail{fill:var(--fail)}.blue{fill:var(--blue)}
.line{fill:none;stroke-width:2.2;stroke-linejoin:round}.line.pass{stroke:var(--pass)}.line.fail{stroke:var(--fail)}.line.blue{stroke:var(--blue)}
.bound{stroke-width:1.4;stroke-dasharray:6 4;fill:none}.bound.pass{stroke:var(--pass)}.bound.fail{stroke:var(--fail)}
.event{stroke:var(--cannot);stroke-width:1.4;stroke-dasharray:2 3;fill:none}.halo{paint-order:stroke;stroke:var(--paper);stroke-width:3px}
.tint.pass{fill:var(--pass);opacity:.10}.tint.fail{fill:var(--fail);opacity:.10}.tint.blue{fill:var(--blue);opacity:.13}
@media (prefers-color-scheme:dark){svg{--ink:#e6ebf1;--soft:#a3afbd;--line:#36414e;--paper:#12181f;--band:#1a222b;--pass:#4fd1a5;--cannot:#f0b04a;--fail:#ff8a66;--blue:#6db9ee}}
"""

_WIDTH_PER_EM = 0.56
"""Mean width of a letter of these fonts; text cannot be measured here, so lines are broken a little early."""


def element(name: str, content: str = "", **attributes: str | float | None) -> str:
    """Return ``<name …>content</name>``. Attribute values are escaped, underscores become dashes; ``content`` is markup and is not escaped."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_shown(value))}"' for key, value in attributes.items() if value is not None
    )
    return f"<{name}{given}>{content}</{name}>" if content else f"<{name}{given}/>"


def words(x: float, y: float, text: str, *, look: str = "", anchor: str | None = None) -> str:
    """Return one line of text at (x, y), escaped; control characters, which XML forbids, are left out."""
    return element("text", _escaped(text) or " ", x=x, y=y, class_=look or None, text_anchor=anchor)


def paragraph(x: float, y: float, text: str, *, width: float, size: float = 13, most: int = 4, look: str = "") -> tuple[str, float]:
    """Return lines of text broken to ``width`` (px) and the y below them; what is over ``most`` lines ends in an ellipsis."""
    lines = textwrap.wrap(" ".join(text.split()), max(8, int(width / (size * _WIDTH_PER_EM)))) or [""]
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1][:-1] + "…"]
    return "".join(words(x, y + place * size * 1.4, line, look=look) for place, line in enumerate(lines)), y + len(lines) * size * 1.4


def path(points: Sequence[tuple[float, float]], *, look: str, steps: bool = False) -> str:
    """Return a line through ``points``; ``steps``: it stays level until the next point's x."""
    if not points:
        return ""
    drawn = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for x, y in points[1:]:
        drawn += f"H{x:.1f}V{y:.1f}" if steps else f"L{x:.1f} {y:.1f}"
    return element("path", d=drawn, class_=look)


def line(x0: float, y0: float, x1: float, y1: float, *, look: str) -> str:
    """Return a straight line."""
    return element("line", x1=x0, y1=y0, x2=x1, y2=y1, class_=look)


def document(body: str, *, width: int, height: float, title: str) -> bytes:
    """Return the whole picture, with a title that screen readers say."""
    inside = f"<title>{_escaped(title)}</title><style>{STYLE}</style>" + element("rect", width=width, height=height, class_="paper") + body
    drawn = element(
        "svg",
        inside,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height:.0f}",
        width=width,
        height=f"{height:.0f}",
        role="img",
    )
    return drawn.encode()


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Return round numbers from ``low`` to ``high``, at most about ``most`` of them; only ``low`` where the range is empty.

    >>> ticks(0, 430, most=5)
    [0.0, 100.0, 200.0, 300.0, 400.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]


def time_ticks(seconds: float) -> list[float]:
    """Return times from 0 to ``seconds`` that are round in the unit in which :func:`span` says them.

    >>> [span(value) for value in time_ticks(2400)]
    ['0', '5 min', '10 min', '15 min', '20 min', '25 min', '30 min', '35 min', '40 min']
    """
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 432_000, 864_000)
    if seconds < 5:
        return ticks(0, seconds)
    step = next((step for step in steps if seconds / step <= 9), seconds / 8)
    return [step * number for number in range(int(seconds / step) + 1)]


def span(seconds: float) -> str:
    """Return a span of time as people say it.

    >>> [span(value) for value in (0, 0.25, 42, 600, 9000, 200000)]
    ['0', '0.25 s', '42 s', '10 min', '2.5 h', '2.31 d']
    """
    for unit, name in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.3g} {name}" if seconds < 100 * unit else f"{seconds / unit:.0f} {name}"
    return f"{seconds:.3g} s" if seconds else "0"


def _escaped(text: str) -> str:
    return html.escape("".join(letter for letter in text if letter.isprintable()))


def _shown(value: str | float | None) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
