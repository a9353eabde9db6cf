"""The list of every file in a release folder with its sha256, written last: what is not in it was added, what differs was changed.

Anybody can write such a list anew, so the pipeline signs it: an SSHSIG in a namespace of its own, ``manifest.json.sig``, which stock
``ssh-keygen -Y verify -n firstlight-manifest`` checks.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from firstlight.digest import sha256_file, write_atomic, write_json
from governance import sshsig
from governance.documents import parse_json, read_bounded
from governance.errors import EvidenceError, SignatureError
from governance.sshsig import PublicKey

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.json.sig"
NAMESPACE = "firstlight-manifest"
"""A signature made for another purpose never counts as this one."""
FORMAT = "firstlight/manifest/v1"
_LIMIT = 16 << 20


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative path with /, path) of everything in ``folder`` but the manifest, its signature and unfinished writes, sorted; links are not followed."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        if name not in (MANIFEST_FILE, SIGNATURE_FILE) and not path.name.startswith("."):
            yield name, path


def write_manifest(folder: Path, *, release: str) -> str:
    """Write manifest.json over the files that are there now and return its sha256. Raises EvidenceError on a symbolic link."""
    entries: dict[str, Any] = {}
    for name, path in files_of(folder):
        if path.is_symlink():
            raise EvidenceError(f"a release folder must hold files of its own, found the symbolic link {name!r}: copy the file there")
        entries[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    return write_json(folder / MANIFEST_FILE, {"format": FORMAT, "release": release, "files": entries})


def sign_manifest(folder: Path, *, key_file: Path) -> None:
    """Sign manifest.json as it is now with the pipeline's key. Raises EvidenceError or SignatureError."""
    data = read_bounded(folder / MANIFEST_FILE, EvidenceError, limit=_LIMIT)
    write_atomic(folder / SIGNATURE_FILE, sshsig.sign(data, key_file=key_file, namespace=NAMESPACE))


def require_signed(folder: Path, *, trusted: Sequence[PublicKey]) -> PublicKey:
    """Return the ``trusted`` key that signed manifest.json as it is. Raises EvidenceError or SignatureError that says what is wrong."""
    data = read_bounded(folder / MANIFEST_FILE, EvidenceError, limit=_LIMIT)
    armored = read_bounded(folder / SIGNATURE_FILE, SignatureError)
    key = sshsig.parse(armored).key
    if key not in trusted:
        known = ", ".join(item.fingerprint for item in trusted) or "none"
        raise SignatureError(f"{MANIFEST_FILE} must be signed by a trusted pipeline key ({known}), found {key.fingerprint}")
    sshsig.verify(data, armored, key=key, namespace=NAMESPACE)
    return key


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest. Raises EvidenceError when it is missing or not one."""
    path = folder / MANIFEST_FILE
    if not path.exists():
        raise EvidenceError(f"{folder} must hold {MANIFEST_FILE}, found none: the release was not finished, or the folder is not a release")
    document = parse_json(read_bounded(path, EvidenceError, limit=_LIMIT), str(path), EvidenceError)
    good = isinstance(document, dict) and document.get("format") == FORMAT and isinstance(document.get("files"), dict)
    if not good or not all(isinstance(entry, dict) for entry in document["files"].values()):
        raise EvidenceError(f"{path} must be of format {FORMAT}, found something else: it was changed")
    return dict(document)


def lists(folder: Path, name: str) -> bool:
    """Return whether the manifest of ``folder`` vouches for the file ``name``; one that is not there, or not one, vouches for nothing."""
    try:
        return name in read_manifest(folder)["files"]
    except EvidenceError:
        return False
