"""Compiled models on disk: what each was made from and for, and how one is read back: by digest, in one piece, or not at all.

A compiled model is a folder named by its digest, with one file and a ``manifest.json`` that pins it; the digest is the sha256 of the
manifest. Whoever runs native code must name the digest, which the version's own choice recorded: a file that is not the recorded one is
refused. ``by-key/<key>`` says which digest an earlier compilation of the same model gave; only a compilation reads it, and only believes
what lies in a folder that nobody else may write.
"""

import os
import platform
import re
import stat
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from firstlight.digest import canonical_json, sha256_bytes, sha256_json
from models.document import InputSpec, OutputSpec
from models.errors import BackendUnavailable, HandOffError
from models.handoff_folder import HandOff

FORMAT = "firstlight/compiled/v1"
MANIFEST = "manifest.json"
MAX_BYTES = 2 << 30
_MAX_MANIFEST_BYTES = 1 << 20
_LIBRARIES = {"onnx": ("torch", "onnxruntime"), "aot": ("torch",)}
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TensorForm(_Part):
    """One input or output as the compiled file has it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """-1 is any number of rows."""


class Form(_Part):
    """How a compiled file is called; the order of both lists is the file's."""

    inputs: tuple[TensorForm, ...]
    outputs: tuple[TensorForm, ...]
    writes: bool
    """It may write into its inputs: it gets copies."""


