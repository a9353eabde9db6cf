"""A hand-off folder on disk: opened without following links, hashed before anything in it is parsed."""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ConfigDict, TypeAdapter, ValidationError

from firstlight.digest import sha256_bytes, sha256_file, sha256_json
from models.document import DOCUMENT, GOLDEN, HOLDOUT, HOLDOUT_TABLE, MODEL, REFERENCE_TABLE, Document, FileEntry, Name, parse_document
from models.errors import HandOffError
from models.parquet_table import read_table
from models.strict_yaml import MAX_BYTES, parse_yaml
from models.tensors import Array, read_tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong with a hand-off folder."""

    where: str
    """The file, or the field of handoff.yaml."""
    what: str
    """What must hold and what was found."""
    mend: str
    """What to do about it."""

    def __str__(self) -> str:
        """Return the problem as one sentence."""
        return f"{self.where}: {self.what}; {self.mend}"


class HandOff(Document):
    """A hand-off folder whose document and digests were verified. Made by :func:`models.handoff.load`."""

    folder: Path
    digest: str
    """sha256 of handoff.yaml: it pins every file, because it lists their digests."""

    @property
    def model_digest(self) -> str:
        """Return the sha256 of model.pt2."""
        return self.files[MODEL].sha256

    def document(self) -> dict[str, Any]:
        """Return handoff.yaml's content as plain JSON values."""
        return self.model_dump(mode="json", exclude={"folder", "digest"})

    def path(self, name: str) -> Path:
        """Return where the listed file ``name`` lies. Raises HandOffError for a file that is not listed."""
        if name not in self.files:
            raise HandOffError(f"{DOCUMENT} must list {name!r}, found {sorted(self.files)}: add the file and its digest")
        return self.folder / name

    def read(self, name: str) -> bytes:
        """Return the bytes of the listed file ``name``, the very bytes that were hashed. Raises HandOffError when they changed."""
        return read_verified(self.path(name), self.files[name])

    def role(self, name: str) -> str | None:
        """Return the name of the output that plays the role ``name`` (score, latent ...), or None."""
        return next((output for role, output in self.model.roles.items() if role == name), None)

    def holdout_inputs(self) -> dict[str, Array]:
        """Return the held-out model inputs by name, n rows each."""
        return read_tensors(self.read(HOLDOUT), where=HOLDOUT)

    def holdout_table(self) -> pd.DataFrame:
        """Return labels and slices of the held-out rows, one row per row of :meth:`holdout_inputs`."""
        return read_table(self.read(HOLDOUT_TABLE), where=HOLDOUT_TABLE)

    def reference_table(self) -> pd.DataFrame:
        """Return the reference for drift: one row per reference spectrum."""
        return read_table(self.read(REFERENCE_TABLE), where=REFERENCE_TABLE)

    def golden(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the golden inputs and the outputs the trainer saw for them, by name."""
        return split_golden(read_tensors(self.read(GOLDEN), where=GOLDEN))


def load(folder: Path | str) -> HandOff:
    """Return the hand-off in ``folder`` after checking its document, its list of files and every digest; the model is not run.

    Raises HandOffError with the first problems found; :func:`models.handoff.check` finds them all.
    """
    place = Path(folder)
    data = read_document(place)
    document = parse_document(parse_yaml(data, where=DOCUMENT))
    problems = [*listing_problems(place, document.files), *digest_problems(place, document.files)]
    if problems:
        raise HandOffError(sentence(place, problems))
    return HandOff(**dict(document), folder=place, digest=sha256_bytes(data))


def claimed(handoff: Path | str) -> tuple[str, str]:
    """Return the name a hand-off gives itself and the sha256 of its document, each "" where it cannot be told: for a record of what was refused.

    Of ``models:/name/version`` the name is known and nothing else. Nothing of it is believed; never raises on bad input.
    """
    if str(handoff).startswith("models:/"):
        return str(handoff).removeprefix("models:/").partition("/")[0][:63], ""
    try:
        data = read_document(Path(handoff))
    except (HandOffError, OSError, ValueError):
        return "", ""
    try:
        content = parse_yaml(data, where=DOCUMENT)
    except HandOffError:
        return "", sha256_bytes(data)
    try:
        name = TypeAdapter(Name, config=ConfigDict(regex_engine="python-re")).validate_python(
            content.get("name") if isinstance(content, dict) else None
        )
    except ValidationError:
        name = ""
    return name, sha256_bytes(data)


def sentence(folder: Path, problems: list[Problem]) -> str:
    """Return the first three of ``problems`` as one message."""
    more = f" (and {len(problems) - 3} more: firstlight handoff check {folder})" if len(problems) > 3 else ""
    return f"the hand-off {folder} is refused: " + " | ".join(str(problem) for problem in problems[:3]) + more


def read_document(folder: Path) -> bytes:
    """Return the bytes of handoff.yaml. Raises HandOffError when folder or file is not there, is a link, or is too large."""
    if not folder.is_dir():
        raise HandOffError(f"a hand-off must be a folder with a {DOCUMENT}, found no folder at {str(folder)!r}: check the path")
    return _read_regular(folder / DOCUMENT, limit=MAX_BYTES)


def read_verified(path: Path, entry: FileEntry) -> bytes:
    """Return the bytes of ``path`` when size and sha256 are those of ``entry``: hashed once, in memory, so they cannot change in between."""
    data = _read_regular(path, limit=entry.bytes)
    if len(data) != entry.bytes or sha256_bytes(data) != entry.sha256:
        raise HandOffError(
            f"{path.name} must have the sha256 {entry.sha256} of {DOCUMENT}, found {sha256_bytes(data)}: hand the model over again"
        )
    return data


def _read_regular(path: Path, *, limit: int) -> bytes:
    """Read a plain file, never a link, pipe or device, and never more than ``limit`` bytes."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        raise HandOffError(
            f"{path.name} must be a plain file that can be read, found {problem.strerror!r}: put the file itself there"
        ) from None
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise HandOffError(f"{path.name} must be a plain file, found something else: put the file itself there")
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise HandOffError(f"{path.name} must have at most {limit} bytes, found more: hand the model over again")
    return data


