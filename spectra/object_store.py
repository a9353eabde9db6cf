"""Objects in S3 or a store that speaks its protocol (MinIO): the only module that imports boto3.

Two kinds of failure leave here: :class:`TransientError` when the store does not answer or asks to slow down, and
:class:`SpectraError` when asking again cannot help. Downloads are bounded in size and appear whole or not at all.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore import exceptions as s3
from botocore.config import Config

from firstlight.errors import TransientError
from spectra.errors import SpectraError
from spectra.fitsfile import MAX_BYTES

_CHUNK: Final = 1 << 20
_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 30
_ATTEMPTS: Final = 3
"""Attempts of one request, the first included; with the timeouts above a dead store is known in well under a minute."""

_NO_SUCH: Final = ("404", "NoSuchKey", "NoSuchBucket", "NotFound")
_NO_LOCK: Final = ("ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration", "NotImplemented", "MethodNotAllowed")
_THERE_ALREADY: Final = ("PreconditionFailed", "412")
_SLOW_DOWN: Final = (
    "SlowDown",
    "ConditionalRequestConflict",
    "Throttling",
    "ThrottlingException",
    "RequestTimeout",
    "RequestLimitExceeded",
    "503",
    "500",
    "502",
    "504",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Bucket and key of one s3:// URI."""

    bucket: str
    key: str


