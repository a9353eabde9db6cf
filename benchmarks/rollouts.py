"""Operating characteristics of the production policy: ``python -m benchmarks.rollouts`` simulates (a minute of one core) and writes

benchmarks/results/rollouts.json, the tables between the markers of docs/rollouts.md, and docs/pictures/rollout-decisions.svg. With ``page`` it
writes the last two anew from the first.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rollout.findings import duration
from rollout.simulation import Case, fixed_threshold, paired_answers, rollouts, table
from tasks import policy

ROOT = Path(__file__).parent.parent
POLICY = ROOT / "deployments" / "policies" / "production.yaml"
RESULTS = ROOT / "benchmarks" / "results" / "rollouts.json"
PAGE = ROOT / "docs" / "rollouts.md"
PICTURE = ROOT / "docs" / "pictures" / "rollout-decisions.svg"
BEGIN, END = "<!-- made by `python -m benchmarks.rollouts`, from here", "<!-- to here -->"
SMALL = Case(per_window=(20,), bad=0.03, runs=8)
"""What a test simulates again, to see that the figures are this code's."""
RATES = (0.0, 0.0025, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.0175, 0.02, 0.025, 0.03, 0.04)
SHIFTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
CORRELATIONS = (0.5, 0.75, 0.9)
_BLUE, _LIGHT, _RED, _GREY, _INK = "#1b5fad", "#86b4e6", "#b3340f", "#8a909c", "#30343c"
_STYLE = {
    "font.size": 9,
    "font.family": ["DejaVu Sans", "sans-serif"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa0aa",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.hashsalt": "firstlight",
    "svg.fonttype": "none",
}


def simulate(*, runs: int = 2000, curve_runs: int = 400) -> dict[str, Any]:
    """Return everything the page shows, as plain JSON values."""
    rules = policy.read(POLICY).rollout
    curve = []
    for place, rate in enumerate(RATES):
        found = rollouts(rules, control_rate=0.005, canary_rate=rate, per_window=20, runs=curve_runs, seed=100 + place).to_dict()
        fixed = {
            str(per_window): fixed_threshold(canary_rate=rate, per_window=per_window, runs=20_000, seed=100 + place).promoted / 20_000
            for per_window in (20, 100)
        }
        curve.append({"rate": rate, **found, "fixed_promoted": fixed})
    shifts = [
        asdict(paired_answers(rules, shift=shift, correlation=correlation, pairs=400, runs=curve_runs, seed=7))
        for correlation in CORRELATIONS
        for shift in SHIFTS
    ]
    return {"table": table(rules, Case(runs=runs)), "curve": curve, "shifts": shifts, "small": table(rules, SMALL)}


def publish(found: Mapping[str, Any], *, page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Write the tables into the page and draw the picture."""
    text = page.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    page.write_text(before + tables(found) + after)
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(found, picture)


def tables(found: Mapping[str, Any]) -> str:
    """Return the part of the page that figures make, without the closing marker."""
    case = found["table"]["case"]
    lines = [
        f"{BEGIN}: change benchmarks/rollouts.py, not this -->",
        f"{case['runs']} rollouts of each kind, both versions failing {100 * case['healthy']:g} % of requests when the canary is healthy, the canary "
        f"{100 * case['bad']:g} % when it is bad. A window is an hour.",
        "",
        "| requests an hour | rule | healthy turned back | of it undecided | healthy promoted after | bad promoted | bad found after |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in found["table"]["traffic"]:
        each = case["window_seconds"] / row["per_window"]
        for rule, name in (("ours", "always-valid"), ("fixed", "fixed threshold")):
            healthy, bad = row[rule]["healthy"], row[rule]["bad"]
            cells = [
                str(row["per_window"]),
                name,
                _percent(healthy["turned_back"], healthy["runs"]),
                _percent(healthy["undecided"], healthy["runs"]) if rule == "ours" else "–",
                _after(healthy["requests_median"], each),
                _percent(bad["promoted"], bad["runs"]),
                "–" if bad["requests_to_detect"] is None else _after(bad["requests_to_detect"], each),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| correlation of both answers | found within 400 pairs | median |", "|---:|---:|---:|"]
    for row in found["table"]["paired_answers"]:
        median = "–" if row["pairs_median"] is None else f"{row['pairs_median']:.0f} pairs"
        lines.append(f"| {row['correlation']:g} | {100 * row['found_share']:.1f} % | {median} |")
    return "\n".join(lines) + "\n"


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw the curves to ``path`` (.svg or .png)."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.2, 3.9), layout="constrained")
        chance, requests, pairs = figure.subplots(1, 3)
        _chance(chance, found["curve"])
        _requests(requests, found["curve"])
        _pairs(pairs, found["shifts"])
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def _chance(axes: Axes, curve: Sequence[Mapping[str, Any]]) -> None:
    rates = [100 * one["rate"] for one in curve]
    promoted = [100 * one["promoted"] / one["runs"] for one in curve]
    axes.plot(rates, promoted, color=_BLUE, linewidth=2.2, marker="o", markersize=3.5, label="always-valid, any traffic")
    for per_window, style in (("20", "-"), ("100", "--")):
        fixed, said = [100 * one["fixed_promoted"][per_window] for one in curve], f"fixed threshold, {per_window} a window"
        axes.plot(rates, fixed, color=_GREY, linewidth=1.4, linestyle=style, label=said)
    axes.axvline(1.5, color=_RED, linewidth=1, linestyle=":")
    axes.annotate("margin", (1.5, 104), color=_RED, ha="center", annotation_clip=False)
    axes.legend(loc="upper right", bbox_to_anchor=(1.03, 0.95), frameon=False, fontsize=8, handlelength=1.6)
    axes.set(xlabel="canary's true error rate, % (stable: 0.5 %)", ylabel="promoted, % of rollouts", ylim=(-3, 108))
    axes.set_title("Who is promoted", loc="left", fontsize=10, pad=14)


def _requests(axes: Axes, curve: Sequence[Mapping[str, Any]]) -> None:
    axes.plot(
        [100 * one["rate"] for one in curve],
        [one["requests_median"] for one in curve],
        color=_BLUE,
        linewidth=2.2,
        marker="o",
        markersize=3.5,
    )
    axes.plot([100 * one["rate"] for one in curve], [one["requests_99"] for one in curve], color=_LIGHT, linewidth=1.6)
    axes.annotate("99 % need fewer", (1.35, 15_500), color=_LIGHT)
    axes.annotate("median", (1.9, 640), color=_BLUE)
    axes.set_yscale("log")
    axes.set_yticks([100, 300, 1000, 3000, 10_000, 30_000], ["100", "300", "1,000", "3,000", "10,000", "30,000"])
    axes.minorticks_off()
    axes.set(xlabel="canary's true error rate, % (stable: 0.5 %)", ylabel="requests to the service", ylim=(100, 60_000))
    axes.set_title("How long it takes", loc="left", fontsize=10, pad=14)


def _pairs(axes: Axes, shifts: Sequence[Mapping[str, Any]]) -> None:
    for correlation, colour, at, said in (
        (0.5, _LIGHT, (0.225, 66), "0.5"),
        (0.75, _BLUE, (0.135, 52), "0.75"),
        (0.9, _INK, (0.0, 88), "correlation 0.9"),
    ):
        points = [one for one in shifts if one["correlation"] == correlation]
        axes.plot(
            [one["shift"] for one in points],
            [100 * one["found_share"] for one in points],
            color=colour,
            linewidth=2,
            marker="o",
            markersize=3.5,
        )
        axes.annotate(said, at, color=colour)
    axes.axvline(0.2, color=_RED, linewidth=1, linestyle=":")
    axes.annotate("a fifth", (0.2, 104), color=_RED, ha="center", annotation_clip=False)
    axes.set(xlabel="shift, standard deviations of the answer", ylabel="found within 400 pairs, %", ylim=(-3, 108))
    axes.set_title("Paired answers", loc="left", fontsize=10, pad=14)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %"


def _after(requests: float, seconds_each: float) -> str:
    return f"{requests:,.0f} ({duration(requests * seconds_each)})"


def main(arguments: Sequence[str]) -> None:
    """Simulate unless asked for the page alone, and publish."""
    if list(arguments) != ["page"]:
        RESULTS.write_text(json.dumps(simulate(), indent=1) + "\n")
    publish(json.loads(RESULTS.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
