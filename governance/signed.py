"""Words with a signature beside them: a short canonical JSON text, and the SSH signature over exactly these bytes in ``<file>.sig``.

Sign-offs and waivers are both of this kind; what their words are worth is for :mod:`governance.signoff` and :mod:`governance.waiver` to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from firstlight.digest import canonical_json, sha256_bytes, sha256_file, write_atomic
from governance.documents import parse_json, read_bounded
from governance.errors import SignOffError

SIZE_LIMIT = 64 << 10
"""Bytes of one text or signature; a longer one is not read."""

_TIME = "%Y-%m-%dT%H:%M:%SZ"


def _is_utc(value: str) -> str:
    datetime.strptime(value, _TIME).replace(tzinfo=UTC)
    return value


Moment = Annotated[str, AfterValidator(_is_utc)]
"""UTC, ``2026-11-23T01:20:45Z``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """A text as found, not yet believed."""

    source: str
    """Where it was found, for messages."""
    statement: bytes
    signature: bytes

    @property
    def digest(self) -> str:
        """sha256 of the signed bytes, as ``sha256sum`` gives it for the file."""
        return sha256_bytes(self.statement)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """A file that stands where signed words should, and is none."""

    source: str
    why: str
    digest: str
    """sha256 of the file; of its name where it cannot be read at all."""


class Words(BaseModel):
    """What is signed; every field is part of the signed bytes, and no other is accepted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_bytes(self) -> bytes:
        """The canonical JSON that is signed. Raises SignOffError on what is no text."""
        return canonical(self.model_dump(mode="json"))


def canonical(document: dict[str, Any]) -> bytes:
    """Return signed words as bytes. Raises SignOffError on half a character (a lone surrogate), which UTF-8 has no bytes for."""
    try:
        return canonical_json(document)
    except UnicodeEncodeError as problem:
        raise SignOffError("what is signed must be text, found half a character in it: write it again") from problem


_Words = TypeVar("_Words", bound=Words)


def moment(value: datetime) -> str:
    """Return the aware ``value`` as signed words write it."""
    return value.astimezone(UTC).strftime(_TIME)


def parse_moment(value: str) -> datetime:
    """Return the UTC datetime of a time in signed words. Raises ValueError on another form."""
    return datetime.strptime(value, _TIME).replace(tzinfo=UTC)


def parse_words(data: bytes, kind: type[_Words], *, what: str, expected: str, command: str) -> _Words:
    """Return the words in ``data``; raises SignOffError unless they are exactly the canonical form, so that two readers read the same.

    ``what``, ``expected`` and ``command`` are for the sentence: "a statement", its format, and what writes one.
    """
    if len(data) > SIZE_LIMIT:
        raise SignOffError(f"{what} must be at most {SIZE_LIMIT} bytes, found {len(data)}: shorten the reason")
    document = parse_json(data, what, SignOffError)
    try:
        words = kind.model_validate(document)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise SignOffError(f"{what}'s {place} must follow {expected}, found: {first['msg']}") from problem
    if words.to_bytes() != data:
        raise SignOffError(f"{what} must be canonical JSON, found other spacing or order: write it with `{command}`")
    return words


def keep(target: Path, signed: Signed) -> Path:
    """Put ``signed`` at ``target`` (and ``target.sig``) and return ``target``; the signature is written first, so a reader never meets a bare text."""
    write_atomic(target.with_name(f"{target.name}.sig"), signed.signature)
    return write_atomic(target, signed.statement)


def collect_signed(folder: Path, paths: Sequence[Path], *, command: str) -> tuple[list[Signed], list[Unreadable]]:
    """Return the signed words at ``paths``, named relative to ``folder``, and what cannot be read; one bad file does not hide the others."""
    found: list[Signed] = []
    refused: list[Unreadable] = []
    for path in paths:
        source = path.relative_to(folder).as_posix()
        try:
            found.append(_read(path, source, command))
        except SignOffError as problem:
            refused.append(Unreadable(source=source, why=str(problem), digest=_digest_of(path)))
    return found, refused


def _read(path: Path, source: str, command: str) -> Signed:
    signature = path.with_name(f"{path.name}.sig")
    if not signature.exists():
        raise SignOffError(f"{path.name} must have its signature beside it ({signature.name}), found none: sign it with `{command}`")
    return Signed(
        source=source,
        statement=read_bounded(path, SignOffError, limit=SIZE_LIMIT),
        signature=read_bounded(signature, SignOffError, limit=SIZE_LIMIT),
    )


def _digest_of(path: Path) -> str:
    try:
        return sha256_file(path) if path.is_file() and not path.is_symlink() else sha256_bytes(path.name.encode())
    except OSError:
        return sha256_bytes(path.name.encode())
