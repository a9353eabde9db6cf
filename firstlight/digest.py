"""Bytes are identified by sha256. Canonical JSON, digests of files, and writes that are there whole or not at all.

Canonical JSON here is sorted keys, no white space, UTF-8, no NaN or infinity (RFC 8785 for the value types we use:
strings, integers, booleans, null, lists, objects, and floats in Python's shortest round-trip form).
"""

import errno
import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Return the sha256 of ``data`` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def regular(path: str, flags: int) -> int:
    """Open a plain file, for ``open(…, opener=regular)``. Raises OSError for a pipe or device, which could keep its reader waiting for ever."""
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "it is no plain file", path)


def sha256_file(path: Path | str) -> str:
    """Return the sha256 of the file's bytes as 64 lower-case hex digits. Raises OSError when it cannot be read, or is no plain file."""
    digest = hashlib.sha256()
    with open(path, "rb", opener=regular) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def finite(value: Any) -> Any:
    """Return ``value`` with every NaN or infinite float replaced by None, through dicts and sequences; keys become strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON of ``value``. Raises ValueError on NaN or infinity (use :func:`finite` first) and TypeError on foreign types."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_json(value: Any) -> str:
    """Return the sha256 of the canonical JSON of ``value``."""
    return sha256_bytes(canonical_json(value))


def write_atomic(path: Path | str, data: bytes) -> Path:
    """Write ``data`` to ``path`` so that a reader sees the old bytes or the new ones, never half; parent folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def write_json(path: Path | str, value: Any) -> str:
    """Write the canonical JSON of ``value`` atomically and return its sha256."""
    data = canonical_json(value)
    write_atomic(path, data)
    return sha256_bytes(data)
