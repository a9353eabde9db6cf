"""The chart of docs/benchmarks.md, from a report: spectra per second at every binary point, our servers against the peers, the limit as a line."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks.serving.contenders import GATEWAY, PEER
from benchmarks.serving.plan import BINARY, point
from benchmarks.serving.verdicts import Report, by_point

_CHOSEN, _EAGER, _PEER, _INK = "#1b5fad", "#86b4e6", "#b9bdc6", "#30343c"
_STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0aa",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.hashsalt": "firstlight",
}
_HALO = [patheffects.withStroke(linewidth=2, foreground="white")]


def draw(report: Report, path: Path) -> None:
    """Write the chart to ``path`` (.svg or .png)."""
    names = [name for name, facts in report["contenders"].items() if facts["status"] == "measured" and not facts["as_deployed"]]
    points = [at for at in map(point, report["plan"]["points"]) if at.form == BINARY]
    columns = min(4, max(1, len(points)))
    rows = -(-len(points) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.1 * columns + 1.6, rows * (0.21 * len(names) + 1.15)), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, at in zip(grid.flat, points, strict=False):
            title = f"{at.batch} {'spectrum' if at.batch == 1 else 'spectra'} a request, {at.concurrency} at once"
            _panel(axes, report, at.name, names, title=title)
        for axes in list(grid.flat)[len(points) :]:
            axes.set_visible(False)
        grid.flat[0].invert_yaxis()
        figure.supxlabel("spectra per second, median of the rounds; binary bodies", fontsize=8)
        figure.legend(handles=_legend(report, grid.flat[0]), loc="outside upper center", ncols=5, frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def _panel(axes: Axes, report: Report, at: str, names: Sequence[str], *, title: str) -> None:
    values = [speed(report, at, name) for name in names]
    bars = axes.barh(range(len(names)), [value or 0.0 for value in values], height=0.72, color=[_colour(report, name) for name in names])
    for bar, name, value in zip(bars, names, values, strict=True):
        if report["contenders"][name]["kind"] == GATEWAY:
            bar.set(alpha=0.55)
        words = "not measured" if value is None else f" {value:,.0f}"
        axes.annotate(words, (value or 0.0, bar.get_y() + bar.get_height() / 2), va="center", fontsize=7, path_effects=_HALO)
    for backend, style in _limits(report):
        if (limit := speed(report, at, f"limit-{backend}")) is not None:
            axes.axvline(limit, color=_INK, linewidth=1, linestyle=style, zorder=0)
    axes.set_title(title, fontsize=8, loc="left")
    axes.set_yticks(range(len(names)), [_label(report["contenders"][name]) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
    axes.margins(x=0.16)


def _limits(report: Report) -> list[tuple[str, str]]:
    chosen = report["choice"]["chosen"]
    return [("eager", ":")] if chosen == "eager" else [(chosen, "-"), ("eager", ":")]


def _legend(report: Report, axes: Axes) -> list[Any]:
    chosen = report["choice"]["chosen"]
    handles: list[Any] = [Patch(color=_EAGER if chosen != "eager" else _CHOSEN, label="First light, eager torch")]
    if chosen != "eager":
        handles.insert(0, Patch(color=_CHOSEN, label=f"First light, {chosen} (its benchmark's choice)"))
    handles.append(Patch(color=_PEER, label="peers, eager torch"))
    lines = [Line2D([], [], color=_INK, linewidth=1, linestyle=style, label=f"in-process limit, {name}") for name, style in _limits(report)]
    return [*handles, *lines]


def _colour(report: Report, name: str) -> str:
    facts = report["contenders"][name]
    if facts["kind"] == PEER:
        return _PEER
    return _CHOSEN if facts["backend"] == report["choice"]["chosen"] else _EAGER


def _label(facts: Mapping[str, Any]) -> str:
    title: str = facts["title"]
    return title.removeprefix("First light, ").replace("through the gateway", "gateway") if facts["kind"] != PEER else title


def speed(report: Report, at: str, name: str, key: str = "rows_per_second") -> float | None:
    """Return the median over the rounds of ``key`` at the point ``at``, or None when it was not measured."""
    found = [sample[key] for sample in by_point(report).get(at, {}).get(name, {}).values() if sample[key] is not None]
    return statistics.median(found) if found else None
