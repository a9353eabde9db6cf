"""Pictures of the dossier: plain values in, SVG or PNG bytes out.

Colours are those of Okabe and Ito (2008), told apart with any colour vision; a verdict is also a shape. Figures are made without
pyplot, so that nothing is shared between threads; SVG carries no date, so that the same values give the same bytes.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, SKY, INK, PALE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#1c2430", "#9aa5b1"
_MARKS = {"pass": ("o", BLUE), "cannot tell": ("s", ORANGE), "fail": ("X", VERMILION)}
_STYLE: Mapping[str, Any] = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "grid.color": "#dfe4ea",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.hashsalt": "firstlight",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "text.usetex": False,
}

Row = Mapping[str, Any]
_FLUX = "flux / 10⁻¹⁷ erg s⁻¹ cm⁻² Å⁻¹"
_SMOOTH_PIXELS = 5


def spectra_panel(examples: Sequence[Row]) -> bytes:
    """PNG of spectra with their reconstruction, one below the other.

    Each example: title, wavelength (Å), flux, sigma, reconstruction (1e-17 erg/s/cm²/Å; sigma and reconstruction may be None), caption.
    """
    with mpl.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(10.5, 2.35 * max(1, len(examples)) + 0.5), layout="constrained")
        axes = figure.subplots(max(1, len(examples)), 1, sharex=True, squeeze=False)[:, 0]
        for axis, example in zip(axes, examples, strict=False):
            _spectrum(axis, example)
        axes[-1].set_xlabel("observed wavelength / Å")
        figure.supylabel(_FLUX, fontsize=9.5)
        if examples:
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=8.5)
        return _bytes(figure, "png")


def _spectrum(axis: Axes, example: Row) -> None:
    wavelength, flux = _floats(example["wavelength"]), _floats(example["flux"])
    sigma = _floats(example["sigma"]) if example.get("sigma") is not None else None
    seen = np.isfinite(flux) if sigma is None else np.isfinite(flux) & np.isfinite(sigma) & (sigma > 0)
    smooth = _smooth(np.where(seen, flux, np.nan))
    axis.plot(wavelength, smooth, color=PALE, linewidth=0.7, label=f"observed, mean of {_SMOOTH_PIXELS} pixels")
    if sigma is not None:
        axis.plot(wavelength, np.where(seen, sigma, np.nan), color=SKY, linewidth=0.6, label="1σ noise per pixel")
    if example.get("reconstruction") is not None:
        axis.plot(wavelength, _floats(example["reconstruction"]), color=VERMILION, linewidth=1.1, label="reconstruction")
    axis.set_ylim(*_limits(smooth, example.get("reconstruction")))
    axis.set_xlim(wavelength[0], wavelength[-1])
    axis.set_title(_short(example.get("title", ""), 70))
    axis.set_title(_short(example.get("caption", ""), 90), loc="right", fontsize=8.5, fontweight="normal")
    axis.grid(axis="x")


def _smooth(values: np.ndarray) -> np.ndarray:
    kernel = np.ones(max(1, min(_SMOOTH_PIXELS, len(values))))
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    count = np.convolve(known.astype(float), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _limits(smooth: np.ndarray, reconstruction: Any) -> tuple[float, float]:
    shown = smooth if reconstruction is None else np.concatenate([smooth, _floats(reconstruction)])
    finite = shown[np.isfinite(shown)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, [0.3, 99.7])
    margin = 0.12 * max(float(high - low), 1e-3)
    return min(float(low) - margin, 0.0), float(high) + margin


def slice_chart(rows: Sequence[Row], metric: str) -> bytes:
    """SVG of one metric by slice with its interval.

    Each row: dimension, slice, metric, n (or events), value (or rate), low, high, verdict, rest_value (or rest_rate); None = unknown.
    """
    chosen = [_slice_row(row) for row in rows if row.get("metric") == metric]
    with mpl.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(9.5, 0.27 * max(3, len(chosen)) + 1.3), layout="constrained")
        axis = figure.subplots()
        for place, row in enumerate(chosen):
            _slice(axis, place, row)
        _slice_labels(axis, chosen)
        axis.set_xlabel(f"{metric.replace('_', ' ')} (fraction; mark and bar: this slice and its interval, |: all other spectra)")
        axis.grid(axis="x")
        _verdict_legend(axis, sorted({str(row.get("verdict")) for row in chosen}))
        return _bytes(figure, "svg")


def _slice_row(row: Row) -> Row:
    """The row under the names used here; the bias report calls three of them otherwise."""
    other = {"n": row.get("rows"), "value": row.get("rate"), "rest_value": row.get("rest_rate")}
    return {**other, **row}


def _slice(axis: Axes, place: int, row: Row) -> None:
    marker, colour = _MARKS.get(str(row.get("verdict")), ("o", PALE))
    value, low, high, rest = (_number(row.get(key)) for key in ("value", "low", "high", "rest_value"))
    if low is not None and high is not None:
        axis.plot([low, high], [place, place], color=colour, linewidth=2.4, alpha=0.45, solid_capstyle="butt")
    if value is None:
        axis.text(0.0, place, "too few to tell", color=INK, fontsize=8, va="center", style="italic")
    else:
        axis.plot([value], [place], marker=marker, color=colour, markersize=6.5, linestyle="none")
    if rest is not None:
        axis.plot([rest], [place], marker="|", color=INK, markersize=11, linestyle="none")


def _slice_labels(axis: Axes, rows: Sequence[Row]) -> None:
    names = [_short(f"{row.get('dimension')}: {row.get('slice')}", 44) + f"   n = {_count(row.get('n'))}" for row in rows]
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axis.set_xlim(-0.02, 1.02)
    for place in range(1, len(rows)):
        if rows[place].get("dimension") != rows[place - 1].get("dimension"):
            axis.axhline(place - 0.5, color="#c5ccd4", linewidth=0.8)


def _verdict_legend(axis: Axes, verdicts: Sequence[str]) -> None:
    for verdict in verdicts:
        marker, colour = _MARKS.get(verdict, ("o", PALE))
        axis.plot([], [], marker=marker, color=colour, linestyle="none", label=verdict)
    if verdicts:
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(verdicts), fontsize=8.5)


_WHO = {
    "candidate": (VERMILION, "o", "-"),
    "champion": (BLUE, "s", "--"),
    "eager": (BLUE, "s", "--"),
    "onnx": (GREEN, "^", ":"),
    "aot": (VERMILION, "o", "-"),
    "cuda": (VERMILION, "D", "-."),
}


def benchmark_chart(points: Sequence[Row]) -> bytes:
    """SVG of latency and throughput by batch size. Each point: who (candidate, champion, or a backend), batch, latency_ms_p50, latency_ms_p99, spectra_per_second."""
    with mpl.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        latency, throughput = figure.subplots(1, 2)
        for who in sorted({str(point.get("who")) for point in points}):
            _bench_line(
                latency, throughput, who, sorted((p for p in points if p.get("who") == who), key=lambda point: float(point["batch"]))
            )
        latency.set_ylabel("latency of one call / ms")
        throughput.set_ylabel("spectra per second")
        batches = sorted({int(point["batch"]) for point in points})
        for axis in (latency, throughput):
            axis.set_xlabel("batch size / spectra")
            axis.set_xscale("log", base=2)
            if any(np.nanmax(np.asarray(line.get_ydata(), dtype=float), initial=0) > 0 for line in axis.get_lines()):
                axis.set_yscale("log")
            axis.set_xticks(batches, [str(batch) for batch in batches])
            axis.yaxis.set_major_formatter(_plain)
            axis.yaxis.set_minor_formatter(_plain if _is_narrow(axis) else "")
            axis.grid(visible=True)
        if points:
            latency.legend(fontsize=8.5)
            throughput.legend(fontsize=8.5)
        return _bytes(figure, "svg")


def _is_narrow(axis: Axes) -> bool:
    """Whether the axis spans less than a decade, so that its powers of ten alone would be too few labels."""
    low, high = axis.get_ylim()
    return high < 10 * low


def _plain(value: float, _place: int | None = None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _bench_line(latency: Axes, throughput: Axes, who: str, points: Sequence[Row]) -> None:
    colour, marker, line = _WHO.get(who, (PALE, "^", ":"))
    batch = [float(point["batch"]) for point in points]
    p50, p99, rate = (_column(points, key) for key in ("latency_ms_p50", "latency_ms_p99", "spectra_per_second"))
    latency.plot(batch, p50, color=colour, marker=marker, linestyle=line, label=f"{who}, median to p99")
    latency.fill_between(batch, p50, p99, color=colour, alpha=0.15, linewidth=0)
    throughput.plot(batch, rate, color=colour, marker=marker, linestyle=line, label=who)


def drift_chart(columns: Sequence[Row]) -> bytes:
    """SVG of reference and current histograms; columns that could not be compared are left out.

    Each column: column, edges, reference, current (counts or densities per bin), effect, verdict. The last-named three arrays may also stand under
    ``histogram``, as in the drift report, with ``labels`` instead of edges for categories.
    """
    flat = ({**column, **(column.get("histogram") or {})} for column in columns)
    drawn = [row for row in flat if any(row.get(key) is not None and len(row[key]) for key in ("edges", "labels"))]
    wide = 3
    tall = max(1, math.ceil(len(drawn) / wide))
    with mpl.rc_context(dict(_STYLE)):
        figure = Figure(figsize=(10.5, 2.3 * tall + 0.3), layout="constrained")
        axes = figure.subplots(tall, wide, squeeze=False).ravel()
        for axis, column in zip(axes, drawn, strict=False):
            _histogram(axis, column)
        for axis in axes[len(drawn) :]:
            axis.set_axis_off()
        if drawn:
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", fontsize=8.5, ncols=2)
        return _bytes(figure, "svg")


def _histogram(axis: Axes, column: Row) -> None:
    labels = list(column.get("labels") or ())
    edges = np.arange(len(labels) + 1) - 0.5 if labels else _floats(column["edges"])
    reference, current = (_shares(column[key], edges) for key in ("reference", "current"))
    axis.stairs(reference, edges, color=BLUE, fill=True, alpha=0.25)
    axis.stairs(reference, edges, color=BLUE, linewidth=1.3, label="reference")
    axis.stairs(current, edges, color=VERMILION, linewidth=1.5, linestyle="--", label="current")
    if labels:
        axis.set_xticks(range(len(labels)), [_short(label, 10) for label in labels])
    effect = _number(column.get("effect"))
    size = "effect unknown" if effect is None else f"effect {effect:.2f}"
    axis.set_title(_short(column.get("column", ""), 34), fontsize=9)
    axis.set_xlabel(f"{size}: {_short(column.get('verdict', 'no verdict'), 20)}", fontsize=8.5)
    axis.set_ylabel("share / %", fontsize=8.5)
    axis.tick_params(labelsize=8)


def _shares(values: Any, edges: np.ndarray) -> np.ndarray:
    """Percent per bin, from counts, shares or densities (known by their integral of 1)."""
    counts = np.nan_to_num(_floats(values))
    if math.isclose(float(np.sum(counts * np.diff(edges))), 1.0, rel_tol=1e-6):
        return np.asarray(100 * counts * np.diff(edges), dtype=float)
    total = counts.sum()
    return np.asarray(100 * counts / total if total > 0 else counts, dtype=float)


def _floats(values: Any) -> np.ndarray:
    return np.asarray([np.nan if value is None else value for value in values], dtype=float)


def _column(rows: Sequence[Row], key: str) -> np.ndarray:
    return np.array([np.nan if (number := _number(row.get(key))) is None else number for row in rows])


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        return None
    return float(value)


def _count(value: Any) -> str:
    number = _number(value)
    return "?" if number is None else f"{number:,.0f}"


def _short(value: Any, longest: int) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _bytes(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    stream = io.BytesIO()
    if kind == "svg":
        figure.savefig(stream, format="svg", metadata={"Date": None})
    else:
        figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()
