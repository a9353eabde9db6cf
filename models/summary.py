"""One row of numbers per spectrum, the same wherever it is written: reference table, inference log, drift report.

A drift report compares columns, not arrays of 7781 pixels. If the reference and the log computed these columns with
different code, the report would find that difference and call it drift; so both call :func:`summarise`, and it knows
nothing about the model except the names and shapes of what went in and what came out.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from firstlight.errors import RefusedError

if TYPE_CHECKING:
    import pandas as pd

FEATURES = ("median", "p95", "zero_fraction")
"""Suffixes of the columns made for every 2-D input ``<name>``: median and 95th percentile of its finite values, and the
fraction of values that say nothing (exactly zero, or not finite)."""

SNR = "snr"
"""Median of flux * sqrt(ivar) over pixels with ivar > 0, made when the inputs have both ``flux`` and ``ivar``; the same
definition as the ``snr`` column of a SpectrumBatch."""

VECTOR_LIMIT = 16
"""Widest vector that becomes columns ``<name>_0`` ...; a wider one (a reconstruction) is no summary and is left out."""

Array = np.ndarray[Any, Any]


class SummaryError(RefusedError):
    """The arrays do not describe the same rows, or two of them claim one column."""


def summarise(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> "pd.DataFrame":
    """Return :func:`summary_columns` as a table, one row per spectrum."""
    import pandas as pd

    columns = summary_columns(inputs, outputs)
    return pd.DataFrame(columns, index=pd.RangeIndex(_row_count({**inputs, **outputs})), dtype=np.float64)


def summary_columns(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return one float64 column [n] per feature, in the order inputs then outputs; pandas is not needed.

    ``inputs`` and ``outputs`` map a name to an array whose first axis is the spectrum. Inputs [n, width] give the
    :data:`FEATURES` columns; inputs and outputs [n] or [n, 1] give a column of their own name; vectors up to
    :data:`VECTOR_LIMIT` wide give ``<name>_<i>`` when they are outputs. Anything wider or deeper is left out.
    A statistic over no value at all is NaN. Raises SummaryError when row counts differ or column names collide.
    """
    _row_count({**{f"input {k}": v for k, v in inputs.items()}, **{f"output {k}": v for k, v in outputs.items()}})
    columns: dict[str, Array] = {}
    for name, array in inputs.items():
        _add(columns, _input_columns(name, np.asarray(array)))
    if {"flux", "ivar"} <= inputs.keys() and inputs["flux"].shape == inputs["ivar"].shape and inputs["flux"].ndim == 2:
        _add(columns, {SNR: signal_to_noise(inputs["flux"], inputs["ivar"])})
    for name, array in outputs.items():
        _add(columns, _output_columns(name, np.asarray(array)))
    return columns


def signal_to_noise(flux: Array, ivar: Array) -> Array:
    """Return the median of flux * sqrt(ivar) per row over pixels with ivar > 0 and both finite; NaN where there is none. [n, w] -> [n]."""
    flux, ivar = np.asarray(flux, dtype=np.float32), np.asarray(ivar, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.sqrt(np.where(ivar > 0, ivar, np.float32(np.nan)))
        ratio *= flux
    return _quantiles(ratio, (0.5,))[0]


def _input_columns(name: str, array: Array) -> dict[str, Array]:
    if _is_scalar(array):
        return {name: _as_float(array)}
    if array.ndim != 2:
        return {}
    values = array.astype(np.float32 if array.dtype.itemsize < 8 else np.float64, copy=False)
    median, p95 = _quantiles(values, (0.5, 0.95))
    empty = values == 0
    finite = np.isfinite(values)
    if not finite.all():
        empty |= ~finite
    fraction = _counts(empty) / array.shape[1] if array.shape[1] else np.full(len(array), np.nan)
    return {f"{name}_median": median, f"{name}_p95": p95, f"{name}_zero_fraction": fraction}


def _output_columns(name: str, array: Array) -> dict[str, Array]:
    if _is_scalar(array):
        return {name: _as_float(array)}
    if array.ndim != 2 or array.shape[1] > VECTOR_LIMIT:
        return {}
    return {f"{name}_{i}": array[:, i].astype(np.float64) for i in range(array.shape[1])}


def _is_scalar(array: Array) -> bool:
    return array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)


def _as_float(array: Array) -> Array:
    return array.reshape(len(array)).astype(np.float64)


def _quantiles(values: Array, quantiles: tuple[float, ...]) -> list[Array]:
    """Return for each quantile its linear interpolation per row over the finite values; NaN where there is none. [n, w] -> [n] each."""
    rows, width = values.shape
    if width == 0:
        return [np.full(rows, np.nan) for _ in quantiles]
    finite = np.isfinite(values)
    if finite.all():  # the usual case saves two passes over the pixels
        count, ordered = np.full(rows, width), np.sort(values, axis=1)
    else:
        count, ordered = _counts(finite), np.sort(np.where(finite, values, values.dtype.type(np.nan)), axis=1)
    return [_interpolated(ordered, count, quantile) for quantile in quantiles]


def _interpolated(ordered: Array, count: Array, quantile: float) -> Array:
    """Return the quantile of each row's first ``count`` values, which are in rising order; what follows them is NaN."""
    position = quantile * np.maximum(count - 1, 0)
    lower = np.floor(position).astype(np.intp)
    upper = np.minimum(lower + 1, np.maximum(count - 1, 0))
    row = np.arange(len(ordered))
    low, high = ordered[row, lower].astype(np.float64), ordered[row, upper].astype(np.float64)
    return np.asarray(low + (high - low) * (position - lower))


def _counts(mask: Array) -> Array:
    """Return how many are true in each row; row by row, because numpy's count along an axis is four times slower."""
    return np.array([np.count_nonzero(row) for row in mask], dtype=np.intp)


def _add(columns: dict[str, Array], new: Mapping[str, Array]) -> None:
    clash = sorted(columns.keys() & new.keys())
    if clash:
        raise SummaryError(f"every summary column must have one source, but {clash[0]!r} has two: rename the model's input or output")
    columns.update(new)


def _row_count(arrays: Mapping[str, Array]) -> int:
    counts = {name: (np.shape(array)[0] if np.ndim(array) else -1) for name, array in arrays.items()}
    if len(set(counts.values())) > 1 or -1 in counts.values():
        raise SummaryError(f"every array must have one row per spectrum, found row counts {counts!r}: pass arrays of one batch")
    return next(iter(counts.values()), 0)
