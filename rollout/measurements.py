"""What was measured of each version while a canary is out. Values only: nothing here judges or measures.

They come from processes that may be restarting, so a value may be missing, NaN or contradict itself; ``analysis`` then says
*cannot tell*. Nothing is refused here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.evidence import Evidence, Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionMeasurement:
    """One version over one span of time."""

    version: str
    requests: int = 0
    """Attempts sent to this version, the failed ones too."""
    errors: int = 0
    """Attempts that got no answer or a 5xx from it; charged to it even when another version answered the caller in the end."""
    latency_seconds: tuple[float, ...] = ()
    """Seconds per answer, in any order; possibly only the most recent ones."""
    quality_good: int = 0
    """Answers that were right, of ``quality_total`` answers whose right answer is known."""
    quality_total: int = 0
    agreement_matches: int = 0
    """Answers equal (within the hand-off's epsilon) to those of the evaluation, of ``agreement_total`` that could be compared."""
    agreement_total: int = 0

    @property
    def latency_ms_p99(self) -> float | None:
        """The 99th percentile (nearest rank) in milliseconds, or None without a usable sample."""
        samples = sorted(sample for sample in self.latency_seconds if is_number(sample))
        return 1000 * samples[math.ceil(0.99 * len(samples)) - 1] if samples else None

    @property
    def quality(self) -> float | None:
        """The share of good answers, 0..1, or None when none is known."""
        return self.quality_good / self.quality_total if is_count(self.quality_total) and self.quality_total else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Both versions. The canary since its step began, stable since the rollout began: at 100 % stable answers nothing any more."""

    canary: VersionMeasurement
    stable: VersionMeasurement | None
    """None only where there is no stable version; a stable version nobody could measure is a VersionMeasurement of zeros."""

    def to_evidence(self) -> Evidence:
        """Return what was measured as evidence of one step. Raises BadEvidence when it contradicts itself."""
        return Evidence(
            canary=_stream(self.canary),
            control=_stream(self.stable) if self.stable else None,
            agreement_matches=self.canary.agreement_matches,
            agreement_total=self.canary.agreement_total,
            step_requests=self.canary.requests,
        )


def from_gateway(
    document: Mapping[str, Any], version: str, *, quality: tuple[int, int] = (0, 0), agreement: tuple[int, int] = (0, 0)
) -> VersionMeasurement:
    """Return one version of the gateway's ``GET /measurements`` document, with (good, total) and (matches, total) from whoever sent the
    requests.

    A version the document lacks, or a field that is no number, counts as nothing measured.
    """
    versions = document.get("versions")
    found = versions.get(version) if isinstance(versions, Mapping) else None
    entry = found if isinstance(found, Mapping) else {}
    seconds = entry.get("seconds")
    return VersionMeasurement(
        version=version,
        requests=_count(entry.get("requests")),
        errors=_count(entry.get("errors")),
        latency_seconds=tuple(seconds) if isinstance(seconds, list | tuple) else (),
        quality_good=quality[0],
        quality_total=quality[1],
        agreement_matches=agreement[0],
        agreement_total=agreement[1],
    )


def is_count(value: object) -> bool:
    """Return whether ``value`` is a whole number of things."""
    return type(value) is int and value >= 0


def is_number(value: object) -> bool:
    """Return whether ``value`` is a finite, non-negative number of seconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _stream(measured: VersionMeasurement) -> Stream:
    return Stream(
        requests=measured.requests,
        errors=measured.errors,
        latency=Stream.of(measured.latency_seconds).latency,
        quality_good=measured.quality_good,
        quality_total=measured.quality_total,
    )


def _count(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0
