"""What is asked of data and of fairness: every limit in one place, with its unit and its reason.

Policies come from YAML files that people edit, so they are pydantic models: an unknown field or a share above one is refused.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Range = tuple[float, float]
Edges = tuple[float, ...]
Metric = Literal["anomaly_recall", "false_alarm_rate", "class_accuracy"]
Correction = Literal["holm", "benjamini-yekutieli"]


class _Policy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class DataPolicy(_Policy):
    """What a table of spectra must satisfy before anything is judged on it."""

    min_reference_rows: Annotated[int, Field(ge=1)] = 100
    """Rows. Below this no rate is known to better than about ±10 percentage points, so the reference answers nothing: cannot tell."""
    min_spectra_rows: Annotated[int, Field(ge=1)] = 20
    """Rows. A batch smaller than this says nothing about the night it came from: cannot tell."""
    max_missing_share: Share = 0.05
    """Share of rows. Missing values above this in a required column mean a broken join, not single bad fibres."""
    max_out_of_range_share: Share = 0.005
    """Share of the present values of a column. Single failed fits exist in every survey (0.26 % of DR1 ELG redshifts); a broken column is more."""
    max_refused_share: Share = 0.10
    """Share of rows the reader refused, of all rows it met. Above this the files are damaged rather than a few fibres unlucky."""
    min_label_share: Share = 0.5
    """Share of rows that carry a truth label. Below it the labelled rows may not stand for the table (a warning: the bias gate decides)."""
    max_half_blind_share: Share = 0.05
    """Share of rows with more than half of the pixels masked. DR1 quasars: median 0.42 %, worst row 36 % masked."""
    snr_range: Range = (-10.0, 1000.0)
    """Median S/N per pixel, dimensionless. DR1 quasars span -5.2 to 138; bright stars reach a few hundred."""
    z_range: Range = (-0.01, 7.0)
    """Redshift. Stars scatter around 0 by 3000 km/s at most, the templates end below 7."""
    mag_r_range: Range = (5.0, 30.0)
    """Magnitude (AB, r band). Outside this the photometry, not the object, is odd: a warning."""
    ebv_range: Range = (0.0, 10.0)
    """Galactic reddening E(B-V) in magnitudes. The survey footprint stays below about 1."""
    spectypes: tuple[str, ...] = ("GALAXY", "QSO", "STAR")
    """Spectral classes the redshift fit may answer; an empty string is missing."""
    spectra_required: tuple[str, ...] = ("targetid", "snr", "masked_fraction")
    """Columns without which incoming spectra cannot be judged. Redshift and class are not here: files without a redrock sibling lack them."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        for name in ("snr_range", "z_range", "mag_r_range", "ebv_range"):
            low, high = getattr(self, name)
            if low >= high:
                raise ValueError(f"{name} must rise, found {(low, high)!r}; write the smaller limit first")
        return self


class Margins(_Policy):
    """How much worse than the rest, as a difference of rates, starts to matter."""

    anomaly_recall: Share = 0.25
    """Recall may lie at most this much below the rest's. Wide, because a hold-out has few anomalies (about 6 % of its rows)."""
    false_alarm_rate: Share = 0.10
    """False alarms per normal spectrum may lie at most this much above the rest's: what a person looking at the list would notice."""
    class_accuracy: Share = 0.15
    """Share of right classes may lie at most this much below the rest's: about the spread between survey programs that users accept."""


class Requirement(_Policy):
    """A question the gate must be able to answer: *cannot tell* here blocks, elsewhere it is advice."""

    dimension: str
    """Name of a slice dimension, for example ``snr`` or ``class``."""
    metric: Metric
    """Name of the rate."""


_REQUIRED = (
    Requirement(dimension="snr", metric="false_alarm_rate"),
    Requirement(dimension="snr", metric="class_accuracy"),
    Requirement(dimension="z", metric="false_alarm_rate"),
    Requirement(dimension="class", metric="false_alarm_rate"),
)


class BiasPolicy(_Policy):
    """When a slice of the sky counts as treated worse than the rest."""

    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    """Probability that an unbiased model fails anywhere in the whole table (family-wise with ``holm``)."""
    correction: Correction = "holm"
    """How p values are adjusted for asking many slices. Holm controls any false FAIL under any dependence; Benjamini-Yekutieli their share."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Two-sided level of the exact intervals that are shown with every rate."""
    pass_confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """One-sided level of the limit that must exclude the margin for PASS. Not adjusted: all required slices must pass, which only errs safely."""
    min_rows: Annotated[int, Field(ge=1)] = 20
    """Labelled rows per slice (for the rate in question), and in the rest. Below this a rate's interval is wider than ±20 points."""
    min_anomalies: Annotated[int, Field(ge=1)] = 10
    """The same for anomaly recall. Lower, because anomalies are few: ten can show a blind slice, though seldom clear one."""
    min_matched_share: Share = 0.8
    """Share of a slice's rows that must have counterparts of the same S/N in the rest; with fewer, unlike things would be compared."""
    margin: Margins = Margins()
    """Differences that matter, at matched S/N."""
    margin_unmatched: Margins = Margins(anomaly_recall=0.50, false_alarm_rate=0.15, class_accuracy=0.40)
    """Differences that matter between S/N bins, which cannot be matched on S/N: wider, because noise alone explains part of them."""
    required: tuple[Requirement, ...] = _REQUIRED
    """Questions whose *cannot tell* blocks; by default those that 600 held-out rows with labels can answer."""
    required_coverage: Share = 0.5
    """Share of a required dimension's labelled rows that must lie in slices with an answer; small slices beyond that are advice."""
    match_edges: Edges = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0)
    """S/N edges of the strata in which a slice is compared with the rest; finer than the slices, about a tenth of the survey each."""
    match_edges_coarse: Edges = (1.5, 3.0, 6.0)
    """Wider strata (quarters of the survey) used where the fine ones leave too few counterparts; chosen by row counts alone, never by outcome."""
    bins: dict[str, Edges] = Field(
        default={
            "snr": (1.0, 2.0, 4.0, 8.0),
            "z": (0.005, 0.5, 1.0, 1.6, 2.5),
            "mag_r": (18.0, 19.5, 21.0, 22.5),
            "ebv": (0.02, 0.05, 0.1),
        }
    )
    """Fixed inner edges per numeric column (S/N, redshift, magnitudes): the same in every release, so that releases compare. z < 0.005 is mostly stars."""
    categories: dict[str, str] = Field(
        default={"class": "label_class", "spectype": "spectype", "survey": "survey", "program": "program", "petal": "petal"}
    )
    """Slice dimensions by name of the column whose values are the slices; empty strings and -1 are unknown and left out."""

    @model_validator(mode="after")
    def _edges_rise(self) -> Self:
        for name, edges in {**self.bins, "match_edges": self.match_edges, "match_edges_coarse": self.match_edges_coarse}.items():
            if not edges or list(edges) != sorted(set(edges)):
                raise ValueError(f"the edges of {name} must rise, found {edges!r}; sort them and remove repeats")
        return self
