"""Both answers to one request, output by output and row by row: what a shadow is judged by. Pure: bytes in, JSON values out.

Of the two answers one is the control's and one is judged. A row of an answer becomes, for each output,

* one number (or text, cut as in the inference log): ``[live, shadow]``, null for NaN, an infinity, or no answer;
* 2 to 32 numbers: ``{"argmax": [live, shadow], "distance": largest absolute difference}``;
* more of them, such as a reconstruction: ``{"rms": root of the mean squared difference}``; several texts: ``{"differing": how many}``.

Nothing of a request is in here, so the rule of the inference log for Protected and Secrets (``recorder``) holds for every class of data:
what was asked leaves no trace. An answer that is longer than its summary leaves only the summary's difference.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from serving import protocol
from serving.errors import ProtocolError
from serving.tensors import Array

VECTOR_LIMIT = 32
"""Longest output that is compared by its largest element."""
TEXT_LIMIT = 256
"""Characters of a text that are kept, as in the inference log."""
ANSWER_BYTES = 64 << 20
"""Longest answer that is unpacked."""
_WINDOW_BITS = {"gzip": 31, "deflate": 47}


class Outcome(StrEnum):
    """What became of a pair."""

    AGREES = "agrees"
    """Every whole number, flag, text and largest element is the same; measured numbers may differ."""
    DIFFERS = "differs"
    """One of them is another."""
    FAILED = "failed"
    """Where the control had an answer or a number, the judged side had none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer as it came: nothing of it is decoded yet."""

    status: int
    """HTTP status; 0: there was no answer."""
    pieces: Sequence[bytes] = ()
    header_length: str | None = None
    """Where the JSON part of a binary answer ends."""
    coding: str | None = None
    """``gzip``, ``deflate``, or None."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.pieces))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One row of both answers."""

    outputs: Mapping[str, Any] = field(default_factory=dict)
    outcome: Outcome = Outcome.AGREES


def compare(live: Answer, shadow: Answer, *, judged: str = "shadow") -> list[Pair]:
    """Return one pair for each row of the control's answer; ``judged`` is the side ("live" or "shadow") that is not the control.

    An answer other than 2xx, or one that is no answer of the protocol, has no rows. A control without rows makes one pair without outputs.
    """
    sides = [outputs_of(live), outputs_of(shadow)]
    at = 0 if judged == "live" else 1
    control, other = sides[1 - at], sides[at]
    if not control:
        return [_without_rows(*((shadow, live) if at == 0 else (live, shadow)))]
    rows = _rows(control)
    columns = {
        name: _column(array, (other or {}).get(name), rows=rows, judged_first=at == 0) for name, array in control.items() if array.size
    }
    return [
        Pair(
            outputs={name: column.values[row] for name, column in columns.items()},
            outcome=_outcome(list(columns.values()), row, answered=other is not None),
        )
        for row in range(rows)
    ]


def _without_rows(control: Answer, judged: Answer) -> Pair:
    if _is_good(control) and not _is_good(judged):
        return Pair(outcome=Outcome.FAILED)
    return Pair(outcome=Outcome.AGREES if control.status == judged.status else Outcome.DIFFERS)


def _is_good(answer: Answer) -> bool:
    return 200 <= answer.status < 300


def outputs_of(answer: Answer) -> Mapping[str, Array] | None:
    """Return the arrays of ``answer`` by name; None when it is no good answer of the protocol."""
    if not _is_good(answer):
        return None
    try:
        body = b"".join(answer.pieces)
        return protocol.decode_response(_unpacked(body, answer.coding), header_length=answer.header_length).outputs
    except (ProtocolError, zlib.error):
        return None


def _unpacked(body: bytes, coding: str | None) -> bytes:
    if coding in (None, "", "identity"):
        return body
    if coding not in _WINDOW_BITS:
        raise ProtocolError(f"an answer's coding must be gzip or deflate, got {coding!r}")
    unpacking = zlib.decompressobj(_WINDOW_BITS[coding])
    unpacked = unpacking.decompress(body, ANSWER_BYTES)
    if unpacking.unconsumed_tail:
        raise ProtocolError(f"an answer must have at most {ANSWER_BYTES} bytes unpacked, got more")
    return unpacked


@dataclass(frozen=True, slots=True)
class _Column:
    """One output, row by row."""

    values: list[Any]
    missing: Sequence[bool]
    """Whether the control had a value and the judged side none."""
    differs: Sequence[bool]


