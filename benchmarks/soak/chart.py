"""The chart of a soak: the memory of every process over the minutes."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "firstlight"}


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the chart to ``path`` (.svg or .png)."""
    samples = report["memory_mib"]
    names = sorted({name for _, memory in samples for name in memory})
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.add_subplot()
        for name in names:
            points = [(at / 60, memory[name]) for at, memory in samples if name in memory]
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
        axes.axvline(report["held_until_seconds"] / 60, color="#9aa0aa", linewidth=1, linestyle=":")
        axes.annotate(
            "queue kept full",
            (report["held_until_seconds"] / 60, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -10),
            textcoords="offset points",
        )
        axes.set(xlabel="minutes", ylabel="resident MiB", ylim=(0, None))
        axes.legend(frameon=False, loc="lower left", ncols=2)
        figure.savefig(path, metadata={"Date": None})
