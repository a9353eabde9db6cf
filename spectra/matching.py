"""Joining tables on TARGETID, which is int64 throughout and need not be unique."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def first_match(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return for each of ``wanted`` the index of the first equal key, or -1.

    >>> first_match(np.array([7, 5, 7]), np.array([7, 6])).tolist()
    [0, -1]
    """
    if len(keys) == 0:
        return np.full(len(wanted), -1, np.intp)
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(keys[order], wanted, side="left").clip(max=len(keys) - 1)
    found = order[place]
    return np.where(keys[found] == wanted, found, -1)


def taken(values: NDArray[Any], index: NDArray[np.intp], *, missing: Any) -> NDArray[Any]:
    """Return ``values[index]`` with ``missing`` where the index is -1."""
    if len(values) == 0:
        return np.full(len(index), missing, values.dtype)
    return np.where(index >= 0, values[index], missing)


def taken_texts(values: list[str], index: NDArray[np.intp]) -> list[str]:
    """Return the texts at ``index``, empty where it is -1."""
    return [values[at] if at >= 0 else "" for at in index.tolist()]


def duplicates(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return True for each key that an earlier row has too."""
    return np.not_equal(first_match(keys, keys), np.arange(len(keys)))
