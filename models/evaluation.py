"""Is what was claimed of a model true of the bytes that were handed over? The exported program, on rows it never learned from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from firstlight.digest import finite
from firstlight.verdict import Verdict, worst
from models.errors import HandOffError
from models.handoff import HandOff, load
from models.judgement import Array, Figures, judge

if TYPE_CHECKING:
    from models.program import Program

TOLERANCE = 0.01
"""How far a claimed metric may be from the recomputed one, absolute or relative to its size, whichever is more: float32 on another
machine moves a row or two across a threshold, an invented figure is further off."""
_WAVELENGTHS = (7781, 3600.0, 0.8)
"""Length, first wavelength and step (Å) of the common grid; spectra of another length are drawn over their pixel number."""


class EvaluationPolicy(BaseModel):
    """What the held-out rows must show."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    required: tuple[str, ...] = ("class_accuracy_macro", "anomaly_auc", "false_alarm_rate")
    """Metrics that must be known; one that the model's outputs cannot have (no classes, no score) is not asked, but one must be left. The others are reported."""
    at_least: dict[str, float] = {"class_accuracy_macro": 0.85, "anomaly_auc": 0.6}
    """Metric -> smallest value. Below it is *fail*, or *cannot tell* while its exact interval still reaches it. AUC 0.5 is chance."""
    at_most: dict[str, float] = {"false_alarm_rate": 0.12}
    """Metric -> largest value, likewise: more false alarms than this and nobody reads the list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The held-out rows with the model's answers, and what they amount to."""

    verdict: Verdict
    table: pd.DataFrame
    """One row per held-out spectrum: its metadata, the scalar outputs and the columns of :func:`models.judgement.judge`."""
    metrics: dict[str, float | None]
    """None where it cannot be told."""
    intervals: dict[str, tuple[float, float]]
    """Exact 95 % intervals of the metrics that are rates."""
    counts: dict[str, int]
    """Rows behind each metric."""
    claimed: dict[str, float]
    """What handoff.yaml says."""
    verdicts: dict[str, Verdict]
    """Per metric: fail when a claim is contradicted, cannot tell when labels are missing. ``<metric>_limit``: against the policy."""
    reasons: list[str]
    threshold: float | None
    model_digest: str

    @property
    def summary(self) -> str:
        """Return one sentence with the figures a reviewer wants."""
        told = [f"{label} {_shown(self.metrics.get(name))}" for name, label in _HEADLINES.items() if name in self.metrics]
        return ", ".join([*told, f"on {len(self.table)} held-out rows"])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values for the evidence; the table stays out."""
        content = {
            "verdict": str(self.verdict),
            "summary": self.summary,
            "reasons": list(self.reasons),
            "rows": len(self.table),
            "threshold": self.threshold,
            "model_digest": self.model_digest,
            "metrics": self.metrics,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "counts": self.counts,
            "claimed": self.claimed,
            "verdicts": {name: str(verdict) for name, verdict in self.verdicts.items()},
        }
        return dict(finite(content))


_DEFAULT = EvaluationPolicy()

_HEADLINES = {
    "class_accuracy_macro": "class accuracy (macro)",
    "anomaly_recall": "anomaly recall",
    "false_alarm_rate": "false-alarm rate",
    "anomaly_auc": "anomaly AUC",
    "median_chi2": "median chi2",
}


def evaluate(
    folder: Path | str | HandOff,
    policy: EvaluationPolicy = _DEFAULT,
    *,
    batch_size: int = 64,
    device: str = "cpu",
    tolerance: float = TOLERANCE,
) -> Evaluation:
    """Run the handed-over program over its held-out rows and compare with what its hand-off claims. Writes nothing.

    Raises HandOffError when the folder is refused or the model fails on a valid row.
    """
    handoff = folder if isinstance(folder, HandOff) else load(folder)
    from models.program import Program  # and torch with it: seconds that a command which only reads policies need not wait

    program = Program.load(handoff, device=device, batch_size=batch_size)
    outputs = narrow_outputs(program, handoff.holdout_inputs(), batch_size=batch_size)
    return assess(handoff, outputs, policy, tolerance=tolerance)


def assess(
    handoff: HandOff, outputs: Mapping[str, Array], policy: EvaluationPolicy = _DEFAULT, *, tolerance: float = TOLERANCE
) -> Evaluation:
    """Return the evaluation of ``outputs`` for the held-out rows; pure but for reading the table."""
    model = handoff.model
    figures = judge(
        handoff.holdout_table(),
        outputs,
        roles={str(role): name for role, name in model.roles.items()},
        classes=tuple(model.classes),
        threshold=model.score_threshold,
    )
    claimed = dict(handoff.metrics)
    verdicts, reasons = _verdicts(figures, claimed, outputs, tolerance=tolerance)
    judged = [*_required(figures, policy), *(verdict for verdict in verdicts.values() if verdict is Verdict.FAIL)]
    for name, (verdict, reason) in _limits(figures, policy).items():
        judged.append(verdict)
        verdicts[f"{name}_limit"] = verdict
        reasons += [reason] if verdict is not Verdict.PASS else []
    return Evaluation(
        verdict=worst(judged),
        table=figures.table,
        metrics=figures.values,
        intervals=figures.intervals,
        counts=figures.counts,
        claimed=claimed,
        verdicts=verdicts,
        reasons=reasons,
        threshold=model.score_threshold,
        model_digest=handoff.model_digest,
    )


def _required(figures: Figures, policy: EvaluationPolicy) -> list[Verdict]:
    """Return a verdict per required metric that this model can have; nothing to require is *cannot tell*."""
    asked = [figures.values[name] for name in policy.required if name in figures.values]
    return [Verdict.CANNOT_TELL if value is None else Verdict.PASS for value in asked] or [Verdict.CANNOT_TELL]


def _limits(figures: Figures, policy: EvaluationPolicy) -> dict[str, tuple[Verdict, str]]:
    """Hold every known metric against its limit."""
    bounds = [(name, limit, 1.0, "at least") for name, limit in policy.at_least.items()]
    bounds += [(name, limit, -1.0, "at most") for name, limit in policy.at_most.items()]
    return {
        name: _hold(value, limit, sign, f"{name} must be {words} {limit:g}, it is {value:.3g}", figures.intervals.get(name))
        for name, limit, sign, words in bounds
        if (value := figures.values.get(name)) is not None
    }


def _hold(value: float, limit: float, sign: float, sentence: str, interval: tuple[float, float] | None) -> tuple[Verdict, str]:
    if sign * (value - limit) >= 0:
        return Verdict.PASS, ""
    if interval is not None and interval[0] <= limit <= interval[1]:
        return Verdict.CANNOT_TELL, f"{sentence}, and {interval[0]:.3g} to {interval[1]:.3g} cannot be told from it: hold out more rows"
    return Verdict.FAIL, f"{sentence}: train longer or on more spectra"


def narrow_outputs(program: "Program", inputs: Mapping[str, Array], *, batch_size: int) -> dict[str, Array]:
    """Return the outputs by name for all rows, without those wider than 64: a reconstruction per row is not kept in memory."""
    rows = len(next(iter(inputs.values())))
    keep = [spec.name for spec in program.outputs if np.prod(spec.shape[1:], dtype=np.int64) <= 64]
    chunks = [{name: array[start : start + batch_size] for name, array in inputs.items()} for start in range(0, max(rows, 1), batch_size)]
    answers = [{name: answer[name] for name in keep} for answer in map(program, chunks)]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in keep}


def _verdicts(
    figures: Figures, claimed: Mapping[str, float], outputs: Mapping[str, Array], *, tolerance: float
) -> tuple[dict[str, Verdict], list[str]]:
    verdicts = {name: Verdict.PASS if value is not None else Verdict.CANNOT_TELL for name, value in figures.values.items()}
    reasons = list(figures.reasons.values())
    for name, value in claimed.items():
        found = figures.values.get(name)
        if name not in figures.values:
            continue  # a figure of the trainer's own: recorded, not judged here
        if found is not None and abs(found - value) > tolerance * max(1.0, abs(value)):
            verdicts[name] = Verdict.FAIL
            reasons.append(
                f"handoff.yaml claims {name} = {value:.4g}, the handed-over model gives {found:.4g}: correct the claim or the model"
            )
    broken = [name for name, array in outputs.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    for name in broken:
        verdicts[f"finite_{name}"] = Verdict.FAIL
        reasons.append(f"every answer must be a finite number, output {name!r} is not for some held-out rows: mend the model")
    if figures.table.empty:
        verdicts["rows"] = Verdict.CANNOT_TELL
        reasons.append("nothing can be told without held-out rows: hand over at least 20")
    return verdicts, reasons


def _shown(value: float | None) -> str:
    return "cannot tell" if value is None else f"{value:.3g}"


def examples(folder: Path | str | HandOff, table: pd.DataFrame, *, k: int = 4, device: str = "cpu") -> dict[str, Any]:
    """Return arrays for pictures: the ``k`` strangest rows of ``table`` (of :func:`evaluate`) and up to ``k`` typical ones.

    Keys: ``x`` [P] (wavelength in Å, or the pixel number) with ``x_label``; ``row``, ``kind`` ("typical" | "strange") and
    ``caption`` lists, one entry per picture; ``flux``, ``ivar`` [m, P], and ``reconstruction`` [m, P] when the model has one. The first
    2-D input stands for flux when none has that name. Deterministic: same folder, same pictures. Raises HandOffError.
    """
    handoff = folder if isinstance(folder, HandOff) else load(folder)
    chosen = _chosen(handoff, table, k)
    inputs = handoff.holdout_inputs()
    picked = {name: array[[row for row, _ in chosen]] for name, array in inputs.items()}
    from models.program import Program

    outputs = Program.load(handoff, device=device)(picked)
    main = "flux" if "flux" in picked else next((name for name, array in picked.items() if array.ndim == 2), None)
    if main is None:
        raise HandOffError(f"a picture needs an input [rows, pixels], found {sorted(inputs)}: this model has no spectra to draw")
    x, label = _axis(picked[main].shape[1])
    content: dict[str, Any] = {"x": x, "x_label": label, "row": [row for row, _ in chosen], "kind": [kind for _, kind in chosen]}
    content["caption"] = [_caption(handoff, table.iloc[row]) for row, _ in chosen]
    content["flux"], content["ivar"] = picked[main], picked.get("ivar", np.ones_like(picked[main]))
    name = handoff.role("reconstruction")
    return content | ({"reconstruction": outputs[name]} if name in outputs else {})


def _chosen(handoff: HandOff, table: pd.DataFrame, k: int) -> list[tuple[int, str]]:
    """Return (row, kind): per class the row nearest the middle score among the better half in S/N, then the highest scores."""
    score_name = handoff.role("score")
    score = table[score_name].to_numpy(dtype=np.float64) if score_name in table else np.zeros(len(table))
    snr = pd.to_numeric(table["snr"], errors="coerce").to_numpy(dtype=np.float64) if "snr" in table else np.ones(len(table))
    strange = [int(row) for row in np.argsort(-score, kind="stable")[:k]] if score_name in table else []
    good = np.nan_to_num(snr, nan=-1) >= np.nanmedian(snr) if np.isfinite(snr).any() else np.full(len(table), True)
    distance = np.abs(score - np.median(score)) if len(score) else score
    by_class = [np.flatnonzero(good & (table["predicted_class"].to_numpy() == name)) for name in sorted(set(table["predicted_class"]))]
    ordered = [rows[np.argsort(distance[rows], kind="stable")] for rows in by_class]
    turns = [int(rows[turn]) for turn in range(k) for rows in ordered if turn < len(rows)]
    return [(row, "typical") for row in turns if row not in strange][:k] + [(row, "strange") for row in strange]


def _axis(pixels: int) -> tuple[Array, str]:
    length, first, step = _WAVELENGTHS
    if pixels == length:
        return first + step * np.arange(length), "wavelength [Å]"
    return np.arange(pixels, dtype=np.float64), "pixel"


def _caption(handoff: HandOff, row: "pd.Series[Any]") -> str:
    """Return what is known of one row, in the order a reader asks."""
    texts = [str(row["targetid"])] if "targetid" in row else []
    if row.get("predicted_class"):
        texts.append(f"model {row['predicted_class']}, label {row.get('label_class') or 'unknown'}")
    for column, form in (("z", "z {:.3f}"), ("snr", "S/N {:.1f}"), (handoff.role("score") or "", "score {:.1f}")):
        value = row.get(column)
        if value is not None and not pd.isna(value):
            texts.append(form.format(float(value)))
    return " · ".join([*texts, *([str(row["anomaly"])] if row.get("anomaly") else [])])
