"""Which slices a table has, and in which strata of equal S/N they are compared. Pure: a table and a policy in, masks out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expectations.policy import BiasPolicy
from firstlight.errors import RefusedError

Mask = NDArray[np.bool_]
Strata = NDArray[np.int64]
SNR = "snr"
_MOST_VALUES = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Slice:
    """Some rows of a table, and the rows they are compared with."""

    dimension: str
    """What the slice is cut by, for example ``z``."""
    name: str
    """Which part, for example ``0.5 to 1``."""
    members: Mask
    """Rows in the slice, (n,)."""
    rest: Mask
    """Rows of the same dimension with a known value outside the slice, (n,)."""

    @property
    def matched(self) -> bool:
        """True when the comparison is made at matched S/N; S/N itself cannot be."""
        return self.dimension != SNR


def slices(table: pd.DataFrame, policy: BiasPolicy) -> list[Slice]:
    """Return every slice of every dimension whose column exists and falls into more than one part; unknown values belong to none.

    A dimension that cuts the table exactly as an earlier one did is left out unless it is required: the same question twice only costs power.

    Raises RefusedError when a column has so many values that it names objects rather than slices.
    """
    binned = {name: _bin_masks(_numbers(table, name), edges) for name, edges in policy.bins.items() if name in table}
    valued = {name: _value_masks(table[column], column) for name, column in policy.categories.items() if column in table}
    asked = {requirement.dimension for requirement in policy.required}
    found: list[Slice] = []
    seen: set[frozenset[bytes]] = set()
    for dimension, parts in {**binned, **valued}.items():
        cut = _of_dimension(dimension, parts)
        partition = frozenset(part.members.tobytes() for part in cut)
        if partition not in seen or dimension in asked:
            found += cut
        seen.add(partition)
    return found


def snr_strata(table: pd.DataFrame, policy: BiasPolicy) -> tuple[Strata, ...]:
    """Return the S/N stratum of every row, first in fine strata and then in coarse ones; empty when no row has an S/N.

    Rows without S/N share a stratum of their own.
    """
    if SNR not in table:
        return ()
    values = _numbers(table, SNR)
    if not np.isfinite(values).any():
        return ()
    return tuple(_strata(values, edges) for edges in (policy.match_edges, policy.match_edges_coarse))


def _strata(values: NDArray[np.float64], edges: Sequence[float]) -> Strata:
    strata = np.searchsorted(np.asarray(edges), values, side="right")
    return np.where(np.isfinite(values), strata, len(edges) + 1).astype(np.int64)


def _numbers(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    numbers = pd.to_numeric(table[column], errors="coerce")
    return np.asarray(numbers.to_numpy(dtype=np.float64, na_value=np.nan))


def _of_dimension(dimension: str, parts: dict[str, Mask]) -> list[Slice]:
    filled = {name: mask for name, mask in parts.items() if mask.any()}
    if len(filled) < 2:
        return []
    known = np.logical_or.reduce(list(filled.values()))
    return [Slice(dimension=dimension, name=name, members=mask, rest=known & ~mask) for name, mask in filled.items()]


def _bin_masks(values: NDArray[np.float64], edges: Sequence[float]) -> dict[str, Mask]:
    part = np.searchsorted(np.asarray(edges), values, side="right")
    finite = np.isfinite(values)
    return {name: finite & (part == index) for index, name in enumerate(_bin_names(edges))}


def _bin_names(edges: Sequence[float]) -> list[str]:
    inner = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return [f"below {edges[0]:g}", *inner, f"{edges[-1]:g} and above"]


def _value_masks(values: pd.Series, column: str) -> dict[str, Mask]:
    plain = values.astype("object").to_numpy()
    known = np.array([not (value is None or value is pd.NA or value != value or value in ("", -1)) for value in plain], dtype=bool)
    names = np.array([str(value) if ok else "" for value, ok in zip(plain, known, strict=True)], dtype=object)
    distinct = sorted(set(names[known]))
    if len(distinct) > _MOST_VALUES:
        raise RefusedError(
            f"a slice column must have at most {_MOST_VALUES} values, found {len(distinct)} in {column!r}; bin it or drop it"
        )
    return {name: known & (names == name) for name in distinct}