def listing_problems(folder: Path, files: Mapping[str, FileEntry]) -> list[Problem]:
    """Return what is in the folder and not listed, or is no plain file; and what is listed and not there."""
    present = {entry.name: entry for entry in os.scandir(folder)}
    problems = [problem for name in sorted(present) if (problem := _stranger(present[name], files))]
    missing = sorted(set(files) - set(present))
    return problems + [
        Problem(where=name, what=f"{DOCUMENT} lists this file, but it is not there", mend="add the file") for name in missing
    ]


def _stranger(entry: os.DirEntry[str], files: Mapping[str, FileEntry]) -> Problem | None:
    if entry.is_symlink():
        return Problem(where=entry.name, what="must be a plain file, found a symbolic link", mend="put the file itself into the folder")
    if not entry.is_file(follow_symlinks=False):
        return Problem(
            where=entry.name, what="must be a plain file, found a folder or device", mend="keep all files directly in the folder"
        )
    if entry.name not in files and entry.name != DOCUMENT:
        return Problem(where=entry.name, what=f"is not listed in {DOCUMENT}", mend="list it with its digest, or remove it")
    return None


def digest_problems(folder: Path, files: Mapping[str, FileEntry]) -> list[Problem]:
    """Return the listed plain files whose size or sha256 is not the listed one; sizes are compared first, they cost nothing."""
    return [problem for name, entry in files.items() if (problem := _changed(folder / name, entry))]


def _changed(path: Path, entry: FileEntry) -> Problem | None:
    if path.is_symlink() or not path.is_file():
        return None
    mend = "write the hand-off again, or restore the file"
    size = path.stat().st_size
    if size != entry.bytes:
        return Problem(where=path.name, what=f"must have {entry.bytes} bytes, found {size}", mend=mend)
    try:
        found = sha256_file(path)
    except OSError as problem:
        return Problem(where=path.name, what=f"must be readable, found {problem.strerror!r}", mend="give read permission")
    if found != entry.sha256:
        return Problem(where=path.name, what=f"must have sha256 {entry.sha256}, found {found}", mend=mend)
    return None


def split_golden(tensors: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return (inputs, outputs) of a golden file's tensors "input.<name>" and "output.<name>"; other names are left out."""
    inputs = {name.removeprefix("input."): array for name, array in tensors.items() if name.startswith("input.")}
    outputs = {name.removeprefix("output."): array for name, array in tensors.items() if name.startswith("output.")}
    return inputs, outputs


def data_digest(files: Iterable[Path | str]) -> str:
    """Return the digest that pins the data read: sha256 over the sorted (file name, sha256 of its bytes) pairs."""
    return sha256_json(sorted([Path(file).name, sha256_file(file)] for file in files))
