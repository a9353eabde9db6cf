"""Documents that people bring to a sign-off (a risk acceptance memo, board minutes): kept in the release folder by name and sha256, signed for by who brought them.

documents/<name in letters>-<12 digits>.<ending>      the digits begin the sha256 that the person's statement names
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from firstlight.digest import sha256_bytes, sha256_file, write_atomic
from governance.documents import read_bounded
from governance.errors import SignOffError

FOLDER = "documents"
SIZE_LIMIT = 32 << 20
"""Bytes of one document."""


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Return document -> sha256 of the files people bring. Raises SignOffError on what is no file of a document."""
    return {name: sha256_bytes(_read(name, file)) for name, file in files.items()}


def attach(folder: Path, files: Mapping[str, Path], signed: Mapping[str, str]) -> None:
    """Copy ``files`` into the release ``folder``. Raises SignOffError when one is not what was ``signed`` (document -> sha256) any more."""
    for name, file in files.items():
        data = _read(name, file)
        digest = sha256_bytes(data)
        if signed.get(name) != digest:
            raise SignOffError(f"{name!r} must stay as it was signed, {file} was changed meanwhile: sign again")
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "document"
        ending = file.suffix.lower() if re.fullmatch(r"\.[a-z0-9]{1,5}", file.suffix.lower()) else ""
        write_atomic(folder / FOLDER / f"{plain}-{digest[:12]}{ending}", data)


def _read(name: str, file: Path) -> bytes:
    data = read_bounded(file, SignOffError, limit=SIZE_LIMIT)
    if not data.strip():
        raise SignOffError(f"{name!r} must be a document that says something, {file} is empty: write it first")
    return data


def lost(folder: Path, named: Iterable[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return (document, sha256) of every document that the statements ``named`` and no file in the release ``folder`` is."""
    wanted = {(name, digest) for documents in named for name, digest in documents.items()}
    if not wanted:
        return []
    here = {sha256_file(path) for path in (folder / FOLDER).glob("*") if path.is_file() and not path.is_symlink()}
    return sorted((name, digest) for name, digest in wanted if digest not in here)
