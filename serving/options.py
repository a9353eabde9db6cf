"""How the online processes behave on this machine: one value that the supervisor is given and hands on to every process it starts."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.errors import SettingsError


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelOptions(_Part):
    """One model server."""

    workers: int | None = Field(default=None, ge=1, le=64)
    """Processes that compute, each with one thread; None is one for each core this process may use, and one for a GPU."""
    replicas: int = Field(default=1, ge=1, le=16)
    """Model servers of each version: with two, the loss of one costs no caller anything. Each has ``workers`` of its own."""
    queue_requests: int = Field(default=256, ge=1)
    """Requests that may wait; beyond it the answer is 503 with Retry-After."""
    queue_mb: int = Field(default=256, ge=1)
    """Megabytes of inputs that may be held at once, waiting, arriving and being computed."""
    body_mb: int = Field(default=64, ge=1)
    """Largest request body in megabytes: 64 holds 1,000 spectra of flux and ivar."""
    cache_mb: int = Field(default=64, ge=0)
    """Megabytes of answers that are remembered by the digest of their inputs; 0 remembers nothing."""
    max_wait_seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Longest that a request waits for its answer when it names no deadline of its own."""
    compiled: Path | None = None
    """Folder of compiled models, by digest; None: only the model as it was handed over can be run."""
    trusted_keys: Path | None = None
    """File of the pipeline keys that may vouch for a version, one SSH public key a line; None asks for no signature, only for digests."""
    model_keys: Path | None = None
    """File of the keys that may have signed a model's folder (OpenSSF model-signing); None asks for no such signature, only for digests."""
    inference_log: str | None = None
    """Folder or s3:// prefix for the inference log; None writes none."""
    inference_log_sample: float = Field(default=1.0, ge=0, le=1)
    """Share of requests that are logged."""
    flush_seconds: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    """Rows of at most this many seconds are lost on kill -9."""
    inference_log_queue_mb: int = Field(default=64, ge=1)
    """Megabytes of answered requests that may wait for the log's thread; rows beyond it are dropped and counted, no request waits."""
    inference_log_spool: Path | None = None
    """Folder on this machine where parts wait for an s3:// log; needed for one. Whoever runs next ships what a killed process left."""
    inference_log_spool_mb: int = Field(default=512, ge=1)
    """Megabytes of parts of one model that may wait while the object store is away; rows beyond it are dropped and counted."""


class S3Options(_Part):
    """Where the object store of an s3:// inference log is; the keys come from boto3's own variables and files (AWS_…), never from here."""

    endpoint_url: str | None = None
    """S3-compatible endpoint (MinIO); None means Amazon's."""
    path_style: bool = True
    """Address buckets by path, as MinIO wants, not by host name."""
    ca_bundle: Path | None = None
    """Certificates that vouch for the endpoint; None means the system's."""
    region: str | None = None
    """Region; None means us-east-1, which MinIO ignores."""


class GatewayOptions(_Part):
    """The gateway."""

    access: Path | None = None
    """Who may ask what (docs/access.md); None lets everybody on this machine ask, and refuses any address but loopback."""
    tls_certificate: Path | None = None
    """PEM certificate chain; with it and its key the public port speaks TLS."""
    tls_key: Path | None = None
    """PEM private key of ``tls_certificate``."""
    tls_client_ca: Path | None = None
    """PEM certificates; with them every caller must show a certificate that one of these signed (mTLS)."""
    body_mb: int = Field(default=64, ge=1)
    """Largest request body in megabytes."""
    retry_mb: int = Field(default=16, ge=0)
    """A request body is kept up to this size until it is answered, so that another replica or version can be asked; a larger one is tried once."""
    memory_mb: int = Field(default=512, ge=8)
    """Megabytes of bodies and answers that may be held at once; beyond it the answer is 503 with Retry-After."""
    connections: int = Field(default=10_000, ge=1)
    """Callers' connections at a time; for one more the longest idle one is closed."""
    answer_seconds: float = Field(default=35.0, gt=0, allow_inf_nan=False)
    """Longest that a model server may take: a little more than it gives a request itself."""
    wait_seconds: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    """How long requests wait for a model whose last server has just gone: a killed one is started again in a few seconds. 0 turns them away at once."""
    health_seconds: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Time between two health checks of a model server."""
    sticky: str | None = Field(default=None, pattern=r"^(client|header:[a-z0-9-]{1,60})$")
    """Keeps a caller on one side of a canary: ``client``, or the value of a header (``header:x-user-id``); None spreads every request. A rollout or
    an experiment may say otherwise for itself."""
    shadow_percent: int = Field(default=0, ge=0, le=100)
    """Share of requests that are also sent to the other version while a canary is out; both answers are compared, the copy's is thrown away."""
    drill_seconds: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    """How long a server whose start is rehearsed is kept once it is ready, so that it gets copies of live requests."""
    drill_copies: int = Field(default=20, ge=0)
    """Copies after which it has been asked enough."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: give both or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key: callers show certificates over TLS only")
        return self


class Options(_Part):
    """Both, and what they share."""

    model: ModelOptions = ModelOptions()
    gateway: GatewayOptions = GatewayOptions()
    s3: S3Options = S3Options()
    environment: str = "local"
    """Name of the environment; stands in the inference log and in traces."""
    orphan_seconds: float = Field(default=120.0, ge=0, allow_inf_nan=False)
    """How long gateway and model servers go on answering when their supervisor was killed; the next one takes them over. 0 ends them with it."""
    otlp_endpoint: str | None = None
    """Address of an OpenTelemetry collector (OTLP over HTTP), such as http://127.0.0.1:4318; None traces nothing."""


def parse(text: str) -> Options:
    """Return the options written in ``text`` (JSON). Raises SettingsError that names every wrong field."""
    try:
        return Options.model_validate_json(text)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_url=False))
        raise SettingsError(f"the options of a serving process must be valid, found {wrong}: mend the setting of that name") from None