def _rows(outputs: Mapping[str, Array]) -> int:
    lengths = {len(array) for array in outputs.values()}
    return lengths.pop() if len(lengths) == 1 else 1


def _outcome(columns: Sequence[_Column], row: int, *, answered: bool) -> Outcome:
    if not answered or any(column.missing[row] for column in columns):
        return Outcome.FAILED
    return Outcome.DIFFERS if any(column.differs[row] for column in columns) else Outcome.AGREES


def _column(control: Array, other: Array | None, *, rows: int, judged_first: bool) -> _Column:
    """``control`` has at least one element; ``other`` None, or of another shape or sort, is a judged side without this output."""
    a = control.reshape(rows, -1)
    b = other.reshape(rows, -1) if other is not None and other.shape == control.shape and _sort(other) == _sort(control) else None
    if _sort(a) == "text":
        return _texts(a, b, judged_first=judged_first)
    if a.shape[1] == 1:
        return _scalars(a[:, 0], None if b is None else b[:, 0], judged_first=judged_first)
    return _vectors(a, b, judged_first=judged_first)


def _sort(array: Array) -> str:
    return "text" if array.dtype.kind == "O" else "number"


def _scalars(a: Array, b: Array | None, *, judged_first: bool) -> _Column:
    left, right = _numbers(a), [None] * len(a) if b is None else _numbers(b)
    is_measured = a.dtype.kind == "f"
    return _Column(
        values=[[y, x] if judged_first else [x, y] for x, y in zip(left, right, strict=True)],
        missing=[x is not None and y is None for x, y in zip(left, right, strict=True)],
        differs=[not is_measured and x != y for x, y in zip(left, right, strict=True)],
    )


def _numbers(array: Array) -> list[Any]:
    """Flags become 0 and 1, what is not finite None."""
    if array.dtype.kind != "f":
        return [int(value) for value in array.tolist()]
    finite = np.isfinite(array)
    return [value if is_finite else None for value, is_finite in zip(array.tolist(), finite.tolist(), strict=True)]


def _vectors(a: Array, b: Array | None, *, judged_first: bool) -> _Column:
    is_short, rows = a.shape[1] <= VECTOR_LIMIT, len(a)
    good, good_too = _finite(a), np.zeros(rows, dtype=bool) if b is None else _finite(b)
    both = good & good_too
    sizes: list[Any] = [None] * rows
    if b is not None:
        with np.errstate(all="ignore"):
            apart = np.subtract(a, b, dtype=np.float64)
            measured = np.abs(apart).max(axis=1) if is_short else np.sqrt(np.mean(np.square(apart), axis=1))
        sizes = [
            value if is_good else None for value, is_good in zip(measured.tolist(), (both & np.isfinite(measured)).tolist(), strict=True)
        ]
    missing = (good & ~good_too).tolist()
    if not is_short:
        return _Column(values=[{"rms": size} for size in sizes], missing=missing, differs=[False] * rows)
    left = _largest(a, good)
    right = [None] * rows if b is None else _largest(b, good_too)
    return _Column(
        values=[{"argmax": [y, x] if judged_first else [x, y], "distance": size} for x, y, size in zip(left, right, sizes, strict=True)],
        missing=missing,
        differs=[x != y for x, y in zip(left, right, strict=True)],
    )


def _finite(array: Array) -> Any:
    return np.isfinite(array).all(axis=1) if array.dtype.kind == "f" else np.ones(len(array), dtype=bool)


def _largest(array: Array, good: Any) -> list[Any]:
    return [index if is_good else None for index, is_good in zip(array.argmax(axis=1).tolist(), good.tolist(), strict=True)]


def _texts(a: Array, b: Array | None, *, judged_first: bool) -> _Column:
    left = [[_text(value) for value in row] for row in a]
    right: list[Any] = [None] * len(a) if b is None else [[_text(value) for value in row] for row in b]
    missing = [row is None for row in right]
    if a.shape[1] == 1:
        pairs = [(x[0], None if y is None else y[0]) for x, y in zip(left, right, strict=True)]
        values: list[Any] = [[y, x] if judged_first else [x, y] for x, y in pairs]
        return _Column(values=values, missing=missing, differs=[x != y for x, y in pairs])
    counts = [None if y is None else sum(one != two for one, two in zip(x, y, strict=True)) for x, y in zip(left, right, strict=True)]
    return _Column(values=[{"differing": count} for count in counts], missing=missing, differs=[count != 0 for count in counts])


def _text(value: Any) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))[:TEXT_LIMIT]
