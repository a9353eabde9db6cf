"""What has been seen of a canary so far: counts, over the whole rollout. Values only; nothing here judges.

Everything is a sum, so evidence adds up in any order, survives a restart as JSON, and its size does not grow with the traffic. Answer
times and differences of answers are counted in buckets of relative width; a test takes the edge of the bucket that speaks against
what it tries to show, so the buckets cost a little power and never correctness.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self, TypeVar

from rollout.errors import BadEvidence

GROWTH = 1.05
"""Relative width of a bucket of answer times."""
DIFFERENCE_GROWTH = 1.005
"""Relative width of a bucket of differences: finer, because their mean is tested and not a quantile."""
SMALLEST_SECONDS = 1e-6
SMALLEST_DIFFERENCE = 1e-12
"""Smaller differences count as none."""

Counts = Mapping[int, int]
"""Bucket -> how many."""


def bucket(seconds: float) -> int:
    """Return the bucket of an answer time: the upper edge of bucket ``i`` is ``GROWTH ** i`` seconds. Raises BadEvidence when it is no time.

    >>> bucket(1.0), bucket(1.04)
    (0, 1)
    """
    if not (isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 0):
        raise BadEvidence(f"an answer time must be a finite number of seconds from 0, got {seconds!r}; leave out what was not timed")
    return math.ceil(round(math.log(max(seconds, SMALLEST_SECONDS)) / math.log(GROWTH), 9))


def step(difference: float) -> int:
    """Return the bucket of a difference, canary minus control, in the unit of the answer. 0 is none; the sign is the difference's.

    Raises BadEvidence when it is not finite: an answer without a number is a failed pair, not a difference.
    """
    if not math.isfinite(difference):
        raise BadEvidence(f"a difference must be finite, got {difference!r}; count the pair as failed")
    size = abs(difference)
    if size < SMALLEST_DIFFERENCE:
        return 0
    steps = max(1, math.ceil(round(math.log(size / SMALLEST_DIFFERENCE) / math.log(DIFFERENCE_GROWTH), 9)))
    return steps if difference > 0 else -steps


def step_edges(number: int) -> tuple[float, float]:
    """Return the smallest and the largest difference in a bucket."""
    if number == 0:
        return -SMALLEST_DIFFERENCE, SMALLEST_DIFFERENCE
    near = SMALLEST_DIFFERENCE * DIFFERENCE_GROWTH ** (abs(number) - 1)
    far = SMALLEST_DIFFERENCE * DIFFERENCE_GROWTH ** abs(number)
    return (near, far) if number > 0 else (-far, -near)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """The live requests of one version. Raises BadEvidence when the counts contradict each other."""

    requests: int = 0
    """Attempts sent to it, the failed ones too."""
    errors: int = 0
    """Attempts that got no answer or a 5xx from it; charged to it even when another version answered the caller in the end."""
    latency: Counts = field(default_factory=dict)
    """Answer times by :func:`bucket`."""
    quality_good: int = 0
    """Answers that were right, of ``quality_total`` whose right answer is known."""
    quality_total: int = 0

    def __post_init__(self) -> None:
        _check_part("errors", self.errors, "requests", self.requests)
        _check_part("good answers", self.quality_good, "judged answers", self.quality_total)
        _check_counts("answer times", self.latency)

    @classmethod
    def of(cls, seconds: Iterable[float] = (), *, errors: int = 0, good: int = 0, judged: int = 0) -> Self:
        """Return the stream of requests that were answered in these times, and of ``errors`` more that failed."""
        times = Counter(bucket(one) for one in seconds)
        return cls(
            requests=times.total() + errors,
            errors=errors,
            latency=dict(sorted(times.items())),
            quality_good=good,
            quality_total=judged,
        )

    def plus(self, more: "Stream") -> "Stream":
        """Return both together."""
        return Stream(
            requests=self.requests + more.requests,
            errors=self.errors + more.errors,
            latency=_sum(self.latency, more.latency),
            quality_good=self.quality_good + more.quality_good,
            quality_total=self.quality_total + more.quality_total,
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Read :meth:`Evidence.to_dict`'s part. Raises BadEvidence when it is not one."""
        return _built(cls, document, latency=_numbered)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Requests that both were asked: one answered the caller, the other got a copy. Always seen as canary against control, whoever was live.

    A copy that was dropped because there was no room for it is no pair. A held-out spectrum that is sent again fails or not anew, but has no new
    answers: leave ``answers``, ``flags`` and ``classes`` out from the second time on.
    """

    total: int = 0
    """Requests to which the control gave a usable answer and which the canary was asked too."""
    failed: int = 0
    """Of them, those to which the canary gave none: no answer in time, an error, or no number (NaN) where the control had one."""
    copied: int = 0
    """Of ``total``, those of which the canary got a copy; of the others it got the live request, which ``Evidence.canary`` counts already."""
    copied_failed: int = 0
    """Of ``copied``, those that are in ``failed``."""
    control_total: int = 0
    """Requests here that the control was asked: its live ones of which the canary was to get a copy, **the failed ones too**, and copies of the
    canary's."""
    control_failed: int = 0
    """Of them, those to which the control gave no usable answer; they are not in ``total``."""
    answers: Mapping[str, Counts] = field(default_factory=dict)
    """Output -> differences, canary minus control, by :func:`step`."""
    flags: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Called an anomaly by both, only by the canary, only by the control, by neither."""
    classes: Mapping[str, tuple[int, int, int, int]] = field(default_factory=dict)
    """Class -> answered by the control, by the canary, moved in (only the canary says it), moved out (only the control does)."""
    class_total: int = 0
    """Pairs whose classes could be compared."""
    strata: Mapping[str, "Pairs"] = field(default_factory=dict)
    """The same again for a part of the requests by itself, such as ``snr<2``; parts may overlap and have no parts themselves."""

    def __post_init__(self) -> None:
        _check_part("failed pairs", self.failed, "pairs", self.total)
        _check_part("copies to the canary", self.copied, "pairs", self.total)
        _check_part("failed copies", self.copied_failed, "failed pairs", self.failed)
        _check_part("failed requests of the control", self.control_failed, "requests of the control", self.control_total)
        for output, counts in self.answers.items():
            _check_counts(f"differences of {output}", counts)
        for what, counted in {"flags": self.flags, **self.classes}.items():
            if len(counted) != 4 or not all(_is_count(one) for one in counted):
                raise BadEvidence(f"{what} must be four counts, got {counted!r}; count again from whole pairs")
        if any(part.strata for part in self.strata.values()):
            raise BadEvidence("a stratum has no strata of its own; name the combination as a stratum instead")

    @classmethod
    def of(
        cls,
        *,
        live: str = "control",
        canary_failed: bool = False,
        control_failed: bool = False,
        answers: Mapping[str, tuple[float, float]] | None = None,
        flags: tuple[bool, bool] | None = None,
        classes: tuple[str, str] | None = None,
        strata: Sequence[str] = (),
    ) -> Self:
        """Return one pair as evidence; every couple is (control's, canary's).

        ``live`` is who answered the caller, ``control`` or ``canary``. A number that the control has and the canary has not makes the pair a
        failed one; one that the control lacks is left out. When the control failed, live or as a copy, there is nothing to compare with.
        """
        if control_failed:
            return cls(control_total=1, control_failed=1)
        numbers = {name: pair for name, pair in (answers or {}).items() if math.isfinite(pair[0])}
        failed = canary_failed or not all(math.isfinite(pair[1]) for pair in numbers.values())
        is_copy = live == "control"
        one = cls(total=1, failed=int(failed), copied=int(is_copy), copied_failed=int(failed and is_copy), control_total=1)
        if not failed:
            one = replace(
                one,
                answers={name: {step(canary - control): 1} for name, (control, canary) in numbers.items()},
                flags=_four(*flags) if flags else (0, 0, 0, 0),
                classes=_moved(*classes) if classes else {},
                class_total=int(classes is not None),
            )
        return replace(one, strata=dict.fromkeys(strata, one))

    def plus(self, more: "Pairs") -> "Pairs":
        """Return both together."""
        return Pairs(
            total=self.total + more.total,
            failed=self.failed + more.failed,
            copied=self.copied + more.copied,
            copied_failed=self.copied_failed + more.copied_failed,
            control_total=self.control_total + more.control_total,
            control_failed=self.control_failed + more.control_failed,
            answers={name: _sum(self.answers.get(name, {}), more.answers.get(name, {})) for name in sorted({*self.answers, *more.answers})},
            flags=_add_four(self.flags, more.flags),
            classes={
                label: _add_four(self.classes.get(label, _NONE), more.classes.get(label, _NONE))
                for label in sorted({*self.classes, *more.classes})
            },
            class_total=self.class_total + more.class_total,
            strata={name: self.strata.get(name, Pairs()).plus(more.strata.get(name, Pairs())) for name in {**self.strata, **more.strata}},
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Read :meth:`Evidence.to_dict`'s part. Raises BadEvidence when it is not one."""
        return _built(
            cls,
            document,
            answers=lambda found: {name: _numbered(counts) for name, counts in found.items()},
            flags=tuple,
            classes=lambda found: {label: tuple(counted) for label, counted in found.items()},
            strata=lambda found: {name: cls.from_dict(part) for name, part in found.items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything seen since the rollout began."""

    canary: Stream = field(default_factory=Stream)
    control: Stream | None = None
    """The baseline where there is one, else stable; None at a model's first release, where there is nothing to compare with."""
    stable: Stream | None = None
    """Everything that the stable version was asked, by whichever of its servers and as a copy too: failures are compared with this, because a copy
    may have been made of any of it. None: what the pairs know of the control."""
    pairs: Pairs = field(default_factory=Pairs)
    agreement_matches: int = 0
    """The canary's answers equal (within the hand-off's epsilon) to those of the evaluation, of ``agreement_total`` compared."""
    agreement_total: int = 0
    step_requests: int = 0
    """Live requests the canary has answered since the present step began."""

    def __post_init__(self) -> None:
        _check_part("matches", self.agreement_matches, "compared answers", self.agreement_total)
        _check_part("requests of this step", self.step_requests, "requests", self.canary.requests)

    def plus(self, delta: "Evidence") -> "Evidence":
        """Return this and what was seen since."""
        return Evidence(
            canary=self.canary.plus(delta.canary),
            control=_both(self.control, delta.control),
            stable=_both(self.stable, delta.stable),
            pairs=self.pairs.plus(delta.pairs),
            agreement_matches=self.agreement_matches + delta.agreement_matches,
            agreement_total=self.agreement_total + delta.agreement_total,
            step_requests=self.step_requests + delta.step_requests,
        )

    def at_new_step(self) -> "Evidence":
        """Return the same evidence at the beginning of a step."""
        return replace(self, step_requests=0)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON form."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`. Raises BadEvidence when it is not one."""
        return _built(
            cls,
            document,
            canary=Stream.from_dict,
            control=lambda found: None if found is None else Stream.from_dict(found),
            stable=lambda found: None if found is None else Stream.from_dict(found),
            pairs=Pairs.from_dict,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What there is to measure in this rollout. Fixed when it begins and kept with it: the budget is split by it, so evidence must not change it."""

    control: bool = True
    """Whether there is a version to compare with."""
    latency: bool = True
    """Whether answers are timed."""
    quality: bool = True
    """Whether answers come whose right answer is known."""
    agreement: bool = True
    """Whether answers come that the evaluation has too."""
    pairs: bool = False
    """Whether requests are copied to the other version."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """Output -> standard deviation of the stable version's answers on held-out rows, in the answer's unit; outputs without one are not compared."""
    flags: bool = False
    """Whether both versions say what is an anomaly."""
    labels: tuple[str, ...] = ()
    """Classes both versions may answer."""
    strata: tuple[str, ...] = ()
    """Parts of the requests that are judged by themselves as well, such as ``snr<2``."""

    def __post_init__(self) -> None:
        for output, scale in self.scales.items():
            if not (math.isfinite(scale) and scale > 0):
                raise BadEvidence(f"the scale of {output} must be a finite number above 0, got {scale!r}; leave the output out")

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON form."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Read :meth:`to_dict`. Raises BadEvidence when it is not one."""
        return _built(cls, document, scales=dict, labels=tuple, strata=tuple)


def _both(one: Stream | None, two: Stream | None) -> Stream | None:
    return one if two is None else two if one is None else one.plus(two)


_NONE = (0, 0, 0, 0)
_Kind = TypeVar("_Kind")


def _four(control: bool, canary: bool) -> tuple[int, int, int, int]:
    return int(control and canary), int(canary and not control), int(control and not canary), int(not control and not canary)


def _moved(control: str, canary: str) -> dict[str, tuple[int, int, int, int]]:
    if control == canary:
        return {control: (1, 1, 0, 0)}
    return {control: (1, 0, 0, 1), canary: (0, 1, 1, 0)}


def _add_four(one: tuple[int, int, int, int], two: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return one[0] + two[0], one[1] + two[1], one[2] + two[2], one[3] + two[3]


def _sum(one: Counts, two: Counts) -> dict[int, int]:
    return {at: one.get(at, 0) + two.get(at, 0) for at in sorted({*one, *two})}


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _check_part(part_name: str, part: object, whole_name: str, whole: object) -> None:
    if not (type(part) is int and type(whole) is int and 0 <= part <= whole):
        raise BadEvidence(f"{part_name} must be a whole number from 0 to {whole_name}, got {part!r} of {whole!r}; count again")


def _check_counts(what: str, counts: Counts) -> None:
    if not all(type(at) is int and _is_count(count) for at, count in counts.items()):
        raise BadEvidence(f"{what} must be whole numbers by bucket, got {dict(counts)!r}; count again")


def _numbered(found: Mapping[Any, Any]) -> dict[int, int]:
    return {int(at): count for at, count in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _built(kind: type[_Kind], document: Mapping[str, Any], **readers: Any) -> _Kind:
    """Return ``kind`` with these fields, each read by its reader. Fields that a later version added are refused, not dropped."""
    try:
        return kind(**{name: readers.get(name, _same)(value) for name, value in document.items()})
    except (TypeError, ValueError, AttributeError) as error:
        raise BadEvidence(
            f"stored evidence must be what this version writes, found a {kind.__name__} with {error}; begin the rollout anew"
        ) from None


def _same(value: Any) -> Any:
    return value
