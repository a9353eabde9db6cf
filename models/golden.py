"""Golden vectors: does the model, here and now, answer what its trainer saw? Asked before a process says it is ready."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from firstlight.digest import finite
from firstlight.verdict import Verdict
from models.document import Epsilon
from models.errors import HandOffError
from models.handoff_folder import HandOff, load
from models.tensors import Array

if TYPE_CHECKING:
    from models.backends import Runner


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenReport:
    """How near the replayed outputs are to the recorded ones."""

    verdict: Verdict
    rows: int
    worst: dict[str, float]
    """Largest absolute error per output (NaN when it cannot be computed)."""
    reasons: list[str]

    @property
    def summary(self) -> str:
        """Return one sentence with the figure a reviewer wants."""
        if not self.worst:
            return f"golden vectors: {self.verdict}, nothing compared"
        name = max(self.worst, key=lambda output: np.nan_to_num(self.worst[output], nan=np.inf))
        return f"golden vectors: {self.verdict}, {self.rows} rows, largest error {self.worst[name]:.3g} in {name!r}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values for the evidence."""
        content = {
            "verdict": str(self.verdict),
            "summary": self.summary,
            "reasons": list(self.reasons),
            "rows": self.rows,
            "worst": self.worst,
        }
        return dict(finite(content))


def replay(program: "Runner", folder: Path | str | HandOff) -> GoldenReport:
    """Run the golden inputs of ``folder`` through ``program`` and compare with the recorded outputs.

    Raises HandOffError when the folder's golden file cannot be read; a model that fails to answer is the verdict fail.
    """
    handoff = folder if isinstance(folder, HandOff) else load(folder)
    inputs, recorded = handoff.golden()
    try:
        found = program(inputs)
    except HandOffError as problem:
        return GoldenReport(verdict=Verdict.FAIL, rows=0, worst={}, reasons=[str(problem)])
    return compare(recorded, found, epsilon=handoff.model.epsilon)


def compare(recorded: Mapping[str, Array], found: Mapping[str, Array], *, epsilon: Epsilon) -> GoldenReport:
    """Compare recorded and found outputs element by element; pure. No rows at all is *cannot tell*."""
    rows = min((len(array) for array in recorded.values()), default=0)
    reasons = [reason for name, array in recorded.items() if (reason := _difference(name, array, found.get(name), epsilon))]
    worst = {
        name: _largest_error(array, found[name]) for name, array in recorded.items() if name in found and array.shape == found[name].shape
    }
    if reasons:
        return GoldenReport(verdict=Verdict.FAIL, rows=rows, worst=worst, reasons=reasons)
    if rows == 0:
        return GoldenReport(
            verdict=Verdict.CANNOT_TELL, rows=0, worst={}, reasons=["there are no golden rows to replay: record at least 8"]
        )
    return GoldenReport(verdict=Verdict.PASS, rows=rows, worst=worst, reasons=[])


def _difference(name: str, recorded: Array, found: Array | None, epsilon: Epsilon) -> str:
    if found is None:
        return f"output {name!r} was recorded, but the model does not give it"
    if recorded.shape != found.shape:
        return f"output {name!r} must have shape {list(recorded.shape)}, found {list(found.shape)}"
    old, new = recorded.astype(np.float64), found.astype(np.float64)
    far = ~np.isclose(new, old, rtol=epsilon.rtol, atol=epsilon.atol, equal_nan=True)
    if not far.any():
        return ""
    at = tuple(int(index) for index in np.argwhere(far)[0])
    bad = len({int(index) for index in np.argwhere(far)[:, 0]})
    return f"row {at[0]} of output {name!r} must be {old[at]:.6g}, found {new[at]:.6g} ({bad} of {len(old)} rows differ)"


def _largest_error(recorded: Array, found: Array) -> float:
    if recorded.size == 0:
        return 0.0
    old, new = recorded.astype(np.float64), found.astype(np.float64)
    # equal values first: inf - inf is NaN, and NaN recorded and found is no error
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    with np.errstate(invalid="ignore"):
        return float(np.max(np.where(same, 0.0, np.abs(new - old))))