def location(uri: str) -> Location:
    """Return the parts of ``s3://bucket/key``; the key may be empty. Raises SpectraError on any other URI."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise SpectraError(f"an object must be named s3://bucket/key, found {uri!r}; correct the URI")
    return Location(bucket=parts.netloc, key=uri.removeprefix(f"s3://{parts.netloc}").lstrip("/"))


class ObjectStore:
    """One store with one set of credentials; safe to share between threads."""

    def __init__(
        self,
        endpoint_url: str | None = None,
        path_style: bool = True,
        ca_bundle: str | Path | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        region: str | None = None,
        *,
        anonymous: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Describe the store; nothing is contacted yet.

        ``endpoint_url`` None is Amazon's own; ``path_style`` puts the bucket in the path (MinIO) instead of the host name;
        ``ca_bundle`` is a PEM file of trusted authorities; without keys boto3 looks for them in its usual places, and
        ``anonymous`` sends none (``s3://desidata``). ``max_bytes`` bounds one download. Raises SpectraError when the CA file
        is missing or the endpoint is no URL.
        """
        if ca_bundle is not None and not Path(ca_bundle).is_file():
            raise SpectraError(f"the CA bundle must be a PEM file, found none at {str(ca_bundle)!r}; correct the setting")
        self.endpoint = endpoint_url or "Amazon S3"
        self._max_bytes = max_bytes
        try:
            self._client: Any = boto3.session.Session().client(
                "s3",
                endpoint_url=endpoint_url,
                verify=str(ca_bundle) if ca_bundle is not None else None,
                aws_access_key_id=access_key,
                aws_secret_access_key=secret_key,
                region_name=region or "us-east-1",
                config=_config(path_style=path_style, anonymous=anonymous),
            )
        except (ValueError, s3.BotoCoreError) as error:
            raise SpectraError(f"the object store must be usable as set, but {error}; correct the settings") from error

    def exists(self, uri: str) -> bool:
        """Say whether there is such an object. Raises TransientError when the store does not answer, SpectraError when it refuses."""
        return self._size(uri) is not None

    def list(self, uri: str) -> Iterator[str]:
        """Yield the URIs of all objects whose key starts with that of ``uri``, in key order."""
        at = location(uri)
        with self._translated(uri):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=at.bucket, Prefix=at.key)
            for page in pages:
                yield from (f"s3://{at.bucket}/{item['Key']}" for item in page.get("Contents", []))

    def local_copy(self, uri: str, folder: Path) -> Path:
        """Copy the object into ``folder`` under its own file name and return the copy's path; it appears there whole or not at all.

        Raises SpectraError when it does not exist or is larger than ``max_bytes``, TransientError when the store fails on the way.
        """
        name = location(uri).key.rpartition("/")[2]
        if name in ("", ".", ".."):
            raise SpectraError(f"{uri} must name an object, found a prefix; name one file, or give the folder to read_many")
        size = self._size(uri)
        if size is None:
            raise SpectraError(f"{uri} must exist in {self.endpoint}, found no such object; check bucket and key")
        if size > self._max_bytes:
            raise SpectraError(f"{uri} must have at most {self._max_bytes} bytes, found {size}; split it")
        folder.mkdir(parents=True, exist_ok=True)
        return self._download(uri, folder / name, size=size)

    def upload(self, path: Path, uri: str) -> None:
        """Write the file's bytes as the object ``uri``, replacing what is there."""
        at = location(uri)
        with self._translated(uri):
            self._client.upload_file(str(path), at.bucket, at.key)

    def put_once(self, data: bytes, uri: str, *, keep_until: datetime | None = None) -> bool:
        """Write ``data`` as the object ``uri`` unless there is one; return whether it was written. Two at once: one of them is.

        ``keep_until`` locks it until then where its bucket has object lock and no rule of its own (S3 Object Lock, compliance mode: nobody
        can delete that version sooner). Raises TransientError, and SpectraError when the store refuses.
        """
        at = location(uri)
        lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": keep_until} if keep_until and self._wants_dates(uri) else {}
        with self._translated(uri):
            try:
                self._client.put_object(Bucket=at.bucket, Key=at.key, Body=data, IfNoneMatch="*", **lock)
            except s3.ClientError as error:
                if _code(error) in _THERE_ALREADY:
                    return False
                raise
        return True

    def first_versions(self, uri: str) -> dict[str, str]:
        """Return what was written first under each key that starts with that of ``uri``: URI -> version, for :meth:`read_version`.

        In a bucket with versions a later writer, or a delete marker, only hides that; without versions it is what is there.
        """
        at = location(uri)
        oldest: dict[str, str] = {}
        with self._translated(uri):
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=at.bucket, Prefix=at.key):
                oldest |= {f"s3://{at.bucket}/{item['Key']}": item["VersionId"] for item in page.get("Versions", [])}  # newest first
        return oldest

    def read_version(self, uri: str, version: str, *, limit: int) -> bytes:
        """Return the bytes of one version of an object. Raises SpectraError when there is none, or it has more than ``limit``."""
        at = location(uri)
        with self._translated(uri), self._client.get_object(Bucket=at.bucket, Key=at.key, VersionId=version)["Body"] as body:
            data = bytes(body.read(limit + 1))
        if len(data) > limit:
            raise SpectraError(f"{uri} must have at most {limit} bytes, found more; it is not what belongs there")
        return data

    def has_object_lock(self, uri: str) -> bool:
        """Say whether the bucket of ``uri`` locks its objects' versions."""
        return self._lock_rule(uri) is not None

    def _wants_dates(self, uri: str) -> bool:
        rule = self._lock_rule(uri)
        return rule is not None and "Rule" not in rule

    def _lock_rule(self, uri: str) -> dict[str, Any] | None:
        """Return the object lock of the bucket; None when it has none, or the store does not know such a thing."""
        with self._translated(uri):
            try:
                answer = self._client.get_object_lock_configuration(Bucket=location(uri).bucket)
            except s3.ClientError as error:
                if _code(error) in _NO_LOCK:
                    return None
                raise
        found = answer.get("ObjectLockConfiguration", {})
        return dict(found) if found.get("ObjectLockEnabled") == "Enabled" else None

    def _size(self, uri: str) -> int | None:
        """Return the object's bytes, or None when there is none."""
        at = location(uri)
        with self._translated(uri):
            try:
                return int(self._client.head_object(Bucket=at.bucket, Key=at.key)["ContentLength"])
            except s3.ClientError as error:
                if _code(error) in _NO_SUCH:
                    return None
                raise

    def _download(self, uri: str, target: Path, *, size: int) -> Path:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as sink, self._translated(uri):
                written = self._stream(uri, sink, limit=size)
            if written != size:
                raise TransientError(f"{uri} must arrive with its {size} bytes, but {written} came; repeat it")
            os.replace(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)
        return target

    def _stream(self, uri: str, sink: Any, *, limit: int) -> int:
        """Write the object to ``sink``, and return the bytes written; stops after ``limit`` (the object may have grown since)."""
        at = location(uri)
        written = 0
        with self._client.get_object(Bucket=at.bucket, Key=at.key)["Body"] as body:
            while written <= limit and (piece := body.read(_CHUNK)):
                written += sink.write(piece)
        return written

    @contextmanager
    def _translated(self, uri: str) -> Iterator[None]:
        """Turn botocore's exceptions into ours, so that a retry looks at one thing only."""
        try:
            yield
        except s3.ClientError as error:
            raise self._answer(error, uri) from error
        except s3.SSLError as error:
            raise SpectraError(f"{self.endpoint} must have a certificate we trust for {uri}, but {error}; set the CA bundle") from error
        except (s3.HTTPClientError, s3.ConnectionError, s3.ResponseStreamingError) as error:
            raise TransientError(f"{self.endpoint} must answer for {uri}, but {type(error).__name__}: {error}; repeat it later") from error
        except (s3.BotoCoreError, boto3.exceptions.Boto3Error) as error:
            raise SpectraError(f"{uri} must be reachable with the settings given, but {error}; correct the settings") from error

    def _answer(self, error: s3.ClientError, uri: str) -> SpectraError | TransientError:
        """Return our error for an answer of the store that is not success."""
        code = _code(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _SLOW_DOWN or status >= 500:
            return TransientError(f"{self.endpoint} must serve {uri}, but it answers {code} ({status}); repeat it later")
        if code in _NO_SUCH:
            return SpectraError(f"{uri} must exist in {self.endpoint}, but it answers {code}; check bucket and key")
        return SpectraError(f"{self.endpoint} must allow {uri}, but it answers {code} ({status}); check the credentials and their rights")


def _code(error: s3.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _config(*, path_style: bool, anonymous: bool) -> Config:
    return Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        s3={"addressing_style": "path" if path_style else "auto"},
        signature_version=UNSIGNED if anonymous else None,
        user_agent_extra="firstlight",
    )
