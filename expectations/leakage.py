"""Did the model see in training what it is judged by? Objects that stand on both sides of the division, counted. Pure."""

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

OBJECT, PART, HELD_OUT = "targetid", "part", "heldout"
"""Columns of the reference table that name the object and its side of the division, and the word for the side that judges."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """How held-out and training rows were kept apart."""

    held_out_rows: int
    """Rows of the held-out table that name their object."""
    training_rows: int
    """Rows of the reference table that the model learned from, or was chosen by."""
    held_out_in_training: int
    """Held-out rows whose object stands among those."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def division(reference: pd.DataFrame, holdout: pd.DataFrame) -> Division | None:
    """Return how the two tables of a hand-off were kept apart, or None where they do not say which object a row is and what it was used for."""
    if OBJECT not in reference or PART not in reference or OBJECT not in holdout:
        return None
    learned = reference.loc[reference[PART].notna() & (reference[PART] != HELD_OUT), OBJECT].dropna()
    judged = holdout[OBJECT].dropna()
    if learned.empty or judged.empty:
        return None
    return Division(held_out_rows=len(judged), training_rows=len(learned), held_out_in_training=int(judged.isin(set(learned)).sum()))