class Manifest(_Part):
    """What a compiled file is."""

    format: str
    backend: str
    model_digest: str
    file: str
    sha256: str
    size: int
    """Bytes."""
    made_for: dict[str, str]
    """Libraries and processor; see :func:`made_for`."""
    form: Form

    def to_bytes(self) -> bytes:
        """Return the manifest as it is written and hashed."""
        return canonical_json(self.model_dump(mode="json"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """A compiled model that is there."""

    backend: str
    digest: str
    """sha256 of its manifest, which pins the file."""
    path: Path
    """Its folder."""
    seconds: float = 0.0
    """What making it took; 0 when it was there already."""


def made_for(backend: str) -> dict[str, str]:
    """Return what a compiled file depends on here: the libraries' versions and, for native code, what the processor can do.

    Raises BackendUnavailable when a library is not installed.
    """
    facts = {}
    for library in _LIBRARIES[backend]:
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            raise BackendUnavailable(f"the backend {backend!r} needs {library}, it is not installed: install it or use 'eager'") from None
    if backend == "aot":
        facts |= {"machine": platform.machine(), "libc": " ".join(platform.libc_ver()), "processor": processor_abilities()}
    return facts


def processor_abilities() -> str:
    """Return a sha256 over what the processor says it can do: code compiled for it stops with SIGILL on one that can do less."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    words = next((line.partition(":")[2].split() for line in lines if re.match(r"(flags|Features)\s*:", line)), [platform.processor()])
    return sha256_json(sorted(words))


def key(handoff: HandOff, backend: str) -> str:
    """Return what identifies a compilation: the same key, the same purpose."""
    return sha256_json({"model": handoff.model_digest, "backend": backend, "for": made_for(backend)})


def read(folder: Path | None, digest: str | None, *, handoff: HandOff, backend: str) -> tuple[Manifest, bytes]:
    """Return manifest and bytes of the compiled file ``digest`` for ``handoff``: hashed in memory, so they cannot change in between.

    Raises BackendUnavailable when it is not there or was made for another processor or library, HandOffError when it is not what its
    digest says, or not of this model.
    """
    if folder is None or digest is None:
        raise BackendUnavailable(
            f"the backend {backend!r} needs its compiled file and the digest its choice recorded, one was not given: give both or use 'eager'"
        )
    if not _DIGEST.fullmatch(digest):
        raise HandOffError(f"a digest must be 64 hex digits, found {digest!r:.80}: give the one the choice recorded")
    place = folder / digest
    data = _read(place / MANIFEST, limit=_MAX_MANIFEST_BYTES)
    if sha256_bytes(data) != digest:
        raise HandOffError(f"{place / MANIFEST} must have the sha256 {digest}, found {sha256_bytes(data)}: {_TAMPERED}")
    manifest = _parsed(data, place)
    _require_fit(manifest, handoff, backend)
    content = _read(place / manifest.file, limit=manifest.size)
    if len(content) != manifest.size or sha256_bytes(content) != manifest.sha256:
        raise HandOffError(f"{place / manifest.file} must have the sha256 {manifest.sha256}, found {sha256_bytes(content)}: {_TAMPERED}")
    return manifest, content


_TAMPERED = "somebody changed it; remove its folder and release the hand-off again"


def _parsed(data: bytes, place: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as problem:
        raise HandOffError(f"{place / MANIFEST} must be a manifest, found {problem.error_count()} faults: {_TAMPERED}") from None
    if manifest.format != FORMAT or not re.fullmatch(r"model\.[a-z]{2,5}", manifest.file):
        raise HandOffError(f"{place / MANIFEST} must say {FORMAT!r}, found {manifest.format!r:.60} for {manifest.file!r:.60}: {_TAMPERED}")
    return manifest


def _require_fit(manifest: Manifest, handoff: HandOff, backend: str) -> None:
    if (manifest.model_digest, manifest.backend) != (handoff.model_digest, backend):
        raise HandOffError(
            f"the compiled file must be of model {handoff.model_digest[:12]} for {backend!r}, "
            f"found {manifest.model_digest[:12]} for {manifest.backend!r}: give the digest of this version"
        )
    declared = (_forms(handoff.model.inputs), _forms(handoff.model.outputs))
    if (_sorted(manifest.form.inputs), _sorted(manifest.form.outputs)) != declared:
        raise HandOffError("the compiled file must take and give what the hand-off declares, it does not: release the hand-off again")
    here = made_for(backend)
    if differing := sorted(name for name in {*here, *manifest.made_for} if here.get(name) != manifest.made_for.get(name)):
        raise BackendUnavailable(
            f"the compiled file must have been made for this {' and '.join(differing)}, it was made for another: release the hand-off here"
        )


def tensor_form(spec: InputSpec | OutputSpec) -> TensorForm:
    """Return the form of a declared input or output."""
    return TensorForm(name=spec.name, dtype=spec.dtype, shape=spec.shape)


def _forms(specs: tuple[InputSpec, ...] | tuple[OutputSpec, ...]) -> list[TensorForm]:
    return _sorted(tuple(tensor_form(spec) for spec in specs))


def _sorted(forms: tuple[TensorForm, ...]) -> list[TensorForm]:
    return sorted(forms, key=lambda form: form.name)


def _read(path: Path, *, limit: int) -> bytes:
    """Read a plain file of at most ``limit`` bytes; a longer one is read one byte too far, so that its length does not fit."""
    if limit > MAX_BYTES:
        raise HandOffError(f"a compiled file must have at most {MAX_BYTES} bytes, {path.name} shall have {limit}: use 'eager'")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BackendUnavailable(f"the compiled file must be there, {path} is not: release the hand-off again, or use 'eager'") from None
    except OSError as problem:
        raise BackendUnavailable(f"the compiled file must be a file that can be read, {path} is not ({problem.strerror})") from None
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise HandOffError(f"the compiled file must be a plain file, {path} is not: {_TAMPERED}")
        return stream.read(limit + 1)


def remembered(folder: Path, handoff: HandOff, backend: str) -> Compiled | None:
    """Return what an earlier compilation of this model left, when it is whole, fits, and nobody else may write where it lies."""
    note = folder / "by-key" / key(handoff, backend)
    try:
        digest = note.read_text().strip()
        if not (_is_ours(note.parent) and _is_ours(folder / digest)):
            return None
        read(folder, digest, handoff=handoff, backend=backend)
    except (OSError, HandOffError):
        return None
    return Compiled(backend=backend, digest=digest, path=folder / digest)


def _is_ours(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
